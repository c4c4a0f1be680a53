"""What each alert is to fire on: a world in which nothing is wrong, and what goes wrong in it."""

from __future__ import annotations

from dataclasses import dataclass, field

TABLE = "saltctl-registry"
HOSTS = ("a", "b")
JOBS = ("canary", "rebuild", "setup", "stream_replay", "compare", "history_audit")
_GAUGES = {
    "saltctl_registry_verified": "1",
    "saltctl_stream_lag": "0",
    "saltctl_back_off_seconds": "0",
    "saltctl_part_late{part}": "0",
    **{f"saltctl_{n}_total": "0" for n in ("unexpected_errors", "lost", "dead_letters", "clamped")},
    "saltctl_throttled_responses_total": "0",
    "saltctl_canary_ok{canary}": "1",
    "saltctl_canary_check_ok{check}": "1",
    **{f"saltctl_compare_{n}{{compare}}": "0" for n in ("behind", "missing", "unreadable", "unbacked", "uncommitted")},
    "saltctl_compare_repaired{compare}": "0",
    "saltctl_compare_damaged{compare}": "0",
    "saltctl_compare_verified{compare}": "1",
    "saltctl_rebuild_verified{rebuild}": "1",
    "saltctl_stream_replay_dead{stream_replay}": "0",
    "saltctl_stream_replay_trimmed_pending{stream_replay}": "0",
    **{f"saltctl_history_audit_{n}{{history_audit}}": "0" for n in ("found", "orphans", "lost")},
    "saltctl_history_audit_oldest_age_seconds{history_audit}": "3600",
    "saltctl_history_audit_sample_age_seconds{history_audit}": "3600",
    "saltctl_doctor_check{doctor}": "0",
    **{f"saltctl_job_success{{{job}}}": "1" for job in JOBS},
}
_LABELS = {
    "": "",
    "part": 'part="loop"',
    "check": 'command="canary",check="lookup"',
    "doctor": 'check="redis-memory",status="fail"',
    **{job: f'command="{job}"' for job in JOBS},
}


@dataclass(frozen=True)
class Scenario:
    """Changes of the healthy world, by ``NAME{labels}@host`` for one host or without ``@`` for all; None: no series.

    ``clock`` gives the values of what counts with time: they grow by 60 a minute. ``alerts``: which ones fire, at the
    minute ``at``, with their labels.
    """

    name: str
    changes: dict[str, str | None] = field(default_factory=dict)
    alerts: tuple[str, ...] = ()
    at: int = 25
    step: int = 1
    """Minutes between two samples, and between two evaluations."""
    more: dict[str, str] = field(default_factory=dict)
    """Series besides those of the world."""

    def series(self) -> list[dict[str, str]]:
        """Return promtool's input series of both hosts, and of another registry in which everything is wrong."""
        found = [
            {"series": _series(key, TABLE, host), "values": values}
            for host in HOSTS
            for key, healthy in self._world().items()
            if (values := self._of(key, host, healthy)) is not None
        ]
        wrong = {key: "7" if value == "0" else "0" for key, value in _GAUGES.items()}
        others = {_series(key, "other", "a"): value for key, value in wrong.items()} | self.more
        return found + [{"series": name, "values": f"{value}+0x{self._count}"} for name, value in others.items()]

    @property
    def _count(self) -> int:
        return self.at // self.step + 2

    def _world(self) -> dict[str, str]:
        grows = f"0+{60 * self.step}x{self._count}"
        clocks = (f"saltctl_job_last_{what}_timestamp_seconds{{{job}}}" for what in ("run", "success") for job in JOBS)
        steady = {key: f"{value}+0x{self._count}" for key, value in _GAUGES.items()}
        return steady | {"saltctl_reports_total": grows} | dict.fromkeys(clocks, grows)

    def _of(self, key: str, host: str, healthy: str) -> str | None:
        for name in (f"{key}@{host}", key):
            if name in self.changes:
                value = self.changes[name]
                return value if value is None or "x" in value else f"{value}+0x{self._count}"
        return healthy


def _series(key: str, table: str, host: str) -> str:
    name, _, labels = key.partition("{")
    more = _LABELS[labels.rstrip("}")]
    return f'{name}{{table="{table}",instance="{host}",job="any"{"," + more if more else ""}}}'


def _last(what: str, job: str) -> str:
    return f"saltctl_job_last_{what}_timestamp_seconds{{{job}}}"


def _without(*jobs: str) -> dict[str, str | None]:
    """Return the changes of a world in which these jobs have no metrics file."""
    keys = [key for key in _GAUGES if key.endswith(tuple(f"{{{job}}}" for job in jobs))]
    keys += [_last(what, job) for what in ("run", "success") for job in jobs]
    return dict.fromkeys(keys + ["saltctl_canary_check_ok{check}"] * ("canary" in jobs))


_SERVICE = [key for key in _GAUGES if "{" not in key] + ["saltctl_part_late{part}", "saltctl_reports_total"]
_NOTHING = _without(*JOBS) | dict.fromkeys([*_SERVICE, "saltctl_doctor_check{doctor}"])
_MISSING = ("CanaryMissing", "RebuildMissing", "SetupMissing", "StreamReplayMissing")
_SLOW_MISSING = ("CompareMissing", "HistoryAuditMissing")
_UP = "0+1x60"
_FOUND, _ORPHANS = ("saltctl_history_audit_found{history_audit}", "saltctl_history_audit_orphans{history_audit}")
_DAY = 24 * 60

SCENARIOS = (
    Scenario("all is well"),
    Scenario("all is well for a month", at=31 * _DAY, step=30),
    Scenario("nothing runs", _NOTHING, ("ServiceDown", *_MISSING)),
    Scenario("nothing runs for two days", _NOTHING, ("ServiceDown", *_MISSING, *_SLOW_MISSING), at=2 * _DAY, step=10),
    Scenario("only the service runs", _without(*JOBS), _MISSING),
    Scenario("an instance is down", dict.fromkeys([f"{key}@a" for key in _SERVICE]), ()),
    # The promise.
    Scenario(
        "a canary fails on one host",
        {"saltctl_canary_ok{canary}@b": "0", "saltctl_canary_check_ok{check}@b": "0"},
        ("CanaryFailed instance=b", "CanaryCheckFailed instance=b,check=lookup"),
    ),
    Scenario("a canary failed once", {"saltctl_canary_ok{canary}@a": "1x17 0 1x20"}, ("CanaryFailed instance=a",)),
    Scenario("a canary failed long ago", {"saltctl_canary_ok{canary}@a": "1x5 0 1x60"}),
    Scenario("a canary cannot judge", dict.fromkeys(("saltctl_canary_ok{canary}", "saltctl_canary_check_ok{check}"))),
    Scenario("the audit found", {_FOUND + "@a": "2", _ORPHANS + "@a": "9"}, ("AuditFound",)),
    Scenario("an entry is lost", {"saltctl_history_audit_lost{history_audit}@b": "1"}, ("AuditFound",)),
    Scenario(
        "the audit found, and its last run failed",
        {_ORPHANS: "9x17 _x8", _last("run", "history_audit"): "0+60x27"},
        ("AuditFound",),
    ),
    Scenario("the audit could not judge", {_FOUND: "1"}, ("AuditUnsure",), 100, 10),
    Scenario(
        "the audit found, on a host that no longer runs it",
        {_ORPHANS + "@a": "9", _last("run", "history_audit") + "@a": "0"},
        at=2 * _DAY,
        step=10,
    ),
    *(
        Scenario(f"drift: {kind}", {f"saltctl_compare_{kind}{{compare}}@b": "3"}, ("Drift",))
        for kind in ("behind", "missing", "unreadable", "unbacked")
    ),
    Scenario("a raise was interrupted", {"saltctl_compare_uncommitted{compare}@a": "1"}, ("RaisesInterrupted",)),
    Scenario(
        "drift that is repaired",
        {"saltctl_compare_behind{compare}": "3", "saltctl_compare_repaired{compare}": "3"},
    ),
    Scenario(
        "drift of which the harmless part is repaired",
        {
            "saltctl_compare_behind{compare}": "1",
            "saltctl_compare_uncommitted{compare}": "3",
            "saltctl_compare_repaired{compare}": "3",
        },
        ("Drift",),
    ),
    Scenario("drift of one sample", {"saltctl_compare_behind{compare}@a": "3x6 0x200"}, ("Drift",), 20 * 60, 10),
    Scenario("drift of the day before", {"saltctl_compare_behind{compare}@a": "3x6 0x400"}, (), 27 * 60, 10),
    Scenario("damaged items", {"saltctl_compare_damaged{compare}@a": "1"}, ("BackupDamaged",)),
    Scenario("one instance sees an unverified Redis", {"saltctl_registry_verified@b": "0"}, ("RedisUnverified",)),
    Scenario(
        "a rebuild leaves Redis unverified, and no service runs",
        dict.fromkeys(_SERVICE) | {"saltctl_rebuild_verified{rebuild}": "0"},
        ("RedisUnverified", "ServiceDown"),
    ),
    Scenario(
        "a comparison found Redis unverified, and nothing newer is known",
        dict.fromkeys(_SERVICE) | _without("rebuild") | {"saltctl_compare_verified{compare}": "0"},
        ("RedisUnverified", "ServiceDown", "RebuildMissing"),
    ),
    Scenario("a comparison found Redis unverified, and it is again", {"saltctl_compare_verified{compare}": "0"}),
    # Detection.
    Scenario("a lag that grows", {"saltctl_stream_lag": "9000+1000x60"}, ("StreamLagging",)),
    Scenario("a lag that shrinks", {"saltctl_stream_lag": "900000-1000x60"}),
    Scenario("nothing is handled", {"saltctl_stream_lag": "5", "saltctl_reports_total": "9"}, ("StreamStalled",)),
    Scenario("one instance handles all", {"saltctl_stream_lag": "5", "saltctl_reports_total@a": "9"}),
    Scenario("an instance backs off", {"saltctl_back_off_seconds@a": "4"}, ("BackingOff instance=a",)),
    Scenario("a part is late", {"saltctl_part_late{part}@b": "1"}, ("PartLate instance=b,part=loop",)),
    Scenario("unknown exceptions", {"saltctl_unexpected_errors_total@a": _UP}, ("UnexpectedErrors",)),
    Scenario("an exception long ago", {"saltctl_unexpected_errors_total@a": "0x5 1x60"}),
    Scenario("entries are lost", {"saltctl_lost_total@a": _UP}, ("EntriesLost",)),
    Scenario(
        "a replay found that entries were lost",
        {"saltctl_stream_replay_trimmed_pending{stream_replay}@b": "4"},
        ("EntriesLost",),
    ),
    Scenario("dead letters", {"saltctl_dead_letters_total@a": _UP}, ("DeadLetters",)),
    Scenario("dead letters of a replay", {"saltctl_stream_replay_dead{stream_replay}": "0x18 1 0x9"}, ("DeadLetters",)),
    # Capacity.
    Scenario("above the cap", {"saltctl_clamped_total@b": _UP}, ("Clamped",)),
    Scenario("AWS throttles", {"saltctl_throttled_responses_total@b": _UP}, ("Throttled",)),
    Scenario("AWS throttled once", {"saltctl_throttled_responses_total@b": "0x17 1x60"}),
    Scenario("the doctor fails", {"saltctl_doctor_check{doctor}@a": "1"}, ("DoctorFailed check=redis-memory",)),
    # Staleness.
    Scenario(
        "the canary stopped on one host",
        {_last(what, "canary") + "@a": "60x60" for what in ("run", "success")},
        ("CanaryStale instance=a",),
    ),
    *(
        Scenario(f"{job} never succeeded", {_last("success", job): "0"}, (f"{alert}Stale",))
        for job, alert in (("rebuild", "Rebuild"), ("setup", "Setup"))
    ),
    Scenario("a replay beside a service never drains the stream", {_last("success", "stream_replay"): "0"}),
    Scenario("replays beside a service stopped", {_last("run", "stream_replay"): "60"}, ("StreamReplayStale",)),
    Scenario(
        "a replay without a service never drains the stream",
        {_last("success", "stream_replay"): "0"} | dict.fromkeys(_SERVICE),
        ("StreamReplayStale", "ServiceDown"),
    ),
    Scenario(
        "rebuild stopped on one host of two", {_last(what, "rebuild") + "@a": "60" for what in ("run", "success")}
    ),
    Scenario(
        "compare fails for days",
        {_last("success", "compare"): "0", "saltctl_job_success{compare}": "0"},
        ("CompareStale", "CompareFailing"),
        2 * _DAY,
        10,
    ),
    Scenario(
        "the audit stopped",
        {_last(what, "history_audit"): "0" for what in ("run", "success")},
        ("HistoryAuditStale",),
        100,
        10,
    ),
    Scenario(
        "a job has no valid settings",
        alerts=("JobMisconfigured instance=a,command=rebuild",),
        more={'saltctl_job_success{instance="a",command="rebuild"}': "0"},
    ),
    Scenario(
        "an old audit",
        {
            "saltctl_history_audit_oldest_age_seconds{history_audit}": "0+60x300",
            _last("run", "history_audit"): "0",
            _last("success", "history_audit"): "0",
        },
        ("AuditOld", "HistoryAuditStale"),
        9 * _DAY,
        60,
    ),
    Scenario(
        "an old sample",
        {"saltctl_history_audit_sample_age_seconds{history_audit}": str(31 * 86400)},
        ("AuditSampleOld",),
        300,
        10,
    ),
    Scenario(
        "an audit that never completes",
        dict.fromkeys(f"saltctl_history_audit_{n}_age_seconds{{history_audit}}" for n in ("oldest", "sample")),
        ("AuditNeverComplete",),
        8 * _DAY,
        30,
    ),
)


_COMMANDS = {"Canary": "canary", "Rebuild": "rebuild", "Setup": "setup", "StreamReplay": "stream_replay"} | {
    "Compare": "compare",
    "HistoryAudit": "history_audit",
}


def labels_of(alert: str, severity: str) -> dict[str, str]:
    """Return all labels of a firing alert, which is named as in a scenario."""
    name, _, more = alert.partition(" ")
    labels = {"severity": severity, "table": TABLE} | dict(pair.split("=") for pair in more.split(",") if pair)
    if name == "JobMisconfigured":
        return {label: value for label, value in labels.items() if label != "table"}
    command = _COMMANDS.get(name.removesuffix("Stale").removesuffix("Missing").removesuffix("Failing"))
    return labels if command is None else labels | {"command": command}
