"""Whatever breaks in the middle of a rebuild: no lookup is answered wrongly, and the next rebuild mends it all.

The servers are real; what breaks, breaks between two steps that the rebuild takes, at each of them in turn.
"""

from __future__ import annotations

import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import (
    AwsUnavailableError,
    ConfigurationError,
    DeadlineExceededError,
    LeaseHeldError,
    RebuildBrokenError,
    RedisUnavailableError,
    UnverifiedError,
)
from saltctl.local.servers import LocalRedis
from saltctl.rebuild.events import Event, RebuildProgress, RebuildReport, RebuildStarted, StartDelayed
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.contracts import DamagedEntry, Raise, RebuildSession
from saltctl.stores.redis.merge_commands import Entry
from saltctl.stores.redis.registry import FENCE, REBUILD, RedisRegistry
from tests.stores.conftest import find_engine, plain_client
from tests.support import Rebuilder
from tests.support.aws_stub import AwsStub, refusal

ENTRIES = {f"conv_{number:02}": 2 << number % 5 for number in range(18)}
At = Callable[[str], None]


on_each_engine = pytest.mark.parametrize("redis_binary", ["valkey", "redis"], indirect=True)
"""For what hangs on the engine's own behaviour; everything else runs on one of them."""


@pytest.fixture
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Valkey, or the engine that the test asks for."""
    return find_engine(getattr(request, "param", "valkey"))


@pytest.fixture
def admin(redis_server: LocalRedis) -> Iterator[Any]:
    """A plain client of the test's Redis, for what people do to a server by hand."""
    client = plain_client(redis_server)
    yield client
    client.close()


@pytest.fixture
def filled(backup: BackupTable) -> BackupTable:
    """A backup that holds ENTRIES, every raise completed."""
    put(
        backup,
        *({"conversation_id": {"S": i}, "max_n": {"N": str(n)}, "write_n": {"N": str(n)}} for i, n in ENTRIES.items()),
    )
    return backup


def put(backup: BackupTable, *items: dict[str, Any]) -> None:
    """Write items by hand, past everything that saltctl checks."""
    requests = [{"PutRequest": {"Item": item}} for item in items]
    backup.client.batch_write_item(RequestItems={backup.name: requests})


class WatchedSession(RebuildSession):
    """A session that calls ``at`` before each of its steps."""

    def __init__(self, inner: RebuildSession, at: At) -> None:
        self._inner = inner
        self._at = at

    @property
    def primary(self) -> str:
        """The primary's name."""
        return self._inner.primary

    @property
    def replication_id(self) -> str:
        """Who the primary was when it was marked."""
        return self._inner.replication_id

    def mark_buckets(self, token: str) -> None:
        """Step 3."""
        self._at("mark_buckets")
        self._inner.mark_buckets(token)

    def check_marks(self, token: str, replication_id: str) -> str:
        """Step 3 of a rebuild that is taken up again."""
        self._at("check_marks")
        return self._inner.check_marks(token, replication_id)

    def begin_merge(self, entries: Sequence[Entry]) -> None:
        """Step 4."""
        self._at("merge")
        self._inner.begin_merge(entries)

    def end_merge(self) -> int:
        """The end of step 4."""
        return self._inner.end_merge()

    def set_fence(self, token: str) -> None:
        """Step 5."""
        self._at("set_fence")
        self._inner.set_fence(token)

    def load_lookup(self) -> None:
        """The last act."""
        self._at("load_lookup")
        self._inner.load_lookup()

    def close(self) -> None:
        """Give the connection up."""
        self._inner.close()
        self._at("closed")


class WatchedRegistry(RedisRegistry):
    """The registry store, with sessions that are watched."""

    def __init__(self, settings: Settings, at: At) -> None:
        super().__init__(settings)
        self._at = at

    def sessions(self) -> list[Any]:
        """One new session for each primary."""
        return [WatchedSession(session, self._at) for session in super().sessions()]


Opener = Callable[..., Rebuild]


@pytest.fixture
def job(settings: Settings, backup: BackupTable) -> Iterator[Opener]:
    """Makes a rebuild that was not started: small pages, a heartbeat and a report of progress after each."""
    stores: list[RedisRegistry] = []

    def make(
        at: At = lambda point: None,
        *,
        now: Callable[[], float] = time.time,
        sleep: Callable[[float], None] = time.sleep,
        clock: Callable[[], float] | None = None,
        from_backup: BackupTable = backup,
        **options: Any,
    ) -> Rebuild:
        stores.append(WatchedRegistry(settings, at))
        ticks = count()
        return Rebuild(
            settings,
            stores[-1],
            from_backup,
            RebuildOptions(**({"segments": 1, "page_limit": 7} | options)),
            clock=clock or (lambda: 10.0 * next(ticks)),
            now=now,
            sleep=sleep,
        )

    yield make
    for store in stores:
        store.close()


def drive(rebuild: Rebuild, at: At = lambda point: None) -> list[Event]:
    """Run it to its end, calling ``at`` after each event, too."""
    events = []
    for event in rebuild.run():
        events.append(event)
        at(type(event).__name__)
    return events


class Fault:
    """Strikes once, at the ``number``-th point of a rebuild. ``points`` are those that came up, in order."""

    def __init__(self, number: int, strike: Callable[[], None]) -> None:
        self.number = number
        self.points: list[str] = []
        self._strike = strike

    def __call__(self, point: str) -> None:
        """Note the point, and strike at the right one."""
        if len(self.points) == self.number:
            self._strike()
        self.points.append(point)

    @property
    def struck_at(self) -> str | None:
        """Where it struck; None where the rebuild has fewer points than that."""
        return self.points[self.number] if self.number < len(self.points) else None

    def struck_between(self, after: str, until: str) -> bool:
        """Whether it struck after one step was done and before another was."""
        first, last = self.points.index(after), self.points.index(until) if until in self.points else 10**9
        return first < self.number <= last


def assert_never_wrong(store: RedisRegistry, registry: Registry) -> None:
    """Each lookup in Redis is right or refused, and each lookup of a client is right."""
    for conversation_id, n in ENTRIES.items():
        try:
            assert store.lookup(store.primaries()[0], [conversation_id]) == [n]
        except UnverifiedError:
            continue
    assert {i: lookup.max_n for i, lookup in registry.lookup_many(ENTRIES).items()} == ENTRIES


def assert_unverified(store: RedisRegistry, registry: Registry) -> None:
    """No lookup is answered by Redis, and each is answered rightly."""
    assert set(store.verified().values()) == {False}
    for conversation_id in ENTRIES:
        with pytest.raises(UnverifiedError):
            store.lookup(store.primaries()[0], [conversation_id])
    found = registry.lookup_many(ENTRIES)
    assert {i: (lookup.max_n, lookup.source) for i, lookup in found.items()} == {
        i: (n, "backup") for i, n in ENTRIES.items()
    }


def assert_verified(store: RedisRegistry) -> None:
    """Redis answers every lookup, and rightly."""
    assert set(store.verified().values()) == {True}
    assert store.lookup(store.primaries()[0], list(ENTRIES)) == list(ENTRIES.values())


# Redis dies.


@on_each_engine
@pytest.mark.parametrize("comes_back", ["empty", "with its AOF"])
def test_redis_killed_at_any_point(
    filled: BackupTable,
    redis_server: LocalRedis,
    store: RedisRegistry,
    registry: Registry,
    job: Opener,
    rebuild: Rebuilder,
    comes_back: str,
) -> None:
    """SIGKILL between any two steps, and a new process at once on the same port: the rebuild does not verify it."""

    def kill() -> None:
        redis_server.kill()
        if comes_back == "empty":
            redis_server.delete_aof()
        redis_server.start()

    for number in count():
        fault = Fault(number, kill)
        try:
            drive(job(fault), fault)
        except RedisUnavailableError:
            assert fault.struck_between("RebuildStarted", "load_lookup") or fault.struck_at == "RebuildStarted", (
                fault.points
            )
        else:
            if fault.struck_at is None:
                break
            assert "load_lookup" in fault.points[:number], fault.points
        assert_unverified(store, registry)
        assert rebuild().verified
        assert_verified(store)
        redis_server.kill()
        redis_server.delete_aof()
        redis_server.start()
    assert fault.points == [
        "RebuildStarted",
        "mark_buckets",
        *["merge", "RebuildProgress"] * 3,
        "set_fence",
        "load_lookup",
        "closed",
        "RebuildReport",
    ]


def test_redis_stays_down(filled: BackupTable, redis_server: LocalRedis, registry: Registry, job: Opener) -> None:
    """Redis dies and does not come back: the rebuild fails, lookups go on, and the lease is free again."""
    fault = Fault(4, redis_server.kill)
    with pytest.raises(RedisUnavailableError, match="cannot be reached"):
        drive(job(fault), fault)
    assert registry.lookup("conv_00").max_n == ENTRIES["conv_00"]
    assert filled.lease.holder() is None


# Redis lives, and loses data.


@on_each_engine
@pytest.mark.parametrize("lost", ["everything", "one bucket"])
def test_data_lost_at_any_point(
    filled: BackupTable,
    store: RedisRegistry,
    registry: Registry,
    admin: Any,
    job: Opener,
    rebuild: Rebuilder,
    lost: str,
) -> None:
    """FLUSHALL, DEL or eviction after a bucket was marked break the rebuild; after it was fenced, the fence is gone."""

    def lose() -> None:
        admin.execute_command("FLUSHALL") if lost == "everything" else admin.delete(store.key_of("conv_00"))

    for number in count():
        fault = Fault(number, lose)
        try:
            drive(job(fault), fault)
        except RebuildBrokenError:
            assert fault.struck_between("mark_buckets", "set_fence"), fault.points
        else:
            assert fault.struck_at is None or not fault.struck_between("mark_buckets", "set_fence"), fault.points
            if fault.struck_at is None:
                break
        assert_never_wrong(store, registry)
        if fault.number > 1:
            with pytest.raises(UnverifiedError):
                store.lookup(store.primaries()[0], ["conv_00"])
        rebuild()
        assert_verified(store)
        admin.execute_command("FLUSHALL")
        admin.execute_command("SCRIPT", "FLUSH")


def test_what_was_merged_before_the_break_is_kept(
    filled: BackupTable, admin: Any, store: RedisRegistry, job: Opener, rebuild: Rebuilder
) -> None:
    """A rebuild that lost one bucket is cheap to repeat: only what was lost is raised again."""
    bucket = store.key_of("conv_00")
    lost = sum(store.key_of(i) == bucket for i in ENTRIES)
    with pytest.raises(RebuildBrokenError, match=bucket) as broken:
        drive(job(lambda point: admin.delete(bucket) if point == "set_fence" else None))
    assert broken.value.exit_code == 4
    assert rebuild().restored == lost
    assert_verified(store)


@on_each_engine
def test_a_failover_in_the_middle_breaks_it(
    filled: BackupTable, admin: Any, store: RedisRegistry, registry: Registry, job: Opener, rebuild: Rebuilder
) -> None:
    """Demoted and promoted again between two steps: connection and tokens survive it, and nothing is verified."""

    def demote_and_promote() -> None:
        admin.execute_command("REPLICAOF", "127.0.0.1", "1")
        admin.execute_command("REPLICAOF", "NO", "ONE")

    fault = Fault(4, demote_and_promote)
    with pytest.raises(RebuildBrokenError, match="replication id"):
        drive(job(fault), fault)
    assert_unverified(store, registry)
    rebuild()
    assert_verified(store)


# A verified Redis is not disturbed.


def test_lookups_go_on_during_a_rebuild(
    filled: BackupTable, store: RedisRegistry, job: Opener, rebuild: Rebuilder
) -> None:
    """A rebuild of a verified Redis is a check: Redis answers at every point, and nothing is raised."""
    rebuild()
    events = drive(job(lambda point: assert_verified(store)), lambda point: assert_verified(store))
    assert isinstance(events[0], RebuildStarted)
    assert events[0].verified_before
    report = events[-1]
    assert isinstance(report, RebuildReport)
    assert (report.restored, report.unchanged) == (0, len(ENTRIES))


@on_each_engine
def test_before_its_last_act_nothing_is_verified(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """An unverified Redis answers no lookup until the rebuild is over."""
    verified_at = []

    def at(point: str) -> None:
        assert_never_wrong(store, registry)
        if all(store.verified().values()):
            verified_at.append(point)

    drive(job(at), at)
    assert verified_at == ["closed", "RebuildReport"]


# Raises meanwhile.


def test_raises_during_a_rebuild_are_not_lost(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """Raises of old and new conversations at every point: each is acknowledged, and Redis has them all."""
    raised: dict[str, int] = {}
    old = iter(ENTRIES)

    def at(point: str) -> None:
        for conversation_id in (next(old), f"new_{len(raised):02}"):
            registry.raise_to(conversation_id, 64)
            raised[conversation_id] = 64
            assert registry.lookup(conversation_id).max_n == 64

    drive(job(at), at)
    wanted = ENTRIES | raised
    assert store.lookup(store.primaries()[0], list(wanted)) == list(wanted.values())


def test_raises_that_go_on_all_the_time_are_not_lost(
    filled: BackupTable, store: RedisRegistry, registry: Registry, admin: Any, job: Opener
) -> None:
    """From three threads without a pause, while Redis is rebuilt, emptied and rebuilt again: every one is there."""
    rounds, done = 6, threading.Event()

    def keep_raising(raiser: int) -> dict[str, int]:
        acknowledged: dict[str, int] = {}
        for number in count():
            if done.is_set():
                return acknowledged
            name = f"new_{raiser}_{number // 5}" if number % 2 else list(ENTRIES)[(3 * number + raiser) % len(ENTRIES)]
            n = max(acknowledged.get(name, 0), ENTRIES.get(name, 1)) * 2
            if n <= 256:
                acknowledged[name] = registry.raise_to(name, n).after
            assert registry.lookup(name).max_n >= acknowledged.get(name, 1)
        raise AssertionError("unreachable")

    with ThreadPoolExecutor(3) as pool:
        raisers = [pool.submit(keep_raising, raiser) for raiser in range(3)]
        try:
            for _ in range(rounds):
                (*_, report) = drive(job(clock=time.monotonic))
                assert isinstance(report, RebuildReport)
                assert report.verified
                admin.flushall()
            drive(job(clock=time.monotonic))
        finally:
            done.set()
        found: dict[str, int] = dict(ENTRIES)
        for raiser in raisers:
            for name, n in raiser.result().items():
                found[name] = max(found.get(name, 1), n)
    assert sum(name.startswith("new_") for name in found) >= 2 * rounds
    held = dict(zip(found, store.lookup(store.primaries()[0], list(found)), strict=True))
    assert held == found


def test_half_done_raises_are_completed(backup: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """Raises that died after step 1 are in Redis before writers may use them, and committed at the end."""
    for conversation_id, n in ENTRIES.items():
        backup.raise_max_n(conversation_id, Raise(n, "2024-05-01T12:00:00Z", "somebody", ""))
    committed_at = {}

    def at(point: str) -> None:
        entries = backup.get_many(list(ENTRIES)).values()
        committed_at[point] = sum(entry.write_n == entry.max_n for entry in entries)

    report = drive(job(at), at)[-1]
    assert isinstance(report, RebuildReport)
    assert report.committed == len(ENTRIES)
    assert committed_at["load_lookup"] == 0
    assert committed_at["RebuildReport"] == len(ENTRIES)
    assert_verified(store)


def test_damaged_items_are_skipped_and_named(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """What saltctl cannot have written is reported one by one, and does not keep the rest from being verified."""
    put(
        filled,
        {"conversation_id": {"S": "missing"}},
        {"conversation_id": {"S": "text"}, "max_n": {"S": "4"}},
        {"conversation_id": {"S": "negative"}, "max_n": {"N": "-4"}},
        {"conversation_id": {"S": "fraction"}, "max_n": {"N": "2.5"}},
        {"conversation_id": {"S": "zero"}, "max_n": {"N": "0"}},
        {"conversation_id": {"S": "#own"}, "max_n": {"S": "not a conversation"}},
    )
    events = drive(job())
    named = {event.conversation_id: event.problem for event in events if isinstance(event, DamagedEntry)}
    assert named == {
        "missing": "it has no max_n",
        "text": "its max_n is not a number",
        "negative": "its max_n is -4, not a positive whole number",
        "fraction": "its max_n is 2.5, not a positive whole number",
        "zero": "its max_n is 0, not a positive whole number",
    }
    report = events[-1]
    assert isinstance(report, RebuildReport)
    assert (report.entries, report.skipped, report.verified) == (len(ENTRIES), 5, True)
    assert_verified(store)


# The lease.


def test_a_second_rebuild_is_refused(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """It names the process that is at it; the first one goes on undisturbed."""
    first = job().run()
    assert isinstance(next(first), RebuildStarted)
    with pytest.raises(LeaseHeldError) as refused:
        drive(job())
    assert f"process {os.getpid()} on {socket.gethostname()}" in refused.value.message
    assert refused.value.exit_code == 75
    assert isinstance(list(first)[-1], RebuildReport)
    assert_verified(store)


def test_a_second_rebuild_waits_for_the_first(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """With --lock-wait it says for whom it waits, and then does its own work."""
    first = job().run()
    next(first)
    second = job(lock_wait=60.0, sleep=lambda seconds: list(first).clear(), clock=time.monotonic)
    events = drive(second)
    assert isinstance(events[0], StartDelayed)
    assert str(os.getpid()) in events[0].reason
    assert isinstance(events[-1], RebuildReport)
    assert events[-1].restored == 0


def test_waiting_for_the_lease_has_an_end(filled: BackupTable, job: Opener) -> None:
    """After --lock-wait the refusal comes all the same."""
    filled.lease.acquire("other", 1000.0, host="elsewhere", pid=77, expiry=LEASE_EXPIRY)
    seconds = [0.0]
    waiting = job(
        lock_wait=3.0,
        now=lambda: 1001.0,
        clock=lambda: seconds[0],
        sleep=lambda pause: seconds.__setitem__(0, seconds[0] + pause),
    )
    with pytest.raises(LeaseHeldError, match="process 77 on elsewhere"):
        drive(waiting)
    assert seconds[0] == pytest.approx(3.0, abs=0.02)


def test_the_lease_of_a_dead_holder_is_taken_over(filled: BackupTable, store: RedisRegistry, job: Opener) -> None:
    """Its heartbeat has to be older than the expiry; until then the holder counts as alive."""
    filled.lease.acquire("dead", 1000.0, host="elsewhere", pid=77, expiry=LEASE_EXPIRY)
    with pytest.raises(LeaseHeldError, match=r"process 77 on elsewhere .*heartbeat 29 s ago"):
        drive(job(now=lambda: 1000.0 + LEASE_EXPIRY - 1))
    drive(job(now=lambda: 1000.0 + LEASE_EXPIRY + 1))
    assert_verified(store)
    assert filled.lease.holder() is None


def test_a_rebuild_that_lost_its_lease_stops(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """It was silent for too long, and somebody took over: it notices at its next heartbeat, and leaves theirs alone."""

    def take_over(point: str) -> None:
        if point == "RebuildProgress":
            filled.lease.acquire("other", time.time() + 2 * LEASE_EXPIRY, host="elsewhere", pid=77, expiry=LEASE_EXPIRY)

    with pytest.raises(LeaseHeldError, match="taken over"):
        drive(job(take_over), take_over)
    assert_unverified(store, registry)
    holder = filled.lease.holder()
    assert holder is not None
    assert holder.owner == "other"


@pytest.mark.parametrize("other_gets_to", ["the end", "the middle"])
def test_two_rebuilds_at_once_are_safe(
    filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener, other_gets_to: str
) -> None:
    """Safety does not hang on the lease: the one that marked first cannot fence, the other one can."""
    other = job(now=lambda: time.time() + 2 * LEASE_EXPIRY).run()

    def at(point: str) -> None:
        if point == "set_fence":
            while not isinstance(event := next(other), RebuildReport):
                if other_gets_to == "the middle" and isinstance(event, RebuildProgress):
                    break

    # A clock that stands still: this one sends no heartbeat, and does not learn that it lost its lease.
    with pytest.raises(RebuildBrokenError, match="token"):
        drive(job(at, clock=lambda: 0.0))
    if other_gets_to == "the middle":
        assert_unverified(store, registry)
    rest = list(other)
    assert [type(event) for event in rest][-1:] == ([RebuildReport] if other_gets_to == "the middle" else [])
    assert_verified(store)


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_rebuild_gives_its_lease_back(
    filled: BackupTable,
    store: RedisRegistry,
    registry: Registry,
    job: Opener,
    rebuild: Rebuilder,
    interruption: type[BaseException],
) -> None:
    """^C or SIGTERM in the middle: the lease is free at once, nothing was verified, and the next one succeeds."""
    running = job().run()
    assert isinstance(running, Iterator)
    assert [type(next(running)) for _ in range(2)] == [RebuildStarted, RebuildProgress]
    assert filled.lease.holder() is not None
    with pytest.raises(interruption):
        running.throw(interruption())
    assert filled.lease.holder() is None
    assert_unverified(store, registry)
    rebuild()
    assert_verified(store)


def test_an_abandoned_rebuild_gives_its_lease_back(filled: BackupTable, job: Opener) -> None:
    """Whoever stops iterating closes the generator, and with it everything that it holds."""
    running = job().run()
    next(running)
    running.close()
    assert filled.lease.holder() is None


# The backup fails.


@pytest.fixture
def stub(settings: Settings) -> Iterator[AwsStub]:
    """An HTTP server in front of moto that answers with errors where it is told to."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as server:
        yield server


@pytest.fixture
def behind_stub(settings: Settings, filled: BackupTable, stub: AwsStub) -> BackupTable:
    """The backup as seen through the stub, one attempt a request."""
    there = stub.settings(settings)
    return BackupTable(there, client=create_client(there, "dynamodb", attempts=1))


def test_a_backup_that_fails_in_the_middle_verifies_nothing(
    behind_stub: BackupTable, stub: AwsStub, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """Server errors after the first page: the rebuild fails, also where its lease cannot be given back."""
    failing = threading.Event()

    def rule(operation: str, request: dict[str, Any]) -> Any:
        if operation == "Scan" and "ExclusiveStartKey" in request:
            failing.set()
        return refusal("InternalServerError", 500) if failing.is_set() else None

    stub.rule = rule
    with pytest.raises(AwsUnavailableError, match="server error"):
        drive(job(from_backup=behind_stub))
    assert_unverified(store, registry)
    assert 0 < sum(n is not None for n in store.read_unverified(list(ENTRIES)).values()) <= 7


def test_a_throttled_heartbeat_does_not_end_it(
    behind_stub: BackupTable, stub: AwsStub, store: RedisRegistry, job: Opener
) -> None:
    """Safety does not hang on the lease: a rebuild whose heartbeats are throttled goes on to its end."""

    def rule(operation: str, request: dict[str, Any]) -> Any:
        beat = operation == "UpdateItem" and "lease_progress = :progress" in request["UpdateExpression"]
        return refusal("ThrottlingException") if beat and "lease_owner" not in request["UpdateExpression"] else None

    stub.rule = rule
    drive(job(from_backup=behind_stub))
    assert stub.seen.count("UpdateItem") > 3
    assert_verified(store)


def test_a_throttled_scan_takes_longer(
    behind_stub: BackupTable, stub: AwsStub, store: RedisRegistry, job: Opener
) -> None:
    """Throttling is waited out: a recovery must not fail because everybody recovers at once."""
    stub.answer_first(2, "Scan", refusal("ProvisionedThroughputExceededException"))
    drive(job(from_backup=behind_stub))
    assert_verified(store)


def test_a_table_that_vanishes_verifies_nothing(
    filled: BackupTable, store: RedisRegistry, job: Opener, settings: Settings
) -> None:
    """ConfigurationError: an empty backup must not be taken for a registry in which nothing is salted."""

    def at(point: str) -> None:
        if point == "RebuildProgress":
            filled.client.update_table(TableName=settings.backup_table, DeletionProtectionEnabled=False)
            filled.client.delete_table(TableName=settings.backup_table)

    with pytest.raises(ConfigurationError, match="there is no DynamoDB table"):
        drive(job(at), at)
    assert set(store.verified().values()) == {False}


# Waiting for Redis.


def test_waiting_for_a_redis_that_is_down(
    filled: BackupTable, redis_server: LocalRedis, store: RedisRegistry, job: Opener
) -> None:
    """With --wait-redis it says that it waits, and begins when Redis is there."""
    redis_server.kill()
    redis_server.delete_aof()
    events = drive(job(wait_redis=60.0, clock=time.monotonic, sleep=lambda seconds: redis_server.start()))
    assert isinstance(events[0], StartDelayed)
    assert "cannot be reached" in events[0].reason
    assert events[0].percent is None
    assert isinstance(events[-1], RebuildReport)
    assert_verified(store)


def test_without_waiting_a_redis_that_is_down_is_an_error(
    filled: BackupTable, redis_server: LocalRedis, job: Opener
) -> None:
    """At once, and before the lease was taken."""
    redis_server.kill()
    with pytest.raises(RedisUnavailableError, match="cannot be reached"):
        drive(job())
    assert filled.lease.holder() is None


def test_waiting_for_redis_has_an_end(filled: BackupTable, redis_server: LocalRedis, job: Opener) -> None:
    """After --wait-redis it is an error that says what Redis was doing."""
    redis_server.kill()
    seconds = [0.0]
    with pytest.raises(DeadlineExceededError, match=r"not ready after 1 s: .* cannot be reached") as late:
        drive(
            job(
                wait_redis=1.0,
                clock=lambda: seconds[0],
                sleep=lambda pause: seconds.__setitem__(0, seconds[0] + pause),
            )
        )
    assert late.value.exit_code == 124


@on_each_engine
def test_waiting_for_a_redis_that_loads(
    filled: BackupTable, redis_server: LocalRedis, admin: Any, store: RedisRegistry, job: Opener, redis_binary: Path
) -> None:
    """While an AOF is read, the waiting is told with the percentage and the time that INFO expects."""
    with admin.pipeline(transaction=False) as pipeline:
        for number in range(30_000):
            pipeline.hset("salt:other", str(number), "1")
        pipeline.execute()
    redis_server.kill()
    slow = LocalRedis(redis_server.directory, binary=redis_binary, options={"key-load-delay": "100"})
    slow.port = redis_server.port
    seen: list[StartDelayed] = []

    def sleep(seconds: float) -> None:
        if seen and seen[-1].percent is not None:
            admin.config_set("key-load-delay", 0)
        time.sleep(0.01)

    try:
        slow.start(wait=False)
        for event in job(wait_redis=60.0, clock=time.monotonic, sleep=sleep).run():
            if isinstance(event, StartDelayed):
                seen.append(event)
        assert_verified(store)
    finally:
        slow.kill()
    loading = [event for event in seen if event.percent is not None]
    assert loading
    assert all("loading" in event.reason and 0 <= (event.percent or 0) <= 100 for event in loading)
    assert all((event.eta_seconds or 0) >= 0 for event in loading)


# The dry run.


@pytest.fixture
def dump(admin: Any, filled: BackupTable, settings: Settings) -> Callable[[], Any]:
    """Everything that is in Redis and in the backup table now."""

    def take() -> Any:
        hashes = {key: admin.hgetall(key) for key in sorted(admin.scan_iter())}
        items = filled.client.scan(TableName=settings.backup_table)["Items"]
        return hashes, sorted(map(repr, items)), admin.info("memory")["number_of_cached_scripts"]

    return take


@pytest.mark.parametrize("before", ["empty", "verified", "flushed", "somebody holds the lease"])
def test_a_dry_run_changes_nothing(
    filled: BackupTable,
    store: RedisRegistry,
    admin: Any,
    job: Opener,
    rebuild: Rebuilder,
    dump: Callable[[], Any],
    before: str,
) -> None:
    """It counts what a rebuild would raise and skip, and writes nowhere: no entry, fence, script, lease or layout."""
    missing = len(ENTRIES)
    if before != "empty":
        rebuild()
        missing = 0
    if before == "flushed":
        admin.execute_command("FLUSHALL")
        missing = len(ENTRIES)
    if before == "somebody holds the lease":
        filled.lease.acquire("other", time.time(), host="elsewhere", pid=77, expiry=LEASE_EXPIRY)
    put(filled, {"conversation_id": {"S": "bad"}, "max_n": {"S": "four"}})
    filled.raise_max_n("half", Raise(4, "2024-05-01T12:00:00Z", "somebody", ""))
    state = dump()
    events = drive(job(dry_run=True))
    assert dump() == state
    report = events[-1]
    assert isinstance(report, RebuildReport)
    assert (report.entries, report.restored, report.skipped) == (len(ENTRIES) + 1, missing + 1, 1)
    assert report.dry_run
    assert report.committed == 0
    assert report.verified is (before in ("verified", "somebody holds the lease"))


def test_a_rebuild_leaves_no_traces(filled: BackupTable, admin: Any, job: Opener, settings: Settings) -> None:
    """Fences and entries, and nothing of the rebuild itself; one fence for every bucket."""
    drive(job())
    hashes = {key: admin.hgetall(key) for key in admin.scan_iter()}
    assert len(hashes) == settings.buckets
    assert not any(REBUILD.encode() in held for held in hashes.values())
    assert all(FENCE.encode() in held for held in hashes.values())
    assert sum(len(held) for held in hashes.values()) == len(ENTRIES) + settings.buckets


def test_a_rebuild_never_lowers(filled: BackupTable, store: RedisRegistry, registry: Registry, job: Opener) -> None:
    """What Redis holds above the backup stays: somebody restored the table from last week, and Redis knows better."""
    store.merge("conv_00", 128)
    drive(job())
    assert registry.lookup("conv_00").max_n == 128


def test_the_rebuild_of_an_empty_backup_verifies_an_empty_registry(
    backup: BackupTable, store: RedisRegistry, registry: Registry, job: Opener
) -> None:
    """On the first day nothing is salted, and that is an answer."""
    report = drive(job())[-1]
    assert isinstance(report, RebuildReport)
    assert (report.entries, report.verified) == (0, True)
    assert registry.lookup("conv").source == "redis"
