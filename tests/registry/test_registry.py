"""Lookups with their fallback, and raises, over stores in memory that fail as told."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone

import pytest

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
    UnverifiedError,
    UsageError,
)
from saltctl.registry.circuit_breaker import CircuitBreaker
from saltctl.registry.registry import MAX_REASON, Lookup, RaiseResult, Registry
from saltctl.settings import Settings
from saltctl.stores.contracts import BackupEntry, BackupStore, Raise, RegistryStore
from saltctl.testing import Faults, MemoryBackup, MemoryRedis

DOWN = RedisUnavailableError("Redis is down", hint="start it")
NOON = datetime(2024, 5, 1, 12, tzinfo=UTC)


class Clock:
    """A clock that goes on when it is told to."""

    def __init__(self) -> None:
        self.seconds = 1000.0

    def __call__(self) -> float:
        """The time now."""
        return self.seconds


@pytest.fixture
def clock() -> Clock:
    """The breaker's clock."""
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
    """Opens a registry over given stores."""

    def open_(store: RegistryStore, backup: BackupStore, *, layout: str = "v1:64", cap: int = 256) -> Registry:
        return Registry(
            store,
            backup,
            layout=layout,
            key_prefix="salt",
            cap=cap,
            actor="tester",
            breaker_seconds=5.0,
            clock=clock,
            now=lambda: NOON,
        )

    return open_


@pytest.fixture
def registry(over: Opener, store: MemoryRedis, backup: MemoryBackup) -> Registry:
    """A registry over both."""
    return over(store, backup)


def held(backup: MemoryBackup, conversation_id: str) -> tuple[int, int]:
    """(max_n, write_n) in the backup."""
    entry = backup.items[conversation_id]
    return entry.max_n, entry.write_n


def seed(store: MemoryRedis, backup: MemoryBackup, conversation_id: str, max_n: int, write_n: int) -> None:
    """An entry as a raise leaves it, half-done or done."""
    backup.items[conversation_id] = BackupEntry(conversation_id, max_n, write_n)
    store.merge(conversation_id, max_n)


# Lookups.


def test_redis_answers_alone(registry: Registry, store: MemoryRedis, backup: MemoryBackup) -> None:
    """While Redis is verified nobody asks the backup; readers and writers use the same number."""
    seed(store, backup, "conv", 8, 4)
    assert registry.lookup("conv") == Lookup("conv", 8, 8, "redis")
    assert backup.faults.calls == []
    assert registry.last_failure is None


def test_no_entry_means_unsalted(registry: Registry) -> None:
    """A verified Redis that has no entry says so: one partition, the base partition."""
    lookup = registry.lookup("conv")
    assert (lookup.max_n, lookup.write_n, lookup.salted, lookup.read_set) == (1, 1, False, ["conv"])


def test_a_lookup_knows_its_read_set(registry: Registry, store: MemoryRedis, backup: MemoryBackup) -> None:
    """The base partition and every salt below max_n."""
    seed(store, backup, "conv", 2, 2)
    lookup = registry.lookup("conv")
    assert lookup.salted
    assert lookup.read_set == ["conv", "conv#0", "conv#1"]


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
def test_whatever_redis_says_the_backup_answers(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults, failure: SaltctlError
) -> None:
    """Any error of Redis sends the lookup to the backup: readers get max_n there, writers write_n."""
    seed(store, backup, "conv", 8, 4)
    redis.before["lookup"] = failure
    assert registry.lookup("conv") == Lookup("conv", 8, 4, "backup")
    assert registry.last_failure is failure


def test_unknown_primaries_are_a_failure_like_any_other(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """Where it cannot even be learned who has a bucket, the backup answers for all."""
    seed(store, backup, "conv", 8, 8)
    store.routing_fault = DOWN
    assert registry.lookup("conv").source == "backup"
    assert registry.last_failure is DOWN


def test_the_backup_without_an_item_means_unsalted(registry: Registry, redis: Faults) -> None:
    """The backup is complete: no item there is an answer."""
    redis.before["lookup"] = DOWN
    assert registry.lookup("conv") == Lookup("conv", 1, 1, "backup")


def test_a_fallback_writer_never_leaps(registry: Registry, backup: MemoryBackup, redis: Faults) -> None:
    """An item whose write_n was put above its max_n by hand does not send writers where no reader looks."""
    backup.items["conv"] = BackupEntry("conv", 4, 64)
    redis.before["lookup"] = DOWN
    assert registry.lookup("conv").write_n == 4


@pytest.mark.parametrize(
    "failure",
    [AwsUnavailableError("down"), ThrottledError("slow down"), AccessDeniedError("no"), DamagedEntryError("text")],
    ids=lambda failure: type(failure).__name__,
)
def test_with_neither_side_there_is_an_error_and_no_default(
    registry: Registry, backup: MemoryBackup, redis: Faults, failure: SaltctlError
) -> None:
    """A wrong N hides messages: where nobody answers, the lookup fails with what the backup said."""
    redis.before["lookup"] = DOWN
    backup.faults.before |= {"get": failure, "get_many": failure}
    with pytest.raises(type(failure)) as one:
        registry.lookup("conv")
    assert one.value is failure
    with pytest.raises(type(failure)):
        registry.lookup_many(["conv", "other"])


@pytest.mark.parametrize("bad", ["", "conv#3", "#lease", "x" * 2001])
def test_an_impossible_id_is_refused_before_anybody_is_asked(
    registry: Registry, backup: MemoryBackup, redis: Faults, bad: str
) -> None:
    """Lookups and raises alike, also where the bad id is one of many."""
    for ask in (
        lambda: registry.lookup(bad),
        lambda: registry.lookup_many(["conv", bad]),
        lambda: registry.raise_to(bad, 2),
    ):
        with pytest.raises(InvalidConversationIdError):
            ask()
    assert redis.calls == backup.faults.calls == []


def test_many_ids_keep_their_order_and_are_asked_once(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults
) -> None:
    """Duplicates are one; one call for all of them."""
    seed(store, backup, "b", 2, 2)
    redis.calls.clear()
    assert list(registry.lookup_many(iter(["c", "b", "a", "b"]))) == ["c", "b", "a"]
    assert redis.calls == ["lookup"]
    assert registry.lookup_many([]) == {}


def test_one_lost_primary_does_not_take_the_others_with_it(over: Opener, backup: MemoryBackup) -> None:
    """Ids of the primary that fails come from the backup, the others from Redis; the failure stays visible."""
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


def test_after_a_failure_nobody_waits_for_that_server_for_a_while(
    registry: Registry, backup: MemoryBackup, redis: Faults, clock: Clock
) -> None:
    """For breaker_seconds lookups go straight to the backup; then Redis is asked again, and believed."""
    redis.before["lookup"] = DOWN
    registry.lookup("conv")
    redis.clear()
    clock.seconds += 4.9
    assert registry.lookup("conv").source == "backup"
    assert redis.calls == []
    assert registry.last_failure is DOWN
    clock.seconds += 0.2
    assert registry.lookup("conv").source == "redis"
    assert registry.last_failure is None


def test_a_failure_after_the_breaker_closed_opens_it_again(registry: Registry, redis: Faults, clock: Clock) -> None:
    """One try for each interval while the server is down."""
    redis.before["lookup"] = DOWN
    for _ in range(3):
        for _ in range(4):
            assert registry.lookup("conv").source == "backup"
        clock.seconds += 5.1
    assert redis.calls == ["lookup"] * 3


def test_the_breaker_is_of_one_server(clock: Clock) -> None:
    """Another server's failures do not count, and a success closes it at once."""
    breaker = CircuitBreaker(5.0, clock)
    breaker.trip("a")
    assert breaker.is_open("a")
    assert not breaker.is_open("b")
    breaker.reset("b")
    assert breaker.is_open("a")
    breaker.reset("a")
    assert not breaker.is_open("a")


def test_a_breaker_of_no_seconds_never_opens(clock: Clock) -> None:
    """breaker_seconds 0 means that every lookup asks Redis."""
    breaker = CircuitBreaker(0.0, clock)
    breaker.trip("a")
    assert not breaker.is_open("a")


def test_an_open_breaker_stops_no_raise(registry: Registry, store: MemoryRedis, redis: Faults) -> None:
    """A raise must reach Redis: it is tried whatever lookups have learned."""
    redis.before["lookup"] = DOWN
    registry.lookup("conv")
    assert registry.raise_to("conv", 4).step == "commit"
    assert store.read_unverified(["conv"]) == {"conv": 4}


# Raises.


def test_a_raise_does_its_three_steps_in_order(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, redis: Faults
) -> None:
    """Backup, Redis, commit; the result tells what changed; the backup remembers who, when and why."""
    result = registry.raise_to("conv", 4, reason="launch day")
    assert result == RaiseResult("conv", before=1, after=4, changed=True, committed=True, step="commit")
    assert backup.faults.calls == ["claim_layout", "raise_max_n", "commit_write_n"]
    assert redis.calls == ["merge"]
    assert backup.items["conv"] == BackupEntry(
        "conv", 4, 4, (Raise(4, "2024-05-01T12:00:00.000Z", "tester", "launch day"),)
    )
    assert registry.lookup("conv").max_n == 4


def test_the_actor_of_one_raise_can_be_named(registry: Registry, backup: MemoryBackup) -> None:
    """The service raises for itself, a replay for whoever asked."""
    registry.raise_to("conv", 4, actor="replay")
    assert backup.items["conv"].raises[0].by == "replay"


def test_times_are_utc_wherever_the_clock_is(store: MemoryRedis, backup: MemoryBackup) -> None:
    """A local clock's time is converted."""
    east = NOON.astimezone(timezone(timedelta(hours=9)))
    Registry(store, backup, layout="v1:64", key_prefix="salt", now=lambda: east).raise_to("conv", 2)
    assert backup.items["conv"].raises[0].at == "2024-05-01T12:00:00.000Z"


def test_the_same_raise_again_changes_nothing(registry: Registry, backup: MemoryBackup) -> None:
    """Redelivery and replay are harmless, and say that they changed nothing."""
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
def test_a_raise_completes_what_somebody_left_half_done(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, n: int
) -> None:
    """Somebody died after step 1 of a raise to 16: whatever N comes next, all steps are done for 16."""
    backup.items["conv"] = BackupEntry("conv", 16, 2)
    result = registry.raise_to("conv", n)
    assert (result.before, result.after, result.changed) == (16, 16, False)
    assert held(backup, "conv") == (16, 16)
    assert store.read_unverified(["conv"]) == {"conv": 16}


def test_a_raise_reaches_a_redis_that_is_not_verified(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """A rebuild may have scanned the item before the raise: skipping the unverified Redis would lose it."""
    store.verified_primaries.clear()
    assert registry.raise_to("conv", 4).step == "commit"
    assert store.read_unverified(["conv"]) == {"conv": 4}


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_raise_that_the_backup_refuses_is_no_raise(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, when: str
) -> None:
    """An error of step 1 passes unchanged, and Redis is not touched, whether or not the write happened."""
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
    """Step 2 failed: the backup holds it, writers who ask there do not leap; the same again completes it."""
    getattr(redis, when)["merge"] = DOWN
    with pytest.raises(RaiseIncompleteError) as stopped:
        registry.raise_to("conv", 4)
    assert stopped.value.step == "backup"
    assert stopped.value.__cause__ is DOWN
    assert "Redis is down" in stopped.value.message
    assert "run the same again" in stopped.value.hint
    assert "start it" in stopped.value.hint
    assert held(backup, "conv") == (4, 1)
    redis.before["lookup"] = DOWN
    assert registry.lookup("conv") == Lookup("conv", 4, 1, "backup")
    redis.clear()
    assert registry.raise_to("conv", 4) == RaiseResult("conv", 4, 4, False, True, "commit")
    assert held(backup, "conv") == (4, 4)


@pytest.mark.parametrize("when", ["before", "after"])
def test_a_raise_without_its_commit_is_incomplete(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup, when: str
) -> None:
    """Step 3 failed: everybody reads 4, and only the acknowledgement is missing."""
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
def test_an_impossible_n_is_refused(registry: Registry, backup: MemoryBackup, redis: Faults, n: int, says: str) -> None:
    """Nothing is asked or written."""
    with pytest.raises(InvalidSaltCountError, match=says):
        registry.raise_to("conv", n)
    assert backup.faults.calls == redis.calls == []


def test_an_entry_above_the_cap_is_completed_all_the_same(
    over: Opener, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """A client with a lower cap must not lose what another has raised."""
    backup.items["conv"] = BackupEntry("conv", 1024, 1)
    assert over(store, backup, cap=8).raise_to("conv", 8).after == 1024
    assert held(backup, "conv") == (1024, 1024)


def test_a_reason_that_would_be_cut_is_refused(registry: Registry, backup: MemoryBackup) -> None:
    """500 characters are kept whole; one more is an error and not a cut."""
    registry.raise_to("conv", 2, reason="x" * MAX_REASON)
    assert backup.items["conv"].raises[0].reason == "x" * MAX_REASON
    with pytest.raises(UsageError, match="501"):
        registry.raise_to("conv", 4, reason="x" * (MAX_REASON + 1))
    assert held(backup, "conv") == (2, 2)


def test_the_layout_is_claimed_once(registry: Registry, backup: MemoryBackup) -> None:
    """The first raise of a process binds the table, or learns that it is bound; later ones do not ask again."""
    for n in (2, 4, 8):
        registry.raise_to("conv", n)
    assert backup.faults.calls.count("claim_layout") == 1
    assert backup.layout == ("v1:64", "salt")


def test_a_claim_that_failed_is_made_again(registry: Registry, backup: MemoryBackup) -> None:
    """A throttled claim stops the raise before its first step, and the next raise claims again."""
    backup.faults.before["claim_layout"] = ThrottledError("slow down")
    with pytest.raises(ThrottledError):
        registry.raise_to("conv", 2)
    assert backup.items == {}
    backup.faults.clear()
    assert registry.raise_to("conv", 2).changed
    assert backup.layout == ("v1:64", "salt")


def test_a_client_of_another_layout_may_not_raise(
    over: Opener, registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """It would merge into buckets that nobody reads: refused before the backup is changed, every time."""
    registry.raise_to("conv", 2)
    stranger = over(store, backup, layout="v1:128")
    for _ in range(2):
        with pytest.raises(ConfigurationError, match="laid out"):
            stranger.raise_to("conv", 4)
    assert held(backup, "conv") == (2, 2)


# Opening and closing.


class Closeable(MemoryRedis):
    """A store with connections."""

    closed = 0

    def close(self) -> None:
        """Note it."""
        self.closed += 1


def test_leaving_the_block_gives_connections_up(backup: MemoryBackup) -> None:
    """A registry is a context manager; stores without connections need no close()."""
    store = Closeable()
    with Registry.over(Settings(), store, backup) as registry:
        registry.lookup("conv")
    assert store.closed == 1


def test_a_registry_takes_its_limits_from_the_settings(store: MemoryRedis, backup: MemoryBackup) -> None:
    """Cap, actor and layout."""
    registry = Registry.over(Settings(max_n_cap=8, actor="alice@laptop", buckets=128), store, backup)
    with pytest.raises(InvalidSaltCountError):
        registry.raise_to("conv", 16)
    registry.raise_to("conv", 8)
    assert backup.items["conv"].raises[0].by == "alice@laptop"
    assert backup.layout == ("v1:128", "salt")


def test_opening_connects_to_nothing() -> None:
    """``Registry.open`` works while every server is down: a process can start in the middle of an outage."""
    settings = Settings(
        redis_url="redis://127.0.0.1:1/0", aws_region="us-east-1", aws_endpoint_url="http://127.0.0.1:1"
    )
    Registry.open(settings).close()


def test_opening_without_a_redis_says_what_to_set() -> None:
    """The hint names the variable, and a way to try saltctl without any server."""
    with pytest.raises(ConfigurationError, match="no Redis") as refused:
        Registry.open()
    assert "SALTCTL_REDIS_URL" in refused.value.hint
    assert "saltctl local" in refused.value.hint


def test_completing_does_what_is_left_of_a_raise(registry: Registry, store: MemoryRedis, backup: MemoryBackup) -> None:
    """Steps 2 and 3 for whatever the backup holds, any N included; nothing where it holds nothing."""
    backup.items["conv"] = BackupEntry("conv", 5, 1)
    assert registry.complete("conv")
    assert store.read_unverified(["conv"]) == {"conv": 5}
    assert held(backup, "conv") == (5, 5)
    assert not registry.complete("other")
    assert set(backup.items) == {"conv"}


def test_completing_what_is_committed_writes_nothing_to_the_backup(
    registry: Registry, store: MemoryRedis, backup: MemoryBackup
) -> None:
    """What Redis alone lost costs one read and no write."""
    backup.items["conv"] = BackupEntry("conv", 4, 4)
    registry.complete("conv")
    assert store.read_unverified(["conv"]) == {"conv": 4}
    assert "commit_write_n" not in backup.faults.calls
    assert "raise_max_n" not in backup.faults.calls


@pytest.mark.parametrize("method", ["merge", "commit_write_n"])
def test_completing_says_where_it_stopped(registry: Registry, backup: MemoryBackup, redis: Faults, method: str) -> None:
    """As a raise does, and never commits what Redis does not hold."""
    backup.items["conv"] = BackupEntry("conv", 4, 1)
    (redis if method == "merge" else backup.faults).before[method] = DOWN
    with pytest.raises(RaiseIncompleteError) as raised:
        registry.complete("conv")
    assert raised.value.step == ("backup" if method == "merge" else "redis")
    assert held(backup, "conv") == (4, 1)
