"""The logic of doctor: which checks there are, what several findings make, and that none takes the others down."""

from __future__ import annotations

import shlex
import threading
from collections.abc import Mapping
from typing import Any

import pytest

from saltctl.cli.health.doctor_view import nagios, nagios_code, pasteable, prometheus
from saltctl.errors import AccessDeniedError, AwsUnavailableError, RedisUnavailableError, UsageError
from saltctl.health.checks.access import redis_permissions
from saltctl.health.checks.redis import (
    eviction,
    fsync,
    memory,
    min_replicas,
    persistence,
    reachable,
    role,
    skewed,
    tls,
    version,
)
from saltctl.health.doctor import CHECKS, Check, run_checks, select_checks
from saltctl.health.facts import Facts
from saltctl.health.findings import CheckResult, Finding, combine, fail, ok, skip, warn
from saltctl.health.fix_commands import FixCommands
from saltctl.settings import Settings
from saltctl.stores.redis.inspection import ServerLook

NAME = "cache.example:6379"
HEALTHY: dict[str, Any] = {
    "redis_version": "7.2.4",
    "role": "master",
    "connected_slaves": 0,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "maxmemory_policy": "noeviction",
    "used_memory": 100,
    "maxmemory": 1000,
    "total_system_memory": 10_000,
}


class FakeFacts(Facts):
    """Facts about one server that says what the test says; no server is asked."""

    def __init__(
        self, info: Mapping[str, Any], config: Mapping[str, str] | None = None, url: str = f"redis://{NAME}/0"
    ) -> None:
        super().__init__(Settings(redis_url=url))
        self._info = {**HEALTHY, **info}
        self._config = config

    @property
    def servers(self) -> list[ServerLook]:
        """The one server."""
        return [ServerLook(NAME, self._info, 0.001, 0.0)]

    def config(self, primary: str) -> Mapping[str, str] | None:
        """What CONFIG GET answers."""
        return self._config


@pytest.mark.parametrize(
    ("check", "info", "status", "fix"),
    [
        (version, {"redis_version": "6.2.14"}, "fail", "INFO server"),
        (version, {"redis_version": "7.2.4", "server_name": "valkey", "valkey_version": "9.1.2"}, "ok", ""),
        (version, {"redis_version": "unstable"}, "fail", "INFO server"),
        (role, {"role": "slave", "master_host": "b", "master_port": 7}, "fail", "b:7"),
        (eviction, {"maxmemory_policy": "allkeys-lru"}, "fail", "maxmemory-policy noeviction"),
        (eviction, {"maxmemory_policy": ""}, "skip", ""),
        (persistence, {"aof_last_write_status": "err"}, "fail", "INFO persistence"),
        (persistence, {"aof_last_bgrewrite_status": "err"}, "warn", "BGREWRITEAOF"),
        (persistence, {"aof_enabled": 0}, "skip", ""),
        (memory, {"used_memory": 800}, "warn", "maxmemory 2000"),
        (memory, {"used_memory": 950}, "fail", "maxmemory 2000"),
        (memory, {"used_memory": 9500, "maxmemory": 0}, "fail", "MEMORY DOCTOR"),
        (memory, {"used_memory": 0, "maxmemory": 0, "total_system_memory": 0}, "skip", ""),
        (min_replicas, {}, "ok", ""),
        (min_replicas, {"connected_slaves": 2}, "warn", "min-replicas-to-write 1 min-replicas-max-lag 3"),
        (min_replicas, {"connected_slaves": 2, "min_slaves_good_slaves": 2}, "ok", ""),
        (fsync, {}, "skip", ""),
        (fsync, {"aof_enabled": 0}, "skip", ""),
        (reachable, {"loading": 1, "loading_loaded_perc": "41.5"}, "fail", "--wait-redis"),
    ],
)
def test_what_info_tells(check: Any, info: dict[str, Any], status: str, fix: str) -> None:
    """Each answer of INFO leads to the status that it should; what is not well comes with a command."""
    found = check(FakeFacts(info))
    assert found.status == status
    assert fix in found.fix
    assert bool(found.fix) is (status in ("warn", "fail"))


def test_a_lag_bound_must_be_below_the_failover() -> None:
    """In a cluster the bound is compared with cluster-node-timeout."""
    info = {"connected_slaves": 1, "min_slaves_good_slaves": 1, "cluster_enabled": 1}
    config = {"min-replicas-to-write": "1", "min-replicas-max-lag": "10", "cluster-node-timeout": "5000"}
    assert min_replicas(FakeFacts(info, config)).status == "warn"
    assert min_replicas(FakeFacts(info, config | {"min-replicas-max-lag": "3"})).status == "ok"


@pytest.mark.parametrize(
    ("url", "status"),
    [("redis://127.0.0.1/0", "ok"), ("unix:///r.sock", "ok"), ("rediss://a/0", "ok"), ("redis://a:1/0", "warn")],
)
def test_the_password_travels_in_tls(url: str, status: str) -> None:
    """Only over a network TLS is missed."""
    assert tls(FakeFacts({}, url=url)).status == status


@pytest.mark.parametrize(("skew", "status"), [(0.7, "ok"), (-4.9, "ok"), (6, "warn"), (-61, "fail")])
def test_clocks(skew: float, status: str) -> None:
    """A few seconds are nothing, more is a warning, a minute is a failure."""
    assert skewed("a clock", skew, FakeFacts({}), "x").status == status


def test_findings_of_several_primaries_make_one() -> None:
    """The worst counts and is told, with every fix once; what is well goes unsaid beside it."""
    found = combine([ok("fine", a=1), warn("so so", "x"), fail("bad", "y"), fail("worse", "y"), skip("unknown")])
    assert (found.status, found.detail, found.fix) == ("fail", "so so; bad; worse", "x && y")
    assert found.measures == {"a": 1}
    assert combine([]).status == "skip"


def test_no_check_takes_the_others_down() -> None:
    """A defect in one check, a refusal in another and one that never ends: each says so, and the rest is made."""
    forever = threading.Event()

    def crash(facts: Facts) -> Finding:
        raise KeyError("nobody thought of it")

    def denied(facts: Facts) -> Finding:
        raise AccessDeniedError("not you")

    def hang(facts: Facts) -> Finding:
        forever.wait()
        return ok("at last")

    def redis_down(facts: Facts) -> Finding:
        raise RedisUnavailableError("gone")

    def aws_down(facts: Facts) -> Finding:
        raise AwsUnavailableError("gone, too")

    checks = [
        Check("crash", crash),
        Check("denied", denied),
        Check("hang", hang),
        Check("redis-reachable", redis_down),
        Check("after", redis_down, "redis-reachable"),
        Check("alone", aws_down, "backup-table"),
        Check("fine", lambda _: ok("fine")),
    ]
    try:
        found = {result.name: result for result in run_checks(FakeFacts({}), checks, timeout=1.0)}
    finally:
        forever.set()
    assert list(found) == [check.name for check in checks]
    assert {name: result.status for name, result in found.items()} == {
        "crash": "fail",
        "denied": "skip",
        "hang": "fail",
        "redis-reachable": "fail",
        "after": "skip",
        "alone": "fail",
        "fine": "ok",
    }
    assert "KeyError" in found["crash"].detail
    assert found["after"].detail == "see redis-reachable"
    assert all(result.fix for result in found.values() if result.status == "fail")


def test_names_and_groups_choose_checks() -> None:
    """A name is one check, its first word all of its kind; what is unknown is a usage error with near matches."""
    assert [check.name for check in select_checks(["lease"])] == ["lease"]
    assert {check.name.split("-")[0] for check in select_checks(["backup", "drift"])} == {"backup", "drift"}
    assert select_checks([]) == list(CHECKS)
    with pytest.raises(UsageError) as caught:
        select_checks(["redis-evction"])
    assert "redis-eviction" in caught.value.hint


def test_every_check_says_what_is_true_when_all_is_well() -> None:
    """Names are unique, and what a check needs is a check."""
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all(check.about.endswith(".") for check in CHECKS)
    assert {check.needs for check in CHECKS} <= {"", *names}


RESULTS = [
    CheckResult("a", "ok", "fine", "", {"lag": 12.5}),
    CheckResult("b", "warn", "odd | \x1b[31m", "mend | it", {}),
    CheckResult("c", "skip", "who knows", "", {}),
]


def test_nagios_gets_one_line_and_its_own_exit_codes() -> None:
    """A plugin's line has the status, performance data behind the only bar, and nothing that a terminal obeys."""
    first, second = nagios(RESULTS).splitlines()
    assert first.startswith("SALTCTL WARNING - 3 checks: 1 ok, 1 warn, 0 fail, 1 skip (b) | failed=0 ")
    assert first.endswith("lag=12.5")
    assert "|" not in second
    assert "\x1b" not in second
    fails = [*RESULTS, CheckResult("d", "fail", "bad", "x", {})]
    codes = [nagios_code(results) for results in (RESULTS[:1], RESULTS, fails, RESULTS[2:])]
    assert codes == [0, 1, 2, 3]


def test_prometheus_can_read_it() -> None:
    """Prometheus' own parser reads the metrics: a state set for each check, and the numbers."""
    parser = pytest.importorskip("prometheus_client.parser")
    families = {f.name: f.samples for f in parser.text_string_to_metric_families(prometheus(RESULTS))}
    states = {(s.labels["check"], s.labels["status"]): s.value for s in families["saltctl_doctor_check"]}
    assert states["b", "warn"] == 1
    assert sum(states.values()) == len(RESULTS)
    assert families["saltctl_doctor_lag"][0].value == 12.5


@pytest.mark.parametrize("width", [20, 40, 78])
def test_a_broken_command_is_the_same_command(width: int) -> None:
    """However narrow the terminal, the lines together are the words of the command."""
    command = (
        """redis-cli -u "$(echo "$URL" | sed 's|a b|c|')" CONFIG SET a-long-name value && saltctl rebuild 'x  y'"""
    )
    lines = pasteable(command, width)
    joined = "\n".join(lines).replace("\\\n", "")
    assert shlex.split(joined) == shlex.split(command)
    assert width < 78 or max(map(len, lines)) <= width  # a word that is longer is not broken


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        (Settings(redis_url="redis://u:s3cret@h:1/0"), "redis-cli -h h -p 1 --user u --askpass GET x"),
        (Settings(redis_url="rediss://h:1/0"), "redis-cli -h h -p 1 --tls GET x"),
        (
            Settings(redis_url="redis://:s3cret@h:1/0", origins={"redis_url": "environment SALTCTL_REDIS_URL"}),
            'redis-cli -u "$(echo "$SALTCTL_REDIS_URL" | sed ',
        ),
    ],
)
def test_no_secret_is_in_a_fix(settings: Settings, begins: str) -> None:
    """redis-cli is told where the password is, or asks for it."""
    command = FixCommands(settings).redis("h:1", "GET", "x")
    assert command.startswith(begins)
    assert "s3cret" not in command


def test_fixes_lead_to_the_same_place() -> None:
    """The root's options, and what a context says about AWS, are in the command; the environment stays."""
    settings = Settings(aws_region="r", aws_profile="p", origins={"aws_profile": "environment AWS_PROFILE"})
    commands = FixCommands(settings, ["--context", "a b"])
    assert commands.saltctl("rebuild") == "saltctl --context 'a b' rebuild"
    assert commands.aws("sts", "get-caller-identity") == "aws sts get-caller-identity --region r"


def test_permissions_that_nobody_may_ask_for_are_skipped() -> None:
    """Managed servers refuse ACL: the check says so, and is no failure."""

    class Refusing:
        def user(self, primary: str) -> str | None:
            return None

    class Managed(FakeFacts):
        @property
        def redis(self) -> Any:
            return Refusing()

    assert redis_permissions(Managed({})).status == "skip"
