"""Which conversations were idle, and when that cannot be told: a hot one must not look idle."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from saltctl.cooling.cooling import Cooling
from saltctl.cooling.idle import IdleSearch
from saltctl.errors import RefusedError
from saltctl.history.history import History
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.event_log import EventsItem, LoggedEvent
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryMessages
from tests.support import Rebuilder
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow
NOW = datetime.now(UTC).replace(microsecond=0)
HOUR = 3600.0


class World:
    """A verified registry of salted conversations, and a stream with reports of the last two hours."""

    def __init__(self, settings: Settings, store: RedisRegistry, backup: BackupTable, redis: LocalRedis) -> None:
        self.settings = replace(settings, heat_retention=86400.0)
        self.redis, self.store, self.backup = redis, store, backup
        self.registry = Registry.over(self.settings, store, backup, now=lambda: NOW - timedelta(hours=5))
        self.stream, self.state = HeatStream(self.settings), ServiceState(self.settings)
        self.search = IdleSearch(self.settings, store, backup, self.stream, self.state, now=lambda: NOW)
        self.note_verified(NOW - timedelta(hours=5))

    def note_verified(self, at: datetime) -> None:
        """Record when Redis was verified."""
        self.state.note_verified(list(self.store.replication_ids()), at.timestamp(), "backup", "here")

    def report(self, conversation_id: str, minutes_ago: float, writes: int, server: str = "app-1") -> None:
        """Add a report that arrived then."""
        at = NOW.timestamp() - 60 * minutes_ago
        report = HeatReport(conversation_id, server, int(at), writes)
        fields = [str(part) for part in report.fields()]
        with closing(plain_client(self.redis)) as client:
            client.xadd(self.stream.key, dict(zip(fields[::2], fields[1::2], strict=True)), id=f"{int(at * 1000)}-*")


@pytest.fixture
def world(
    settings: Settings, store: RedisRegistry, backup: BackupTable, redis_server: LocalRedis, rebuild: Rebuilder
) -> Iterator[World]:
    """Return a world, with a report every five minutes."""
    rebuild()
    world = World(settings, store, backup, redis_server)
    for conversation_id in ("quiet", "warm", "fresh", "loud"):
        world.registry.raise_to(conversation_id, 8)
    for minutes in range(120, -1, -5):
        if minutes == 30:
            for server in ("app-1", "app-2"):  # 1,600 a second need two salts, together alone
                world.report("warm", minutes, 800, server)
            world.report("loud", minutes, 6000)
        world.report("other", minutes, 20)
    yield world
    world.stream.close()
    world.state.close()


def test_what_needed_fewer_salts_all_the_time_is_idle(world: World) -> None:
    """Reports of all servers are added up; what needs its salts, or was raised in that time, is left out."""
    Registry.over(world.settings, world.store, world.backup, now=lambda: NOW).raise_to("fresh", 16)
    assert world.search.idle(HOUR) == {"quiet": 1, "warm": 2}
    assert world.search.idle(20 * 60.0) == {"quiet": 1, "warm": 1, "loud": 1}
    assert world.search.unsealed() == {}


def test_what_is_being_cooled_waits_to_be_sealed(world: World) -> None:
    """Whoever began it."""
    history = History(world.registry, MemoryMessages())
    history.put("quiet", "2026-11-27T07:00:00Z#m1", {})
    cooling = Cooling(world.registry, history, now=lambda: NOW - timedelta(hours=2))
    assert cooling.cool("quiet", 2).phase == "narrowed"
    assert world.search.unsealed() == {"quiet": 2}
    assert "quiet" not in world.search.idle(HOUR)
    world.registry.raise_to("quiet", 4)  # ends it
    assert world.search.unsealed() == {}


def test_what_may_be_lost_is_not_taken_for_idle(world: World) -> None:
    """A time that the stream does not have, a long silence, a missing stream."""
    with pytest.raises(RefusedError, match="no report from before the last 180 minutes"):
        world.search.idle(3 * HOUR)
    world.search.settings = replace(world.settings, heat_retention=60.0)
    with closing(plain_client(world.redis)) as client:
        client.xtrim(world.stream.key, minid=int((NOW - timedelta(minutes=40)).timestamp() * 1000), approximate=False)
    with pytest.raises(RefusedError, match="keeps less than 60 minutes of reports"):
        world.search.idle(HOUR)
    world.search.now = lambda: NOW + timedelta(minutes=11)
    with pytest.raises(RefusedError, match="no heat report arrived for 11 minutes"):
        world.search.idle(20 * 60.0)
    with closing(plain_client(world.redis)) as client:
        client.delete(world.stream.key)
    with pytest.raises(RefusedError, match="there is no heat stream"):
        world.search.idle(HOUR)


def test_redis_must_have_been_verified_throughout(world: World, rebuild: Rebuilder) -> None:
    """By the latest rebuild, or by events that cover the time; a restart may lose the newest reports."""
    world.note_verified(NOW - timedelta(minutes=30))
    unknown = "it is not known that Redis was verified throughout"
    with pytest.raises(RefusedError, match=unknown):
        world.search.idle(HOUR)
    events = EventsItem(world.backup)
    events.append(LoggedEvent((NOW - timedelta(hours=3)).timestamp(), "service-started", "worker"))
    assert "quiet" in world.search.idle(HOUR)
    events.append(LoggedEvent((NOW - timedelta(minutes=20)).timestamp(), "unverified"))
    with pytest.raises(RefusedError, match=unknown):
        world.search.idle(HOUR)
    assert "quiet" in world.search.idle(15 * 60.0)
    with closing(plain_client(world.redis)) as client:
        client.script_flush()
    with pytest.raises(RefusedError, match="Redis is not verified"):
        world.search.idle(15 * 60.0)
