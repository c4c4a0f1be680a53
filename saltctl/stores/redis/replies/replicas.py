"""The replicas of a primary, also those that are down, and the silence after which one of them is promoted."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.urls import Address


@dataclass(frozen=True, slots=True)
class Replicas:
    """The replicas of one primary.

    ``missing`` are the names of replicas that sentinels or cluster nodes know and that are not connected.
    ``promotable``: whether any replica may be promoted. ``failover_seconds``: the silence of the primary after which
    another server may be promoted; None if unknown. ``complete``: whether replicas that are down are known, too.
    """

    connected: int
    missing: tuple[str, ...] = ()
    promotable: bool = True
    failover_seconds: float | None = None
    complete: bool = False

    @property
    def count(self) -> int:
        """The number of replicas, connected or not."""
        return self.connected + len(self.missing)


def connected_replicas(info: Mapping[str, Any]) -> Replicas:
    """Return the replicas that INFO of a primary shows."""
    return Replicas(int(info.get("connected_slaves", 0)))


def replicas_of_sentinel(info: Mapping[str, Any], replicas: Sequence[Any], master: Any) -> Replicas:
    """Return the replicas according to a sentinel, from its replies to SENTINEL REPLICAS and SENTINEL MASTER."""
    known = [_fields(reply) for reply in replicas]
    down = {"s_down", "o_down", "disconnected"}
    missing = [
        Address(one["ip"], int(one["port"]))
        for one in known
        if down & set(one["flags"].split(",")) or one.get("master-link-status", "ok") != "ok"
    ]
    able = any(one.get("slave-priority") != "0" for one in known)
    return _replicas(info, missing, able, len(known), int(_fields(master)["down-after-milliseconds"]))


def replicas_of_cluster(info: Mapping[str, Any], nodes: str, timeout: str | None) -> Replicas:
    """Return the replicas according to the primary itself: its reply to CLUSTER NODES, and its cluster-node-timeout."""
    lines = [line.split() for line in nodes.splitlines()]
    own = next((words[0] for words in lines if "myself" in words[2].split(",")), "")
    known = [words for words in lines if words[3] == own]
    down = {"fail", "fail?", "noaddr", "handshake"}
    missing = []
    for words in known:
        host, _, port = words[1].partition("@")[0].rpartition(":")
        if down & set(words[2].split(",")) or words[7] != "connected":
            missing.append(Address(host, int(port)))
    able = any("nofailover" not in words[2].split(",") for words in known)
    return _replicas(info, missing, able, len(known), int(timeout) if timeout else None)


def _replicas(
    info: Mapping[str, Any], missing: Iterable[Address], able: bool, known: int, milliseconds: int | None
) -> Replicas:
    connected = connected_replicas(info).connected
    slaves = [value for name, value in info.items() if name.startswith("slave") and isinstance(value, Mapping)]
    here = {(str(one.get("ip")), int(one.get("port", 0))) for one in slaves}
    return Replicas(
        connected,
        tuple(sorted(str(address) for address in missing if address not in here)),
        # A replica that nobody announced can be promoted by hand, as any can that INFO alone shows.
        promotable=able or known < connected,
        failover_seconds=None if milliseconds is None else milliseconds / 1000,
        complete=True,
    )


def _fields(reply: Sequence[Any]) -> dict[str, str]:
    """Return a reply of name and value pairs as a dictionary."""
    words = [word.decode("utf-8", "backslashreplace") if isinstance(word, bytes) else str(word) for word in reply]
    return dict(zip(words[::2], words[1::2], strict=False))
