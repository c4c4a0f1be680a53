"""Every metric that saltctl exports: its name, its meaning, its unit, its kind and its labels.

``service run --metrics-port`` serves those of the service, ``doctor --format prometheus`` prints those of its checks,
and ``--metrics-file`` has those of a job and the figures of its report. No other module spells a name.

A number of a report that :data:`FIGURES` does not name is not exported, and a test fails (tests/test_metrics.py).
A figure that is null in the report is left out: a job exports no age of what never was.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal

Kind = Literal["counter", "gauge"]
JobName = Literal["rebuild", "setup", "compare", "stream replay", "canary", "history audit"]
"""The jobs that have ``--metrics-file``; ``history audit`` is that with ``--all``."""
Unit = Literal["", "0 or 1", "seconds", "Unix time", "read units", "1/s", "exit code"]
"""``""`` is a number of what the meaning names."""
TABLE = "table"
"""The label of the backup table: one Prometheus may watch several registries."""
_SERVICE = (TABLE,)
_JOB = ("command", TABLE)
"""Not "job", which is Prometheus' own label."""


@dataclass(frozen=True, slots=True)
class Metric:
    """A metric as Prometheus stores it: the name of a counter ends with ``_total``."""

    name: str
    about: str
    unit: Unit = ""
    kind: Kind = "gauge"
    labels: tuple[str, ...] = ()


# The service. Counters begin at 0 with the process.


def _counter(name: str, about: str) -> Metric:
    return Metric(f"saltctl_{name}_total", about, "", "counter", _SERVICE)


SERVICE_COUNTERS: Mapping[str, Metric] = {
    "reports": _counter("reports", "Entries of the heat stream that were handled."),
    "acknowledged": _counter("acknowledged", "Entries that were acknowledged."),
    "stale": _counter("stale", "Entries of the heat stream that were too old to raise."),
    "dead": _counter("dead_letters", "Entries that became dead letters."),
    "lost": _counter("lost", "Entries that were trimmed before they were handled."),
    "claimed": _counter("claimed", "Entries that were claimed from other consumers."),
    "redelivered": _counter("redelivered", "Entries that this consumer read again."),
    "raised": _counter("raises", "Raises that increased max_n."),
    "unchanged": _counter("raises_unchanged", "Raises that found max_n as high already."),
    "clamped": _counter("clamped", "Conversations that need more than the cap."),
    "failures": _counter("failures", "Batches and raises that failed."),
    "rebuilds": _counter("rebuilds", "Rebuilds of Redis."),
    "unexpected": _counter("unexpected_errors", "Exceptions that saltctl does not know; the log has their types."),
}
"""By the field of the service's counters."""
THROTTLED_RESPONSES = _counter("throttled_responses", "Responses by which AWS throttled a request.")
BACK_OFF = Metric("saltctl_back_off_seconds", "Seconds until the next batch.", "seconds", labels=_SERVICE)
REGISTRY_VERIFIED = Metric("saltctl_registry_verified", "Whether Redis is verified.", "0 or 1", labels=_SERVICE)
PART_LATE = Metric(
    "saltctl_part_late", "Whether a part has not done its work for a while.", "0 or 1", labels=(TABLE, "part")
)
STREAM_PENDING = Metric("saltctl_stream_pending", "Entries that are delivered and not acknowledged.", labels=_SERVICE)
STREAM_LAG = Metric("saltctl_stream_lag", "Entries that no instance has read.", labels=_SERVICE)
SERVICE = (
    *(*SERVICE_COUNTERS.values(), THROTTLED_RESPONSES, BACK_OFF, REGISTRY_VERIFIED, PART_LATE),
    *(STREAM_PENDING, STREAM_LAG),
)

# The runs of a job, for each command and table.
JOB_SUCCESS = Metric("saltctl_job_success", "Whether the last run succeeded.", "0 or 1", labels=_JOB)
JOB_EXIT_CODE = Metric("saltctl_job_exit_code", "The exit code of the last run.", "exit code", labels=_JOB)
JOB_DURATION = Metric("saltctl_job_duration_seconds", "How long the last run took.", "seconds", labels=_JOB)
JOB_LAST_RUN = Metric("saltctl_job_last_run_timestamp_seconds", "When the last run ended.", "Unix time", labels=_JOB)
JOB_LAST_SUCCESS = Metric(
    "saltctl_job_last_success_timestamp_seconds",
    "When the last successful run ended; 0 before the first.",
    "Unix time",
    labels=_JOB,
)
JOB = (JOB_SUCCESS, JOB_EXIT_CODE, JOB_DURATION, JOB_LAST_RUN, JOB_LAST_SUCCESS)


# The figures of the reports.


def _figures(job: JobName, **figures: tuple[str, Unit]) -> dict[str, Metric]:
    """Return the metrics of a report by its keys; the names of durations end with _seconds, also if the keys do not."""
    named = {}
    for key, (about, unit) in figures.items():
        words = key.removesuffix("_s") + "_seconds" if key.endswith("_s") else key
        named[key] = Metric(f"saltctl_{command_of(job)}_{words}", about, unit, labels=_JOB)
    return named


def command_of(job: JobName) -> str:
    """Return the label ``command`` of a job, which names of its figures have, too."""
    return job.replace(" ", "_")


_SECONDS: tuple[str, Unit] = ("How long the job itself took.", "seconds")
_RCU: tuple[str, Unit] = ("Read units that the tables reported.", "read units")
_DRY_RUN: tuple[str, Unit] = ("Whether the run only showed what it would do.", "0 or 1")
FIGURES: Mapping[JobName, Mapping[str, Metric]] = {
    "rebuild": _figures(
        "rebuild",
        entries=("Entries that were read from the backup.", ""),
        restored=("Entries that increased a value in Redis.", ""),
        unchanged=("Entries that Redis had already.", ""),
        skipped=("Damaged items of the backup.", ""),
        committed=("Interrupted raises that were completed.", ""),
        verified=("Whether every bucket of Redis answers lookups.", "0 or 1"),
        verified_before=("Whether Redis was verified when the rebuild began.", "0 or 1"),
        unverified_buckets=("Buckets of Redis that do not answer lookups.", ""),
        resumed=("Whether an interrupted rebuild was resumed.", "0 or 1"),
        segments=("Parallel scans of the backup.", ""),
        primaries=("Primaries of Redis.", ""),
        entries_per_second=("Entries that were merged each second.", "1/s"),
        consumed_rcu=_RCU,
        seconds=_SECONDS,
        dry_run=_DRY_RUN,
    ),
    "setup": {},
    "compare": _figures(
        "compare",
        checked=("Conversations that were compared.", ""),
        in_sync=("Conversations on which Redis and the backup agree.", ""),
        behind=("Conversations of which Redis has less than the backup.", ""),
        missing=("Conversations that Redis does not have.", ""),
        unreadable=("Conversations whose value in Redis is no salt count.", ""),
        unbacked=("Conversations of which Redis has more than the backup.", ""),
        uncommitted=("Conversations whose raise was interrupted.", ""),
        redis_alone=("Unbacked conversations that have no item in the backup.", ""),
        repaired=("Conversations of these kinds that agree now.", ""),
        damaged=("Damaged items of the backup, which were not compared.", ""),
        unsealed=("Conversations whose cool-down was not finished.", ""),
        verified=("Whether Redis answers lookups.", "0 or 1"),
        consumed_rcu=_RCU,
        seconds=_SECONDS,
        dry_run=_DRY_RUN,
    ),
    "stream replay": _figures(
        "stream replay",
        read=("Entries of the heat stream that were read.", ""),
        claimed=("Entries that were claimed from dead consumers.", ""),
        raised=("Raises that increased max_n.", ""),
        unchanged=("Raises that found max_n as high already.", ""),
        stale=("Entries of the heat stream that were too old to raise.", ""),
        dead=("Entries that became dead letters.", ""),
        failed=("Entries whose raise could not be done.", ""),
        left_pending=("Failed entries that are still pending.", ""),
        held_by_others=("Entries that consumers hold which are alive.", ""),
        trimmed_pending=("Pending entries that were trimmed before they were handled.", ""),
        drained=("Whether no entry was left.", "0 or 1"),
        dry_run=_DRY_RUN,
    ),
    "canary": _figures(
        "canary",
        ok=("Whether the promise held; left out if no check could be judged.", "0 or 1"),
        seconds=_SECONDS,
    ),
    "history audit": _figures(
        "history audit",
        audited=("Conversations that the run audited.", ""),
        probes=("Partitions that the run asked for messages that readers do not ask for.", ""),
        orphans=("Messages that readers miss, at least; all findings that stand.", ""),
        found=("Conversations with findings of any kind that stand.", ""),
        lost=("Conversations with messages on salts that have no entry in the registry.", ""),
        unread=("Conversations of the cycle that could not be audited.", ""),
        cycle_complete=("Whether the run completed a cycle over the registry.", "0 or 1"),
        cycle_audited=("Conversations of the cycle that were audited so far.", ""),
        oldest_age_s=("Age of the oldest audit of a conversation; none before the first complete cycle.", "seconds"),
        sample_items=("Rows of the messages table that the run read to find lost entries.", ""),
        sample_unproven=("Conversations of the sample whose rows do not prove that they are on salts.", ""),
        sample_age_s=("Age of the oldest row's sample; none before the first complete round.", "seconds"),
        restarted=("Whether the run did not use the state of earlier ones.", "0 or 1"),
        consumed_rcu=_RCU,
        seconds=_SECONDS,
    ),
}
"""The metrics of a report, by the job's name and the key."""
CANARY_CHECK_OK = Metric(
    "saltctl_canary_check_ok",
    "Whether a check found the promise kept; left out if it could not be judged.",
    "0 or 1",
    labels=(*_JOB, "check"),
)

# The doctor.
DOCTOR_CHECK = Metric(
    "saltctl_doctor_check", "1 for the status of a check.", "0 or 1", labels=(TABLE, "check", "status")
)


def _measure(name: str, about: str, unit: Unit = "") -> Metric:
    return Metric(f"saltctl_doctor_{name}", about, unit, labels=(TABLE,))


DOCTOR_MEASURES: Mapping[str, Metric] = {
    "stream_lag": _measure("stream_lag", "Entries of the heat stream that no instance has read."),
    "stream_pending": _measure("stream_pending", "Entries that are delivered and not acknowledged."),
    "drift_checked": _measure("drift_checked", "Conversations of a sample that were compared."),
    "drift_found": _measure("drift_found", "Conversations of the sample that differ."),
    "audit_found": _measure("audit_found", "Conversations with findings of the full audit that stand."),
    "audit_oldest_age_seconds": _measure(
        "audit_oldest_age_seconds", "Age of the oldest audit of a conversation, if a cycle is complete.", "seconds"
    ),
    "audit_sample_age_seconds": _measure(
        "audit_sample_age_seconds", "Age of the oldest row's sample, if a round is complete.", "seconds"
    ),
    "redis_clock_skew_seconds": _measure(
        "redis_clock_skew_seconds", "How far the clock of Redis is ahead of this machine's.", "seconds"
    ),
    "aws_clock_skew_seconds": _measure(
        "aws_clock_skew_seconds", "How far the clock of AWS is ahead of this machine's.", "seconds"
    ),
}
"""By the measure of a finding."""


def all_metrics() -> tuple[Metric, ...]:
    """Return every metric, in the order of the documentation."""
    figures = tuple(metric for named in FIGURES.values() for metric in named.values())
    return (*SERVICE, *JOB, *figures, CANARY_CHECK_OK, DOCTOR_CHECK, *DOCTOR_MEASURES.values())


def figures_of(job: JobName, report: Mapping[str, Any]) -> Iterator[tuple[Metric, dict[str, str], float]]:
    """Yield the metrics of a job's report, with their labels besides those of the job, and their values."""
    for key, metric in FIGURES[job].items():
        if isinstance(value := report.get(key), bool | int | float):
            yield metric, {}, value
    if job == "canary":
        for check in report.get("checks", ()):
            if check["ok"] is not None:
                yield CANARY_CHECK_OK, {"check": check["name"]}, check["ok"]


def unnamed_figures(job: JobName, report: Mapping[str, Any]) -> list[str]:
    """Return the keys of a report's numbers that no metric names: they were forgotten here."""
    return [key for key, value in report.items() if isinstance(value, bool | int | float) and key not in FIGURES[job]]
