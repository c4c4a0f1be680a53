"""Redis servers that fail over on their own, without a proxy: a cluster of three primaries, and Sentinel.

A server that is killed or paused for long is replaced by its replica, by the timeout of the cluster or of the
sentinels. As ``saltctl doctor`` asks, a primary without its replica answers no lookups (``min-replicas-to-write``),
and its lag may not reach that timeout.
"""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

from saltctl.local.servers import valkey_binary
from tests.checker.redis_pair import spoil
from tests.checker.schedule import GROUP_ENTRY_LOSSES, Event, Fault, Side
from tests.support.clusters import SERVICE, LocalCluster, LocalSentinels, Node, slot_of

FAILOVER_SECONDS = 3.0
"""The timeout of cluster and sentinels: a busy machine delays servers by less."""
_LONG_PROBABILITY = 0.6
"""The probability that a kill or a pause lasts until the replica has been promoted."""
_PROMOTED_SECONDS = 30.0
_OPTIONS = {"min-replicas-to-write": "1", "min-replicas-max-lag": "1"}


class _Group:
    """Faults that a cluster and Sentinel share. ``_primaries`` finds the servers that are primaries now."""

    takes_entries = GROUP_ENTRY_LOSSES

    def __init__(self) -> None:
        self.url = ""

    def serve(self) -> None:
        """Do nothing: clients reach the servers themselves."""

    def url_of(self, side: Side) -> str:
        """Return the URL, which both sides share."""
        return self.url

    def _nodes(self) -> Sequence[Node]:
        raise NotImplementedError

    def _primaries(self) -> list[Node]:
        """Return the running primaries, by their own word, until there is one."""
        deadline = time.monotonic() + _PROMOTED_SECONDS
        while True:
            found = [node for node in self._nodes() if node.server.pid and node.has_role("master")]
            if found:
                return found
            assert time.monotonic() < deadline, "no server is a primary"
            time.sleep(0.02)

    def flush(self) -> None:
        """Flush every primary that is still one."""
        for node in self._primaries():
            _try_twice(lambda node=node: node.ask("FLUSHALL"))  # type: ignore[misc]

    def inject(self, event: Event, rng: random.Random) -> Callable[[], None] | None:
        """Inject one fault; return what ends it, if it lasts."""
        node = rng.choice(self._primaries())
        lasts = rng.random() < _LONG_PROBABILITY
        match event.fault:
            case Fault.PROMOTE:
                self._promote(node, event)
            case Fault.PAUSE:
                pid = node.server.pid
                assert pid is not None
                os.kill(pid, signal.SIGSTOP)
                self._wait_for_failover(node, event, lasts)
                os.kill(pid, signal.SIGCONT)
            case Fault.KILL | Fault.DAMAGE | Fault.LOSE:
                node.server.kill()
                self._wait_for_failover(node, event, lasts)
                spoil(node.server, event)
                node.server.start()
            case _:
                raise ValueError(event.fault)
        return None

    def _wait_for_failover(self, node: Node, event: Event, lasts: bool) -> None:
        """Wait until another server has taken the place of this one, or for the time of the event."""
        if not lasts:
            time.sleep(event.seconds)
            return
        deadline = time.monotonic() + _PROMOTED_SECONDS
        while not self._was_replaced(node) and time.monotonic() < deadline:
            time.sleep(0.05)

    def _was_replaced(self, node: Node) -> bool:
        raise NotImplementedError

    def _promote(self, node: Node, event: Event) -> None:
        raise NotImplementedError


class Cluster(_Group):
    """Three primaries, each with a replica. See :class:`_Group`."""

    def __init__(self, directory: Path, binary: Path | None) -> None:
        super().__init__()
        timeout = str(int(1000 * FAILOVER_SECONDS))
        options = {**_OPTIONS, "cluster-node-timeout": timeout, "cluster-replica-validity-factor": "0"}
        self._cluster = LocalCluster(directory, binary or valkey_binary(), options=options)

    def start(self, stack: ExitStack) -> None:
        """Start all nodes, and wait until the cluster serves."""
        stack.callback(self._cluster.stop)
        self._cluster.start()
        self.url = self._cluster.url

    def _nodes(self) -> Sequence[Node]:
        return self._cluster.nodes

    def delete(self, keys: Sequence[str]) -> None:
        """Delete these keys, wherever they are."""
        for key in keys:
            _try_twice(lambda key=key: self._cluster.owner_of(key).ask("DEL", key))  # type: ignore[misc]

    def inject(self, event: Event, rng: random.Random) -> Callable[[], None] | None:
        """Inject one fault; return what ends it, if it lasts."""
        if event.fault is not Fault.MOVE:
            return super().inject(event, rng)
        key = f"salt:r:{int(15.9 * event.amount)}"
        with suppress(Exception):  # the cluster is failing over: the slot stays where it is
            return self._move_and_return(key, rng)
        return None

    def _move_and_return(self, key: str, rng: random.Random) -> Callable[[], None] | None:
        """Move the slot of a key to another primary, and return what brings it home."""
        home = self._cluster.owner_of(key)
        others = [node for node in self._primaries() if node is not home]
        if not others:
            return None
        self._move(key, rng.choice(others))

        def return_home() -> None:
            with suppress(Exception):
                if home.has_role("master"):
                    self._move(key, home)

        return return_home

    def _move(self, key: str, to: Node) -> None:
        """Move a slot; if a failover interrupts it, name its present owner to all, so that it is not left half-way."""
        try:
            self._cluster.move(key, to)
        finally:
            for node in self._primaries():
                with suppress(Exception):
                    node.ask("CLUSTER", "SETSLOT", slot_of(key), "STABLE")

    def _was_replaced(self, node: Node) -> bool:
        """Return whether another running node has its slots."""
        for other in self._nodes():
            if other is node or not other.server.pid:
                continue
            with suppress(Exception):
                for line in other.ask("CLUSTER", "NODES").decode().splitlines():
                    words = line.split()
                    if words[0] == node.id:
                        return "master" not in words[2] or len(words) <= 8  # a primary with slots has more words
        return False

    def _promote(self, node: Node, event: Event) -> None:
        with suppress(Exception):  # it has no replica at the moment
            self._cluster.replica_of(node).ask("CLUSTER", "FAILOVER", *(("TAKEOVER",) if event.amount < 0.5 else ()))


class Sentinels(_Group):
    """A primary and its replica, watched by two sentinels. See :class:`_Group`."""

    def __init__(self, directory: Path, binary: Path | None) -> None:
        super().__init__()
        self._sentinels = LocalSentinels(
            directory,
            binary or valkey_binary(),
            options=_OPTIONS,
            sentinel_options={
                f"sentinel down-after-milliseconds {SERVICE}": str(int(1000 * FAILOVER_SECONDS)),
                f"sentinel failover-timeout {SERVICE}": "10000",
            },
        )
        self._pair = self._sentinels.primary, self._sentinels.replica

    def start(self, stack: ExitStack) -> None:
        """Start all servers."""
        stack.callback(self._sentinels.stop)
        self._sentinels.start()
        self.url = self._sentinels.url

    def _nodes(self) -> Sequence[Node]:
        return self._pair

    def _named(self) -> int:
        """Return the port of the primary that the sentinels name."""
        found = self._sentinels.sentinels[0].ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1])

    def _primaries(self) -> list[Node]:
        port = self._named()
        return [node for node in self._pair if node.server.port == port and node.server.pid] or super()._primaries()

    def delete(self, keys: Sequence[str]) -> None:
        """Delete these keys."""
        _try_twice(lambda: self._primaries()[0].ask("DEL", *keys))

    def _was_replaced(self, node: Node) -> bool:
        return self._named() != node.server.port

    def _promote(self, node: Node, event: Event) -> None:
        with suppress(Exception):  # the replica is not in sync, or a failover is in progress
            self._sentinels.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)


def _try_twice(work: Callable[[], object]) -> None:
    """Do it, once more over a new connection if the first one was lost; a primary without its replica may refuse."""
    for _ in range(2):
        with suppress(Exception):
            work()
            return
