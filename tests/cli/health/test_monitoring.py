"""Tests of the formats for monitoring: Nagios and Prometheus."""

from __future__ import annotations

from saltctl.cli.health.monitoring import nagios, nagios_code, prometheus
from saltctl.health.findings import Finding

FINDINGS = [
    Finding("ok", "fine", "", {"lag": 12.5}, "a"),
    Finding("warn", "odd | \x1b[31m", "fix | it", {}, "b"),
    Finding("skip", "unknown", "", {}, "c"),
]


def test_nagios_output_and_exit_codes() -> None:
    """The first line has the status, and performance data after the only bar; control characters are escaped."""
    first, second = nagios(FINDINGS).splitlines()
    assert first.startswith("SALTCTL WARNING - 3 checks: 1 ok, 1 warn, 0 fail, 1 skip (b) | failed=0 ")
    assert first.endswith("lag=12.5")
    assert "|" not in second
    assert "\x1b" not in second
    fails = [*FINDINGS, Finding("fail", "bad", "x", {}, "d")]
    codes = [nagios_code(findings) for findings in (FINDINGS[:1], FINDINGS, fails, FINDINGS[2:])]
    assert codes == [0, 1, 2, 3]


def test_prometheus_parses_the_metrics() -> None:
    """The parser of prometheus-client reads a gauge for each check and status, and the measures."""
    from prometheus_client.parser import text_string_to_metric_families

    families = {f.name: f.samples for f in text_string_to_metric_families(prometheus(FINDINGS))}
    states = {(s.labels["check"], s.labels["status"]): s.value for s in families["saltctl_doctor_check"]}
    assert states["b", "warn"] == 1
    assert sum(states.values()) == len(FINDINGS)
    assert families["saltctl_doctor_lag"][0].value == 12.5
