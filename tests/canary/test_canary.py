"""Rounds of the canary over stores in memory: no false alarm, whatever others do at the same time."""

from __future__ import annotations

import random
import re
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import datetime, timedelta
from itertools import count
from types import SimpleNamespace
from typing import Literal

import pytest

from saltctl.canary.canary import Canary
from saltctl.canary.conversations import BOUND, RESERVED
from saltctl.canary.ground_truth import KEPT, OLD, delete_old_rows
from saltctl.canary.report import CHECK_NAMES, CanaryReport, Check
from saltctl.errors import AccessDeniedError, AwsUnavailableError, ConfigurationError, RedisUnavailableError
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import merge
from saltctl.stores.contracts.registry import RegistryIdentity
from saltctl.testing import MemoryMessages
from saltctl.times import iso_utc
from tests.canary.memory import CHANGES, Killed, World, failed, judged
from tests.detection.fakes import Clock

IN_MEMORY = set(CHECK_NAMES) - {"late-merge", "fork"}
"""The checks that do not need real servers."""


@pytest.mark.parametrize(
    ("sort_type", "form", "ids"),
    [
        ("S", None, "sort_key"),
        ("S", "ulid", "sort_key"),
        ("S", "epoch-ms", "attribute:message_id"),
        ("N", None, "sort_key"),
        ("N", "epoch-s", "attribute:message_id"),
    ],
)
def test_rounds_keep_the_promise_in_every_form_of_sort_keys(
    sort_type: Literal["S", "N"], form: str | None, ids: str
) -> None:
    """Every check is judged; conversations are raised, narrowed, sealed and raised again."""
    world = World(messages=MemoryMessages(sort_type))
    world.settings = replace(world.settings, sort_key_form=form, message_id_from=ids)
    with world.canary() as canary:
        reports = world.rounds(canary, 7)
    assert failed(reports) == []
    assert judged(reports) == IN_MEMORY
    sealed = [entry for entry in world.backup.items.values() if entry.cooling and entry.cooling.boundary is not None]
    assert sealed
    assert all(report.ok for report in reports)


def test_rows_are_bounded_and_only_own_old_ones_are_deleted() -> None:
    """The rows of others stay, and so do the newest ones and those that are not old."""
    world = World()
    old, new = world.at - 2 * OLD, world.at - OLD / 2
    world.messages.put(RESERVED[0], "2020-01-01#m1", {"text": {"S": "of an operator"}})
    for number in range(3 * KEPT):
        written = old if number < 2 * KEPT else new
        key = f"{written.isoformat()}#{number}"
        world.messages.put(RESERVED[0], key, {"saltctl_canary": {"S": iso_utc(written)}})
    times = iter([True, True, False])

    def delete(now: datetime, has_time: Callable[[], bool] = lambda: True) -> int:
        """Delete once."""
        return delete_old_rows(world.messages, world.rows(RESERVED[0]), now, has_time)

    assert delete(world.at, lambda: next(times, False)) == 2
    assert [delete(world.at) for _ in range(4)] == [KEPT, KEPT - 2, 0, 0]
    assert delete(world.at + timedelta(days=1)) == 0
    assert len(world.rows(RESERVED[0]).rows) == 1 + KEPT
    for number in range(60):
        world.messages.put(RESERVED[1], f"2026-06-30#{number}", {"saltctl_canary": {"S": "2026-06-30T00:00:00Z"}})
    with world.canary() as canary:
        assert failed(world.rounds(canary, 12, step=1200.0)) == []
    assert max(len(world.rows(conversation).rows) for conversation in RESERVED) < 2 * KEPT


def test_two_canaries_at_once_raise_no_alarm() -> None:
    """Also if the clock of one host is an hour ahead of the other's, so that it deletes what the other one wrote."""
    world = World()
    clocks = (timedelta(0), timedelta(hours=1), timedelta(0))

    def run(number: int) -> list[CanaryReport]:
        """Run the rounds of one host."""
        with world.canary(seed=number, skew=clocks[number]) as canary:
            return world.rounds(canary, 4, step=31.0)

    with ThreadPoolExecutor(len(clocks)) as hosts:
        reports = [report for host in hosts.map(run, range(len(clocks))) for report in host]
    assert failed(reports) == []


@pytest.mark.parametrize("seeds", [5, pytest.param(100, marks=[pytest.mark.long, pytest.mark.exhaustive])])
def test_a_canary_that_was_killed_before_any_change_leads_to_no_alarm(seeds: int) -> None:
    """What it left is completed by the next one: raises that are half done, and cool-downs in any phase."""
    rng = random.Random(7)
    world = World()
    killed = 0
    for seed in range(seeds):
        numbers, last = count(), rng.randrange(60)

        def before(name: str, numbers: count[int] = numbers, last: int = last) -> None:
            """Kill the process before one of its changes."""
            if name in CHANGES and next(numbers) >= last:
                raise Killed

        canary = world.canary(before=before, seed=seed)
        try:
            world.rounds(canary, 2)
        except Killed:
            killed += 1
        canary.close()
        world.at += timedelta(seconds=rng.choice((1, 61)))
        with world.canary(seed=seed + 100) as next_one:
            assert failed(world.rounds(next_one, 1)) == [], (seed, last)
    assert killed > seeds / 2


@pytest.mark.parametrize("change", ["raise above BOUND", "restart Redis", "delete rows", "lose the backup"])
def test_what_others_do_during_a_round_is_no_alarm(change: str) -> None:
    """An operator raises, Redis loses everything, rows are deleted, or the backup is recovered as a new one."""
    world = World()
    rng, numbers = random.Random(3), count()
    calls = ("by_primary",) if change == "lose the backup" else ("by_primary", "query", "get", "put", "merge")

    def before(name: str) -> None:
        """Do it now and then, before a lookup. A loss of everything between lookup and write is outside the promise."""
        if name in calls and next(numbers) % 5 == 0:
            with world.lock:
                others[change](world, rng)

    others: dict[str, Callable[[World, random.Random], None]] = {
        "raise above BOUND": _raise_above,
        "restart Redis": lambda world, rng: world.redis.restart(keep_entries=rng.random() < 0.5),
        "delete rows": _delete_rows,
        "lose the backup": _lose_backup,
    }
    with world.canary() as canary:
        world.rounds(canary, 2)
        for _ in range(3):
            world.before = before
            reports = world.rounds(canary, 1)
            world.before = lambda name: None
            reports += world.rounds(canary, 1)
            assert failed(reports) == []
            assert judged(reports[1:]) >= {"write", "read", "raise"}


def _raise_above(world: World, rng: random.Random) -> None:
    conversation = rng.choice(RESERVED)
    Registry(world.redis, world.backup, cap=64).raise_to(conversation, rng.choice((2, 32, 64)))


def _delete_rows(world: World, rng: random.Random) -> None:
    truth = world.rows(rng.choice(RESERVED))
    names = list(truth.rows)
    for name in rng.sample(names, len(names) // 4):
        row = truth.rows[name]
        # Not what this host has just written: other hosts delete old rows.
        if row.written_at is not None and row.written_at < world.at - timedelta(seconds=30):
            world.messages.delete(row.partition_key, row.sort_key, "saltctl_canary")


def _lose_backup(world: World, rng: random.Random) -> None:
    """Lose table and Redis, and recover both from the messages."""
    world.backup.identity = RegistryIdentity(f"{rng.getrandbits(64):016x}")
    for conversation, entry in list(world.backup.items.items()):
        needed = max((row.needed_n for row in world.rows(conversation).rows.values()), default=1)
        world.backup.items[conversation] = replace(entry, max_n=needed, write_n=needed, raises=(), cooling=None)
    for held in world.redis.held.values():
        held.clear()
        for conversation, entry in world.backup.items.items():
            held[conversation] = merge(0, entry.entry)


def test_an_outage_is_not_judged() -> None:
    """Of Redis: what needs it. Of AWS: everything, after one failure; also if not even a round can begin."""
    world = World()
    with world.canary() as canary:
        assert failed(world.rounds(canary, 1)) == []
        world.redis.fail(RedisUnavailableError("down"))
        [report] = world.rounds(canary, 1)
        results = {check.name: check.ok for check in report.checks}
        assert (results["write"], results["read"], results["raise"]) == (True, True, None)
        world.redis.fail(None)
        world.backup.faults.before["get"] = AwsUnavailableError("down")
        [report] = world.rounds(canary, 1)
        assert {check.ok for check in report.checks} == {None}
        world.backup.faults.before["get_many"] = AwsUnavailableError("DynamoDB is down")
        [report] = world.rounds(canary, 1)
        assert report.ok is None
        assert report.checks == [Check(name, None, "DynamoDB is down") for name in CHECK_NAMES]


def test_a_round_without_time_reports_the_checks_that_it_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what they found: a loss that is found in time is not lost with the rest of the round."""
    clock, calls, hanging = Clock(0.0), set[str](), 0.0
    monkeypatch.setattr("saltctl.canary.canary.time", SimpleNamespace(monotonic=clock))
    world = World()
    for number in range(2 * KEPT):
        world.messages.put(RESERVED[1], f"2026-06-30#{number}", {"saltctl_canary": {"S": "2026-06-30T00:00:00Z"}})

    def before(name: str) -> None:
        """Let time pass at each message that is written."""
        calls.add(name)
        clock.now += 10.0 * (name == "put") + hanging * (name == "delete")

    with world.canary(before=before) as canary:
        report = canary.run(within=15.0)
        results = {check.name: check.ok for check in report.checks}
        assert (results["lookup"], results["write"], results["raise"], results["fork"]) == (True, True, None, None)
        assert report.checks[-1].detail == "no time was left for it after 15 s"
        assert "delete" not in calls, "old rows are left to a round that has time"
        canary.run()
        assert "delete" in calls
        hanging = 1e6
        for number in range(50):
            world.messages.put(RESERVED[1], f"2026-06-29#{number}", {"saltctl_canary": {"S": "2026-06-29T00:00:00Z"}})
        before_it = len(world.rows(RESERVED[1]).rows)
        assert canary.run(within=1e6).ok
        assert clock.now > 1e6
        kept = len(world.rows(RESERVED[1]).rows)
        assert before_it - 25 < kept, "deletions began after the time of the round"
        world.messages.put(partition_key(RESERVED[0], BOUND - 1), "2026-06-30#m1", {})
        lost = canary.run(within=15.0)
        assert (lost.ok, lost.checks[0].ok, lost.checks[-1].ok) == (False, False, None)


@pytest.mark.parametrize(
    ("error", "ok"),
    [(OSError("no more files"), None), (RuntimeError("can't start new thread"), None), (KeyError("x"), False)],
)
def test_a_host_without_resources_is_no_alarm(error: Exception, ok: bool | None) -> None:
    """An error of a client that nothing explains is one."""

    def before(name: str) -> None:
        """Fail at the first merge."""
        if name == "merge":
            raise error

    world = World()
    with world.canary(before=before) as canary:
        [report] = world.rounds(canary, 1)
    results = {check.name: check.ok for check in report.checks}
    assert (results["unfinished-raise"], results["raise"], results["write"]) == (ok, ok, True)


def test_a_permission_or_a_setting_is_an_error() -> None:
    """A user that may only read, a cap below BOUND, and no Redis."""
    world = World()

    def read_only(name: str) -> None:
        """Refuse every change."""
        if name in CHANGES:
            raise AccessDeniedError("PutItem is denied")

    with world.canary(before=read_only) as canary, pytest.raises(AccessDeniedError, match="PutItem"):
        canary.run()
    world.settings = replace(world.settings, max_n_cap=4)
    with pytest.raises(ConfigurationError, match="to 8, and max_n_cap is 4"):
        world.canary()
    with pytest.raises(ConfigurationError, match="no Redis"):
        Canary.open(Settings())


def test_nothing_is_cooled_before_an_operator_has_cooled() -> None:
    """The first cool-down of a registry refuses older clients, so it is not the canary that does it."""
    world = World()
    with world.canary(allow_cooling=False) as canary:
        reports = world.rounds(canary, 13)
    assert failed(reports) == []
    assert not any(entry.cooling for entry in world.backup.items.values())
    last = {check.name: check for check in reports[-1].checks}
    assert last["cool"].ok is None
    assert last["unfinished-raise"].ok is None
    assert last["raise"].ok is True


def test_what_readers_miss_fails_every_round_until_it_is_repaired() -> None:
    """The registry loses an entry. The canary names a message, and does not raise the conversation: that hides it."""
    world = World()
    with world.canary() as canary:
        world.rounds(canary, 6)
        conversation = next(name for name, entry in world.backup.items.items() if entry.max_n > 2)
        held = world.redis.held[world.redis.primary_of(conversation)]
        in_backup, in_redis = world.backup.items.pop(conversation), held.pop(conversation)
        for report in world.rounds(canary, 5):
            lookup = report.checks[0]
            assert (lookup.name, lookup.ok) == ("lookup", False)
            told = rf"of {conversation} by .* miss \d+ of .*, such as .* in {conversation}#\d+: max_n is 1"
            assert re.search(told, lookup.detail)
            assert conversation not in world.backup.items
        world.backup.items[conversation], held[conversation] = in_backup, in_redis
        assert [report.ok for report in world.rounds(canary, 2)] == [True, True]


def test_a_check_says_who_answered() -> None:
    """While Redis answers no lookup the backup does, which is no proof of what Redis answers."""
    world = World()
    with world.canary() as canary:
        details = {check.name: check.detail for check in canary.run().checks}
        assert "by Redis and by the backup" in details["lookup"] + details["read"]
        world.redis.restart(keep_entries=True)
        details = {check.name: check.detail for check in canary.run().checks}
    assert details["lookup"].startswith(f"N of {len(RESERVED)} conversations, by the backup alone")
    assert "by the backup alone" in details["read"]
