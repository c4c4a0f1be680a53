"""Discovery of primaries: requested once, again after failures, and within the timeout."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, ConfigurationError, RedisUnavailableError, SaltctlError
from saltctl.stores.redis.errors import moved, redirection
from saltctl.stores.redis.topology import SLOTS, ClusterTopology, SentinelTopology, SingleServer, topology
from saltctl.urls import parse_redis_url
from tests.support.clusters import slot_of

SLOT_LISTS = [
    [0, 8191, [b"10.0.0.1", 7000, b"id"], [b"10.0.0.3", 7000, b"id"]],
    [8192, 16383, [b"10.0.0.2", 7000, b"id"]],
]
LOW, HIGH = "10.0.0.1:7000", "10.0.0.2:7000"
LOW_KEY = next(f"k{n}" for n in range(99) if slot_of(f"k{n}") < 8192)
HIGH_KEY = next(f"k{n}" for n in range(99) if slot_of(f"k{n}") >= 8192)


class World:
    """Servers that answer questions, and a clock that their silence moves."""

    def __init__(self) -> None:
        self.now = 100.0
        self.answers: dict[str, Any] = {}
        self.asked: list[tuple[str, float]] = []
        self.meanwhile: Callable[[], None] = lambda: None

    def fetch(self, url: str, name: str, command: tuple[str, ...], timeout: float) -> Any:
        """An answer, an error, or silence for as long as one waits."""
        self.asked.append((name, timeout))
        self.meanwhile()
        answer = self.answers.get(name)
        if answer is None:
            self.now += timeout
            raise RedisUnavailableError(f"{name} did not answer in time")
        if isinstance(answer, SaltctlError):
            raise answer
        return answer

    def cluster(self, url: str = "redis+cluster://a,b") -> ClusterTopology:
        """A cluster of this world."""
        return ClusterTopology(parse_redis_url(url), self.fetch, pause=1.0, clock=lambda: self.now)


@pytest.fixture
def world() -> World:
    """Two nodes that know the cluster."""
    world = World()
    world.answers = dict.fromkeys(("a:6379", "b:6379", LOW, HIGH, "10.0.0.3:7000"), SLOT_LISTS)
    return world


def test_slots_are_those_of_redis(world: World) -> None:
    """CRC-16 of the key; the figures are the specification's."""
    slot = 0x31C3 % SLOTS
    lists = [
        [0, slot - 1, [b"10.0.0.1", 7000]],
        [slot, slot, [b"10.0.0.2", 7000]],
        [slot + 1, 16383, [b"10.0.0.1", 7000]],
    ]
    world.answers = dict.fromkeys(("a:6379", "b:6379"), lists)
    assert world.cluster().primary_of("123456789", 1.0) == HIGH


def test_a_redirected_question_is_an_odd_answer(world: World) -> None:
    """No rebuild is under way, so nothing moved while one was."""
    world.answers = dict.fromkeys(("a:6379", "b:6379"), moved("a:6379"))
    with pytest.raises(RedisUnavailableError, match="answered another command"):
        world.cluster().primaries(1.0)


def test_it_is_asked_once(world: World) -> None:
    """And not again before something fails."""
    cluster = world.cluster()
    for _ in range(3):
        assert cluster.primaries(1.0) == (LOW, HIGH)
        assert (cluster.primary_of(LOW_KEY, 1.0), cluster.primary_of(HIGH_KEY, 1.0)) == (LOW, HIGH)
    assert len(world.asked) == 1
    cluster.mark_stale()
    assert cluster.primary_of(LOW_KEY, 1.0) == LOW
    assert len(world.asked) == 2


def test_it_is_asked_of_another_one_each_time(world: World) -> None:
    """A node outside the cluster still answers, but another node is asked the next time."""
    cluster = world.cluster()
    for _ in range(8):
        cluster.mark_stale()
        cluster.primaries(1.0)
    assert len({name for name, _ in world.asked}) == 5


def test_a_silent_node_does_not_use_up_the_time(world: World) -> None:
    """The first server gets a share of it, and the others the rest."""
    del world.answers["a:6379"]
    cluster = world.cluster()
    assert cluster.primaries(0.9) == (LOW, HIGH)
    assert [name for name, _ in world.asked] == ["a:6379", "b:6379"]
    assert [seconds for _, seconds in world.asked] == pytest.approx([0.45, 0.45])


def test_nobody_waits_longer_than_may_be(world: World) -> None:
    """However many nodes are silent; then no server is asked again during the pause."""
    world.answers.clear()
    cluster = world.cluster(f"redis+cluster://{','.join(f'h{n}' for n in range(20))}")
    for _ in range(3):
        with pytest.raises(RedisUnavailableError, match="says which Redis is primary"):
            cluster.primaries(0.25)
    assert world.now == pytest.approx(100.25, abs=0.02)
    world.now += 1.0
    world.answers.update({f"h{n}:6379": SLOT_LISTS for n in range(20)})
    assert cluster.primaries(0.25) == (LOW, HIGH)


def test_what_was_known_goes_on_being_used(world: World) -> None:
    """No server answers any more: the primaries may be up, and a demoted one refuses."""
    cluster = world.cluster()
    cluster.primaries(1.0)
    world.answers.clear()
    cluster.mark_stale()
    asked = len(world.asked)
    for _ in range(5):
        assert cluster.primary_of(HIGH_KEY, 0.2) == HIGH
    assert world.now == pytest.approx(100.2, abs=0.02)
    assert len(world.asked) > asked
    world.answers = {name: [[0, 16383, [b"10.0.0.2", 7000, b"id"]]] for name in ("a:6379", "b:6379", HIGH)}
    world.now += 1.5
    assert cluster.refresh(50.0)
    assert cluster.primaries(1.0) == (HIGH,)
    assert not cluster.refresh(50.0)


def test_a_slot_without_a_primary_is_an_outage(world: World) -> None:
    """And asked about again with the next key."""
    world.answers["a:6379"] = SLOT_LISTS[:1]
    cluster = world.cluster("redis+cluster://a")
    assert cluster.primary_of(LOW_KEY, 1.0) == LOW
    with pytest.raises(RedisUnavailableError, match="has no primary"):
        cluster.primary_of(HIGH_KEY, 1.0)
    assert cluster.primary_of(HIGH_KEY, 1.0) == HIGH


def test_a_node_that_does_not_know_its_own_address(world: World) -> None:
    """It leaves the host out; then it is the one that was asked."""
    world.answers["a:6379"] = [[0, 16383, [None, 6379, b"id"]]]
    assert world.cluster("redis+cluster://a").primaries(1.0) == ("a:6379",)


@pytest.mark.parametrize(
    "answer",
    [
        b"OK",
        7,
        [b"OK"],
        [[0, 16383]],
        [[0, 16384, [b"h", 1]]],
        [[5, 4, [b"h", 1]]],
        [[-1, 4, [b"h", 1]]],
        [[b"0", b"16383", [b"h", 1]]],
        [[0, 16383, b"h"]],
        [[0, 16383, [b"h"]]],
        [[0, 16383, [b"h", None]]],
        [[0, 16383, [b"h", 65536]]],
        [[0, 16383, [7, 1]]],
    ],
    ids=repr,
)
def test_an_answer_of_another_shape_is_an_outage(world: World, answer: Any) -> None:
    """It is no defect, and becomes no address."""
    world.answers["a:6379"] = answer
    with pytest.raises(RedisUnavailableError, match="a:6379 answered another command"):
        world.cluster("redis+cluster://a").primaries(1.0)


@pytest.mark.parametrize("server", [[b"", 0], [b"h", 0], [b"x@evil", 1], [b"h/1", 1]], ids=repr)
def test_a_server_that_cannot_be_addressed(world: World, server: list[Any]) -> None:
    """A port of 0 is not redis-py's default, and a host is no part of a URL. Its slots have no primary."""
    world.answers["a:6379"] = [[0, 8191, server], [8192, 16383, [b"h", 2], server]]
    cluster = world.cluster("redis+cluster://a")
    assert cluster.primaries(1.0) == ("h:2",)
    assert cluster.primary_of(HIGH_KEY, 1.0) == "h:2"
    with pytest.raises(RedisUnavailableError, match="has no primary"):
        cluster.primary_of(LOW_KEY, 1.0)
    world.answers["a:6379"] = [[0, 16383, server]]
    with pytest.raises(RedisUnavailableError, match="knows no slots"):
        world.cluster("redis+cluster://a").primaries(1.0)


@pytest.mark.parametrize(
    "answer",
    [b"OK", 7, [b"h"], [b"h", 1], [b"h", b"x"], [b"h", b"0"], [b"h", b"65536"], [b"h", b"9" * 99], [None, b"1"]],
)
def test_an_answer_of_a_sentinel_of_another_shape(world: World, answer: Any) -> None:
    """It is no address."""
    world.answers = {"sentinel a:26379": answer}
    sentinels = SentinelTopology(parse_redis_url("redis+sentinel://a/m"), world.fetch, pause=0.0)
    with pytest.raises(RedisUnavailableError, match="a:26379 answered another command"):
        sentinels.primaries(1.0)


@pytest.mark.parametrize(
    ("reply", "target"),
    [
        ("MOVED 1234 h:1", ("h:1", False)),
        ("ASK 1234 :6380", ("asked:6380", True)),
        ("MOVED 1234 ?:6380", ("asked:6380", False)),
        ("MOVED 1234 ::1:6380", ("[::1]:6380", False)),
        ("MOVED 1234 h:0", None),
        ("MOVED 1234 h:65536", None),
        ("MOVED 1234 a@b:1", None),
        ("ERR x :1", None),
    ],
)
def test_a_redirection_to_an_unknown_host_means_the_one_that_was_asked(
    reply: str, target: tuple[str, bool] | None
) -> None:
    """As the documentation of Redis says of MOVED and ASK."""
    import redis.exceptions as driver

    assert redirection(driver.ResponseError(reply), "asked:7000") == target


def test_the_reason_of_a_refusal_is_kept(world: World) -> None:
    """Wrong credentials are told as such, and not as an outage."""
    world.answers = {"a:6379": AccessDeniedError("no"), "b:6379": AccessDeniedError("no")}
    with pytest.raises(AccessDeniedError):
        world.cluster().primaries(1.0)


def test_other_threads_go_on_while_one_asks(world: World) -> None:
    """They use the previous answer; without one they wait, within the timeout."""
    cluster = world.cluster()
    found: list[object] = []

    def look() -> None:
        try:
            found.append(cluster.primaries(0.05))
        except RedisUnavailableError as exc:
            found.append(exc.message)

    def another_thread_looks() -> None:
        world.meanwhile = lambda: None
        thread = threading.Thread(target=look)
        thread.start()
        thread.join()

    world.meanwhile = another_thread_looks
    cluster.primaries(1.0)
    assert "are not known yet" in str(found.pop())
    cluster.mark_stale()
    world.meanwhile = another_thread_looks
    cluster.primaries(1.0)
    assert found == [(LOW, HIGH)]


def test_an_answer_that_becomes_stale_while_it_is_requested_is_requested_again(world: World) -> None:
    """The answer may be older than the failure."""
    cluster = world.cluster()
    world.meanwhile = cluster.mark_stale
    cluster.primaries(1.0)
    world.meanwhile = lambda: None
    cluster.primaries(1.0)
    cluster.primaries(1.0)
    assert len(world.asked) == 2


def test_sentinels_name_one_primary(world: World) -> None:
    """It has all keys; a sentinel that knows no such service does not keep another from being asked."""
    world.answers = {"sentinel a:26379": [], "sentinel b:26379": [b"fe80::1", b"6380"]}
    url = parse_redis_url("redis+sentinel://a,b/m")
    sentinels = SentinelTopology(url, world.fetch, pause=0.0, clock=lambda: world.now)
    assert sentinels.primaries(1.0) == ("[fe80::1]:6380",)
    assert sentinels.primary_of("any", 1.0) == "[fe80::1]:6380"
    world.answers["sentinel b:26379"] = []
    lost = SentinelTopology(url, world.fetch, pause=0.0, clock=lambda: world.now)
    with pytest.raises(ConfigurationError, match="no service 'm'"):
        lost.primaries(1.0)


def test_one_server_is_never_asked_about() -> None:
    """The URL names it, and nothing changes that."""
    single = topology(parse_redis_url("redis://h"), lambda *_: pytest.fail("asked"), pause=1.0)
    assert isinstance(single, SingleServer)
    single.mark_stale()
    assert not single.refresh(1.0)
    assert (single.primaries(1.0), single.primary_of("k", 1.0)) == (("h:6379",), "h:6379")
