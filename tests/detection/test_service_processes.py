"""The service on real servers that are killed, emptied or throttled: no raise is lost or done twice."""

from __future__ import annotations

import threading
import time
from binascii import crc32
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest

from saltctl.detection.detector import BatchResult, Detector
from saltctl.detection.events import Counters
from saltctl.detection.fence_watcher import FenceWatcher
from saltctl.detection.service import Service
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import SHARDS, WindowSums
from saltctl.stores.redis.registry import RedisRegistry
from tests.detection.conftest import EventLog
from tests.support import Rebuilder, rebuild_job
from tests.support.aws_stub import AwsStub, refusal

pytestmark = pytest.mark.slow


class Instance:
    """A service with everything real, stepped by the test."""

    def __init__(
        self, settings: Settings, event_log: EventLog, consumer: str = "one", backup: BackupTable | None = None
    ) -> None:
        self.settings = settings
        self.event_log = event_log
        self.stream = HeatStream(settings, block=0.2)
        self.store = RedisRegistry(settings)
        self.backup = backup or BackupTable(settings)
        self.sums = WindowSums(settings)
        self.letters = DeadLetters(settings)
        self.stop = threading.Event()
        self.counters = Counters()
        self.detector = Detector(
            self.sums,
            Registry.over(settings, self.store, self.backup),
            self.letters,
            settings,
            counters=self.counters,
        )
        self.fence_watcher = FenceWatcher(
            self.store,
            settings.buckets,
            lambda: rebuild_job(settings, self.store, self.backup),
            counters=self.counters,
            stop=self.stop,
        )
        self.service = Service(
            self.stream,
            self.detector,
            consumer=consumer,
            settings=settings,
            stop=self.stop,
            block=0.05,
            claim_idle=0.001,
        )

    def step_until(self, done: Callable[[], bool], seconds: float = 30.0) -> None:
        """Step without waiting for the back-off until a condition is true."""
        deadline = time.monotonic() + seconds
        while not done():
            assert time.monotonic() < deadline, self.event_log.events[-5:]
            self.service.step()

    def drained(self) -> bool:
        """Whether nothing is unread or pending."""
        group = self.stream.info().group(self.stream.group)
        return group is not None and group.lag == 0 and group.pending == 0

    def close(self) -> None:
        """Give up the connections."""
        for part in (self.stream, self.store, self.sums, self.letters):
            part.close()


NewInstance = Callable[..., Instance]


@pytest.fixture
def instance(settings: Settings, backup: BackupTable, rebuild: Rebuilder, event_log: EventLog) -> Iterator[NewInstance]:
    """Makes instances over a verified registry."""
    made: list[Instance] = []
    rebuild()
    HeatStream(settings).create_group()

    def make(consumer: str = "one", **options: Any) -> Instance:
        one = Instance(options.pop("settings", settings), event_log, consumer, **options)
        made.append(one)
        return one

    yield make
    for one in made:
        one.close()


def report(
    settings: Settings, *reports: tuple[str, int], server: str = "app-1", age: int = 0, window: int | None = None
) -> None:
    """Add reports to the stream, as a meter does; by default of the current second."""
    window = int(time.time()) - age if window is None else window
    stream = HeatStream(settings)
    stream.append_reports([HeatReport(conversation, server, window, writes) for conversation, writes in reports])
    stream.close()


def max_n(backup: BackupTable, conversation_id: str) -> int:
    """Return max_n in the backup."""
    entry = backup.get(conversation_id)
    return 1 if entry is None else entry.max_n


def test_hot_conversations_are_raised_and_acknowledged(
    instance: NewInstance, settings: Settings, registry: Registry
) -> None:
    """From the stream to a lookup: the reports of two servers need 4 salts, and no entry stays pending."""
    one = instance()
    second = int(time.time())
    report(settings, ("hot", 1000), ("cold", 20), window=second)
    report(settings, ("hot", 1000), server="app-2", window=second)
    one.step_until(one.drained)
    assert registry.lookup("hot").max_n == 4
    assert registry.lookup("hot").source == "redis"
    assert registry.lookup("cold").max_n == 1


def test_instances_share_one_sum(instance: NewInstance, settings: Settings, backup: BackupTable) -> None:
    """A hundred servers' reports over two instances: whichever gets which, the sum is one."""
    one, two = instance("one"), instance("two")
    second = int(time.time())
    for number in range(100):
        report(settings, ("hot", 79), server=f"app-{number}", window=second)
    entries = one.stream.read_new("one", 50)
    one.detector.handle(entries, one.stream)
    two.step_until(two.drained)
    assert max_n(backup, "hot") == 16


def test_entries_of_a_dead_instance_are_claimed(instance: NewInstance, settings: Settings, backup: BackupTable) -> None:
    """An instance that read and died between raise and acknowledgement: another one does it again, to no harm."""
    dead, alive = instance("dead"), instance("alive")
    report(settings, ("hot", 2000))
    entries = dead.stream.read_new("dead", 10)
    dead.detector.handle(entries, None)
    alive.step_until(alive.drained)
    assert alive.counters.claimed == 1
    entry = backup.get("hot")
    assert entry is not None
    assert [r.n for r in entry.raises] == [4]


def test_two_instances_of_one_name_are_harmless(instance: NewInstance, settings: Settings, backup: BackupTable) -> None:
    """Both read the pending entries of the name; each raise is done once, and all entries are acknowledged."""
    one, two = instance("same"), instance("same")
    report(settings, *((f"c{number}", 2000) for number in range(10)))
    one.stream.read_new("same", 5)
    two.service.step()
    one.step_until(one.drained)
    two.service.step()
    for number in range(10):
        entry = backup.get(f"c{number}")
        assert entry is not None
        assert [r.n for r in entry.raises] == [4]


def test_invalid_entries_become_dead_letters(instance: NewInstance, settings: Settings) -> None:
    """An entry that was added by hand becomes a dead letter with its reason; if it is small, it can be requeued."""
    one = instance()
    one.stream.append({"hello": "\x1b[31mworld"})
    one.stream.append({"v": "7", "x": "y" * 100_000})
    one.step_until(one.drained)
    first, second = one.letters.list()
    assert (first.reason, first.fields, first.whole) == ("no version", [(b"hello", b"\x1b[31mworld")], True)
    assert "bytes" in second.reason
    assert not second.whole
    one.letters.requeue(first)
    one.step_until(one.drained)
    assert [letter.reason for letter in one.letters.list()] == [second.reason, "requeued once: no version"]
    one.letters.requeue(one.letters.list()[-1])
    one.step_until(one.drained)
    again = one.letters.list()[-1]
    assert (again.reason, again.whole) == ("requeued 2 times: no version", True)
    assert again.fields == [(b"hello", b"\x1b[31mworld"), (b"requeued", b"2")]


def damage_item(settings: Settings, backup: BackupTable) -> None:
    """Write an item by hand whose raises are no list."""
    item = {"conversation_id": {"S": "bad"}, "max_n": {"N": "2"}, "write_n": {"N": "2"}, "raises": {"S": "by hand"}}
    backup.client.put_item(TableName=settings.backup_table, Item=item)


def damage_bucket(settings: Settings, backup: BackupTable) -> None:
    """Overwrite the bucket of the conversation with a string."""
    _overwrite(settings, f"{settings.key_prefix}:r:{bucket_of('bad', settings.buckets)}")


def damage_sum(settings: Settings, backup: BackupTable) -> None:
    """Overwrite the sums that the conversation shares with others."""
    shard = crc32(b"bad") % SHARDS
    _overwrite(settings, *(f"{settings.key_prefix}:sum:{int(time.time()) + late}:{shard}" for late in range(-2, 30)))


def _overwrite(settings: Settings, *keys: str) -> None:
    import redis

    with redis.Redis.from_url(settings.require_redis_url()) as client:
        for key in keys:
            client.set(key, "x")


@pytest.mark.parametrize(
    ("damage", "share_an_entry"),
    [(damage_item, False), (damage_item, True), (damage_bucket, False), (damage_sum, False)],
)
def test_a_conversation_that_cannot_be_raised_stops_no_other(
    instance: NewInstance,
    settings: Settings,
    backup: BackupTable,
    damage: Callable[[Settings, BackupTable], None],
    share_an_entry: bool,
) -> None:
    """Others of its batch, or of its entry, and later ones are raised before it becomes a dead letter."""
    one = instance()
    damage(settings, backup)
    for reports in [(("bad", 5000), ("good", 5000))] if share_an_entry else [(("bad", 5000),), (("good", 5000),)]:
        report(settings, *reports)
    one.step_until(lambda: max_n(backup, "good") == 8)
    report(settings, ("later", 5000))
    one.step_until(lambda: max_n(backup, "later") == 8)
    one.step_until(one.drained, 120.0)
    (letter,) = one.letters.list()
    kept = (b"reports", b'[["bad",5000],["good",5000]]') if share_an_entry else (b"conversation_id", b"bad")
    assert kept in letter.fields
    assert letter.reason.startswith("'bad': the raise cannot" if share_an_entry else "the raise cannot be done")
    assert (one.counters.dead, one.counters.acknowledged) == (1, 2 if share_an_entry else 3)


@pytest.mark.parametrize("phase", ["reading", "summing", "before the acknowledgement"])
def test_redis_restarts_under_an_instance(
    instance: NewInstance, settings: Settings, backup: BackupTable, redis_server: LocalRedis, phase: str
) -> None:
    """Redis is killed and comes back with its AOF at any moment: the reports are handled, the raise is one."""
    one = instance()
    keep_every_write(settings)
    report(settings, ("hot", 2000))
    kill = Killer(redis_server)
    if phase == "reading":
        redis_server.kill()
    elif phase == "summing":
        kill.before(one.sums, "add")
    else:
        kill.before(one.stream, "acknowledge")
    one.step_until(lambda: bool(one.event_log.fields_of("backing_off")))
    redis_server.start()
    one.step_until(one.drained)
    entry = backup.get("hot")
    assert entry is not None
    assert [r.n for r in entry.raises] == [4]
    assert entry.write_n == 4


class Killer:
    """Kills a server right before a method does its work, once."""

    def __init__(self, server: LocalRedis) -> None:
        self._server = server

    def before(self, owner: Any, method: str) -> None:
        """Arm it."""
        does = getattr(owner, method)

        def killing(*args: Any) -> Any:
            setattr(owner, method, does)
            self._server.kill()
            return does(*args)

        setattr(owner, method, killing)


def keep_every_write(settings: Settings) -> None:
    """Sync the AOF with every write, so that a kill does not lose the report itself."""
    import redis

    with redis.Redis.from_url(settings.require_redis_url()) as client:
        client.config_set("appendfsync", "always")


def test_an_empty_redis_gets_its_stream_again(
    instance: NewInstance, settings: Settings, redis_server: LocalRedis, backup: BackupTable
) -> None:
    """Stream and group are lost with the AOF: the instance creates them and handles new entries."""
    one = instance()
    one.service.step()
    redis_server.kill()
    redis_server.delete_aof()
    redis_server.start()
    one.step_until(lambda: bool(one.event_log.fields_of("group_created")))
    report(settings, ("hot", 2000))
    one.step_until(one.drained)
    assert max_n(backup, "hot") == 4


def test_throttling_by_dynamodb_delays_a_raise_and_loses_none(
    instance: NewInstance, settings: Settings, backup: BackupTable
) -> None:
    """While DynamoDB throttles, the entry stays pending and the back-off grows; then the raise is done."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as stub:
        behind = stub.settings(settings)
        throttled = BackupTable(behind, client=create_client(behind, "dynamodb", attempts=1))
        stub.rule = lambda operation, request: refusal("ProvisionedThroughputExceededException")
        one = instance(backup=throttled)
        report(settings, ("hot", 2000))
        waits = []
        for _ in range(20):
            one.service.step()
            waits.append(one.service.back_off)
        assert max(waits) == 5.0
        assert not one.drained()
        stub.rule = lambda operation, request: None
        one.step_until(one.drained)
    assert max_n(backup, "hot") == 4
    assert one.service.back_off == 0.0
    entry = backup.get("hot")
    assert entry is not None
    assert len(entry.raises) == 1


def test_a_backlog_of_an_outage_raises_by_window(
    instance: NewInstance, settings: Settings, backup: BackupTable
) -> None:
    """Reports of ten minutes ago raise; those of last week raise nothing."""
    report(settings, ("hot_then", 2000), age=600)
    report(settings, ("hot_last_week", 2000), age=7 * 86400)
    one = instance()
    one.step_until(one.drained)
    assert max_n(backup, "hot_then") == 4
    assert max_n(backup, "hot_last_week") == 1
    assert one.counters.stale == 1


def test_unread_entries_that_were_trimmed_are_logged(
    instance: NewInstance, settings: Settings, redis_server: LocalRedis
) -> None:
    """After a trim by length an error is logged with the number of lost entries and their range of ids."""
    import redis

    one = instance()
    for number in range(10):
        report(settings, (f"c{number}", 20))
    with redis.Redis.from_url(redis_server.url) as client:
        client.xtrim(one.stream.key, maxlen=4, approximate=False)
    one.step_until(one.drained)
    (said,) = one.event_log.fields_of("unread_entries_trimmed")
    assert said["count"] == 6


def test_the_fence_watcher_rebuilds_an_unverified_redis(
    instance: NewInstance, settings: Settings, registry: Registry, redis_server: LocalRedis
) -> None:
    """Redis restarts empty: the watcher rebuilds under the lease, and lookups come from Redis again."""
    one = instance()
    registry.raise_to("conv", 4)
    one.fence_watcher.check()
    assert one.fence_watcher.verified
    redis_server.kill()
    one.fence_watcher.check()
    assert one.fence_watcher.verified is None
    redis_server.delete_aof()
    redis_server.start()
    one.fence_watcher.check()
    assert one.fence_watcher.verified
    assert one.counters.rebuilds == 1
    assert (registry.lookup("conv").max_n, registry.lookup("conv").source) == (4, "redis")


def test_a_deleted_bucket_is_found_and_rebuilt(
    instance: NewInstance, settings: Settings, redis_server: LocalRedis
) -> None:
    """A check that asks the deleted bucket finds it, and Redis is rebuilt."""
    import redis

    one = instance()
    one.fence_watcher.check()
    with redis.Redis.from_url(redis_server.url) as client:
        client.delete(f"{settings.key_prefix}:r:{settings.buckets - 1}")
    one.fence_watcher.check()
    assert one.counters.rebuilds == 1
    assert one.fence_watcher.verified


def test_many_instances_rebuild_once(
    instance: NewInstance, settings: Settings, redis_server: LocalRedis, rebuild: Rebuilder
) -> None:
    """Four instances see the same restart at once: one rebuilds, the others leave it to that one."""
    guards = [instance(f"i{number}") for number in range(4)]
    redis_server.kill()
    redis_server.start()
    barrier = threading.Barrier(len(guards))

    def check(one: Instance) -> None:
        barrier.wait()
        while not one.fence_watcher.verified:
            one.fence_watcher.check()

    threads = [threading.Thread(target=check, args=(one,)) for one in guards]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(one.counters.rebuilds for one in guards) == 1


def test_a_stopped_instance_finishes_its_batch(instance: NewInstance, settings: Settings, backup: BackupTable) -> None:
    """Stopped while it handles a batch, it raises and acknowledges that batch, and signs out."""
    one = instance()
    report(settings, ("hot", 2000))
    handle = one.detector.handle

    def stopping(entries: Sequence[Entry], stream: HeatStream | None) -> BatchResult:
        one.stop.set()
        return handle(entries, stream)

    one.detector.handle = stopping  # type: ignore[method-assign]
    steps: list[int] = []
    one.service.run(after_step=lambda: steps.append(1))
    assert max_n(backup, "hot") == 4
    group = one.stream.info().group(one.stream.group)
    assert group is not None
    assert (group.pending, group.consumers) == (0, ())
    assert steps
    assert [name for name in one.event_log.names if name in ("started", "stopped")] == ["started", "stopped"]
