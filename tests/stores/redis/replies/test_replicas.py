"""Tests of the replicas that sentinels and nodes of a cluster know."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.stores.redis.replies.replicas import (
    Replicas,
    connected_replicas,
    replicas_of_cluster,
    replicas_of_sentinel,
)

INFO: dict[str, Any] = {
    "connected_slaves": 1,
    "slave0": {"ip": "10.0.0.2", "port": 6379, "state": "online", "offset": 1, "lag": 0},
}
MASTER = [b"name", b"registry", b"down-after-milliseconds", b"5000"]


def entry(ip: bytes, **changes: bytes) -> list[bytes]:
    """An element of the reply to SENTINEL REPLICAS."""
    fields = {"ip": ip, "port": b"6379", "flags": b"slave", "master-link-status": b"ok", "slave-priority": b"100"}
    fields |= {name.replace("_", "-"): value for name, value in changes.items()}
    return [word for name, value in fields.items() for word in (name.encode(), value)]


@pytest.mark.parametrize(
    ("entries", "missing", "promotable"),
    [
        ([entry(b"10.0.0.2")], (), True),
        ([entry(b"10.0.0.2"), entry(b"10.0.0.3", flags=b"s_down,slave,disconnected")], ("10.0.0.3:6379",), True),
        ([entry(b"10.0.0.2"), entry(b"10.0.0.3", master_link_status=b"err")], ("10.0.0.3:6379",), True),
        # The sentinel has an older view than the primary.
        ([entry(b"10.0.0.2", flags=b"slave,disconnected")], (), True),
        ([entry(b"10.0.0.2", slave_priority=b"0")], (), False),
        ([entry(b"10.0.0.2", slave_priority=b"0"), entry(b"fd00::3", flags=b"s_down")], ("[fd00::3]:6379",), True),
        # The replica that is connected is not announced.
        ([], (), True),
    ],
)
def test_the_replicas_of_a_sentinel(entries: list[Any], missing: tuple[str, ...], promotable: bool) -> None:
    """A replica that is down counts; one with priority 0 counts, and is not promoted."""
    assert replicas_of_sentinel(INFO, entries, MASTER) == Replicas(1, missing, promotable, 5.0, True)


NODES = """\
a 10.0.0.1:6379@16379 myself,master - 0 0 1 connected 0-5460
b 10.0.0.2:6379@16379,host-b slave a 0 0 1 connected
c 10.0.0.3:6379@16379 {flags} {of} 0 0 1 {link}
d 10.0.0.4:6379@16379 master - 0 0 2 connected 5461-16383
e 10.0.0.5:6379@16379 slave,fail d 0 0 2 disconnected
"""


@pytest.mark.parametrize(
    ("flags", "of", "link", "missing"),
    [
        ("slave", "d", "connected", ()),
        ("slave,fail", "a", "disconnected", ("10.0.0.3:6379",)),
        ("slave,fail?", "a", "connected", ("10.0.0.3:6379",)),
        ("slave", "a", "disconnected", ("10.0.0.3:6379",)),
    ],
)
def test_the_replicas_of_a_cluster_node(flags: str, of: str, link: str, missing: tuple[str, ...]) -> None:
    """Only the primary's own replicas count, also those that are down."""
    nodes = NODES.format(flags=flags, of=of, link=link)
    assert replicas_of_cluster(INFO, nodes, "15000") == Replicas(1, missing, True, 15.0, True)


def test_nodes_that_may_not_fail_over() -> None:
    """With cluster-replica-no-failover no replica is promoted."""
    nodes = NODES.format(flags="slave,nofailover", of="a", link="connected").replace("slave a", "slave,nofailover a")
    assert replicas_of_cluster(INFO | {"connected_slaves": 2}, nodes, None) == Replicas(2, (), False, None, True)


def test_without_sentinels_and_cluster_only_connected_replicas_are_known() -> None:
    """INFO forgets a replica that is down."""
    assert connected_replicas(INFO) == Replicas(1, complete=False)
