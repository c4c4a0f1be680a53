"""``saltctl canary``."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saltctl.cli import option
from saltctl.cli.canary.rounds import Rounds, record_of
from saltctl.cli.canary.view import PLANS, draw, draw_line, draw_plan, nagios, sentence_of
from saltctl.cli.failures import failure_of, shown_failure
from saltctl.cli.formats.nagios import plugin_output
from saltctl.cli.jobs import Job
from saltctl.cli.output import OutputFormat, columns_of, print_result, warn
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import stop_on_signals
from saltctl.errors import UsageError

if TYPE_CHECKING:
    from saltctl.canary.report import CanaryReport

COLUMNS = columns_of("name ok detail", name="check")


def canary(
    context: typer.Context,
    every: Annotated[
        float, option.duration("--every", "Begin a round at this interval, until a signal; one round if omitted.")
    ] = 0.0,
    form: Annotated[Literal["nagios"] | None, typer.Option("--format", help="For monitoring: a Nagios plugin.")] = None,
    timeout: Annotated[
        float, option.duration("--timeout", "Time for a round, such as 50s. No check begins after 0.6 of it.")
    ] = 0.0,
    cron: option.Cron = False,
    metrics_file: option.MetricsFile = None,
    dry_run: option.DryRun = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Check the promise from this host: write, raise, cool and read reserved conversations.

    It changes the reserved conversations alone: it writes messages, raises and cools, and deletes its old messages. Any
    number of hosts can run it at once. The topic is saltctl help canary.

    Exits 3 if a check failed, and 4 if some could not be judged because of an outage, or because --timeout left no
    time for them; 69 if none could, and 124 if a round hangs.
    With --every a round that fails does not end the loop, and a signal does, after its round, with exit 0; --timeout
    bounds each round, and the metrics file is written after each. It prints a line a round, or with -o jsonl a report.
    With --format nagios it exits like a plugin: 0 ok, 1 not all judged, 2 failed, 3 nothing judged.

    \b
    Examples:
      saltctl canary
      saltctl canary --dry-run
      saltctl canary --format nagios
    """
    given = {"--every": every, "--format": form, "--dry-run": dry_run, "--cron": cron}
    _check_choice(given | {"--output": form and output, "--metrics-file": dry_run and metrics_file}, output)
    session = session_of(context)
    if dry_run:
        _show_plan(session, output)
        return
    with Rounds(session, confirm, timeout, cron=cron, quiet=form is not None, metrics_file=metrics_file) as rounds:
        if form is not None:
            _run_plugin(rounds)
        elif every:
            _run_loop(rounds, every, output)
        else:
            rounds.run(lambda job, report: _print_report(job, report, output))


def _check_choice(given: Mapping[str, object], output: OutputFormat | None) -> None:
    """Refuse options that have no effect together."""
    used = [name for name, value in given.items() if value]
    for first in ("--format", "--dry-run"):
        if first in used and len(used) > 1:
            other = next(name for name in used if name != first)
            hint = "saltctl canary --format nagios" if first == "--format" else "saltctl canary --dry-run"
            raise UsageError(f"{first} and {other} cannot be used together", hint=hint)
    if "--every" in used and output not in (None, "table", "jsonl"):
        raise UsageError(f"--every cannot print {output}", hint="saltctl canary --every 1m -o jsonl")


def _show_plan(session: Session, output: OutputFormat | None) -> None:
    """Print what each check would do."""
    from saltctl.canary.conversations import BOUND, RESERVED
    from saltctl.canary.report import CHECK_NAMES, CanaryReport, Check

    session.settings.require_redis_url()
    plan = CanaryReport([Check(name, None, PLANS[name]) for name in CHECK_NAMES], 0.0)
    where = f"{RESERVED[0]} to {RESERVED[-1]}, of at most {BOUND} salts"
    print_result(
        record_of(plan),
        output,
        columns=(),
        lists={"checks": COLUMNS},
        rows="checks",
        human_view=partial(draw_plan, checks=plan.checks),
        sentence=f"Dry run: it would use {where}; nothing was changed",
    )


def _print_report(job: Job, report: CanaryReport, output: OutputFormat | None) -> None:
    """Print the report of a single round."""
    job.finish(
        job.report,
        output,
        happened=job.happened,
        columns=(),
        lists={"checks": COLUMNS},
        rows="checks",
        human_view=partial(draw, checks=report.checks),
        sentence=sentence_of(report),
    )


def _print_line(job: Job, report: CanaryReport, output: OutputFormat | None) -> None:
    """Print a round of a loop."""
    view = partial(draw_line, report=report)
    job.finish(job.report, output, happened=job.happened, columns=(), human_view=view)
    sys.stdout.flush()


def _run_loop(rounds: Rounds, every: float, output: OutputFormat | None) -> None:
    """Run rounds until a signal. Only settings that cannot be used, or a change that is refused, end it before that."""
    with stop_on_signals() as stop:
        while not stop.is_set():
            began = time.monotonic()
            try:
                rounds.run(lambda job, report: _print_line(job, report, output))
            except Exception as exc:
                if isinstance(exc, BrokenPipeError) or not rounds.began:
                    raise
                if not isinstance(exc, typer.Exit):  # it is not printed yet
                    failure = shown_failure(failure_of(exc))
                    warn(failure.message, failure.hint)
                if rounds.report is None:  # the round ended somewhere in the clients
                    rounds.close()
            stop.wait(max(0.0, began + every - time.monotonic()))


def _run_plugin(rounds: Rounds) -> None:
    """Run one round for Nagios. The state is unknown if the round ends without a report, whatever the reason is."""
    why = ""
    try:
        rounds.run(lambda job, report: None)
    except Exception as exc:
        why = shown_failure(failure_of(exc)).message
    code, text = plugin_output("skip", why, {}) if rounds.report is None else nagios(rounds.report)
    sys.stdout.write(text)
    raise typer.Exit(code)
