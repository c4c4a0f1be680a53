"""Redis Clusters and Sentinels of real processes on loopback, up in about two seconds.

Nodes of a cluster find each other by the configuration files that are written for them, as if it had been made
long ago. There is no automatic failover: tests kill and promote, and wait only for that.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saltctl.local.servers import LocalRedis
from saltctl.stores.redis.topology import SLOTS, slot_of
from tests.stores.conftest import PROMPT_REPLICATION, eventually, plain_client

NODE_TIMEOUT = "60000"
"""Milliseconds. Longer than any test: no node is taken for dead that a busy machine has only made wait."""


def quiet_port() -> int:
    """Return a free port outside the ephemeral range: it stays free while its server is down."""
    while True:
        port = random.randrange(12_000, 32_000)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


class Node:
    """One server with its client."""

    def __init__(self, server: LocalRedis) -> None:
        self.server = server
        self.client = plain_client(server)
        self.id = "".join(random.choices("0123456789abcdef", k=40))

    @property
    def name(self) -> str:
        """The name that saltctl uses."""
        return f"127.0.0.1:{self.server.port}"

    def ask(self, *words: Any) -> Any:
        """Send one command."""
        return self.client.execute_command(*words)

    def is_(self, role: str) -> bool:
        """Whether it is a ``master``, or a ``slave`` that is in step."""
        with suppress(Exception):
            found = self.client.info("replication")
            return bool(found["role"] == role and found.get("master_link_status", "up") == "up")
        return False

    def end(self) -> None:
        """Kill it."""
        self.client.close()
        self.server.kill()


class LocalCluster:
    """Primaries and a replica of each; ``nodes`` has the primaries first, in the order of their slots."""

    def __init__(
        self,
        directory: Path,
        binary: Path,
        *,
        primaries: int = 3,
        replicas: bool = True,
        options: Mapping[str, str] | None = None,
    ) -> None:
        self.count = primaries
        self.nodes: list[Node] = []
        for number in range(primaries * (2 if replicas else 1)):
            server = LocalRedis(
                directory / f"node-{number}",
                binary=binary,
                options={
                    **PROMPT_REPLICATION,
                    "cluster-enabled": "yes",
                    "cluster-node-timeout": NODE_TIMEOUT,
                    "cluster-port": str(quiet_port()),
                    "cluster-config-file": "nodes.conf",
                    **(options or {}),
                },
            )
            server.port = quiet_port()
            self.nodes.append(Node(server))
        for node in self.nodes:
            node.server.directory.mkdir(parents=True)
            (node.server.directory / "nodes.conf").write_text("".join(self._view_of(node)))

    def _view_of(self, me: Node) -> Iterator[str]:
        for number, node in enumerate(self.nodes):
            bus = node.server.options["cluster-port"]
            of = self.nodes[number % self.count]
            mine = "myself," if node is me else ""
            head = f"{node.id} 127.0.0.1:{node.server.port}@{bus} {mine}"
            if of is node:
                first, last = number * SLOTS // self.count, (number + 1) * SLOTS // self.count - 1
                yield f"{head}master - 0 0 {number + 1} connected {first}-{last}\n"
            else:
                yield f"{head}slave {of.id} 0 0 {number % self.count + 1} connected\n"
        yield f"vars currentEpoch {self.count} lastVoteEpoch 0\n"

    def start(self) -> None:
        """Start all of it and wait until it serves."""
        eventually(self._all_serve, "the cluster serves")

    def _all_serve(self) -> bool:
        self._start_missing()
        return all(map(self._serves, self.nodes))

    def _start_missing(self) -> None:
        """Start the nodes that do not run; retried if a port is in use for a moment."""
        for node in self.nodes:
            if node.server.pid is None:
                node.server.start(wait=False)

    def _serves(self, node: Node) -> bool:
        with suppress(Exception):
            role = "master" if node in self.nodes[: self.count] else "slave"
            return b"cluster_state:ok" in node.ask("CLUSTER", "INFO") and node.is_(role)
        return False

    def stop(self) -> None:
        """Kill all of it."""
        for node in self.nodes:
            node.end()

    @property
    def url(self) -> str:
        """Naming two of the nodes."""
        return f"redis+cluster://{self.nodes[0].name},{self.nodes[1].name}"

    def node(self, name: str) -> Node:
        """A node by its name."""
        return next(node for node in self.nodes if node.name == name)

    def owner_of(self, key: str) -> Node:
        """The primary of a key now, as the first node that answers says."""
        for node in self.nodes:
            with suppress(Exception):
                for first, last, primary, *_ in node.ask("CLUSTER", "SLOTS"):
                    if int(first) <= slot_of(key) <= int(last):
                        return self.node(f"127.0.0.1:{primary[1]}")
        raise LookupError(key)

    def replica_of(self, primary: Node) -> Node:
        """The replica of a primary."""
        for node in self.nodes:
            with suppress(Exception):
                if node.client.info("replication").get("master_port") == primary.server.port:
                    return node
        raise LookupError(primary.name)

    def kill(self, primary: Node) -> Node:
        """Kill a primary and promote its replica, which is returned once every other node knows it."""
        replica = self.replica_of(primary)
        primary.server.kill()
        replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        eventually(lambda: self._agree_on(replica), f"{replica.name} is a primary")
        return replica

    def heal(self) -> None:
        """Start the killed nodes, and wait until every primary has its replica again and all agree."""
        eventually(self._whole, "the cluster is whole")

    def _agree_on(self, primary: Node) -> bool:
        up = [node for node in self.nodes if node.server.pid]
        return all(self._primary_by(node, primary.id) for node in up)

    def _primary_by(self, node: Node, identity: str) -> bool:
        for line in node.ask("CLUSTER", "NODES").decode().splitlines():
            words = line.split()
            if words[0] == identity:
                return "master" in words[2] and len(words) > 8  # the slots begin there
        return False

    def _whole(self) -> bool:
        self._start_missing()
        with suppress(Exception):
            views = [sorted(str(slots[:3]) for slots in node.ask("CLUSTER", "SLOTS")) for node in self.nodes]
            roles = sorted(node.client.info("replication")["role"] for node in self.nodes)
            settled = all(node.is_("master") or node.is_("slave") for node in self.nodes)
            return settled and all(view == views[0] for view in views) and roles.count("master") == self.count
        return False

    def move(self, key: str, to: Node) -> None:
        """Move a key's slot with its keys, as ``redis-cli --cluster reshard`` does; all primaries know it then."""
        with self.moving(key, to):
            pass

    @contextmanager
    def moving(self, key: str, to: Node) -> Iterator[None]:
        """Inside the block the slot is on its way, and its keys have left already; after it, it has arrived."""
        slot, owner = slot_of(key), self.owner_of(key)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.id)
        owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        while keys := owner.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            owner.ask("MIGRATE", "127.0.0.1", to.server.port, "", 0, 5000, "KEYS", *keys)
        yield
        for node in (to, owner, *(n for n in self.nodes if n.is_("master") and n not in (to, owner))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)
        eventually(lambda: self.owner_of(key) is to, f"slot {slot} is on {to.name}")


def _port(tls: bool) -> dict[str, str]:
    return {"tls-port": str(quiet_port())} if tls else {}


SERVICE = "registry"
"""The name of the service at the sentinels."""


class LocalSentinels:
    """A primary, its replica, and two sentinels, one of which can make a failover.

    Args:
        directory: its own.
        binary: the server, which is a sentinel when it is called so.
        options: for the Redis servers.
        sentinel_options: for the sentinels.
        password, sentinel_password: of the Redis servers, and of the sentinels.
        tls: each of them has a tls-port, with the certificate that ``options`` name, and knows the others by it.
    """

    def __init__(
        self,
        directory: Path,
        binary: Path,
        *,
        options: Mapping[str, str] | None = None,
        sentinel_options: Mapping[str, str] | None = None,
        password: str | None = None,
        sentinel_password: str | None = None,
        tls: bool = False,
    ) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        called = directory / "redis-sentinel"
        called.symlink_to(binary)
        auth = {"masterauth": password} if password else {}
        common = {**PROMPT_REPLICATION, **auth, **(options or {})}
        self.primary, self.replica = (
            Node(LocalRedis(directory / name, binary=binary, options={**common, **_port(tls)}, password=password))
            for name in ("first", "second")
        )
        self._called, self._directory = called, directory
        self._tls = tls
        self._sentinel_options = {**(options or {} if tls else {}), **(sentinel_options or {})}
        self._password, self._sentinel_password = password, sentinel_password
        self.sentinels: list[Node] = []

    def start(self) -> None:
        """Start all of it, and wait until a sentinel knows both servers."""
        for node in (self.primary, self.replica):
            node.server.start()
            node.client = plain_client(node.server)
        watched = self.primary.server.options.get("tls-port") or self.primary.server.port
        self.replica.ask("REPLICAOF", "127.0.0.1", watched)
        eventually(lambda: self.replica.is_("slave"), "the replica is in step")
        for number in range(2):
            mine = {
                "sentinel deny-scripts-reconfig": "yes",
                f"sentinel monitor {SERVICE} 127.0.0.1": f"{watched} 1",
                # Nothing fails over by itself: no server is taken for dead that a busy machine has made wait.
                f"sentinel down-after-milliseconds {SERVICE}": NODE_TIMEOUT,
                **({f"sentinel auth-pass {SERVICE}": self._password} if self._password else {}),
            }
            server = LocalRedis(
                self._directory / f"sentinel-{number}",
                binary=self._called,
                options={**mine, **self._sentinel_options, **_port(self._tls)},
                password=self._sentinel_password,
            )
            server.start()
            self.sentinels.append(Node(server))
        eventually(lambda: bool(self.sentinels[0].ask("SENTINEL", "REPLICAS", SERVICE)), "the replica is known")

    @property
    def url(self) -> str:
        """Naming both sentinels."""
        return f"redis+sentinel://{','.join(node.name for node in self.sentinels)}/{SERVICE}"

    def fail_over(self) -> None:
        """Have the replica promoted, as the sentinels would when they miss the primary; the roles are swapped here."""
        self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
        eventually(lambda: self.replica.is_("master"), "the replica is promoted")
        self.primary, self.replica = self.replica, self.primary
        eventually(lambda: all(map(self._knows, self.sentinels)), "the sentinels name the new primary")

    def _knows(self, sentinel: Node) -> bool:
        found = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1]) == self.primary.server.port

    def stop(self) -> None:
        """Kill all of it."""
        for node in (*self.sentinels, self.primary, self.replica):
            node.end()
