"""Managed services and look-alikes of Redis, recognised by their host name and by INFO.

A managed service refuses CONFIG SET: its parameters are changed by the provider's own command. A look-alike speaks the
protocol of Redis, but it is not known to keep what the fence needs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from pathlib import PurePosixPath
from typing import Any

_SERVERLESS = "a serverless cache has no parameter group, so {names} cannot be set: use a node-based cluster"
_ELASTICACHE = (
    "set {names} in the cache's own parameter group: aws elasticache modify-cache-parameter-group "
    "--cache-parameter-group-name NAME --parameter-name-values {pairs}"
)
_MEMORYDB = (
    "set {names} in the cluster's own parameter group: aws memorydb update-parameter-group "
    "--parameter-group-name NAME --parameter-name-values {pairs}"
)
_MEMORYSTORE = "set {names} of the instance: gcloud redis instances update NAME --update-redis-config={assignments}"
_OTHER = "this service refuses CONFIG SET: set {other} in its console, or by its own command"
_HOSTS = (
    (r"\.serverless\..*\.cache\.amazonaws\.com(\.cn)?$", _SERVERLESS),
    (r"\.cache\.amazonaws\.com(\.cn)?$", _ELASTICACHE),
    (r"\.memorydb\..*\.amazonaws\.com(\.cn)?$", _MEMORYDB),
    (r"\.redis\.cache\.windows\.net$|\.redis\.azure\.net$|\.upstash\.io$|\.redis-cloud\.com$", _OTHER),
)
_SYSTEMS = (("Amazon ElastiCache", _ELASTICACHE), ("Amazon MemoryDB", _MEMORYDB), ("Google", _MEMORYSTORE))
"""The field ``os`` of INFO of managed servers that were reached by another name, such as an alias."""
_LOOK_ALIKES = ("dragonfly", "kvrocks", "garnet", "keydb", "pika", "tendis")
_REPLICATION_ID = re.compile(r"[0-9a-f]{40}")


def managed_remedy(primary: str, info: Mapping[str, Any], values: Mapping[str, str]) -> str | None:
    """Return how to set parameters of a managed server, such as ``maxmemory-policy``; None if it is not a managed one.

    Args:
        primary: the server's name, ``host:port``.
        info: its INFO.
        values: the parameters by name.
    """
    host = primary.rpartition(":")[0].strip("[]").lower()
    system = str(info.get("os", ""))
    found = [remedy for pattern, remedy in _HOSTS if re.search(pattern, host)]
    found += [remedy for name, remedy in _SYSTEMS if name in system]
    if not found:
        return None
    return found[0].format(
        names=" and ".join(values),
        pairs=shlex.join(f"ParameterName={name},ParameterValue={value}" for name, value in values.items()),
        assignments=shlex.quote(",".join(f"{name}={value}" for name, value in values.items())),
        other=" and ".join(f"{name} {value}" for name, value in values.items()),
    )


def evicts_entries(policy: str) -> bool:
    """Return whether a maxmemory-policy may evict the registry. Its keys have no TTL, so ``volatile-*`` does not."""
    return policy != "noeviction" and not policy.startswith("volatile-")


def look_alike(info: Mapping[str, Any]) -> str | None:
    """Return the name of the engine if INFO shows that it is neither Redis nor Valkey; None if it shows neither."""
    program = PurePosixPath(str(info.get("executable", ""))).name
    shown = " ".join((*info, str(info.get("server_name", "")), program)).lower()
    return next((name for name in _LOOK_ALIKES if name in shown), None)


def usable_replication_ids(ids: Iterable[Any]) -> bool:
    """Return whether these ids of different primaries can tell them apart: 40 hex digits, not all zero, no id twice."""
    seen = [str(one) for one in ids]
    return len(set(seen)) == len(seen) and all(_REPLICATION_ID.fullmatch(one) and one.strip("0") for one in seen)
