"""Results of ``saltctl doctor`` for monitoring: the output of a Nagios plugin, and Prometheus metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from saltctl.cli.text import printable
from saltctl.health.findings import WORST_FIRST, Status

if TYPE_CHECKING:
    from saltctl.health.findings import CheckResult

_NAGIOS: dict[Status, tuple[int, str]] = {
    "ok": (0, "OK"),
    "warn": (1, "WARNING"),
    "fail": (2, "CRITICAL"),
    "skip": (3, "UNKNOWN"),
}
"""Exit code and name of each status (documented: Monitoring Plugins' guidelines)."""


def summary(results: Sequence[CheckResult]) -> str:
    """Count the results by status."""
    count = Counter(result.status for result in results)
    return f"{len(results)} checks: {count['ok']} ok, {count['warn']} warn, {count['fail']} fail, {count['skip']} skip"


def _worst(results: Sequence[CheckResult]) -> Status:
    return min((result.status for result in results), key=WORST_FIRST.index, default="skip")


def nagios_code(results: Sequence[CheckResult]) -> int:
    """Return the exit code of a Nagios plugin."""
    return _NAGIOS[_worst(results)][0]


def nagios(results: Sequence[CheckResult]) -> str:
    """Format a plugin's output: one line with performance data, then a line for each warning and failure."""
    problems = [result for result in results if result.status in ("fail", "warn")]
    names = ", ".join(result.name for result in problems)
    count = Counter(result.status for result in results)
    figures = {"failed": count["fail"], "warnings": count["warn"], "skipped": count["skip"], **_measures(results)}
    performance = " ".join(f"{name}={_figure(value)}" for name, value in figures.items())
    status = _NAGIOS[_worst(results)][1]
    head = f"SALTCTL {status} - {summary(results)}{f' ({names})' if names else ''} | {performance}\n"
    return head + "".join(
        f"{result.status} {result.name}: {_plain(result.detail)}{f' - {_plain(result.fix)}' if result.fix else ''}\n"
        for result in problems
    )


def _measures(results: Sequence[CheckResult]) -> dict[str, float]:
    return {name: value for result in results for name, value in result.measures.items()}


def _plain(line: str) -> str:
    # A vertical bar would begin performance data.
    return printable(line).replace("|", "/")


def _figure(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def prometheus(results: Sequence[CheckResult]) -> str:
    """Format Prometheus metrics: a gauge for each check and status, and one for each measure."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    checks = Gauge("saltctl_doctor_check", "1 for the status of a check.", ["check", "status"], registry=registry)
    for result in results:
        for status in get_args(Status):
            checks.labels(result.name, status).set(result.status == status)
    for name, value in _measures(results).items():
        Gauge(f"saltctl_doctor_{name}", f"{name} of saltctl doctor.", registry=registry).set(value)
    return generate_latest(registry).decode()
