"""``saltctl rebuild``."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from contextlib import closing, contextmanager
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli.cron import CronOption, MetricsFileOption, track_job
from saltctl.cli.output import note, print_result, warn
from saltctl.cli.rebuild.view import COLUMNS, print_report, show_rebuild
from saltctl.cli.session import (
    ConfirmOption,
    DryRunOption,
    OutputOption,
    Session,
    TimeoutOption,
    duration_option,
    session_of,
)
from saltctl.cli.signals import deadline
from saltctl.errors import CheckpointRefusedError, ExitCode, UnavailableError, UsageError
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from saltctl.rebuild.checkpoint import CheckpointFile
    from saltctl.rebuild.events import Event
    from saltctl.rebuild.rebuild import Rebuild, RebuildOptions
    from saltctl.rebuild.resuming import ResumeMode


def add_to(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command("rebuild")(rebuild)


def rebuild(
    context: typer.Context,
    segments: Annotated[int, typer.Option("--segments", help="Parallel scans of the backup table.")] = 4,
    wait_redis: Annotated[float, duration_option("--wait-redis", "Wait for a Redis that is down or loading.")] = 0.0,
    lock_wait: Annotated[float, duration_option("--lock-wait", "Wait for a rebuild that is under way.")] = 0.0,
    max_rcu: Annotated[
        float | None,
        typer.Option("--max-rcu", metavar="UNITS", help="Read capacity units a second at most.", show_default=False),
    ] = None,
    if_needed: Annotated[
        bool, typer.Option("--if-needed", help="Do nothing where every primary is verified already.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from the checkpoint, or fail.")] = False,
    restart: Annotated[bool, typer.Option("--restart", help="Begin anew, whatever checkpoint there is.")] = False,
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
    A rebuild that ended before its time is offered to be gone on with on a terminal, and is gone on with
    elsewhere, where Redis proves that all it merged still stands. --dry-run first says what reading costs,
    and then reads: it counts what is missing, and changes nothing.

    \b
    Examples:
      saltctl rebuild --dry-run
      saltctl rebuild --wait-redis 15m --timeout 1h
      saltctl rebuild --max-rcu 500 --restart
      saltctl rebuild --if-needed
    """
    from saltctl.rebuild.checkpoint import CheckpointFile
    from saltctl.rebuild.rebuild import Rebuild, RebuildOptions
    from saltctl.stores.heat.service_state import ServiceState
    from saltctl.stores.redis.registry import new_token

    session = session_of(context)
    with track_job("rebuild", session, cron=cron, metrics_file=metrics_file) as run:
        settings = session.settings
        settings.require_redis_url()
        checkpoints = CheckpointFile.of(settings)
        options = RebuildOptions(
            segments=segments,
            wait_redis=wait_redis,
            lock_wait=lock_wait,
            dry_run=dry_run,
            max_rcu=max_rcu,
            resume=_how_to_resume(session, checkpoints, resume=resume, restart=restart, ask=not dry_run and not cron),
        )
        if not dry_run:
            session.require_consent("Rebuild Redis?", yes=True, confirm=confirm, irreversible=False)
        job = Rebuild(
            session.store,
            session.backup,
            session.backup.lease,
            options,
            layout=settings.layout,
            key_prefix=settings.key_prefix,
            token=new_token(),
            checkpoints=checkpoints,
            notes=ServiceState(settings),
        )
        watched = _Watched(_unless_verified(session, job, options) if if_needed else job.run())
        with deadline(timeout), _naming(checkpoints, quiet=cron or dry_run):
            session.backup.check_table()
            report = show_rebuild(watched.events(), quiet=cron)
        changed = bool(report.restored or report.committed or watched.verified_now) and not dry_run
        run.done(asdict(report), happened=changed or report.skipped > 0)
        if not cron or output is not None:
            print_result(
                asdict(report), output, columns=COLUMNS, human_view=lambda screen: print_report(screen, report)
            )
        if report.skipped:
            if not cron:
                warn(f"{report.skipped} damaged items of the backup were skipped; they are named above")
            raise typer.Exit(ExitCode.INCOMPLETE)


def _unless_verified(session: Session, job: Rebuild, options: RebuildOptions) -> Generator[Event, None, None]:
    """The rebuild; or, where Redis needs none, the report of one that had nothing to do and read nothing."""
    from saltctl.rebuild.events import RebuildReport

    try:
        verified = session.store.verified()
    except UnavailableError:
        verified = {}  # the rebuild waits for Redis, or says what is wrong with it
    if not verified or not all(verified.values()):
        yield from job.run()
        return
    yield RebuildReport(
        entries=0,
        restored=0,
        unchanged=0,
        skipped=0,
        seconds=0.0,
        entries_per_second=0.0,
        consumed_rcu=0.0,
        segments=options.segments,
        primaries=len(verified),
        verified=True,
        resumed=False,
        dry_run=options.dry_run,
        committed=0,
    )


def _how_to_resume(
    session: Session, checkpoints: CheckpointFile, *, resume: bool, restart: bool, ask: bool
) -> ResumeMode:
    """What the options say; else what somebody at the terminal says of a checkpoint; else where it holds.

    Nobody is asked elsewhere: a rebuild from cron neither waits for an answer nor fails because of what another
    one left, and one that --timeout ends again and again gets to its end all the same.
    """
    from saltctl.rebuild.resuming import ResumeMode

    if resume and restart:
        raise UsageError("--resume and --restart exclude each other", hint="give one of them, or neither")
    if resume or restart:
        return ResumeMode.ALWAYS if resume else ResumeMode.NEVER
    try:
        checkpoint = checkpoints.load() if ask else None
    except CheckpointRefusedError:
        checkpoint = None  # the rebuild says so itself, once it has the lease
    if checkpoint is None:
        return ResumeMode.IF_VALID
    ended = f"A rebuild ended at {iso_utc(checkpoint.written, 'seconds')} after {checkpoint.entries:,} entries"
    goes_on = session.ask_default_yes(f"{ended} ({checkpoints.path}). Go on from there?")
    return ResumeMode.IF_VALID if goes_on else ResumeMode.NEVER


@contextmanager
def _naming(checkpoints: CheckpointFile, *, quiet: bool) -> Iterator[None]:
    """Where the block ends before its time, name the command that goes on from the checkpoint, if there is one."""
    try:
        yield
    except BaseException:
        if not quiet and checkpoints.path.exists():
            note("a checkpoint is kept; to go on from it: saltctl rebuild --resume")
        raise


class _Watched:
    """The events of a rebuild, and whether it found Redis unverified."""

    def __init__(self, events: Generator[Event, None, None]) -> None:
        self._events = events
        self.verified_now = False

    def events(self) -> Generator[Event, None, None]:
        """The same events; closing this closes them."""
        from saltctl.rebuild.events import RebuildStarted

        with closing(self._events) as events:
            for event in events:
                if isinstance(event, RebuildStarted):
                    self.verified_now = not event.verified_before
                yield event
