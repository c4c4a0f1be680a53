"""``saltctl service run|status|emit``."""

from __future__ import annotations

import os
import socket
import sys
import threading
import time
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli.output import (
    Column,
    OutputFormat,
    Record,
    columns_of,
    fields_and_tables,
    print_result,
    resolve_format,
    write_json_line,
)
from saltctl.cli.session import OutputOption, Session, duration_option, session_of
from saltctl.cli.signals import stop_on_signals
from saltctl.cli.text import format_age
from saltctl.errors import ExitCode
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from saltctl.detection.fence_watcher import FenceWatcher
    from saltctl.detection.service import Service

group = typer.Typer(help="The hot partition service: reads heat reports and raises.", no_args_is_help=True)


def _last_raise(record: Record) -> str:
    last = record["last_raise"]
    if not last:
        return "none yet"
    return (
        f"{last['conversation_id']} from {last['before']} to {last['after']} {format_age(last['at'])} by {last['by']}"
    )


STATUS_COLUMNS = (
    *columns_of("verdict alive lag pending verified", alive="instances alive", verified="Redis verified"),
    Column("last_raise", "last raise", show=_last_raise),
    Column("instances"),
)
INSTANCE_COLUMNS = columns_of("name pending idle_s alive", name="instance")


class EmitKind(StrEnum):
    """What ``service emit`` can write."""

    systemd = "systemd"
    alerts = "alerts"
    iam = "iam"
    acl = "acl"


def add_to(app: typer.Typer) -> None:
    """Add the group to the command tree."""
    app.add_typer(group, name="service")


@group.command("run")
def run(
    context: typer.Context,
    consumer: Annotated[
        str | None, typer.Option(metavar="NAME", help="The consumer's name; host and process id if omitted.")
    ] = None,
    metrics_port: Annotated[int | None, typer.Option(metavar="PORT", help="Serve Prometheus metrics there.")] = None,
    metrics_address: Annotated[str, typer.Option(metavar="ADDRESS", help="Where metrics are served.")] = "127.0.0.1",
    claim_after: Annotated[
        float, duration_option("--claim-after", "Take over entries that others have held so long; 30s if omitted.")
    ] = 30.0,
    health_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Touched by the loop itself, at least every few seconds.")
    ] = None,
) -> None:
    """Run one instance of the service in the foreground, until SIGTERM.

    Any number of instances share the work. Log lines are JSON on stderr. SIGTERM finishes the entries in hand
    and exits 0; what an instance leaves when it dies is claimed by the others.

    \b
    Examples:
      saltctl service run
      saltctl service run --consumer worker-1 --metrics-port 9109 --health-file /run/saltctl/health
    """
    session = session_of(context)
    session.settings.require_redis_url()
    name = consumer or f"{socket.gethostname()}-{os.getpid()}"
    with stop_on_signals() as stop:
        service, fence_watcher, stream = _build(session, name, stop, claim_after)
        end = None
        if metrics_port is not None:
            from saltctl.cli.detection.metrics import serve

            port, end = serve(metrics_port, metrics_address, service, fence_watcher, stream)
            log("info", "metrics", address=metrics_address, port=port)
        try:
            service.run(after_step=lambda: _touch(health_file))
        finally:
            if end is not None:
                end()


def _build(
    session: Session, consumer: str, stop: threading.Event, claim_idle: float
) -> tuple[Service, FenceWatcher, Any]:
    from saltctl.detection.detector import Counters, Detector
    from saltctl.detection.fence_watcher import FenceWatcher
    from saltctl.detection.service import BLOCK_SECONDS, DrainDeadline, Service
    from saltctl.rebuild.rebuild import Rebuild, RebuildOptions
    from saltctl.stores.heat.dead_letters import DeadLetters
    from saltctl.stores.heat.service_state import ServiceState
    from saltctl.stores.heat.stream import HeatStream
    from saltctl.stores.heat.window_sums import WindowSums
    from saltctl.stores.redis.registry import new_token

    settings, store, backup = session.settings, session.store, session.backup
    counters = Counters()
    notes = ServiceState(settings)
    stream = HeatStream(settings, block=BLOCK_SECONDS)

    def new_rebuild() -> Rebuild:
        options = RebuildOptions()
        token = new_token()
        layout, prefix = settings.layout, settings.key_prefix
        return Rebuild(store, backup, backup.lease, options, layout=layout, key_prefix=prefix, token=token, notes=notes)

    detector = Detector(
        WindowSums(settings),
        session.registry,
        DeadLetters(settings),
        settings,
        tell=log,
        counters=counters,
        should_stop=DrainDeadline(stop),
    )
    fence_watcher = FenceWatcher(store, settings.buckets, new_rebuild, tell=log, counters=counters, stop=stop)
    service = Service(
        stream,
        detector,
        consumer=consumer,
        settings=settings,
        tell=log,
        stop=stop,
        fence_watcher=fence_watcher,
        notes=notes,
        claim_idle=claim_idle,
    )
    return service, fence_watcher, stream


_logging = threading.Lock()


def log(level: str, event: str, **fields: Any) -> None:
    """One JSON line on stderr."""
    at = iso_utc(time.time())
    with _logging:
        write_json_line({"at": at, "level": level, "event": event, **fields}, sys.stderr)
        sys.stderr.flush()


def _touch(file: Path | None) -> None:
    if file is None:
        return
    try:
        # A link that somebody else put there must not lead to a file that is none of the service's.
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        log("error", "health_file", file=str(file), why=exc.strerror)


@group.command("status")
def status(
    context: typer.Context,
    window: Annotated[float, duration_option("--window", "Look twice, this far apart; 1s if omitted.")] = 1.0,
    output: OutputOption = None,
) -> None:
    """Show the instances, what they have left to do, their last raise, and whether Redis is verified.

    Exits 3 unless the verdict is ok and Redis is verified.

    \b
    Examples:
      saltctl service status
      saltctl service status --window 3s -o json
    """
    from saltctl.detection.stream_status import is_alive, read_stream_status
    from saltctl.stores.heat.service_state import ServiceState
    from saltctl.stores.heat.stream import HeatStream

    session = session_of(context)
    settings = session.settings
    settings.require_redis_url()
    stream = HeatStream(settings)
    seen = read_stream_status(stream, window)
    found = None if seen.info is None else seen.info.group(stream.group)
    consumers = () if found is None else found.consumers
    verified = all(session.store.verified().values())
    record = {
        "verdict": seen.verdict,
        "alive": sum(is_alive(c.idle_s) for c in consumers),
        "lag": None if found is None else found.lag,
        "pending": None if found is None else found.pending,
        "verified": verified,
        "last_raise": ServiceState(settings).last_raise(),
        "instances": [
            {"name": c.name, "pending": c.pending, "idle_s": c.idle_s, "alive": is_alive(c.idle_s)} for c in consumers
        ],
    }
    view = fields_and_tables(record, STATUS_COLUMNS, instances=INSTANCE_COLUMNS)
    print_result(record, output, columns=STATUS_COLUMNS, human_view=view)
    if seen.verdict != "ok" or not verified:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


@group.command("emit")
def emit_file(
    context: typer.Context,
    kind: Annotated[EmitKind, typer.Argument(help="Which file.")],
    output: OutputOption = None,
) -> None:
    """Print a systemd unit, Prometheus alert rules, IAM policies or Redis ACL users, from the settings in force.

    Nothing is installed, and no secret is printed. With -o json the text is in a document.

    \b
    Examples:
      saltctl service emit systemd
      saltctl service emit alerts
      saltctl service emit iam
      saltctl service emit acl
    """
    from saltctl.deployment import KINDS

    text = KINDS[kind.value](session_of(context).settings)
    if output is not None and resolve_format(output) in (OutputFormat.json, OutputFormat.jsonl):
        print_result({"kind": kind.value, "text": text}, output, columns=())
    else:
        sys.stdout.write(text)
