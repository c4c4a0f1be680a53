"""The names of all metrics: well-formed, unique, complete, and nowhere else."""

from __future__ import annotations

import re
from dataclasses import asdict, fields
from pathlib import Path

import pytest

import saltctl
from saltctl.detection.events import Counters
from saltctl.detection.replay import ReplayReport
from saltctl.history.full_audit.events import FullAudit
from saltctl.metrics import (
    CANARY_CHECK_OK,
    DOCTOR_MEASURES,
    FIGURES,
    SERVICE_COUNTERS,
    JobName,
    Metric,
    all_metrics,
    figures_of,
    unnamed_figures,
)
from saltctl.rebuild.events import RebuildReport
from saltctl.registry.drift import ComparisonReport

PACKAGE = Path(saltctl.__file__).parent
REPORTS: dict[JobName, RebuildReport | ComparisonReport | ReplayReport | FullAudit] = {
    "rebuild": RebuildReport(),
    "compare": ComparisonReport(),
    "stream replay": ReplayReport(),
    "history audit": FullAudit(0, 0, 0, 0, 0, [], False, None, 0, 0, 1.0, 0, 0, 1.0, 0.0, 0.0),
}


@pytest.mark.parametrize("metric", all_metrics(), ids=lambda metric: metric.name)
def test_a_metric_is_well_formed(metric: Metric) -> None:
    """Names follow Prometheus' conventions, and each metric says what it means."""
    assert re.fullmatch(r"saltctl_[a-z]+(_[a-z0-9]+)*", metric.name)
    assert (metric.kind == "counter") == metric.name.endswith("_total")
    assert re.fullmatch(r"[A-Z0-9].{9,85}\.", metric.about)
    assert (metric.unit == "seconds") == metric.name.endswith("_seconds") or metric.unit == "Unix time"
    assert "table" in metric.labels
    assert "job" not in metric.labels, "Prometheus has its own"


def test_names_are_unique() -> None:
    """No two metrics have one name."""
    names = [metric.name for metric in all_metrics()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("job", REPORTS)
def test_every_number_of_a_report_is_named(job: JobName) -> None:
    """A new key of a report is exported, and one that is gone is not promised."""
    report = REPORTS[job]
    assert unnamed_figures(job, asdict(report)) == []
    assert set(FIGURES[job]) <= {field.name for field in fields(report)} | {"dry_run"}


def test_a_forgotten_number_is_found() -> None:
    """Booleans count as numbers; strings, lists and null do not."""
    report = {"checked": 1, "new": 2, "also": False, "sample": "1/24", "drift": [], "none": None}
    assert unnamed_figures("compare", report) == ["new", "also"]
    assert [(metric.name, value) for metric, _, value in figures_of("compare", report)] == [
        ("saltctl_compare_checked", 1)
    ]


def test_no_other_module_spells_a_name() -> None:
    """A name that is written elsewhere has no meaning, no unit and no place in the documentation."""
    prefixes = "|".join(sorted({metric.name.split("_")[1] for metric in all_metrics()}))
    spelled = re.compile(rf"""\bsaltctl_(?:{prefixes})_|["']saltctl_{{""")
    for path in PACKAGE.rglob("*.py"):
        # The fixtures of saltctl.testing are named saltctl_registry, and so on.
        if path.parent.name != "testing" and path.name != "metrics.py":
            assert spelled.findall(path.read_text(encoding="utf-8")) == [], path


def test_every_counter_of_the_service_is_named() -> None:
    """A new counter is served."""
    assert set(SERVICE_COUNTERS) == {field.name for field in fields(Counters)}


def test_every_measure_of_the_doctor_is_named() -> None:
    """A new measure of a check is exported: those in dictionaries of measures, and the skew of each clock."""
    found: set[str] = set()
    for path in (PACKAGE / "health" / "checks").glob("*.py"):
        source = path.read_text(encoding="utf-8")
        found |= set(re.findall(r'clock_skew\(.*, "(\w+)"\)', source))
        for block in re.findall(r"^( *)(?:measures = |def _measures)(.*(?:\n\1 +.*)*)", source, re.MULTILINE):
            found |= set(re.findall(r'"(\w+)":', block[1]))
    assert {"stream_lag", "drift_found", "aws_clock_skew_seconds"} <= found <= set(DOCTOR_MEASURES)


def test_a_canary_exports_each_check_that_was_judged() -> None:
    """What could not be judged is left out: it is neither kept nor broken."""
    checks = [{"name": name, "ok": ok, "detail": ""} for name, ok in (("a", True), ("b", False), ("c", None))]
    found = list(figures_of("canary", {"ok": False, "checks": checks, "seconds": 0.5}))
    assert [(metric.name, value) for metric, labels, value in found if not labels] == [
        ("saltctl_canary_ok", False),
        ("saltctl_canary_seconds", 0.5),
    ]
    assert [(metric, labels, value) for metric, labels, value in found if labels] == [
        (CANARY_CHECK_OK, {"check": "a"}, True),
        (CANARY_CHECK_OK, {"check": "b"}, False),
    ]


def test_an_age_of_what_never_was_is_left_out() -> None:
    """Before the first complete cycle of the audit there is no series, rather than a number that means never."""
    found = figures_of("history audit", {"audited": 3, "oldest_age_s": None, "sample_age_s": 1.5})
    assert {metric.name: value for metric, _, value in found} == {
        "saltctl_history_audit_audited": 3,
        "saltctl_history_audit_sample_age_seconds": 1.5,
    }


def test_the_topic_names_every_metric_and_no_other() -> None:
    """``saltctl help metrics`` agrees with the module. Figures are written as a prefix and keys."""
    topic = (PACKAGE / "help" / "metrics.txt").read_text(encoding="utf-8")
    spelled = set(re.findall(r"\bsaltctl_[a-z_]+\b(?!_KEY|\.prom)", topic))
    for prefix, keys in re.findall(r"(saltctl_\w+)KEY((?:\s+(?!saltctl)[a-z_]+)+)", topic):
        spelled |= {f"{prefix}{key}" for key in keys.split()}
    assert spelled == {metric.name for metric in all_metrics()}
