"""Rounds of the canary: each is a job, and ends with an exit code of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import typer

from saltctl.canary.report import NO_TIME
from saltctl.cli.canary.view import find_cause, state_of, titles, unjudged_reasons
from saltctl.cli.jobs import Job, track_job
from saltctl.cli.output import warn
from saltctl.cli.session import Session
from saltctl.cli.signals import deadline
from saltctl.errors import ExitCode, IncompleteError, UnavailableError

if TYPE_CHECKING:
    from saltctl.canary.canary import Canary
    from saltctl.canary.report import CanaryReport


CHECKING = 0.6
"""The part of ``--timeout`` in which checks begin. The rest is for the last of them and for the judges, so that a round
which takes too long still reports the checks that it made."""


@dataclass
class Rounds:
    """Rounds with one set of clients. Close it, or use it in a ``with``.

    Args:
        session: of the command.
        confirm: the value of ``--confirm``.
        timeout: seconds for one round; 0 for as many as it takes.
        cron: log a round in one line, if something happened.
        quiet: print no warning.
        metrics_file: written after each round.
    """

    session: Session
    confirm: str | None = None
    timeout: float = 0.0
    cron: bool = False
    quiet: bool = False
    metrics_file: Path | None = None
    began: bool = False
    """Whether a canary was opened: the settings can be used, and the change is confirmed."""
    report: CanaryReport | None = None
    """The report of the last round; None if it ended without one."""
    _canary: Canary | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the clients. The next round opens others."""
        opened, self._canary = self._canary, None
        if opened is not None:
            opened.close()

    def run(self, show: Callable[[Job, CanaryReport], object]) -> None:
        """Run one round, show its report unless nothing was judged, and end as the round did.

        Raises:
            typer.Exit: a check failed; or with ``cron`` anything else, which is logged.
            IncompleteError, UnavailableError: some of the checks, or none, could be judged.
            SaltctlError: the round could not begin, or took longer than ``timeout``.
        """
        self.report = None
        with track_job("canary", self.session, cron=self.cron, metrics_file=self.metrics_file) as job:
            opened = self._canary or self._open()
            with deadline(self.timeout):
                self.report = report = opened.run(self.timeout * CHECKING if self.timeout else inf)
            job.report, job.happened = record_of(report), not {"ok", "skipped"} >= {*map(state_of, report.checks)}
            if report.ok is not None:
                show(job, report)
            _conclude(report, quiet=self.quiet or self.cron)

    def _open(self) -> Canary:
        from saltctl.canary.canary import Canary

        settings = self.session.settings
        settings.require_redis_url()
        if not self.began:
            self.session.require_consent("Write to the reserved conversations of the canary?", self.confirm)
        self._canary, self.began = Canary.open(settings), True
        return self._canary


def record_of(report: CanaryReport) -> dict[str, Any]:
    """Return a report as the keys of the contract."""
    checks = [{"name": check.name, "ok": check.ok, "detail": check.detail} for check in report.checks]
    return {"ok": report.ok, "checks": checks, "seconds": round(report.seconds, 3)}


def _conclude(report: CanaryReport, *, quiet: bool) -> None:
    """Raise what a round ends with, unless each check is ok or had nothing to do."""
    if report.ok is False:
        if not quiet:
            warn(f"the promise was broken; failed: {titles(report, 'FAILED')}", find_cause(report))
        raise typer.Exit(ExitCode.FOUND_SOMETHING)
    more_time = "allow a round more time with --timeout"
    late = any(check.detail.startswith(NO_TIME) for check in report.checks)
    if report.ok is None:
        hint = more_time if late else "saltctl doctor"
        raise UnavailableError(f"nothing could be judged: {unjudged_reasons(report)}", hint=hint)
    if unjudged := titles(report, "not judged"):
        hint = more_time if late else "saltctl status"
        raise IncompleteError(f"cannot judge {unjudged}: {unjudged_reasons(report)}", hint=hint)
