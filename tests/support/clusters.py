"""Redis Clusters and Sentinels of real processes on loopback, which start in about two seconds.

The nodes of a cluster find each other by generated configuration files, as in a cluster that already exists. There is
no automatic failover: tests kill and promote servers themselves.
"""

from __future__ import annotations

import random
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from saltctl.local.servers import LocalRedis
from saltctl.stores.redis.topology import SLOTS
from tests.support.redis_servers import PROMPT_REPLICATION, eventually, plain_client

NODE_TIMEOUT = "60000"
"""Milliseconds. Longer than any test, so that no node is considered down because the machine is busy."""


def slot_of(key: str) -> int:
    """Return the slot of a key, as redis-py computes it."""
    from redis.crc import key_slot

    return key_slot(key.encode())


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

    def has_role(self, role: str) -> bool:
        """Return whether it is a ``master``, or a ``slave`` that is in sync."""
        with suppress(Exception):
            found = self.client.info("replication")
            return bool(found["role"] == role and found.get("master_link_status", "up") == "up")
        return False

    def await_replica(self) -> None:
        """Wait until a replica has acknowledged all writes so far. WAIT only covers writes of its own connection."""
        written = self.client.info("replication")["master_repl_offset"]
        eventually(lambda: self._acknowledged() >= written, "a replica acknowledges all writes")

    def _acknowledged(self) -> int:
        replica = self.client.info("replication").get("slave0", {"offset": -1})
        return int(replica["offset"])

    def end(self) -> None:
        """Kill the server and close its client."""
        self.client.close()
        self.server.kill()


class LocalCluster:
    """A cluster. ``nodes`` has the primaries in the order of their slots, and then a replica of each."""

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
            (node.server.directory / "nodes.conf").write_text("".join(self._configuration_of(node)))

    def _configuration_of(self, own: Node) -> Iterator[str]:
        for number, node in enumerate(self.nodes):
            bus = node.server.options["cluster-port"]
            primary = self.nodes[number % self.count]
            flags = "myself," if node is own else ""
            head = f"{node.id} 127.0.0.1:{node.server.port}@{bus} {flags}"
            if primary is node:
                first, last = number * SLOTS // self.count, (number + 1) * SLOTS // self.count - 1
                yield f"{head}master - 0 0 {number + 1} connected {first}-{last}\n"
            else:
                yield f"{head}slave {primary.id} 0 0 {number % self.count + 1} connected\n"
        yield f"vars currentEpoch {self.count} lastVoteEpoch 0\n"

    def start(self) -> None:
        """Start all nodes and wait until the cluster serves."""
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
            return b"cluster_state:ok" in node.ask("CLUSTER", "INFO") and node.has_role(role)
        return False

    def stop(self) -> None:
        """Kill all servers."""
        for node in self.nodes:
            node.end()

    @property
    def url(self) -> str:
        """The URL of the cluster, with two of its nodes."""
        return f"redis+cluster://{self.nodes[0].name},{self.nodes[1].name}"

    def node(self, name: str) -> Node:
        """Return a node by its name."""
        return next(node for node in self.nodes if node.name == name)

    def owner_of(self, key: str) -> Node:
        """Return the current primary of a key, according to the first node that answers."""
        for node in self.nodes:
            with suppress(Exception):
                for first, last, primary, *_ in node.ask("CLUSTER", "SLOTS"):
                    if int(first) <= slot_of(key) <= int(last):
                        return self.node(f"127.0.0.1:{primary[1]}")
        raise LookupError(key)

    def replica_of(self, primary: Node) -> Node:
        """Return the replica of a primary."""
        for node in self.nodes:
            with suppress(Exception):
                if node.client.info("replication").get("master_port") == primary.server.port:
                    return node
        raise LookupError(primary.name)

    def kill(self, primary: Node) -> Node:
        """Kill a primary, promote its replica, wait until every other node knows, and return the new primary."""
        replica = self.replica_of(primary)
        primary.server.kill()
        replica.ask("CLUSTER", "FAILOVER", "TAKEOVER")
        eventually(lambda: self._all_know(replica), f"{replica.name} is a primary")
        return replica

    def heal(self) -> None:
        """Start the killed nodes, and wait until every primary has its replica again and all agree."""
        eventually(self._whole, "the cluster is whole")

    def _all_know(self, primary: Node) -> bool:
        up = [node for node in self.nodes if node.server.pid]
        return all(self._knows_primary(node, primary.id) for node in up)

    def _knows_primary(self, node: Node, identity: str) -> bool:
        for line in node.ask("CLUSTER", "NODES").decode().splitlines():
            words = line.split()
            if words[0] == identity:
                return "master" in words[2] and len(words) > 8  # a primary with slots: they follow the eighth word
        return False

    def _whole(self) -> bool:
        self._start_missing()
        with suppress(Exception):
            views = [sorted(str(slots[:3]) for slots in node.ask("CLUSTER", "SLOTS")) for node in self.nodes]
            roles = sorted(node.client.info("replication")["role"] for node in self.nodes)
            settled = all(node.has_role("master") or node.has_role("slave") for node in self.nodes)
            agreed = settled and all(view == views[0] for view in views) and roles.count("master") == self.count
            return agreed and self._every_primary_has_its_replica()
        return False

    def _every_primary_has_its_replica(self) -> bool:
        """Return whether it is so; otherwise give the spare replica of another primary to the one that has none."""
        found = [(node, node.client.info("replication")) for node in self.nodes]
        alone = {node.server.port: node for node, info in found if info["role"] == "master"}
        spare = [node for node, info in found if info["role"] == "slave" and not alone.pop(info["master_port"], None)]
        for node, primary in zip(spare, alone.values(), strict=False):
            node.ask("CLUSTER", "REPLICATE", primary.id)
        return not spare

    def move(self, key: str, to: Node) -> None:
        """Move a key's slot with its keys, as ``redis-cli --cluster reshard`` does; all primaries know it then."""
        with self.moving(key, to):
            pass

    @contextmanager
    def moving(self, key: str, to: Node) -> Iterator[None]:
        """Move a slot: inside the block it is migrating and its keys have moved; after the block it has moved."""
        slot, owner = slot_of(key), self.owner_of(key)
        to.ask("CLUSTER", "SETSLOT", slot, "IMPORTING", owner.id)
        owner.ask("CLUSTER", "SETSLOT", slot, "MIGRATING", to.id)
        while keys := owner.ask("CLUSTER", "GETKEYSINSLOT", slot, 100):
            owner.ask("MIGRATE", "127.0.0.1", to.server.port, "", 0, 5000, "KEYS", *keys)
        yield
        for node in (to, owner, *(n for n in self.nodes if n.has_role("master") and n not in (to, owner))):
            node.ask("CLUSTER", "SETSLOT", slot, "NODE", to.id)
        eventually(lambda: self.owner_of(key) is to, f"slot {slot} is on {to.name}")


def _port(tls: bool) -> dict[str, str]:
    return {"tls-port": str(quiet_port())} if tls else {}


SERVICE = "registry"
"""The name of the service at the sentinels."""


class LocalSentinels:
    """A primary, its replica and two sentinels. One sentinel is enough for a failover.

    Args:
        directory: the directory of all servers.
        binary: the server; it runs as a sentinel under the name ``redis-sentinel``.
        options: options of the Redis servers.
        sentinel_options: options of the sentinels.
        password, sentinel_password: the passwords of the Redis servers and of the sentinels.
        tls: whether all servers also have a TLS port, with the certificate in ``options``, and use it between them.
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
        sentinel_binary = directory / "redis-sentinel"
        sentinel_binary.symlink_to(binary)
        auth = {"masterauth": password} if password else {}
        common = {**PROMPT_REPLICATION, **auth, **(options or {})}
        self.primary, self.replica = (
            Node(LocalRedis(directory / name, binary=binary, options={**common, **_port(tls)}, password=password))
            for name in ("first", "second")
        )
        self._sentinel_binary, self._directory = sentinel_binary, directory
        self._tls = tls
        self._sentinel_options = {**(options or {} if tls else {}), **(sentinel_options or {})}
        self._password, self._sentinel_password = password, sentinel_password
        self.sentinels: list[Node] = []

    def start(self) -> None:
        """Start all servers, and wait until a sentinel knows both Redis servers."""
        for node in (self.primary, self.replica):
            node.server.start()
            node.client = plain_client(node.server)
        watched = self.primary.server.options.get("tls-port") or self.primary.server.port
        self.replica.ask("REPLICAOF", "127.0.0.1", watched)
        eventually(lambda: self.replica.has_role("slave"), "the replica is in sync")
        for number in range(2):
            sentinel_options = {
                "sentinel deny-scripts-reconfig": "yes",
                f"sentinel monitor {SERVICE} 127.0.0.1": f"{watched} 1",
                # No automatic failover, even if a busy machine delays a server.
                f"sentinel down-after-milliseconds {SERVICE}": NODE_TIMEOUT,
                **({f"sentinel auth-pass {SERVICE}": self._password} if self._password else {}),
            }
            server = LocalRedis(
                self._directory / f"sentinel-{number}",
                binary=self._sentinel_binary,
                options={**sentinel_options, **self._sentinel_options, **_port(self._tls)},
                password=self._sentinel_password,
            )
            server.start()
            self.sentinels.append(Node(server))
        eventually(lambda: bool(self.sentinels[0].ask("SENTINEL", "REPLICAS", SERVICE)), "the replica is known")

    @property
    def url(self) -> str:
        """The URL with both sentinels."""
        return f"redis+sentinel://{','.join(node.name for node in self.sentinels)}/{SERVICE}"

    def fail_over(self) -> None:
        """Make the sentinels promote the replica; ``primary`` and ``replica`` are exchanged."""
        self.sentinels[0].ask("SENTINEL", "FAILOVER", SERVICE)
        eventually(lambda: self.replica.has_role("master"), "the replica is promoted")
        self.primary, self.replica = self.replica, self.primary
        eventually(lambda: all(map(self._knows, self.sentinels)), "the sentinels name the new primary")

    def _knows(self, sentinel: Node) -> bool:
        found = sentinel.ask("SENTINEL", "GET-MASTER-ADDR-BY-NAME", SERVICE)
        return int(found[1]) == self.primary.server.port

    def stop(self) -> None:
        """Kill all servers."""
        for node in (*self.sentinels, self.primary, self.replica):
            node.end()
