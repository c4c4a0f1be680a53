"""``saltctl stream replay``."""

from __future__ import annotations

import socket
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import replay_sentence
from saltctl.cli.formats.text import counted
from saltctl.cli.jobs import drain, track_job
from saltctl.cli.output import columns_of, note, warn
from saltctl.cli.progress import Step, show_progress
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline
from saltctl.commands import command_line
from saltctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from saltctl.detection.replay import Replay, ReplayOptions, ReplayReport
    from saltctl.stores.heat.stream import HeatStream

COLUMNS = columns_of("read claimed raised unchanged stale dead drained raises dry_run")
RAISES_COLUMNS = columns_of("conversation_id before after")


def replay(
    context: typer.Context,
    first: Annotated[
        str | None, typer.Option("--from", metavar="ID|TIME", help="Replay a range instead of the backlog.")
    ] = None,
    last: Annotated[str | None, typer.Option("--to", metavar="ID|TIME", help="The end of the range.")] = None,
    max_age: Annotated[
        float | None, option.duration("--max-age", "Older heat raises nothing; heat_max_age if omitted.")
    ] = None,
    rate: Annotated[
        float | None, option.number("--rate", "At most so many entries a second.", 0.1, 10**9, whole=False)
    ] = None,
    max_events: Annotated[int | None, option.number("--max-events", "End after so many entries.", 1, 10**15)] = None,
    timeout: option.Timeout = 0.0,
    cron: option.Cron = False,
    metrics_file: option.MetricsFile = None,
    dry_run: option.DryRun = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Do the service's work without the service: sum, raise and acknowledge until the stream is drained.

    Claims the entries of dead consumers. With --from or --to it handles acknowledged entries again. Safe while
    instances run, and safe to repeat. Run it again to resume an interrupted replay.

    \b
    Examples:
      saltctl stream replay --dry-run
      saltctl stream replay --from 2h --to 1h --dry-run
      saltctl stream replay --rate 500 --timeout 15m
    """
    from saltctl.cli.detection.monitoring import Warnings, handle_events
    from saltctl.detection.replay import ReplayOptions, ReplayReport
    from saltctl.stores.heat.contracts import id_order

    start, end = (None if bound is None else option.parse_stream_id(bound) for bound in (first, last))
    # The command that resumes a replay begins with an id, which may be just beyond the end.
    if start is not None and start != first and end is not None and id_order(end) < id_order(start):
        raise UsageError("the range ends before it begins", hint="saltctl stream replay --from 2h --to 1h")
    session = session_of(context)
    with track_job("stream replay", session, cron=cron, metrics_file=metrics_file) as job:
        session.settings.require_redis_url()
        if not dry_run:
            session.require_consent("Replay heat reports?", confirm)
        options = ReplayOptions(
            # One name for each host: a replay first reads the pending entries of an interrupted one.
            consumer=f"replay-{socket.gethostname()}",
            first=start,
            last=end,
            rate=rate,
            max_events=max_events,
            dry_run=dry_run,
        )
        with session.noting_raises(), deadline(timeout):
            events = _build_replay(session, options, max_age).run()
            with handle_events(Warnings()), show_progress("replaying", quiet=cron) as (show, _):
                report = drain(
                    events,
                    ReplayReport,
                    lambda now: show(Step("replaying", now.read, more=(counted(now.raised, "raise"),))),
                )
        record = asdict(report)
        happened = bool(report.raised or report.dead or report.trimmed_pending or not report.drained)
        raises, sentence = {"raises": RAISES_COLUMNS}, replay_sentence(report)
        job.finish(record, output, happened=happened, columns=COLUMNS, lists=raises, sentence=sentence)
        if report.trimmed_pending and not cron:
            warn(
                f"{counted(report.trimmed_pending, 'pending entry was', 'pending entries were')} trimmed before anyone "
                "had handled them: their heat is lost"
            )
        if report.failed and not cron:
            kept = "they are pending" if report.left_pending else "see saltctl stream dead list"
            warn(f"the raises of {counted(report.failed, 'entry', 'entries')} could not be done; {kept}")
        if not report.drained or report.failed:
            if not cron and not report.drained and not report.left_pending:
                _print_how_to_resume(report, options, max_age)
            raise typer.Exit(ExitCode.INCOMPLETE)


def _build_replay(session: Session, options: ReplayOptions, max_age: float | None) -> Replay:
    from saltctl.detection.detector import Detector
    from saltctl.detection.replay import Replay
    from saltctl.stores.heat.window_sums import InMemorySums, WindowSums

    if options.is_range:
        _warn_of_trimmed(session.heat_stream, options)
    # The entries of a range became dead letters when they were first read.
    dead_letters = None if options.dry_run or options.is_range else session.dead_letters
    sums = InMemorySums() if options.dry_run else WindowSums(session.settings)
    detector = Detector(sums, session.registry, dead_letters, session.settings, max_age=max_age)
    return Replay(session.heat_stream, detector, session.registry, options)


def _warn_of_trimmed(stream: HeatStream, options: ReplayOptions) -> None:
    from saltctl.detection.stream_status import entry_time
    from saltctl.stores.heat.contracts import id_order

    first = stream.info().first_id
    if first is None:
        warn("the stream is empty: all entries of the range were trimmed")
    elif options.first is not None and id_order(options.first) < id_order(first):
        warn(f"the range begins before the first entry of the stream ({entry_time(first)})")


def _print_how_to_resume(report: ReplayReport, options: ReplayOptions, max_age: float | None) -> None:
    if report.held_by_others:
        warn(f"{report.held_by_others} entries are held by consumers that are alive", "saltctl stream status")
        return
    if options.dry_run and not options.is_range:
        note("not all entries were read; omit --max-events to read all")
        return
    given = {"--from": report.next_id, "--to": options.last, "--max-age": max_age, "--rate": options.rate}
    given |= {"--max-events": options.max_events, "--dry-run": options.dry_run}
    note(f"not all entries were read; to resume: {command_line('stream', 'replay', given=given)}")
