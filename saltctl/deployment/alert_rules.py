"""The alerts on the metrics of one registry, in groups: expressions of PromQL, and what to do.

Several hosts may export one registry's metrics. An expression aggregates them, so that its alert has the labels of
what is wrong, such as ``table`` and ``command``, rather than those of each host; a canary proves something of its own
host alone. Both sides of ``and``, ``or``, ``unless`` and of arithmetic need the same labels.

The figures of a job stay in its file when it no longer runs: they count for a while (:meth:`Series.recent`).
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from saltctl.metrics import (
    BACK_OFF,
    CANARY_CHECK_OK,
    DOCTOR_CHECK,
    FIGURES,
    JOB_LAST_RUN,
    JOB_LAST_SUCCESS,
    JOB_SUCCESS,
    PART_LATE,
    REGISTRY_VERIFIED,
    SERVICE_COUNTERS,
    STREAM_LAG,
    THROTTLED_RESPONSES,
    JobName,
    Metric,
    command_of,
)
from saltctl.settings import Settings

MINUTE, HOUR, DAY = 60, 3600, 86400
STALE_AFTER: dict[JobName, int] = {
    "canary": 15 * MINUTE,
    "rebuild": 15 * MINUTE,
    "setup": 15 * MINUTE,
    "stream replay": 15 * MINUTE,
    "compare": DAY,
    "history audit": HOUR,
}
"""Seconds without a success after which an alert fires, for jobs that run as in the README's crontab."""
_COMMANDS: dict[JobName, str] = {
    "canary": "saltctl canary",
    "rebuild": "saltctl rebuild --if-needed",
    "setup": "saltctl setup --stream",
    "stream replay": "saltctl stream replay",
    "compare": "saltctl compare",
    "history audit": "saltctl history audit --all",
}


@dataclass(frozen=True, slots=True)
class Alert:
    """One alert. ``lasting`` is how long the expression must hold; ``topic`` is one of ``saltctl help``."""

    name: str
    expression: str
    lasting: str
    severity: Literal["critical", "warning"]
    summary: str
    command: str
    topic: str


@dataclass(frozen=True, slots=True)
class Series:
    """Selectors of the metrics of one registry."""

    table: str

    def __call__(self, metric: Metric, **labels: str) -> str:
        """Return the selector of a metric, with these labels besides the table."""
        pairs = {"table": self.table} | labels
        return metric.name + "{" + ",".join(f"{name}={json.dumps(value)}" for name, value in pairs.items()) + "}"

    def figure(self, job: JobName, key: str) -> str:
        """Return the selector of a figure of a report. Its labels are those of :meth:`recent` and other figures."""
        return self(FIGURES[job][key])

    def recent(self, job: JobName, within: int) -> str:
        """Return an expression for the right side of ``and``: the job has run within so many seconds on that host."""
        return f"time() - {self(JOB_LAST_RUN, command=command_of(job))} < {within}"


def promise(of: Series) -> Iterator[Alert]:
    """Yield the alerts on what readers may miss."""
    judged = of(FIGURES["canary"]["ok"])
    yield Alert(
        "SaltctlCanaryFailed", f"min by (table, instance) (min_over_time({judged}[10m])) == 0", "0m", "critical",
        "The canary found the promise broken within ten minutes: readers may miss messages", "saltctl canary",
        "canary",
    )  # fmt: skip
    yield Alert(
        "SaltctlCanaryCheckFailed",
        f"min by (table, instance, check) (min_over_time({of(CANARY_CHECK_OK)}[10m])) == 0", "0m", "warning",
        "The check {{ $labels.check }} of the canary failed within ten minutes", "saltctl canary", "canary",
    )  # fmt: skip
    yield from _audited(of)
    yield from _drift(of)
    yield Alert(
        "SaltctlRedisUnverified", _unverified(of), "1m", "critical",
        "The registry in Redis is not verified: every lookup asks the backup", "saltctl rebuild", "redis-restarted",
    )  # fmt: skip


def _audited(of: Series) -> Iterator[Alert]:
    """Yield the alerts on what the audit has found and what stands. For an hour, as a run that fails has no figures."""

    def most(key: str) -> str:
        found = f"max_over_time({of.figure('history audit', key)}[1h])"
        return f"max by (table) ({found} and {of.recent('history audit', DAY)})"

    missed = f"{most('orphans')} > 0 or {most('lost')} > 0"
    yield Alert(
        "SaltctlAuditFound", missed, "0m", "critical",
        "The audit found messages that readers miss, or a conversation whose entry is lost",
        "saltctl history audit --all", "history-incomplete",
    )  # fmt: skip
    yield Alert(
        "SaltctlAuditUnsure", f"{most('found')} > 0 unless ({missed})", "1h", "warning",
        "The audit could not judge conversations, because they are damaged or cannot be read",
        "saltctl history audit --all", "audit",
    )  # fmt: skip


def _drift(of: Series) -> Iterator[Alert]:
    """Yield the alerts of compare. Each run compares a part, and the next one of that part is a day later.

    Prometheus looks back in steps of five minutes, so that an alert may be as late.
    """

    def day_of(expression: str) -> str:
        return f"max by (table) (max_over_time(({expression} and {of.recent('compare', 2 * HOUR)})[1d:5m])) > 0"

    def sum_of(*kinds: str) -> str:
        return "(" + " + ".join(of.figure("compare", kind) for kind in kinds) + ")"

    missed = sum_of("behind", "missing", "unreadable", "unbacked")
    uncommitted, repaired = of.figure("compare", "uncommitted"), of.figure("compare", "repaired")
    kept = "; it fires until a day after the repair"
    yield Alert(
        "SaltctlDrift", day_of(f"{missed} + {uncommitted} - {repaired} > 0 and {missed} > 0"), "0m", "critical",
        f"Redis and the backup differ, so that readers may miss messages{kept}", "saltctl compare --repair --dry-run",
        "history-incomplete",
    )  # fmt: skip
    yield Alert(
        "SaltctlRaisesInterrupted", day_of(f"{uncommitted} - {repaired} > 0 and {missed} == 0"), "0m", "warning",
        f"Raises were interrupted, and readers miss nothing{kept}", "saltctl compare --repair --dry-run", "protocol",
    )  # fmt: skip
    yield Alert(
        "SaltctlBackupDamaged", day_of(of.figure("compare", "damaged")), "0m", "critical",
        "Items of the backup are damaged: their lookups fail, or are answered by Redis alone", "saltctl compare",
        "redis-restarted",
    )  # fmt: skip


def _unverified(of: Series) -> str:
    """Return the expression of an unverified Redis: what the service says, a rebuild, or else a comparison."""
    fresh = f"{of.figure('rebuild', 'verified')} and {of.recent('rebuild', 15 * MINUTE)}"
    compared = f"{of.figure('compare', 'verified')} and {of.recent('compare', 2 * HOUR)}"
    newer = f"max by (table) ({of(REGISTRY_VERIFIED)}) or max by (table) ({fresh})"
    return (
        f"min by (table) ({of(REGISTRY_VERIFIED)}) == 0 or min by (table) ({fresh}) == 0"
        f" or (min by (table) ({compared}) == 0 unless ({newer}))"
    )


def detection(of: Series) -> Iterator[Alert]:
    """Yield the alerts on the service and the heat stream."""
    yield from _service(of)
    lag, reports = of(STREAM_LAG), of(SERVICE_COUNTERS["reports"])
    growing = f"max by (table) ({lag}) > 10000 and max by (table) (deriv({lag}[5m])) >= 0"
    stalled = f"max by (table) ({lag}) > 0 and sum by (table) (rate({reports}[5m])) == 0"
    yield Alert(
        "SaltctlStreamLagging", growing, "5m", "warning", "The heat stream grows faster than it is read",
        "saltctl stream status", "stream-backlog",
    )  # fmt: skip
    yield Alert(
        "SaltctlStreamStalled", stalled, "2m", "critical", "Heat reports wait, and the service handles none of them",
        "saltctl stream status", "stream-backlog",
    )  # fmt: skip
    yield from _entries(of)


def _service(of: Series) -> Iterator[Alert]:
    yield Alert(
        "SaltctlBackingOff", f"max by (table, instance) ({of(BACK_OFF)}) > 0", "2m", "warning",
        "The service backs off: DynamoDB or Redis fails", "saltctl service status", "service-down",
    )  # fmt: skip
    yield Alert(
        "SaltctlPartLate", f"max by (table, instance, part) ({of(PART_LATE)}) > 0", "1m", "critical",
        "The part {{ $labels.part }} of the service has not done its work for a while; its log says why",
        "saltctl service status", "service-down",
    )  # fmt: skip
    yield Alert(
        "SaltctlUnexpectedErrors", _increased(of, SERVICE_COUNTERS["unexpected"]), "0m", "warning",
        "The service met exceptions that it does not know; its log has their types", "saltctl service status",
        "service-down",
    )  # fmt: skip


def _entries(of: Series) -> Iterator[Alert]:
    trimmed = f"max by (table) (max_over_time({of.figure('stream replay', 'trimmed_pending')}[10m])"
    dead = f"max by (table) (max_over_time({of.figure('stream replay', 'dead')}[10m])"
    recent = of.recent("stream replay", 15 * MINUTE)
    yield Alert(
        "SaltctlEntriesLost", f"{_increased(of, SERVICE_COUNTERS['lost'])} or {trimmed} and {recent}) > 0", "0m",
        "critical", "Entries of the heat stream were trimmed before they were handled", "saltctl stream status",
        "stream-backlog",
    )  # fmt: skip
    yield Alert(
        "SaltctlDeadLetters", f"{_increased(of, SERVICE_COUNTERS['dead'])} or {dead} and {recent}) > 0", "0m",
        "warning", "Entries of the heat stream could not be handled", "saltctl stream dead list", "stream-backlog",
    )  # fmt: skip


def _increased(of: Series, counter: Metric) -> str:
    return f"sum by (table) (increase({of(counter)}[10m])) > 0"


def capacity(of: Series, settings: Settings) -> Iterator[Alert]:
    """Yield the alerts on limits."""
    yield Alert(
        "SaltctlClamped", _increased(of, SERVICE_COUNTERS["clamped"]), "0m", "warning",
        f"A conversation needs more than the cap of {settings.max_n_cap} salts", "saltctl registry list --sort n",
        "throttled",
    )  # fmt: skip
    yield Alert(
        "SaltctlThrottled", _increased(of, THROTTLED_RESPONSES), "10m", "warning",
        "AWS throttles the requests of the service", "saltctl throttle scan", "throttled",
    )  # fmt: skip
    yield Alert(
        "SaltctlDoctorFailed", f"max by (table, check) ({of(DOCTOR_CHECK, status='fail')}) > 0", "10m", "warning",
        "The check {{ $labels.check }} of the doctor fails", "saltctl doctor --only {{ $labels.check }}", "metrics",
    )  # fmt: skip


def staleness(of: Series) -> Iterator[Alert]:
    """Yield the alerts on jobs that have written a metrics file, and no longer succeed or run."""
    for job, seconds in STALE_AFTER.items():
        yield Alert(
            f"Saltctl{_title(job)}Stale", _stale(of, job, seconds), "5m", "warning",
            f"The job {job} has not succeeded for {_words(seconds)}, or has never", _COMMANDS[job], "scheduled-jobs",
        )  # fmt: skip
    yield Alert(
        "SaltctlCompareFailing",
        f"max by (table, command) ({of(JOB_SUCCESS, command=command_of('compare'))}) == 0", "3h", "warning",
        "Each run of compare fails for hours: its log line says why", "saltctl doctor", "scheduled-jobs",
    )  # fmt: skip
    yield Alert(
        "SaltctlJobMisconfigured", f'max by (instance, command) ({JOB_SUCCESS.name}{{table=""}}) == 0', "15m",
        "warning", "The job {{ $labels.command }} on {{ $labels.instance }} has no valid settings",
        "saltctl config show", "scheduled-jobs",
    )  # fmt: skip
    yield from _ages(of)


def _stale(of: Series, job: JobName, seconds: int) -> str:
    """Return the expression of a job that has not succeeded for long."""
    # What a job does for the registry may be done by any host.
    by = "table, instance, command" if job == "canary" else "table, command"
    ran, succeeded = (
        f"time() - max by ({by}) ({of(last, command=command_of(job))}) > {seconds}"
        for last in (JOB_LAST_RUN, JOB_LAST_SUCCESS)
    )
    if job != "stream replay":
        return succeeded
    # Beside a busy service it finds entries in other hands at each look, and ends with 4 or 124.
    return f"{ran} or ({succeeded} unless on (table) max by (table) ({of(REGISTRY_VERIFIED)}))"


def _ages(of: Series) -> Iterator[Alert]:
    """Yield the alerts on what the audit has not seen for long. An age grows while no run writes a new one."""
    ran = of(JOB_LAST_RUN, command=command_of("history audit"))
    for name, key, seconds, what in (
        ("SaltctlAuditOld", "oldest_age_s", 7 * DAY, "A conversation was not audited"),
        ("SaltctlAuditSampleOld", "sample_age_s", 30 * DAY, "The messages table was not sampled for lost entries"),
    ):
        age = f"min by (table) ({of.figure('history audit', key)} + (time() - {ran}))"
        yield Alert(
            name, f"{age} > {seconds}", "3h", "warning", f"{what} for {_words(seconds)}", "saltctl history audit --all",
            "audit",
        )  # fmt: skip
    never = f"max by (table) ({ran}) unless max by (table) ({of.figure('history audit', 'oldest_age_s')})"
    yield Alert(
        "SaltctlAuditNeverComplete", never, "7d", "warning",
        "The audit has not been through the registry once: nothing is proved about the rest",
        "saltctl history audit --all", "audit",
    )  # fmt: skip


def expected(of: Series) -> Iterator[Alert]:
    """Yield the alerts that fire for ever where a job, or the service, is not run on purpose."""
    yield Alert(
        "SaltctlServiceDown", f"absent({of(REGISTRY_VERIFIED)})", "1m", "critical",
        "Prometheus has no metrics of a hot partition service: if none runs, hot conversations are not detected",
        "saltctl service status", "service-down",
    )  # fmt: skip
    for job, seconds in STALE_AFTER.items():
        yield Alert(
            f"Saltctl{_title(job)}Missing", f"absent({of(JOB_LAST_RUN, command=command_of(job))})",
            f"{seconds // MINUTE}m", "warning", f"Prometheus has no metrics file of the job {job}", _COMMANDS[job],
            "scheduled-jobs",
        )  # fmt: skip


def _title(job: JobName) -> str:
    return job.title().replace(" ", "")


def _words(seconds: int) -> str:
    special = {HOUR: "an hour", DAY: "a day"}
    return special.get(seconds) or (f"{seconds // DAY} days" if seconds > DAY else f"{seconds // MINUTE} minutes")
