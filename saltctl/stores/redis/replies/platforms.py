"""Managed services and look-alikes of Redis, recognised by their host name and by INFO.

A managed service refuses CONFIG SET, ACL SETUSER and BGREWRITEAOF (documented): each change has a command of the
provider. A look-alike speaks the protocol of Redis, but it is not known to keep what the fence needs.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any


@dataclass(frozen=True)
class Platform:
    """A managed service, and how its parameters and its users are changed: a command, or a sentence.

    ``parameters`` has a template for each parameter that can be changed, or that needs an explanation.
    """

    name: str
    parameters: Mapping[str, str] = field(default_factory=dict)
    users: str = "{name} may refuse ACL SETUSER: give the user {user} the rules {rules} in its console"

    def set_parameters(self, values: Mapping[str, str]) -> str:
        """Return how to set parameters, such as ``maxmemory-policy``, from their values by name."""
        templates = {self.parameters.get(name, _CONSOLE) for name in values}
        return (templates.pop() if len(templates) == 1 else _CONSOLE).format(
            name=self.name,
            names=" and ".join(values),
            pairs=shlex.join(f"ParameterName={name},ParameterValue={value}" for name, value in values.items()),
            assignments=shlex.quote(",".join(f"{name}={value}" for name, value in values.items())),
            other=" and ".join(f"{name} {value}" for name, value in values.items()),
        )

    def set_user(self, user: str, rules: Iterable[str]) -> str:
        """Return how to add rules to those of a user."""
        return self.users.format(name=self.name, user=shlex.quote(user), rules=shlex.quote(" ".join(rules)))


_CONSOLE = "{name} refuses CONFIG SET: set {other} in its configuration or console, if it can be set there"
_NO_AOF = "{name} has no AOF to turn on: after a loss of all its nodes, saltctl rebuild restores the entries"
_OWN_AOF = "{name} manages its persistence itself: see its console"
_PARAMETER_GROUP = (
    "set {names} in the cache's own parameter group: aws elasticache modify-cache-parameter-group "
    "--cache-parameter-group-name NAME --parameter-name-values {pairs}"
)
_ELASTICACHE_USERS = "aws elasticache modify-user --user-id {user} --append-access-string {rules}"
_NO_GROUP = "a serverless cache has no parameter group, so {names} cannot be set: use a node-based cluster"
_GCLOUD = "gcloud redis {kind} update NAME --region=REGION --update-redis-config={{assignments}}"
# ElastiCache and MemoryDB derive maxmemory from the type of the node (documented).
_ELASTICACHE = Platform(
    "ElastiCache",
    {
        **dict.fromkeys(("maxmemory-policy", "min-replicas-to-write", "min-replicas-max-lag"), _PARAMETER_GROUP),
        "maxmemory": "use larger nodes: aws elasticache modify-replication-group --replication-group-id NAME "
        "--cache-node-type TYPE --apply-immediately",
        **dict.fromkeys(("appendonly", "appendfsync"), _NO_AOF),
    },
    _ELASTICACHE_USERS,
)
_SERVERLESS = Platform(
    "ElastiCache Serverless",
    {
        **dict.fromkeys(("maxmemory-policy", "min-replicas-to-write", "min-replicas-max-lag"), _NO_GROUP),
        "maxmemory": "raise its limit: aws elasticache modify-serverless-cache --serverless-cache-name NAME "
        "--cache-usage-limits 'DataStorage={{Maximum=NUMBER,Unit=GB}}'",
        **dict.fromkeys(("appendonly", "appendfsync"), _NO_AOF),
    },
    _ELASTICACHE_USERS,
)
_MEMORYDB = Platform(
    "MemoryDB",
    {
        "maxmemory-policy": "set {names} in the cluster's own parameter group: aws memorydb update-parameter-group "
        "--parameter-group-name NAME --parameter-name-values {pairs}",
        "maxmemory": "use larger nodes: aws memorydb update-cluster --cluster-name NAME --node-type TYPE",
        **dict.fromkeys(("appendonly", "appendfsync"), "{name} has no AOF to turn on: it has a log of its own"),
    },
    # It replaces all rules of the user.
    'aws memorydb update-user --user-name {user} --access-string "$(aws memorydb describe-users --user-name {user} '
    "--query 'Users[0].AccessString' --output text) \"{rules}",
)
_MEMORYSTORE = Platform(
    "Memorystore",
    {
        "maxmemory-policy": _GCLOUD.format(kind="instances"),
        "maxmemory": "gcloud redis instances update NAME --region=REGION --size=GIBIBYTES",
        **dict.fromkeys(("appendonly", "appendfsync"), _OWN_AOF),
    },
)
_MEMORYSTORE_CLUSTER = Platform(
    "Memorystore",
    {
        "maxmemory-policy": _GCLOUD.format(kind="clusters"),
        "maxmemory": "gcloud redis clusters update NAME --region=REGION --shard-count=NUMBER",
        **dict.fromkeys(("appendonly", "appendfsync"), _OWN_AOF),
    },
)
_AZURE = Platform(
    "Azure Cache for Redis",
    {
        "maxmemory-policy": "az redis update --resource-group GROUP --name NAME --set redisConfiguration.{assignments}",
        "maxmemory": "scale it: az redis update --resource-group GROUP --name NAME --sku TIER --vm-size SIZE",
        **dict.fromkeys(("appendonly", "appendfsync"), _OWN_AOF),
    },
    "add {rules} to the permissions of the access policy of {user}: az redis access-policy update "
    "--resource-group GROUP --name NAME --access-policy-name POLICY --permissions RULES",
)
_AZURE_MANAGED = Platform(
    "Azure Managed Redis",
    {
        "maxmemory-policy": "az redisenterprise database update --resource-group GROUP --cluster-name NAME "
        "--eviction-policy NoEviction",
        "maxmemory": "scale it: az redisenterprise update --resource-group GROUP --cluster-name NAME --sku SKU",
        **dict.fromkeys(("appendonly", "appendfsync"), _OWN_AOF),
    },
)
UNKNOWN_PLATFORM = Platform("this server")
"""A server without CONFIG that no name and no INFO identifies."""
_HOSTS = (
    (r"\.serverless\..*\.cache\.amazonaws\.com(\.cn)?$", _SERVERLESS),
    (r"\.cache\.amazonaws\.com(\.cn)?$", _ELASTICACHE),
    (r"\.memorydb\..*\.amazonaws\.com(\.cn)?$", _MEMORYDB),
    (r"\.redis\.cache\.(windows\.net|chinacloudapi\.cn|usgovcloudapi\.net)$", _AZURE),
    (r"\.redis(enterprise\.cache)?\.(azure\.net|chinacloudapi\.cn|usgovcloudapi\.net)$", _AZURE_MANAGED),
    (r"\.(redislabs|redis-cloud|rlrcp)\.com$", Platform("Redis Cloud")),
    (r"\.upstash\.io$", Platform("Upstash")),
)
_SYSTEMS = (("Amazon ElastiCache", _ELASTICACHE), ("Amazon MemoryDB", _MEMORYDB), ("Google", _MEMORYSTORE))
"""The field ``os`` of INFO of managed servers that were reached by another name, such as an alias."""
_LOOK_ALIKES = ("dragonfly", "kvrocks", "garnet", "keydb", "pika", "tendis")
_REPLICATION_ID = re.compile(r"[0-9a-f]{40}")


def managed_service(primary: str, info: Mapping[str, Any]) -> Platform | None:
    """Return the managed service of a server; None if it is not known to be one.

    Args:
        primary: the server's name, ``host:port``.
        info: its INFO.
    """
    host = primary.rpartition(":")[0].strip("[]").lower().rstrip(".")
    system = str(info.get("os", ""))
    found = [platform for pattern, platform in _HOSTS if re.search(pattern, host)]
    found += [platform for name, platform in _SYSTEMS if name in system]
    if not found:
        return None
    return _MEMORYSTORE_CLUSTER if found[0] is _MEMORYSTORE and info.get("cluster_enabled") == 1 else found[0]


def evicts_entries(policy: str) -> bool:
    """Return whether a maxmemory-policy may evict the registry. Its keys have no TTL, so ``volatile-*`` does not."""
    return policy != "noeviction" and not policy.startswith("volatile-")


UNNAMED_VERSION = "does not name its version in INFO; saltctl needs Redis 7 or newer, or Valkey"


def shown_version(info: Mapping[str, Any]) -> str:
    """Return the version that INFO shows; empty if it shows none, as a proxy may have it."""
    return str(info.get("redis_version", "") or info.get("valkey_version", ""))


def is_too_old(version: str) -> bool:
    """Return whether a version, of Redis or Valkey, is not known to be 7 or newer."""
    first = version.partition(".")[0]
    return not (first.isascii() and first.isdigit()) or int(first) < 7


def look_alike(info: Mapping[str, Any]) -> str | None:
    """Return the name of the engine if INFO shows that it is neither Redis nor Valkey; None if it shows neither."""
    program = PurePosixPath(str(info.get("executable", ""))).name
    shown = " ".join((*info, str(info.get("server_name", "")), program)).lower()
    return next((name for name in _LOOK_ALIKES if name in shown), None)


def usable_replication_ids(ids: Iterable[Any]) -> bool:
    """Return whether these ids of different primaries can tell them apart: 40 hex digits, not all zero, no id twice."""
    seen = [str(one) for one in ids]
    return len(set(seen)) == len(seen) and all(_REPLICATION_ID.fullmatch(one) and one.strip("0") for one in seen)
