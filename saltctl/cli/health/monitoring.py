"""Results of ``saltctl doctor`` for monitoring: the output of a Nagios plugin, and Prometheus metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, get_args

from saltctl.cli.text import counted, printable
from saltctl.health.findings import WORST_FIRST, Status

if TYPE_CHECKING:
    from saltctl.health.findings import Finding

_NAGIOS: dict[Status, tuple[int, str]] = {
    "ok": (0, "OK"),
    "warn": (1, "WARNING"),
    "fail": (2, "CRITICAL"),
    "skip": (3, "UNKNOWN"),
}
"""Exit code and name of each status (documented: Monitoring Plugins' guidelines)."""


def summary(findings: Sequence[Finding]) -> str:
    """Count the findings by status."""
    count = Counter(finding.status for finding in findings)
    checks = counted(len(findings), "check")
    return f"{checks}: {count['ok']} ok, {count['warn']} warn, {count['fail']} fail, {count['skip']} skip"


def _worst(findings: Sequence[Finding]) -> Status:
    return min((finding.status for finding in findings), key=WORST_FIRST.index, default="skip")


def nagios_code(findings: Sequence[Finding]) -> int:
    """Return the exit code of a Nagios plugin."""
    return _NAGIOS[_worst(findings)][0]


def nagios(findings: Sequence[Finding]) -> str:
    """Format a plugin's output: one line with performance data, then a line for each warning and failure."""
    problems = [finding for finding in findings if finding.status in ("fail", "warn")]
    names = ", ".join(finding.check for finding in problems)
    count = Counter(finding.status for finding in findings)
    figures = {"failed": count["fail"], "warnings": count["warn"], "skipped": count["skip"], **_measures(findings)}
    performance = " ".join(f"{name}={_figure(value)}" for name, value in figures.items())
    status = _NAGIOS[_worst(findings)][1]
    head = f"SALTCTL {status} - {summary(findings)}{f' ({names})' if names else ''} | {performance}\n"
    return head + "".join(f"{finding.status} {finding.check}: {_describe(finding)}\n" for finding in problems)


def _describe(finding: Finding) -> str:
    # A vertical bar would begin performance data.
    return printable(" - ".join(filter(None, (finding.detail, finding.fix)))).replace("|", "/")


def _measures(findings: Sequence[Finding]) -> dict[str, float]:
    return {name: value for finding in findings for name, value in finding.measures.items()}


def _figure(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def prometheus(findings: Sequence[Finding]) -> str:
    """Format Prometheus metrics: a gauge for each check and status, and one for each measure."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    checks = Gauge("saltctl_doctor_check", "1 for the status of a check.", ["check", "status"], registry=registry)
    for finding in findings:
        for status in get_args(Status):
            checks.labels(finding.check, status).set(finding.status == status)
    for name, value in _measures(findings).items():
        Gauge(f"saltctl_doctor_{name}", f"{name} of saltctl doctor.", registry=registry).set(value)
    return generate_latest(registry).decode()
