"""Lookups with their fallback, and raises, over stores in memory with injected failures."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta, timezone

import pytest

from saltctl.commands import commands_in
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    DamagedEntryError,
    InvalidConversationIdError,
    InvalidSaltCountError,
    RaiseIncompleteError,
    RedisUnavailableError,
    SaltctlError,
    ThrottledError,
    UnverifiedBucketError,
    UnverifiedError,
    UsageError,
    WrongTypeError,
)
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import MAX_REASON, RaiseResult, Registry
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import (
    BackupEntry,
    BackupStore,
    Raise,
    RaiseOutcome,
    RegistryIdentity,
    RegistryStore,
)
from saltctl.testing import Faults, MemoryBackup, MemoryRedis

DOWN = RedisUnavailableError("Redis is down", hint="start it")
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Clock:
    """A clock that a test advances."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """The time now."""
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    """The clock of the circuit breaker."""
    return Clock()


@pytest.fixture
def store() -> MemoryRedis:
    """Redis with one primary, verified."""
    return MemoryRedis()


@pytest.fixture
def backup() -> MemoryBackup:
    """The backup, empty."""
    return MemoryBackup()


@pytest.fixture
def redis(store: MemoryRedis) -> Faults:
    """The faults of the one primary."""
    return store.faults[store.primaries()[0]]


Opener = Callable[..., Registry]


@pytest.fixture
def over(clock: Clock) -> Opener:
    """Open a registry over these stores."""

    def open_(store: RegistryStore, backup: BackupStore, *, cap: int = 256, breaker: float = 5.0) -> Registry:
        return Registry(
            store,
            backup,
            cap=cap,
            actor="tester",
            breaker_seconds=breaker,
            clock=clock,
            now=lambda: NOON,
        )

    return open_


@pytest.fixture
def registry(over: Opener, store: MemoryRedis, backup: MemoryBackup) -> Registry:
    """A registry over both stores."""
    return over(store, backup)


def held(backup: MemoryBackup, conversation_id: str) -> tuple[int, int]:
    """(max_n, write_n) in the backup."""
    entry = backup.items[conversation_id]
    return entry.max_n, entry.write_n


def seed(store: MemoryRedis, backup: MemoryBackup, conversation_id: str, max_n: int, write_n: int) -> None:
    """Put an entry as an interrupted or a complete raise leaves it."""
    backup.items[conversation_id] = BackupEntry(conversation_id, max_n, write_n)
    store.merge(conversation_id, max_n)


# Lookups.


def test_a_verified_redis_answers_alone(registry: Registry, store: MemoryRedis, backup: MemoryBackup) -> None:
    """While Redis is verified the backup is not read; readers and writers use the same number."""
    seed(store, backup, "conv", 8, 4)
    assert registry.lookup("conv") == Lookup("conv", 8, 8, "redis", 8)
    assert backup.faults.calls == []
    assert registry.last_failure is None


def test_no_entry_means_unsalted(registry: Registry) -> None:
    """A verified Redis without an entry is an answer: the base partition only."""
    lookup = registry.lookup("conv")
    assert (lookup.max_n, lookup.write_n, lookup.salted, lookup.read_set()) == (1, 1, False, ["conv"])


def test_the_read_set_of_a_lookup(registry: Registry, store: MemoryRedis, backup: MemoryBackup) -> None:
    """It is the base partition and every salt below max_n."""
    seed(store, backup, "conv", 2, 2)
    lookup = registry.lookup("conv")
    assert lookup.salted
    assert lookup.read_set() == ["conv", "conv#0", "conv#1"]


@pytest.mark.parametrize(
    "failure",
    [
        DOWN,
        UnverifiedError("fenced"),
        AccessDeniedError("WRONGPASS"),
        ConfigurationError("another layout"),
    ],
    ids=lambda failure: type(failure).__name__,
)
def test_any_error_of_redis_falls_back_to_the_backup(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults, failure: SaltctlError
) -> None:
    """Readers then get max_n of the backup, and writers its write_n."""
    seed(store, backup, "conv", 8, 4)
    redis.before["lookup"] = failure
    assert registry.lookup("conv") == Lookup("conv", 8, 4, "backup", 8)
    assert registry.last_failure is failure


def test_unknown_primaries_fall_back_to_the_backup(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """If the primaries of the buckets are unknown, the backup answers."""
    seed(store, backup, "conv", 8, 8)
    store.routing_fault = DOWN
    assert registry.lookup("conv").source == "backup"
    assert registry.last_failure is DOWN


def test_the_backup_without_an_item_means_unsalted(registry: Registry, redis: Faults) -> None:
    """The backup is complete: no item is an answer."""
    redis.before["lookup"] = DOWN
    assert registry.lookup("conv") == Lookup("conv", 1, 1, "backup", 1)


def test_write_n_of_a_fallback_is_never_above_max_n(registry: Registry, backup: MemoryBackup, redis: Faults) -> None:
    """An item whose write_n was set above its max_n by hand does not send writers to salts without readers."""
    backup.items["conv"] = BackupEntry("conv", 4, 64)
    redis.before["lookup"] = DOWN
    assert registry.lookup("conv").write_n == 4


@pytest.mark.parametrize(
    "failure",
    [AwsUnavailableError("down"), ThrottledError("slow down"), AccessDeniedError("no"), DamagedEntryError("text")],
    ids=lambda failure: type(failure).__name__,
)
def test_without_either_side_a_lookup_fails(
    registry: Registry, backup: MemoryBackup, redis: Faults, failure: SaltctlError
) -> None:
    """A wrong N hides messages: a lookup fails with the error of the backup and has no default."""
    redis.before["lookup"] = DOWN
    backup.faults.before |= {"get": failure, "get_many": failure}
    with pytest.raises(type(failure)) as one:
        registry.lookup("conv")
    assert one.value is failure
    with pytest.raises(type(failure)):
        registry.lookup_many(["conv", "other"])


@pytest.mark.parametrize("bad", ["", "conv#3", "#lease", "x" * 2001])
def test_an_invalid_id_is_refused_before_any_request(
    registry: Registry, backup: MemoryBackup, redis: Faults, bad: str
) -> None:
    """In lookups and raises, also if the invalid id is one of many."""
    for ask in (
        lambda: registry.lookup(bad),
        lambda: registry.lookup_many(["conv", bad]),
        lambda: registry.raise_to(bad, 2),
        lambda: registry.complete(bad),
    ):
        with pytest.raises(InvalidConversationIdError):
            ask()
    assert redis.calls == backup.faults.calls == []


def test_many_ids_keep_their_order_and_are_looked_up_once(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults
) -> None:
    """Duplicates are removed, and one request looks all ids up."""
    seed(store, backup, "b", 2, 2)
    redis.calls.clear()
    assert list(registry.lookup_many(iter(["c", "b", "a", "b"]))) == ["c", "b", "a"]
    assert redis.calls == ["lookup"]
    assert registry.lookup_many([]) == {}


def test_many_lookups_in_redis_give_what_single_ones_give(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults, clock: Clock
) -> None:
    """Salted and unsalted ones, for readers and for writers; a failure from before is over."""
    seed(store, backup, "salted", 4, 4)
    redis.before["lookup"] = DOWN
    registry.lookup_many(["salted", "unsalted"])
    assert registry.last_failure is DOWN
    redis.before.clear()
    clock.seconds += 5.0
    registry.lookup("unsalted")  # the first answer after an outage is not used
    clock.seconds += 5.0
    expected = {"salted": Lookup("salted", 4, 4, "redis", 4), "unsalted": Lookup("unsalted", 1, 1, "redis", 1)}
    assert registry.lookup_many(expected) == expected
    assert registry.last_failure is None
    assert {i: registry.lookup(i) for i in expected} == expected


@pytest.mark.parametrize("ids", [["raised"], ["raised", "raised too"], ["raised", "raised too", "unsalted"]])
def test_writers_that_fall_back_use_what_is_committed(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults, ids: list[str]
) -> None:
    """Readers use max_n. One lookup and many give the same numbers."""
    for conversation_id in ids[:2]:
        seed(store, backup, conversation_id, 8, 2)
    redis.before["lookup"] = DOWN
    found = registry.lookup_many(ids)
    assert [(i, found[i].max_n, found[i].write_n) for i in ids] == [(i, 8, 2) for i in ids[:2]] + [
        (i, 1, 1) for i in ids[2:]
    ]
    assert {i: registry.lookup(i) for i in ids} == found


def test_only_the_ids_of_a_failed_primary_fall_back(over: Opener, backup: MemoryBackup) -> None:
    """The other ids come from Redis, and the failure is kept."""
    for broken in (0, 1):
        store = MemoryRedis(primaries=2)
        registry = over(store, backup)
        for conversation_id in ("even", "odd"):
            seed(store, backup, conversation_id, 4, 4)
        primary = store.primaries()[broken]
        store.faults[primary].before["lookup"] = DOWN
        found = registry.lookup_many(["even", "odd"])
        assert {i: lookup.max_n for i, lookup in found.items()} == {"even": 4, "odd": 4}
        assert {i: lookup.source for i, lookup in found.items()} == {
            i: "backup" if store.primary_of(i) == primary else "redis" for i in found
        }
        assert registry.last_failure is DOWN


# The breaker.


def test_after_a_failure_lookups_skip_the_server(
    registry: Registry, backup: MemoryBackup, redis: Faults, clock: Clock
) -> None:
    """For breaker_seconds lookups go to the backup; then Redis is asked again, and believed after as long again."""
    redis.before["lookup"] = DOWN
    registry.lookup("conv")
    redis.clear()
    clock.seconds += 4.9
    assert registry.lookup("conv").source == "backup"
    assert redis.calls == []
    assert registry.last_failure is DOWN
    clock.seconds += 0.2
    assert registry.lookup("conv").source == "backup"  # it may be a primary that was paused past its failover
    assert redis.calls == ["lookup"]
    clock.seconds += 4.9
    assert registry.lookup("conv").source == "backup"
    assert redis.calls == ["lookup"]
    clock.seconds += 0.2
    assert registry.lookup("conv").source == "redis"
    assert registry.last_failure is None


def test_an_unverified_redis_is_used_as_soon_as_it_is_verified(registry: Registry, redis: Faults, clock: Clock) -> None:
    """It answered all the time, so it was not paused."""
    redis.before["lookup"] = UnverifiedError("restarted")
    registry.lookup("conv")
    redis.clear()
    clock.seconds += 5.1
    assert registry.lookup("conv").source == "redis"


@pytest.mark.parametrize("error", [UnverifiedBucketError("its fence is missing"), WrongTypeError("WRONGTYPE")])
def test_one_bad_bucket_does_not_open_the_breaker(registry: Registry, redis: Faults, error: SaltctlError) -> None:
    """A damaged item keeps it so, or it was overwritten: the lookups of all other buckets stay in Redis."""
    redis.before["lookup"] = error
    assert registry.lookup("conv").source == "backup"
    redis.clear()
    assert registry.lookup("other").source == "redis"


def test_a_failure_after_the_breaker_closed_opens_it_again(registry: Registry, redis: Faults, clock: Clock) -> None:
    """While the server is down, each interval has one attempt."""
    redis.before["lookup"] = DOWN
    for _ in range(3):
        for _ in range(4):
            assert registry.lookup("conv").source == "backup"
        clock.seconds += 5.1
    assert redis.calls == ["lookup"] * 3


def test_at_the_end_of_the_breaker_one_caller_tries(over: Opener, backup: MemoryBackup, clock: Clock) -> None:
    """While the server is silent, the others go to the backup at once."""
    asked, give_up = threading.Semaphore(0), threading.Event()

    class Silent(MemoryRedis):
        def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
            asked.release()
            assert give_up.is_set() or clock.seconds == 1000.0 or give_up.wait(60)
            raise DOWN

    registry = over(Silent(), backup)
    assert registry.lookup("conv").source == "backup"
    assert asked.acquire(blocking=False)
    clock.seconds += 5.1
    with ThreadPoolExecutor(9) as pool:
        first = pool.submit(registry.lookup, "conv")
        assert asked.acquire(timeout=60)
        others = [pool.submit(registry.lookup, f"conv-{number}") for number in range(8)]
        assert {other.result(60).source for other in others} == {"backup"}
        give_up.set()
        assert first.result(60).source == "backup"
    assert registry.lookup("conv").source == "backup"
    assert not asked.acquire(blocking=False)
    clock.seconds += 5.1
    assert registry.lookup("conv").source == "backup"
    assert asked.acquire(blocking=False)


def test_an_interrupted_try_lets_the_next_caller_try(registry: Registry, redis: Faults, clock: Clock) -> None:
    """^C in the one lookup that asks a silent server."""
    redis.before["lookup"] = DOWN
    registry.lookup("conv")
    clock.seconds += 5.1
    redis.before["lookup"] = KeyboardInterrupt()  # type: ignore[assignment]
    with pytest.raises(KeyboardInterrupt):
        registry.lookup("conv")
    redis.before["lookup"] = DOWN
    assert registry.lookup("conv").source == "backup"
    assert redis.calls == ["lookup"] * 3


def test_a_backup_that_does_not_say_the_registry_id_is_asked_once(
    registry: Registry, redis: Faults, backup: MemoryBackup
) -> None:
    """A lookup needs the id for Redis. Its fallback would wait for the same silent backup again."""
    redis.before["lookup"] = AccessDeniedError("no credentials")
    redis.before["lookup"].id_unknown = True
    with pytest.raises(AccessDeniedError):
        registry.lookup("conv")
    assert backup.faults.calls == []
    redis.clear()
    assert registry.lookup("conv").source == "redis"


def test_the_breaker_is_per_server(over: Opener, backup: MemoryBackup) -> None:
    """Failures of another server do not count, and a success closes the breaker of its own server alone."""
    store = MemoryRedis(primaries=2)
    registry = over(store, backup)
    failed = store.primary_of("even")
    assert failed != store.primary_of("odd")
    store.faults[failed].before["lookup"] = DOWN
    assert registry.lookup("even").source == "backup"
    store.faults[failed].clear()
    for _ in range(2):
        assert registry.lookup("odd").source == "redis"
        assert registry.lookup("even").source == "backup"
    assert store.faults[failed].calls == []


def test_a_breaker_of_zero_seconds_never_opens(
    over: Opener, store: MemoryRedis, backup: MemoryBackup, redis: Faults
) -> None:
    """With breaker_seconds 0 every lookup asks Redis."""
    registry = over(store, backup, breaker=0.0)
    redis.before["lookup"] = DOWN
    assert [registry.lookup("conv").source for _ in range(2)] == ["backup", "backup"]
    assert redis.calls == ["lookup", "lookup"]


def test_an_open_breaker_closes_after_its_seconds(over: Opener, backup: MemoryBackup, clock: Clock) -> None:
    """The server is skipped for exactly that long after its last failure, also one of a lookup that began before."""

    class Slow(MemoryRedis):
        def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
            asked.append(clock.seconds)
            if len(asked) == 1:
                registry.lookup("conv")  # a lookup of another thread, which fails first
                clock.seconds = 1004.0
            if len(asked) <= 2:
                raise DOWN
            return super().lookup(primary, conversation_ids)

    asked: list[float] = []
    registry = over(Slow(), backup)
    times = {1000.0: "backup", 1008.9: "backup", 1009.0: "backup", 1013.9: "backup", 1014.0: "redis", 1014.1: "redis"}
    for clock.seconds, source in times.items():
        assert registry.lookup("conv").source == source
    assert asked == [1000.0, 1000.0, 1009.0, 1014.0, 1014.1]


def test_an_open_breaker_does_not_stop_a_raise(registry: Registry, store: MemoryRedis, redis: Faults) -> None:
    """A raise must reach Redis: it ignores the breaker."""
    redis.before["lookup"] = DOWN
    registry.lookup("conv")
    assert registry.raise_to("conv", 4).step == "commit"
    assert store.read_unverified(["conv"]) == {"conv": 4}


# Raises.


def test_a_raise_does_its_three_steps_in_order(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults
) -> None:
    """Backup, Redis, commit. The result has the change; the backup records the actor, the time and the reason."""
    result = registry.raise_to("conv", 4, reason="launch day")
    assert result == RaiseResult("conv", before=1, after=4, changed=True, committed=True, step="commit")
    # The identity again after the backup: with the note of the newest rebuild, on which the merge depends.
    assert backup.faults.calls == ["check_registry", "raise_max_n", "check_registry", "commit_write_n"]
    assert redis.calls == ["merge"]
    assert backup.items["conv"] == BackupEntry(
        "conv", 4, 4, (Raise(4, "2024-05-01T12:00:00.000Z", "tester", "launch day"),)
    )
    assert registry.lookup("conv").max_n == 4


def test_the_actor_of_a_raise(registry: Registry, backup: MemoryBackup) -> None:
    """A raise can name another actor than the settings do."""
    registry.raise_to("conv", 4, actor="replay")
    assert backup.items["conv"].raises[0].by == "replay"


def test_recorded_times_are_utc(store: MemoryRedis, backup: MemoryBackup) -> None:
    """A local time is converted."""
    east = NOON.astimezone(timezone(timedelta(hours=9)))
    Registry(store, backup, now=lambda: east).raise_to("conv", 2)
    assert backup.items["conv"].raises[0].at == "2024-05-01T12:00:00.000Z"


def test_a_repeated_raise_changes_nothing(registry: Registry, backup: MemoryBackup) -> None:
    """Redelivery and replay are harmless, and the result says that nothing changed."""
    registry.raise_to("conv", 4)
    before = backup.items["conv"]
    assert registry.raise_to("conv", 4) == RaiseResult("conv", 4, 4, False, True, "commit")
    assert backup.items["conv"] == before


def test_a_late_smaller_raise_lowers_nothing(registry: Registry, store: MemoryRedis, backup: MemoryBackup) -> None:
    """max_n never goes down, on either side."""
    registry.raise_to("conv", 16)
    assert registry.raise_to("conv", 4) == RaiseResult("conv", 16, 16, False, True, "commit")
    assert held(backup, "conv") == (16, 16)
    assert store.read_unverified(["conv"]) == {"conv": 16}


@pytest.mark.parametrize("n", [2, 8, 16])
def test_a_raise_completes_an_interrupted_one(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, n: int
) -> None:
    """A raise to 16 stopped after step 1: the next raise, to any N, does all steps for 16."""
    backup.items["conv"] = BackupEntry("conv", 16, 2)
    result = registry.raise_to("conv", n)
    assert (result.before, result.after, result.changed) == (16, 16, False)
    assert held(backup, "conv") == (16, 16)
    assert store.read_unverified(["conv"]) == {"conv": 16}


def test_a_raise_reaches_a_redis_that_is_not_verified(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """A rebuild may have scanned the item before the raise, so an unverified Redis must not be skipped."""
    store.verified_primaries.clear()
    assert registry.raise_to("conv", 4).step == "commit"
    assert store.read_unverified(["conv"]) == {"conv": 4}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_raise_that_fails_in_the_backup(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, when: str
) -> None:
    """An error of step 1 is not changed, and Redis is not written, whether or not the write happened."""
    down = AwsUnavailableError("no answer")
    getattr(backup.faults, when)["raise_max_n"] = down
    with pytest.raises(AwsUnavailableError) as failed:
        registry.raise_to("conv", 4)
    assert failed.value is down
    assert store.read_unverified(["conv"]) == {"conv": None}
    backup.faults.clear()
    assert registry.raise_to("conv", 4).after == 4
    assert held(backup, "conv") == (4, 4)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_raise_without_redis_is_incomplete(
    registry: Registry, backup: MemoryBackup, redis: Faults, when: str
) -> None:
    """Step 2 failed: the backup holds the raise, fallback writers do not use it, and a repetition completes it."""
    getattr(redis, when)["merge"] = DOWN
    with pytest.raises(RaiseIncompleteError) as stopped:
        registry.raise_to("conv", 4)
    assert stopped.value.step == "backup"
    assert stopped.value.__cause__ is DOWN
    assert "Redis is down" in stopped.value.message
    assert commands_in(stopped.value.hint) == ["saltctl registry set conv 4 --yes"]
    assert "start it" in stopped.value.hint
    assert held(backup, "conv") == (4, 1)
    redis.before["lookup"] = DOWN
    assert registry.lookup("conv") == Lookup("conv", 4, 1, "backup", 4)
    redis.clear()
    assert registry.raise_to("conv", 4) == RaiseResult("conv", 4, 4, False, True, "commit")
    assert held(backup, "conv") == (4, 4)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_raise_without_its_commit_is_incomplete(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, when: str
) -> None:
    """Step 3 failed: all readers cover 4, and a repetition commits it."""
    getattr(backup.faults, when)["commit_write_n"] = ThrottledError("slow down")
    with pytest.raises(RaiseIncompleteError, match="slow down") as stopped:
        registry.raise_to("conv", 4)
    assert stopped.value.step == "redis"
    assert store.read_unverified(["conv"]) == {"conv": 4}
    assert registry.lookup("conv").max_n == 4
    backup.faults.clear()
    assert registry.raise_to("conv", 4).committed
    assert held(backup, "conv") == (4, 4)


@pytest.mark.parametrize(("n", "says"), [(0, "at least 1"), (-4, "at least 1"), (5, "power of two"), (512, "cap")])
def test_an_invalid_n_is_refused(registry: Registry, backup: MemoryBackup, redis: Faults, n: int, says: str) -> None:
    """Nothing is read or written."""
    with pytest.raises(InvalidSaltCountError, match=says):
        registry.raise_to("conv", n)
    assert backup.faults.calls == redis.calls == []


def test_an_entry_above_the_cap_is_completed(over: Opener, store: MemoryRedis, backup: MemoryBackup) -> None:
    """A client with a lower cap must not lose the raise of another client."""
    backup.items["conv"] = BackupEntry("conv", 1024, 1)
    assert over(store, backup, cap=8).raise_to("conv", 8).after == 1024
    assert held(backup, "conv") == (1024, 1024)


def test_a_reason_that_is_too_long_is_refused(registry: Registry, backup: MemoryBackup) -> None:
    """500 characters are kept; one more is an error, and the reason is not truncated."""
    registry.raise_to("conv", 2, reason="x" * MAX_REASON)
    assert backup.items["conv"].raises[0].reason == "x" * MAX_REASON
    with pytest.raises(UsageError, match="501"):
        registry.raise_to("conv", 4, reason="x" * (MAX_REASON + 1))
    assert held(backup, "conv") == (2, 2)


def test_a_registry_that_was_recovered_during_a_raise(registry: Registry, backup: MemoryBackup, redis: Faults) -> None:
    """Step 1 may have been done in the lost table: nothing is merged, and the same raise completes it."""
    raise_max_n = backup.raise_max_n

    def recovered(conversation_id: str, entry: Raise) -> RaiseOutcome:
        backup.identity = RegistryIdentity("0" * 16)
        return raise_max_n(conversation_id, entry)

    backup.raise_max_n = recovered  # type: ignore[method-assign]
    with pytest.raises(RaiseIncompleteError, match="recovered during the raise") as stopped:
        registry.raise_to("conv", 8)
    assert stopped.value.step == "backup"
    assert redis.calls == []
    assert registry.raise_to("conv", 8).committed


def test_a_failed_check_is_repeated(registry: Registry, backup: MemoryBackup) -> None:
    """A throttled check stops the raise before its first step, and the next raise checks again."""
    backup.faults.before["check_registry"] = ThrottledError("slow down")
    with pytest.raises(ThrottledError):
        registry.raise_to("conv", 2)
    assert backup.items == {}
    backup.faults.clear()
    assert registry.raise_to("conv", 2).changed


def test_a_client_of_another_layout_cannot_raise(
    over: Opener, registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """It would merge into buckets that no client reads: refused each time, before anything is changed."""
    registry.raise_to("conv", 2)
    seed(store, backup, "half done", 4, 1)
    stranger = over(store, backup)
    backup.faults.before["check_registry"] = ConfigurationError("laid out as v2:64")
    for write in (lambda: stranger.raise_to("conv", 4), lambda: stranger.complete("half done")) * 2:
        with pytest.raises(ConfigurationError, match="laid out"):
            write()
    assert held(backup, "conv") == (2, 2)
    assert held(backup, "half done") == (4, 1)


# Opening and closing.


class Closeable(MemoryRedis):
    """A store with connections."""

    closed = 0

    def close(self) -> None:
        """Count the call."""
        self.closed += 1


def test_the_end_of_the_block_closes_connections(backup: MemoryBackup) -> None:
    """A registry is a context manager; stores without connections need no close()."""
    store = Closeable()
    with Registry.over(Settings(), store, backup) as registry:
        registry.lookup("conv")
    assert store.closed == 1


def test_a_registry_takes_its_limits_from_the_settings(store: MemoryRedis, backup: MemoryBackup) -> None:
    """They have the cap and the actor."""
    registry = Registry.over(Settings(max_n_cap=8, actor="alice@laptop", buckets=128), store, backup)
    with pytest.raises(InvalidSaltCountError):
        registry.raise_to("conv", 16)
    registry.raise_to("conv", 8)
    assert backup.items["conv"].raises[0].by == "alice@laptop"


@pytest.mark.slow
def test_opening_does_not_connect() -> None:
    """``Registry.open`` works while every server is down, so a process can start during an outage."""
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", aws_region="us-east-1", aws_endpoint_url="http://127.0.0.1:1"
    )
    Registry.open(settings).close()


def test_opening_without_a_redis_has_a_hint() -> None:
    """It names the variable, and a way to try saltctl without servers."""
    with pytest.raises(ConfigurationError, match="no Redis") as refused:
        Registry.open()
    assert "SALTCTL_REDIS_URL" in refused.value.hint
    assert "saltctl local" in refused.value.hint


def test_complete_does_the_remaining_steps(registry: Registry, store: MemoryRedis, backup: MemoryBackup) -> None:
    """Steps 2 and 3 for any N of the backup; nothing if the backup has no entry."""
    backup.items["conv"] = BackupEntry("conv", 5, 1)
    assert registry.complete("conv")
    assert store.read_unverified(["conv"]) == {"conv": 5}
    assert held(backup, "conv") == (5, 5)
    assert not registry.complete("other")
    assert set(backup.items) == {"conv"}


def test_complete_does_not_write_to_a_committed_backup(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """An entry that only Redis lost costs one read and no write."""
    backup.items["conv"] = BackupEntry("conv", 4, 4)
    registry.complete("conv")
    assert store.read_unverified(["conv"]) == {"conv": 4}
    assert "commit_write_n" not in backup.faults.calls
    assert "raise_max_n" not in backup.faults.calls


@pytest.mark.parametrize("method", ["merge", "commit_write_n"])
def test_complete_reports_its_last_step(registry: Registry, backup: MemoryBackup, redis: Faults, method: str) -> None:
    """It fails as a raise does, and never commits before Redis has the entry."""
    backup.items["conv"] = BackupEntry("conv", 4, 1)
    (redis if method == "merge" else backup.faults).before[method] = DOWN
    with pytest.raises(RaiseIncompleteError) as raised:
        registry.complete("conv")
    assert raised.value.step == ("backup" if method == "merge" else "redis")
    assert held(backup, "conv") == (4, 1)
