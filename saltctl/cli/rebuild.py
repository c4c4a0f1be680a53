"""``saltctl rebuild``."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from saltctl.cli.boundary import deadline
from saltctl.cli.job import CronOption, MetricsFileOption, running
from saltctl.cli.output import Column, emit, warn
from saltctl.cli.progress import narrate
from saltctl.cli.session import (
    ConfirmOption,
    DryRunOption,
    OutputOption,
    TimeoutOption,
    duration_option,
    session_of,
)

if TYPE_CHECKING:
    from saltctl.rebuild import Event

COLUMNS = (
    Column("verified", "verified"),
    Column("entries", "entries", right=True),
    Column("raised", "raised", right=True),
    Column("unchanged", "unchanged", right=True),
    Column("skipped", "skipped", right=True),
    Column("committed", "raises completed", right=True),
    Column("seconds", "seconds", right=True),
    Column("entries_per_second", "entries/s", right=True),
    Column("consumed_rcu", "consumed RCU", right=True),
    Column("segments", "segments", right=True),
    Column("nodes", "Redis primaries", right=True),
    Column("resumed", "resumed"),
    Column("dry_run", "dry run"),
)
INCOMPLETE = 4


def add_to(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command("rebuild")(rebuild)


def rebuild(
    context: typer.Context,
    segments: Annotated[int, typer.Option("--segments", help="Parallel scans of the backup table.")] = 4,
    wait_redis: Annotated[float, duration_option("--wait-redis", "Wait for a Redis that is down or loading.")] = 0.0,
    lock_wait: Annotated[float, duration_option("--lock-wait", "Wait for a rebuild that is under way.")] = 0.0,
    timeout: TimeoutOption = 0.0,
    cron: CronOption = False,
    metrics_file: MetricsFileOption = None,
    dry_run: DryRunOption = False,
    confirm: ConfirmOption = None,
    output: OutputOption = None,
) -> None:
    """Rebuild Redis from the backup, and let it answer lookups again.

    Merges every entry of the backup table into Redis, never lowering one, then verifies every primary. It
    disturbs nobody: raises and lookups go on meanwhile. Safe to run at any time, twice, and to interrupt.

    \b
    Examples:
      saltctl rebuild --dry-run
      saltctl rebuild --wait-redis 15m --timeout 1h
    """
    from saltctl.rebuild import Rebuild, RebuildOptions
    from saltctl.stores.registry import new_token
    from saltctl.stores.service_state import ServiceState

    session = session_of(context)
    with running("rebuild", session, cron=cron, metrics_file=metrics_file) as run:
        options = RebuildOptions(segments=segments, wait_redis=wait_redis, lock_wait=lock_wait, dry_run=dry_run)
        settings = session.settings
        settings.require_redis_url()
        if not dry_run:
            session.consent("Rebuild Redis?", yes=True, confirm=confirm, irreversible=False)
        job = Rebuild(
            session.store,
            session.backup,
            session.backup,
            options,
            layout=settings.layout,
            key_prefix=settings.key_prefix,
            token=new_token(),
            notes=ServiceState(settings),
        )
        watched = _Watched(job.run())
        with deadline(timeout):
            session.backup.check_table()
            report = narrate(watched.events(), quiet=cron)
        changed = bool(report.raised or report.committed or watched.verified_now) and not dry_run
        run.done(asdict(report), happened=changed or report.skipped > 0)
        if not cron or output is not None:
            emit(asdict(report), output, columns=COLUMNS)
        if report.skipped:
            if not cron:
                warn(f"{report.skipped} damaged items of the backup were skipped; they are named above")
            raise typer.Exit(INCOMPLETE)


class _Watched:
    """The events of a rebuild, and whether it found Redis unverified."""

    def __init__(self, events: Iterator[Event]) -> None:
        self._events = events
        self.verified_now = False

    def events(self) -> Iterator[Event]:
        """The same events; closing this closes them."""
        from saltctl.rebuild import Began

        with closing(cast("Any", self._events)) as events:
            for event in events:
                if isinstance(event, Began):
                    self.verified_now = not event.verified_before
                yield event
