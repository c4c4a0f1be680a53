"""Tests of doctor: which checks run, and that no check stops the others."""

from __future__ import annotations

import threading

import pytest

from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    RedisUnavailableError,
    UsageError,
)
from saltctl.health.doctor import CHECKS, Check, run_checks, select_checks
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, fail, ok
from tests.health.fakes import FakeFacts


@pytest.mark.slow
def test_a_broken_check_does_not_stop_the_others() -> None:
    """A check that crashes, is denied or hangs says so, and the other checks run."""
    forever = threading.Event()

    def crash(facts: Facts) -> Finding:
        raise KeyError("unexpected")

    def denied(facts: Facts) -> Finding:
        raise AccessDeniedError("denied")

    def hang(facts: Facts) -> Finding:
        forever.wait()
        return ok("too late")

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
        found = {result.check: result for result in run_checks(FakeFacts({}), checks, timeout=1.0)}
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


def test_a_failure_that_the_check_of_its_server_did_not_find_is_reported() -> None:
    """Redis answers INFO and lacks a command: `see redis-reachable` would be no answer."""

    def absent(facts: Facts) -> Finding:
        raise ConfigurationError("lacks SCRIPT", hint="use Valkey")

    checks = [Check("redis-reachable", lambda _: ok("fine")), Check("redis-verified", absent, "redis-reachable")]
    _, found = run_checks(FakeFacts({}), checks, timeout=30.0)
    assert (found.status, found.detail) == ("fail", "lacks SCRIPT: use Valkey")
    assert "rebuild" not in found.fix


def test_a_refusal_is_told_once() -> None:
    """By the check of the server if it failed for it, and otherwise by the first one that met it."""

    def denied(facts: Facts) -> Finding:
        raise AccessDeniedError("wrong password")

    def alone(facts: Facts) -> Finding:
        raise AccessDeniedError("no INFO")

    checks = [
        Check("redis-reachable", lambda _: fail("wrong password: correct it", "fix")),
        *(Check(name, denied, "redis-reachable") for name in ("redis-tls", "redis-role")),
        *(Check(name, alone, "redis-reachable") for name in ("redis-aof", "redis-clock")),
    ]
    found = [result.detail for result in run_checks(FakeFacts({}), checks, timeout=30.0)]
    assert found[1:] == ["see redis-reachable", "see redis-reachable", "no INFO", "see redis-aof"]


def test_checks_are_selected_by_name_and_group() -> None:
    """A name selects one check, its first word the group; an unknown name is a usage error with similar names."""
    assert [check.name for check in select_checks(["lease"])] == ["lease"]
    assert {check.name.split("-")[0] for check in select_checks(["backup", "drift"])} == {"backup", "drift"}
    assert select_checks([]) == list(CHECKS)
    assert select_checks(["redis, backup", "lease"]) == select_checks(["redis", "backup", "lease"])
    with pytest.raises(UsageError, match="cannot run the check ''"):
        select_checks(["redis,"])
    with pytest.raises(UsageError) as caught:
        select_checks(["redis-evction"])
    assert "redis-eviction" in caught.value.hint


def test_names_are_unique_and_every_check_has_a_docstring() -> None:
    """Every docstring begins with a sentence, and ``depends_on`` names a check."""
    names = [check.name for check in CHECKS]
    assert len(set(names)) == len(names)
    assert all((check.run.__doc__ or "").splitlines()[0].endswith(".") for check in CHECKS)
    assert {check.depends_on for check in CHECKS} <= {"", *names}
