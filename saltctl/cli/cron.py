"""What rebuild, compare and replay need to run from cron: silence, one log line, metrics in a file.

``--cron`` prints nothing while nothing happens, since cron mails whatever is printed. When something was done or
found, or it failed, there is one JSON line on stderr, with a run id, instead of the report and of the error.
``--metrics-file`` is written at every end of a job, whatever its ``--cron``. It needs no library: the node
exporter reads a dozen lines of text, and a job has to work where the ``metrics`` extra is not installed.
"""

from __future__ import annotations

import os
import re
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from saltctl.cli.output import warn, write_json_line
from saltctl.cli.session import Session
from saltctl.cli.signals import Terminated
from saltctl.errors import ConfigurationError, LeaseHeldError, SaltctlError
from saltctl.times import iso_utc

MetricsFileOption = Annotated[
    Path | None,
    typer.Option("--metrics-file", metavar="FILE", help="Write Prometheus text there at the end, at failure too."),
]
CronOption = Annotated[
    bool, typer.Option("--cron", help="Print one JSON line on stderr if something happened, and nothing else.")
]
_OUTCOMES = {0: "ok", 2: "usage", 3: "found", 4: "incomplete", 130: "interrupted"}
_GOOD = (0, 3)
"""A job that found something did what it was to do; what it found has metrics of its own."""
_LISTED = 10
"""Of each list in a report, such as drift, so many go into the log line; its counts are whole."""
_LAST_SUCCESS = "saltctl_job_last_success_timestamp_seconds"
_ABOUT = {
    "saltctl_job_success": "Whether the last run did what it was to do.",
    "saltctl_job_exit_code": "The exit code of the last run.",
    "saltctl_job_duration_seconds": "How long the last run took.",
    "saltctl_job_last_run_timestamp_seconds": "When the last run ended.",
    _LAST_SUCCESS: "When the last run ended that did what it was to do; 0 before the first.",
}


@dataclass
class Job:
    """One run of a job. ``report`` and ``happened`` are set by :meth:`done`, and stay empty where it fails."""

    name: str
    cron: bool = False
    run_id: str = field(default_factory=lambda: secrets.token_hex(8))
    report: Mapping[str, Any] = field(default_factory=dict)
    happened: bool = False

    def done(self, report: Mapping[str, Any], *, happened: bool) -> None:
        """Hand over the report. ``happened``: whether anything was changed or found that somebody wants to know."""
        self.report = report
        self.happened = happened


@contextmanager
def track_job(
    name: str,
    session: Session,
    *,
    cron: bool,
    metrics_file: Path | None,
    clock: Callable[[], float] = time.monotonic,
    now: Callable[[], float] = time.time,
) -> Iterator[Job]:
    """The block is a run of a job; however it ends, its log line and its metrics are written, where wanted.

    Raises:
        ConfigurationError: the metrics file cannot be written; before the job is begun.
    """
    if metrics_file is not None:
        _check_metrics_file(metrics_file)
    job = Job(name, cron)
    started = clock()
    try:
        yield job
    except BaseException as exc:
        _end(job, exc, session, metrics_file, clock() - started, now())
        if cron and isinstance(exc, SaltctlError | Terminated | KeyboardInterrupt):
            # The log line has said it all; the boundary would say it again.
            raise typer.Exit(_exit_code(exc)) from exc
        raise
    _end(job, None, session, metrics_file, clock() - started, now())


def _end(
    job: Job, exc: BaseException | None, session: Session, metrics_file: Path | None, seconds: float, now: float
) -> None:
    code = _exit_code(exc)
    if metrics_file is not None:
        _write_metrics(metrics_file, _labels(job, session), code, seconds, now, job)
    # That somebody else is at it already is no news, and cron would mail it every minute.
    if job.cron and not isinstance(exc, LeaseHeldError) and (job.happened or code):
        write_json_line(_log_line(job, exc, code, seconds, now), sys.stderr)


def _exit_code(exc: BaseException | None) -> int:
    match exc:
        case None | BrokenPipeError():
            return 0
        case typer.Exit() | typer.TyperException() | SaltctlError():
            return exc.exit_code
        case Terminated():
            return 128 + exc.signum
        case KeyboardInterrupt() | typer.Abort():
            return 130
    return 1


def _log_line(job: Job, exc: BaseException | None, code: int, seconds: float, now: float) -> dict[str, Any]:
    at = iso_utc(now)
    level = {0: "info", 3: "warning", 4: "warning"}.get(code, "error")
    outcome = _OUTCOMES.get(code, "terminated" if isinstance(exc, Terminated) else "internal")
    line: dict[str, Any] = {"at": at, "level": level, "event": job.name, "run": job.run_id}
    if isinstance(exc, SaltctlError):
        outcome = exc.code
    line |= {"outcome": outcome, "exit_code": code, "seconds": round(seconds, 3)}
    if isinstance(exc, SaltctlError):
        line |= {"message": exc.message, "hint": exc.hint}
    for key, value in job.report.items():
        line.setdefault(key, value[:_LISTED] if isinstance(value, list) else value)
    return line


# The metrics file.


def _check_metrics_file(file: Path) -> None:
    directory = file.parent
    if file.is_dir() or not directory.is_dir() or not os.access(directory, os.W_OK | os.X_OK):
        raise ConfigurationError(
            f"the metrics file {str(file)!r} cannot be written: its directory must exist and be writable",
            hint="give a file in the textfile directory of the node exporter, such as NAME.prom",
        )


def _labels(job: Job, session: Session) -> str:
    # Not "job", which is Prometheus' own label. The table tells apart two registries that one host looks after.
    labels = {"command": job.name.replace(" ", "_")}
    with suppress(SaltctlError):
        labels["table"] = session.settings.backup_table
    return ",".join(f'{name}="{_escaped(value)}"' for name, value in labels.items())


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")


def _write_metrics(file: Path, labels: str, code: int, seconds: float, now: float, job: Job) -> None:
    good = code in _GOOD
    values: dict[str, float] = {
        "saltctl_job_success": int(good),
        "saltctl_job_exit_code": code,
        "saltctl_job_duration_seconds": round(seconds, 3),
        "saltctl_job_last_run_timestamp_seconds": round(now, 3),
        _LAST_SUCCESS: round(now, 3) if good else _last_success(file),
    }
    stem = f"saltctl_{job.name.replace(' ', '_')}"
    values |= {f"{stem}_{key}": float(v) for key, v in job.report.items() if isinstance(v, bool | int | float)}
    lines = []
    for name, value in values.items():
        about = _ABOUT.get(name, f"{name.removeprefix(stem + '_')} in the report of saltctl {job.name}.")
        lines += [f"# HELP {name} {about}", f"# TYPE {name} gauge", f"{name}{{{labels}}} {_number(value)}"]
    try:
        _replace(file, "\n".join(lines) + "\n")
    except OSError as exc:
        # The work is done, or has failed for a reason of its own: either way this must not hide it.
        warn(f"the metrics file {str(file)!r} was not written: {exc.strerror}")


def _number(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else repr(float(value))


def _last_success(file: Path) -> float:
    """What the file of the run before says; 0 where there is none, so that an alert on its age goes off."""
    try:
        with os.fdopen(os.open(file, os.O_RDONLY | os.O_NOFOLLOW), encoding="utf-8") as stream:
            text = stream.read(1 << 20)
        found = re.search(rf"^{_LAST_SUCCESS}(?:{{.*}})? (\S+)$", text, flags=re.MULTILINE)
        return float(found[1]) if found else 0.0
    except (OSError, ValueError):
        return 0.0


def _replace(file: Path, text: str) -> None:
    """Write the file whole or not at all: beside it under a name that nobody collects, then renamed over it."""
    descriptor, beside = tempfile.mkstemp(prefix=f".{file.name}.", suffix=".tmp", dir=file.parent)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            os.fchmod(stream.fileno(), 0o644)  # the node exporter is another user
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(beside, file)  # noqa: PTH105  it follows no link, and its name says so
    except BaseException:
        with suppress(OSError):
            Path(beside).unlink()
        raise
