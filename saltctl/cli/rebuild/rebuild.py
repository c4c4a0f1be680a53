"""``saltctl rebuild``."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import suppress
from dataclasses import asdict
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import rebuild_sentence
from saltctl.cli.formats.text import counted
from saltctl.cli.jobs import damage_hint, estimated_items, resume_hint, track_job
from saltctl.cli.output import warn
from saltctl.cli.rebuild.view import COLUMNS, print_report, show_rebuild
from saltctl.cli.session import Session, is_interactive, session_of
from saltctl.cli.signals import deadline
from saltctl.errors import ConfigurationError, ExitCode, RefusedError, SaltctlError
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from saltctl.rebuild.checkpoint import Checkpoint, ResumeMode
    from saltctl.rebuild.events import Event, RebuildReport
    from saltctl.rebuild.options import RebuildOptions
    from saltctl.rebuild.rebuild import Rebuild
    from saltctl.stores.aws.backup_table import BackupTable


def rebuild(
    context: typer.Context,
    segments: option.Segments = 4,
    wait_redis: Annotated[
        float, option.duration("--wait-redis", "Wait for a Redis that is down or loading.", zero=True)
    ] = 0.0,
    lock_wait: option.LockWait = 0.0,
    max_rcu: option.MaxRcu = None,
    if_needed: Annotated[
        bool, typer.Option("--if-needed", help="Do nothing if every primary is verified already.")
    ] = False,
    resume: option.Resume = False,
    restart: option.Restart = False,
    timeout: option.Timeout = 0.0,
    cron: option.Cron = False,
    metrics_file: option.MetricsFile = None,
    dry_run: option.DryRun = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Rebuild Redis from the backup, and let it answer lookups again.

    Merges every entry of the backup table into Redis, never lowering one, then verifies every primary.
    Raises and lookups continue during a rebuild. Safe to run at any time, twice, and to interrupt.
    Prompts to resume an interrupted rebuild; resumes automatically when not on a terminal, if Redis proves
    that everything merged so far is still there. --dry-run prints the cost of reading the backup, then
    reads it and counts the missing entries; it changes nothing.

    \b
    Examples:
      saltctl rebuild --dry-run
      saltctl rebuild --wait-redis 15m --timeout 1h
      saltctl rebuild --max-rcu 500 --restart
      saltctl rebuild --if-needed
    """
    from saltctl.rebuild.checkpoint import load_checkpoint
    from saltctl.rebuild.options import RebuildOptions

    session = session_of(context)
    with track_job("rebuild", session, cron=cron, metrics_file=metrics_file) as job:
        session.settings.require_redis_url()
        options = RebuildOptions(
            segments=segments,
            wait_redis=wait_redis,
            lock_wait=lock_wait,
            dry_run=dry_run,
            if_needed=if_needed,
            max_rcu=max_rcu,
            resume=option.resume_mode(resume=resume, restart=restart)
            or _ask_mode(session, ask=not dry_run and not cron),
        )
        if not dry_run:
            session.require_consent("Rebuild Redis?", confirm)
        kept = partial(load_checkpoint, session.backup.checkpoint)
        with deadline(timeout), resume_hint(kept, quiet=cron or dry_run):
            report = _run(session, options, quiet=cron)
        changed = not dry_run and bool(report.restored or report.committed or not report.verified_before)
        happened, view = changed or report.skipped > 0, partial(print_report, report=report)
        sentence = rebuild_sentence(report)
        job.finish(asdict(report), output, happened=happened, columns=COLUMNS, human_view=view, sentence=sentence)
        if not dry_run and report.verified and not report.verified_before:
            _warn_of_lost_group(session)
        if report.skipped:
            if not cron:
                hint = damage_hint(report.damaged_items, report.skipped, "" if report.verified else "saltctl rebuild")
                warn(f"skipped damaged items of the backup: {report.skipped:,}. They are named above", hint)
            raise typer.Exit(ExitCode.INCOMPLETE)


def _run(session: Session, options: RebuildOptions, *, quiet: bool) -> RebuildReport:
    from saltctl.rebuild.rebuild import Rebuild

    backup = session.backup
    notes, log = session.service_state, session.event_log
    job = Rebuild(session.settings, session.store, backup, options, checkpoint=backup.checkpoint, notes=notes, log=log)
    doing = "reading the backup" if options.dry_run else "rebuilding"
    return show_rebuild(
        _events(job, backup), doing=doing, total=None if quiet else estimated_items(backup), quiet=quiet
    )


def _events(job: Rebuild, backup: BackupTable) -> Generator[Event, None, None]:
    """Yield the events of a rebuild. If the table is lost, wait for Redis all the same: a recovery needs it, too."""
    try:
        backup.check_table()
    except ConfigurationError:
        yield from job.wait_for_redis()
        raise
    yield from job.run()


def _warn_of_lost_group(session: Session) -> None:
    """Say that what lost the entries took the group of the heat stream, too. The rebuild is done all the same."""
    from saltctl.stores.heat.stream import GROUP

    with suppress(SaltctlError):
        if not session.heat_stream.group_exists():
            lost = f"the heat stream has no group {GROUP!r}, so that hot conversations are not raised"
            warn(lost, "saltctl setup")


def _ask_mode(session: Session, *, ask: bool) -> ResumeMode:
    """Ask on a terminal whether to resume; elsewhere resume if possible.

    A rebuild from cron must neither wait for an answer nor fail because of an old checkpoint. One that --timeout
    interrupts again and again still completes.
    """
    from saltctl.rebuild.checkpoint import ResumeMode

    checkpoint = _interrupted(session) if ask and is_interactive() else None
    if checkpoint is None:
        return ResumeMode.IF_VALID
    entries = counted(checkpoint.merged.entries, "entry", "entries")
    ended = f"A rebuild was interrupted at {iso_utc(checkpoint.written, 'seconds')} after {entries}"
    return ResumeMode.IF_VALID if session.ask_default_yes(f"{ended}. Resume it?") else ResumeMode.NEVER


def _interrupted(session: Session) -> Checkpoint | None:
    """Return the checkpoint, unless it is damaged or of a rebuild that is in progress, which the rebuild reports."""
    from saltctl.rebuild.checkpoint import load_checkpoint
    from saltctl.rebuild.lease import LEASE_EXPIRY

    with suppress(RefusedError, ConfigurationError):  # of the table: the rebuild raises it
        session.backup.check_table()
        holder = session.backup.lease.holder()
        if holder is None or time.time() - holder.heartbeat > LEASE_EXPIRY:
            return load_checkpoint(session.backup.checkpoint)
    return None
