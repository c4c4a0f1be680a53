"""``saltctl service run|status``, and the group of ``service emit``."""

from __future__ import annotations

import errno
import os
import socket
import threading
from contextlib import ExitStack
from functools import partial
from logging import ERROR, INFO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.detection.emit import emit
from saltctl.cli.detection.stream import warn_of_stream
from saltctl.cli.files import is_special, require_touchable
from saltctl.cli.formats.sentences import backlog_sentence
from saltctl.cli.formats.text import format_age
from saltctl.cli.guide.groups import new_group
from saltctl.cli.output import Record, columns_of, print_result
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import stop_on_signals
from saltctl.errors import AwsUnavailableError, ExitCode, IncompleteError, UsageError

if TYPE_CHECKING:
    from saltctl.detection.service import Service

group = new_group("The hot partition service: reads heat reports and raises.")


def _last_raise(record: Record) -> str:
    last = record["last_raise"]
    if not last:
        return "none yet"
    change = f"from {last['before']} to {last['after']}"
    return f"{last['conversation_id']} {change} {format_age(last['at'])} by {last['by']}"


STATUS_COLUMNS = columns_of(
    "verdict alive lag pending verified last_raise instances",
    alive="instances alive",
    verified="Redis verified",
    last_raise=_last_raise,
)
INSTANCE_COLUMNS = columns_of("name pending idle_s alive late", name="instance")


@group.command("run")
def run(
    context: typer.Context,
    consumer: Annotated[
        str | None, option.text("--consumer", "The consumer's name; host and process id if omitted.", "NAME")
    ] = None,
    metrics_port: Annotated[
        int | None, option.number("--metrics-port", "Serve Prometheus metrics there.", 0, 65535, metavar="PORT")
    ] = None,
    metrics_address: Annotated[
        str | None, option.text("--metrics-address", "Address to serve metrics on; 127.0.0.1 if omitted.", "ADDRESS")
    ] = None,
    claim_after: Annotated[
        float, option.duration("--claim-after", "Claim entries that others have held for so long; 30s if omitted.")
    ] = 30.0,
    health_file: Annotated[
        Path | None,
        typer.Option(
            "--health-file",
            metavar="FILE",
            parser=option.parse_file,
            help="Touched every few seconds while all parts work.",
        ),
    ] = None,
) -> None:
    """Run one instance of the service in the foreground, until SIGTERM.

    Any number of instances share the work. Log lines are JSON on stderr. SIGTERM finishes the current batch and
    exits 0. The other instances claim the entries of an instance that dies. The health file is not touched while
    the loop, the fence watcher or the metrics server has not done its work for a while; an outage does not count.
    Exits 78 if the settings are those of another registry.

    \b
    Examples:
      saltctl service run
      saltctl service run --consumer worker-1 --metrics-port 9109 --health-file /run/saltctl/health
    """
    from saltctl.cli.detection.monitoring import JsonLines, handle_events, serve_metrics
    from saltctl.detection.events import log_event

    session = session_of(context)
    session.settings.require_redis_url()
    _check_run_options(metrics_port, metrics_address, health_file)
    name = consumer or f"{socket.gethostname()}-{os.getpid()}"
    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_signals())
        stack.enter_context(handle_events(JsonLines()))
        service = _build_service(session, name, stop, claim_after)
        if metrics_port is not None:
            address = metrics_address or "127.0.0.1"
            port = stack.enter_context(serve_metrics(metrics_port, address, service))
            log_event(INFO, "metrics_served", address=address, port=port)
        if session.settings.cool_after:
            _start_cooling(session, stop)
        service.run(after_step=lambda: touch_health_file(health_file))


def _start_cooling(session: Session, stop: threading.Event) -> None:
    """Cool idle conversations in a thread. It is not waited for: a process may end between any two steps of it."""
    from saltctl.cooling.cooling import Cooling
    from saltctl.cooling.idle import IdleSearch
    from saltctl.cooling.periodic import PeriodicCooling

    settings = session.settings
    search = IdleSearch(settings, session.store, session.backup, session.heat_stream, session.service_state)
    cooling = Cooling.over(settings, session.registry, session.history)

    def note(conversation_ids: list[str]) -> None:
        """Name them to ``saltctl incident``."""
        session.event_log.note("cooled", f"by {settings.actor}", conversation_ids)

    job = PeriodicCooling(search, cooling, settings.cool_after, stop, note=note)
    threading.Thread(target=job.run, name="saltctl-cooling", daemon=True).start()


def _check_run_options(port: int | None, address: str | None, health_file: Path | None) -> None:
    """Refuse options that would have no effect, or fail later each second."""
    if address is not None and port is None:
        raise UsageError("--metrics-address serves nothing without --metrics-port", hint="add --metrics-port 9109")
    if health_file is not None:
        require_touchable(health_file, "health file", "give a file such as /run/saltctl/health")


def _build_service(session: Session, consumer: str, stop: threading.Event, claim_idle: float) -> Service:
    from saltctl.detection.detector import Detector
    from saltctl.detection.events import Counters
    from saltctl.detection.fence_watcher import FenceWatcher
    from saltctl.detection.service import DrainDeadline, Service
    from saltctl.rebuild.rebuild import Rebuild
    from saltctl.stores.heat.window_sums import WindowSums

    settings, store, state, counters = session.settings, session.store, session.service_state, Counters()
    new_rebuild = partial(Rebuild, settings, store, session.backup, notes=state, log=session.event_log)
    sums, letters, deadline = WindowSums(settings), session.dead_letters, DrainDeadline(stop)
    detector = Detector(sums, session.registry, letters, settings, counters=counters, should_stop=deadline)
    return Service(
        session.heat_stream,
        detector,
        consumer=consumer,
        settings=settings,
        stop=stop,
        fence_watcher=FenceWatcher(
            store,
            settings.buckets,
            new_rebuild,
            counters=counters,
            stop=stop,
            noted=lambda: session.backup.check_registry().verifying,
        ),
        state=state,
        log=session.event_log,
        claim_idle=claim_idle,
    )


def touch_health_file(file: Path | None) -> None:
    """Set the time of the health file to now, and create it if needed. A failure is logged."""
    if file is None:
        return
    try:
        # O_NOFOLLOW: a link that another user put there must not lead to a file that is not the service's own.
        # A device may act when it is opened, so it must not be.
        if is_special(file):
            raise OSError(errno.EINVAL, "it is not a regular file")
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
        try:
            os.utime(descriptor)
        finally:
            os.close(descriptor)
    except OSError as exc:
        from saltctl.detection.events import log_event

        log_event(ERROR, "health_file_failed", file=str(file), why=exc.strerror)


@group.command("status")
def status(context: typer.Context, window: option.Window = 1.0, output: option.Output = None) -> None:
    """Show the instances, their backlog, the last raise, and whether Redis is verified.

    LATE names the parts of an instance that have not done their work for a while; then the verdict is degraded.
    Exits 3 unless the verdict is ok and Redis is verified; 4 if AWS does not answer, so that this is unknown.

    \b
    Examples:
      saltctl service status
      saltctl service status --window 3s -o json
    """
    from saltctl.detection.stream_status import read_stream_status

    session = session_of(context)
    found = read_stream_status(session.heat_stream, window, session.service_state)
    verified, outage = None, None
    try:
        verified = all(session.store.verified().values())
    except AwsUnavailableError as exc:  # the id of the registry is in the backup, and verification names it
        outage = exc
    record = found.service_record(verified=verified, last_raise=session.service_state.last_raise())
    lists, sentence = {"instances": INSTANCE_COLUMNS}, backlog_sentence(found)
    print_result(record, output, columns=STATUS_COLUMNS, lists=lists, sentence=sentence)
    warn_of_stream(found)
    if outage is not None:
        raise IncompleteError(f"whether Redis is verified is unknown: {outage.message}", hint=outage.hint)
    if found.verdict != "ok" or not verified:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


group.command("emit")(emit)
