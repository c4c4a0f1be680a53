"""Cooling, over real servers: two phases, raises in between, and what readers and writers get at each step."""

from __future__ import annotations

from contextlib import closing
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from decimal import Decimal

import pytest

from saltctl.cooling.cooling import Cooling, CoolingResult
from saltctl.cooling.page_cost import page_costs
from saltctl.errors import (
    InvalidSaltCountError,
    OtherRegistryError,
    RaiseIncompleteError,
    RedisUnavailableError,
    RefusedError,
    UnavailableError,
    UnknownTimesError,
)
from saltctl.history.history import History
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws import registry_item
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.entries import CooledEntry
from saltctl.stores.contracts.registry import BackupEntry, Raise
from saltctl.stores.contracts.registry import Cooling as CoolingState
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryBackup, MemoryMessages, MemoryRedis
from tests.support import Rebuilder

BEGAN = datetime(2026, 11, 27, 8, tzinfo=UTC)
SEALED_FROM = "2026-11-27T09:00:00"
"""The boundary an hour after BEGAN, in the form of the messages."""


@dataclass
class Clock:
    """A clock that stands still until it is moved."""

    at: datetime = BEGAN

    def __call__(self) -> datetime:
        """Return the time."""
        return self.at

    def advance(self, **time: float) -> None:
        """Move on."""
        self.at += timedelta(**time)


@pytest.fixture
def clock() -> Clock:
    """Return a clock."""
    return Clock()


@dataclass
class World:
    """A registry in memory, whose conversation ``conv`` has 64 salts and messages, and its cooling."""

    clock: Clock
    redis: MemoryRedis = field(default_factory=MemoryRedis)
    backup: MemoryBackup = field(default_factory=MemoryBackup)
    messages: MemoryMessages = field(default_factory=MemoryMessages)

    def __post_init__(self) -> None:
        self.registry = Registry(self.redis, self.backup, breaker_seconds=0, actor="tester")
        self.history = History(self.registry, self.messages)
        self.cooling = Cooling(self.registry, self.history, now=self.clock)
        self.registry.raise_to("conv", 64)
        for number in range(20):
            self.put(f"2026-11-27T07:{number:02}:00Z", f"old{number}")

    def put(self, time: str, message_id: str, conversation_id: str = "conv") -> str:
        """Write a message, and return its partition key."""
        return self.history.put(conversation_id, f"{time}#{message_id}", {}).partition_key

    def cool(self, to: int = 1, **wait: float) -> CoolingResult:
        """Move the clock on, and take the conversation one phase further."""
        self.clock.advance(**wait)
        return self.cooling.cool("conv", to)

    def lookups(self) -> list[Lookup]:
        """Look up in Redis, and in the backup."""
        answers = [self.registry.lookup("conv")]
        self.redis.verified_primaries.clear()
        answers.append(self.registry.lookup("conv"))
        self.redis.verified_primaries.update(self.redis.held)
        return answers


@pytest.fixture
def world(clock: Clock) -> World:
    """Return a world."""
    return World(clock)


def test_a_conversation_is_narrowed_and_then_sealed(world: World) -> None:
    """Writers step back first, from both sources; readers look away after the wait, from the boundary on."""
    narrowed = world.cool()
    assert (narrowed.phase, narrowed.changed, narrowed.ready_at) == ("narrowed", True, "2026-11-27T08:10:00.000Z")
    assert [(a.max_n, a.write_n, a.recent_n, a.boundary) for a in world.lookups()] == [(64, 1, 64, None)] * 2
    assert world.put("2026-11-27T08:00:01Z", "new") == "conv"
    assert not world.cool(minutes=9, seconds=59).changed
    sealed = world.cool(seconds=1)
    assert (sealed.phase, sealed.changed, sealed.ready_at) == ("sealed", True, None)
    assert (sealed.recent_n, sealed.recent_from) == (1, SEALED_FROM)
    assert [(a.max_n, a.write_n, a.recent_n, a.boundary) for a in world.lookups()] == [(64, 1, 1, SEALED_FROM)] * 2
    assert world.lookups()[0].read_set(since=SEALED_FROM) == ["conv"]
    assert len(world.lookups()[0].read_set(since="2026-11-27T08")) == len(world.lookups()[0].read_set()) == 65
    assert not world.cool(minutes=1).changed
    assert len(list(world.history.messages("conv"))) == 21
    entry = world.backup.items["conv"]
    assert [(past.n, past.cooled) for past in entry.raises] == [(64, False), (1, True)]


def test_a_raise_in_between_ends_the_cool_down(world: World) -> None:
    """The raise that came between has widened the writers: readers must not look away."""
    world.cool()
    assert world.registry.raise_to("conv", 4).changed
    assert [(a.write_n, a.recent_n, a.boundary) for a in world.lookups()] == [(4, 64, None)] * 2
    assert world.cool(to=4, minutes=11).phase == "narrowed"
    sealed = world.cool(to=4, minutes=10)
    assert (sealed.phase, sealed.recent_n) == ("sealed", 4)


def test_a_raise_after_the_boundary_widens_readers_first(world: World) -> None:
    """It covers the recent salts too, in one step with max_n; max_n stays as it is."""
    world.cool()
    world.cool(minutes=10)
    result = world.registry.raise_to("conv", 8)
    assert (result.before, result.after, result.changed) == (1, 8, True)
    assert [(a.max_n, a.write_n, a.recent_n, a.boundary) for a in world.lookups()] == [(64, 8, 8, SEALED_FROM)] * 2
    assert not world.registry.raise_to("conv", 8).changed
    assert world.registry.raise_to("conv", 128).after == 128
    assert [(a.max_n, a.write_n, a.recent_n) for a in world.lookups()] == [(128, 128, 128)] * 2


def test_a_raise_that_stops_after_its_first_step_is_covered_by_readers(world: World) -> None:
    """A half-done raise is completed before the next cool-down begins, or it would be undone."""
    world.cool()
    world.cool(minutes=10)
    world.redis.fail(RedisUnavailableError("down"))
    with pytest.raises(RaiseIncompleteError):
        world.registry.raise_to("conv", 8)
    world.redis.fail(None)
    backup = world.lookups()[1]
    assert (backup.write_n, backup.recent_n) == (1, 8)
    assert world.backup.items["conv"].half_done
    assert world.cool().phase == "narrowed"
    assert [(a.write_n, a.recent_n, a.boundary) for a in world.lookups()] == [(1, 8, SEALED_FROM)] * 2


@pytest.mark.parametrize("fails", ["check_registry", "allow_cooling", "replace"])
@pytest.mark.parametrize("done", [False, True])
def test_a_process_that_dies_in_any_step_leaves_a_state_that_the_next_run_takes_further(
    world: World, fails: str, done: bool
) -> None:
    """In either phase, whether or not the step was done."""
    for wait, phase in ((0, "narrowed"), (10, "sealed")):
        faults = world.backup.faults.after if done else world.backup.faults.before
        faults[fails] = UnavailableError("died")
        world.clock.advance(minutes=wait)
        try:
            world.cooling.cool("conv", 1)
        except UnavailableError:
            assert len(list(world.history.messages("conv"))) == 20
        world.backup.faults.clear()
        result = world.cool()
        if result.phase != phase:  # the wait may have begun only now
            result = world.cool(minutes=10)
        assert result.phase == phase
        assert {a.write_n for a in world.lookups()} == {1}
    assert {(a.recent_n, a.boundary) for a in world.lookups()} <= {(1, world.backup.items["conv"].entry.boundary)}  # type: ignore[union-attr]


def test_without_redis_writers_there_may_still_spread_so_the_wait_does_not_begin(world: World) -> None:
    """Step 2 is not done, so the second phase does not begin, however long it takes."""
    world.redis.fail(RedisUnavailableError("down"))
    with pytest.raises(UnavailableError):
        world.cool()
    assert world.backup.items["conv"].write_n == 1
    with pytest.raises(UnavailableError):
        world.cool(minutes=30)
    world.redis.fail(None)
    assert world.cool().ready_at == "2026-11-27T08:40:00.000Z"


def test_the_wait_begins_anew_if_redis_has_lost_the_first_phase(world: World) -> None:
    """An older client may have overwritten the entry: its writers spread wide meanwhile."""
    world.cool()
    world.redis.held["redis-0:6379"]["conv"] = 64
    assert world.cool(minutes=10).phase == "narrowed"
    assert world.lookups()[0].write_n == 1
    assert world.cool(minutes=10).phase == "sealed"


def test_the_last_step_is_done_again(world: World) -> None:
    """Redis lacks the boundary, which costs reads and no message; the next run sets it."""
    world.cool()
    world.cool(minutes=10)
    world.redis.held["redis-0:6379"]["conv"] = CooledEntry(64, 1, 1)
    result = world.cool()
    assert (result.phase, result.changed) == ("sealed", True)
    assert world.lookups()[0].boundary == SEALED_FROM


def test_two_that_seal_at_once_find_one_boundary(world: World) -> None:
    """The first one wins; the second takes its boundary over."""
    world.cool()
    world.clock.advance(minutes=10)
    seal = world.backup.replace
    results = []

    def first(before: BackupEntry | None, after: BackupEntry) -> bool:
        world.backup.replace = seal  # type: ignore[method-assign]
        results.append(world.cool())
        return seal(before, after)

    world.backup.replace = first  # type: ignore[method-assign]
    results.append(world.cool())
    assert [r.recent_from for r in results] == [SEALED_FROM] * 2
    assert [r.changed for r in results] == [True, False]


def test_a_scheduled_message_pushes_the_boundary_up(world: World) -> None:
    """It stays readable, above all other messages, and the result names it."""
    key = world.put("2027-01-01T00:00:00Z", "party")
    assert "#" in key
    world.cool()
    sealed = world.cool(minutes=10)
    assert sealed.recent_from == "2027-01-01T00:00:00Z#party!"
    assert sealed.pushed_by == "2027-01-01T00:00:00Z#party"
    assert world.put("2026-11-27T08:10:00Z", "today") == "conv"
    assert [m.message_id for m in world.history.page("conv").messages][:2] == ["party", "today"]
    assert world.put("2027-06-01T00:00:00Z", "holidays") == "conv"
    assert next(iter(world.history.page("conv").messages)).message_id == "holidays"


def test_two_cool_downs_in_a_row(world: World) -> None:
    """Each has its own boundary; below the newest one every salt is read."""
    world.cool()
    world.cool(minutes=10)
    world.registry.raise_to("conv", 8)
    keys = {world.put(f"2026-11-27T10:{n:02}:00Z", f"again{n}") for n in range(20)}
    assert len(keys) > 4
    world.clock.advance(hours=4)
    assert world.cool(to=2).phase == "narrowed"
    second = world.cool(to=2, minutes=10)
    assert (second.phase, second.recent_n) == ("sealed", 2)
    assert second.recent_from == "2026-11-27T13:10:00"
    assert len(list(world.history.messages("conv"))) == 40


@pytest.mark.parametrize(
    ("keys", "boundary"),
    [
        ([1, 2, 3], "4"),
        (["a", "b#m"], "b#m!"),
    ],
)
def test_sort_keys_without_times_need_consent(clock: Clock, keys: list[int | str], boundary: str) -> None:
    """Their boundary is just above the newest row, without a margin."""
    world = World(clock)
    world.messages = messages = MemoryMessages("N" if isinstance(keys[0], int) else "S")
    world.history = History(world.registry, messages)
    for key in keys:
        messages.put("conv#3", Decimal(key) if isinstance(key, int) else key, {})
    world.cooling = Cooling(world.registry, world.history, now=clock)
    with pytest.raises(UnknownTimesError, match="hold no times that are known"):
        world.cool()
    assert world.backup.items["conv"].cooling is None
    world.cooling.any_form = True
    world.cool()
    assert str(world.cool(minutes=10).recent_from) == boundary


@pytest.mark.parametrize("to", [3, 0, 512])
def test_an_n_that_cannot_be_is_refused(world: World, to: int) -> None:
    """As for a raise."""
    with pytest.raises(InvalidSaltCountError):
        world.cool(to=to)


@pytest.mark.parametrize("to", [64, 128])
def test_nothing_is_changed_where_n_is_as_low_already(world: World, to: int) -> None:
    """Cooling never raises."""
    result = world.cool(to=to)
    assert (result.phase, result.changed, result.write_n, result.recent_n) == (None, False, 64, 64)
    assert not world.cooling.cool("unknown", 1).changed
    assert "unknown" not in world.backup.items


def test_a_preview_says_what_the_next_run_does(world: World) -> None:
    """In each phase, and it changes nothing."""
    for wait in ({}, {"minutes": 9}, {"minutes": 1}, {"minutes": 1}):
        world.clock.advance(**wait)
        before = dict(world.backup.items), world.redis.held["redis-0:6379"].copy()
        previewed = world.cooling.preview("conv", 1)
        assert (world.backup.items, world.redis.held["redis-0:6379"]) == before
        assert world.cool() == previewed
    assert previewed.phase == "sealed"
    world.redis.held["redis-0:6379"]["conv"] = 64
    assert world.cooling.preview("conv", 1).phase == "sealed"


def test_a_preview_sees_what_redis_has_lost_and_what_is_scheduled(world: World) -> None:
    """The wait would begin anew, and the boundary would lie above the scheduled message."""
    world.put("2027-01-01T00:00:00Z", "party")
    assert world.cooling.preview("conv", 1).pushed_by == "2027-01-01T00:00:00Z#party"
    world.cool()
    world.redis.held["redis-0:6379"]["conv"] = 64
    world.clock.advance(minutes=10)
    previewed = world.cooling.preview("conv", 1)
    assert (previewed.phase, previewed.ready_at) == ("narrowed", "2026-11-27T08:20:00.000Z")


def test_a_conversation_without_messages_is_not_begun(clock: Clock) -> None:
    """It could never be sealed."""
    world = World(clock)
    world.registry.raise_to("empty", 4)
    for any_form in (False, True):
        world.cooling.any_form = any_form
        with pytest.raises(RefusedError, match="has no messages"):
            world.cooling.cool("empty", 1)
    assert world.backup.items["empty"].cooling is None


def test_the_cost_of_a_page_is_measured(world: World) -> None:
    """As it is, and from the partitions that new messages use; afterwards it is that."""
    before, after = page_costs(world.history, "conv", 1)
    assert before.queries >= 65
    assert before.rcu >= 32
    assert after.queries == 1
    world.cool()
    world.cool(minutes=10)
    world.put("2026-11-27T10:00:00Z", "new")
    assert page_costs(world.history, "conv", 1)[1] == after


# Over real servers.


@pytest.mark.slow
def test_the_protocol_over_real_servers(
    settings: Settings, store: RedisRegistry, backup: BackupTable, registry: Registry, rebuild: Rebuilder, clock: Clock
) -> None:
    """Backup and Redis agree after each phase, a rebuild keeps what was cooled, and completes raises alone."""
    messages = MemoryMessages()
    history = History(registry, messages)
    cooling = Cooling(registry, history, now=clock)
    registry.raise_to("conv", 8)
    history.put("conv", "2026-11-27T07:00:00Z#m1", {})
    assert (backup.read_item("#registry") or {})["registry_format"] == {"N": "1"}
    rebuild()
    assert cooling.cool("conv", 1).phase == "narrowed"
    assert (backup.read_item("#registry") or {})["registry_format"] == {"N": "2"}
    clock.advance(minutes=10)
    assert cooling.cool("conv", 1).phase == "sealed"
    expected = CooledEntry(8, 1, 1, 1, 1, SEALED_FROM)
    held = backup.get("conv")
    assert held is not None
    assert held.entry == expected
    assert held.cooling == CoolingState(1, 1, 1, 1, 1, SEALED_FROM, "2026-11-27T08:00:00.000Z")
    assert store.read_unverified(["conv"]) == {"conv": expected}
    assert registry.lookup("conv") == Lookup("conv", 8, 1, "redis", 1, SEALED_FROM)
    assert registry.lookup_many(["conv", "other"])["conv"] == Lookup("conv", 8, 1, "redis", 1, SEALED_FROM)
    rebuild()
    assert store.read_unverified(["conv"]) == {"conv": expected}
    assert backup.get("conv") == held
    # A raise of which only the first step was done: readers cover it, and the rebuild completes it.
    backup.raise_max_n("conv", Raise(4, "2026-11-27T09:00:00.000Z", "tester", ""))
    assert rebuild().committed == 1
    assert registry.lookup("conv") == Lookup("conv", 8, 4, "redis", 4, SEALED_FROM)
    after = backup.get("conv")
    assert after is not None
    assert (after.write_n, after.target, after.max_n) == (4, 4, 8)
    assert registry.raise_to("conv", 16).after == 16
    assert registry.lookup("conv") == Lookup("conv", 16, 16, "redis", 16, SEALED_FROM)


@pytest.mark.slow
def test_clients_of_an_older_format_are_refused(
    settings: Settings,
    store: RedisRegistry,
    backup: BackupTable,
    registry: Registry,
    rebuild: Rebuilder,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A client that knows plain numbers alone takes no cooled entry for one, and the backup refuses it (78)."""
    registry.raise_to("conv", 8)
    registry.raise_to("plain", 4)
    history = History(registry, MemoryMessages())
    history.put("conv", "2026-11-27T07:00:00Z#m1", {})
    rebuild()
    Cooling(registry, history, now=clock).cool("conv", 1)
    older = BackupTable(settings)
    monkeypatch.setattr(registry_item, "COOLED_FORMAT", 1)
    monkeypatch.setattr("saltctl.stores.redis.buckets.parse_cooled", lambda text: None)
    with closing(Registry.over(settings, RedisRegistry(settings), older)) as client:
        with pytest.raises(OtherRegistryError) as refused:
            client.lookup("conv")
        assert refused.value.exit_code == 78
        assert client.lookup("plain").max_n == 4  # as correct as ever, from Redis
        with pytest.raises(OtherRegistryError):
            client.raise_to("plain", 8)
    with pytest.raises(OtherRegistryError):
        rebuild()
