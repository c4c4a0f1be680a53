"""Long jobs: how they end and are resumed, and for cron one log line and metrics in a file.

``--cron`` prints nothing while nothing happens, since cron mails whatever is printed. If something changed or was
found, or the job failed, it prints one JSON line on stderr, with a run id, instead of the report and the error. With a
format such as ``-o json`` it prints the report, too, but only then.
``--metrics-file`` is written whenever a job ends, with or without ``--cron``.
"""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import typer

from saltctl.cli.failures import exit_code_of, failure_of, shown_failure
from saltctl.cli.files import replace_file, require_replaceable
from saltctl.cli.output import OutputFormat, note, print_result, warn, write_json_line
from saltctl.cli.session import Session
from saltctl.cli.signals import announce_stop, arguments, deadline, runs_from_cron
from saltctl.commands import command_line, hint_of
from saltctl.errors import (
    AwsUnavailableError,
    ConfigurationError,
    ExitCode,
    IncompleteError,
    LeaseHeldError,
    RefusedError,
    SaltctlError,
)
from saltctl.metrics import (
    JOB_DURATION,
    JOB_EXIT_CODE,
    JOB_LAST_RUN,
    JOB_LAST_SUCCESS,
    JOB_SUCCESS,
    JobName,
    Metric,
    command_of,
    figures_of,
)
from saltctl.stores.throttle_notes import throttled_call
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from saltctl.stores.aws.table import Table
    from saltctl.stores.contracts.registry import DamagedEntry

_THROTTLED_SECONDS = 10.0
"""Seconds after which a job says that AWS throttles a call of its."""
MAX_DAMAGED_NAMED = 20
"""Damaged items of the backup that a job names; it counts all of them."""
_CURES_NAMED = 5
Event = TypeVar("Event")
Report = TypeVar("Report")
_OUTCOMES: dict[int, tuple[str, str]] = {
    ExitCode.DONE: ("info", "ok"),
    ExitCode.FOUND_SOMETHING: ("warning", "found"),
    ExitCode.INCOMPLETE: ("warning", "incomplete"),
}
"""Level and outcome of an exit code; others are errors."""
_MAX_LISTED = 10
"""Items of each list in a report, such as drift, that the log line shows; its counts are complete."""
_MAX_METRICS_BYTES = 1 << 20
_METRICS_HINT = "give a file in the textfile directory of the node exporter, such as NAME.prom"


def drain(events: Generator[Event, None, None], report_type: type[Report], handle: Callable[[Event], object]) -> Report:
    """Pass each event of a job to ``handle`` and return the last one, which is the report.

    The generator is closed on every way out, so that an interrupted job frees what it holds, such as its lease.
    A call that AWS throttles for some seconds is one warning, except with ``--cron``: the job goes on, for minutes,
    without progress.

    Raises:
        RuntimeError: the job ended without a report.
    """
    last: Event | None = None
    warned = runs_from_cron()
    with closing(events):
        for event in events:
            handle(event)
            last = event
            if not warned and (cause := throttled_call(_THROTTLED_SECONDS)):
                warned = True
                warn(f"{cause}; they are sent again for up to ten minutes")
    if not isinstance(last, report_type):
        raise RuntimeError(f"the job ended without a report ({report_type.__name__})")
    return last


def damage_hint(items: Sequence[DamagedEntry], count: int, *then: str) -> str:
    """Return the hint of damaged items: the cures of the first ones, of ``count``, and then the commands ``then``."""
    cures = [item.cure for item in items[:_CURES_NAMED]]
    others = f"likewise the {count - len(cures):,} others" if count > len(cures) else ""
    return hint_of(*cures, others, *then)


def estimated_items(table: Table) -> int | None:
    """Return about how many items a table has, for progress; None if that cannot be read, or was not counted yet.

    DescribeTable counts about every six hours (documented).
    """
    with suppress(SaltctlError):
        return table.size().items or None
    return None


@contextmanager
def resume_hint(load_checkpoint: Callable[[], object], *, quiet: bool = False) -> Iterator[None]:
    """Name the command that resumes the job if the block fails and a checkpoint is kept; None if there is none.

    The error of a signal or of ``--timeout`` names it, since it has a command to run again anyhow; those of others
    mend what failed, so that a line of its own names it. ``--timeout`` must be outside of this block.
    """
    try:
        with nullcontext() if quiet else announce_stop():
            yield
    except (AwsUnavailableError, IncompleteError, LeaseHeldError, RefusedError):
        raise  # the checkpoint cannot be read, is that of a job in progress, or is not valid; or a hint names another
    except BaseException as exc:
        # A silent server must not delay the end, and no error here may replace the outcome.
        with suppress(Exception), deadline(2.0):
            if not quiet and load_checkpoint() is not None:
                words = [word for word in arguments.get() if word not in ("--resume", "--restart")] + ["--resume"]
                if isinstance(exc, Exception):
                    note(f"a checkpoint is kept; to resume from it: {command_line(*words)}")
                else:
                    arguments.set(words)
        raise


# Jobs run by cron.


@dataclass
class Job:
    """One run of a job. ``report`` and ``happened`` are set by :meth:`finish`; they stay empty if the job fails."""

    name: JobName
    cron: bool
    run_id: str = field(default_factory=lambda: os.urandom(8).hex())
    report: Mapping[str, Any] = field(default_factory=dict)
    happened: bool = False

    def finish(self, report: Mapping[str, Any], output: OutputFormat | None, *, happened: bool, **view: Any) -> None:
        """Set the report, and print it as :func:`print_result` does.

        With ``--cron`` it is printed only if something happened and a format is chosen.


        ``happened``: whether the job changed or found anything that belongs in a mail.
        """
        self.report, self.happened = report, happened
        if not self.cron or (happened and output is not None):
            print_result(report, output, **view)


@contextmanager
def track_job(name: JobName, session: Session, *, cron: bool, metrics_file: Path | None) -> Iterator[Job]:
    """Run the block as a job: when it ends, in whatever way, write its log line and its metrics, if wanted.

    Raises:
        ConfigurationError: the metrics file cannot be written. Raised before the job begins.
    """
    job, started, error, writable = Job(name, cron), time.monotonic(), None, False
    try:
        if metrics_file is not None:
            require_replaceable(metrics_file, "metrics file", _METRICS_HINT)
            writable = True
        yield job
    except BaseException as exc:
        error = exc
        if cron and not isinstance(exc, typer.Exit):
            # The log line has the error already; main.py would print it again.
            raise typer.Exit(exit_code_of(exc)) from exc
        raise
    finally:
        code, seconds = exit_code_of(error), round(time.monotonic() - started, 3)
        if metrics_file is not None and writable:
            write_metrics(metrics_file, job, session, code, seconds)
        # A lease that is held is not worth a mail: cron would send it every minute of a long rebuild.
        if cron and not isinstance(error, LeaseHeldError) and (job.happened or code):
            write_json_line(_log_line(job, error, code, seconds), sys.stderr)


def _log_line(job: Job, exc: BaseException | None, code: int, seconds: float) -> dict[str, Any]:
    level, outcome = _OUTCOMES.get(code, ("error", "internal"))
    failure = None if exc is None or code == 0 or isinstance(exc, typer.Exit) else shown_failure(failure_of(exc))
    line: dict[str, Any] = {
        "at": iso_utc(time.time()),
        "level": level,
        "event": job.name,
        "run": job.run_id,
        "outcome": outcome if failure is None else failure.code,
        "exit_code": code,
        "seconds": seconds,
    }
    if failure is not None:
        line |= {"message": failure.message, "hint": failure.hint}
    for key, value in job.report.items():
        line.setdefault(key, value[:_MAX_LISTED] if isinstance(value, list) else value)
    return line


# The metrics file.


def write_metrics(file: Path, job: Job, session: Session, code: int, seconds: float) -> None:
    """Replace the metrics file by the outcome of a run, which ended now, and the figures of its report.

    A file that cannot be written is a warning: the job is done or has failed for another reason.
    """
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry, now = CollectorRegistry(), round(time.time(), 3)
    labels = {"command": command_of(job.name)}
    with suppress(SaltctlError):
        labels["table"] = session.settings.backup_table
    # A job that found something succeeded; what it found has metrics of its own.
    success = code in (ExitCode.DONE, ExitCode.FOUND_SOMETHING)
    gauges: dict[Metric, Gauge] = {}

    def add(metric: Metric, value: float, **more: str) -> None:
        """Add a sample with the labels of the job, and more."""
        if metric not in gauges:
            gauges[metric] = Gauge(metric.name, metric.about, (*labels, *more), registry=registry)
        gauges[metric].labels(**labels, **more).set(value)

    add(JOB_SUCCESS, success)
    add(JOB_EXIT_CODE, code)
    add(JOB_DURATION, seconds)
    add(JOB_LAST_RUN, now)
    add(JOB_LAST_SUCCESS, now if success else _read_last_success(file))
    for metric, more, value in figures_of(job.name, job.report):
        add(metric, value, **more)
    try:
        replace_file(file, generate_latest(registry), "metrics file")
    except (OSError, ConfigurationError) as exc:
        warn(exc.message if isinstance(exc, SaltctlError) else f"cannot write the metrics file {str(file)!r}: {exc}")


def _read_last_success(file: Path) -> float:
    """Return the timestamp of the previous run's file; 0 if there is none, so that alerts on its age fire."""
    from prometheus_client.parser import text_string_to_metric_families

    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as stream:
            families = list(text_string_to_metric_families(stream.read(_MAX_METRICS_BYTES)))
    except (OSError, ValueError):
        return 0.0
    return next((s.value for family in families for s in family.samples if s.name == JOB_LAST_SUCCESS.name), 0.0)
