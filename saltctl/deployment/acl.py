"""Redis ACL users with least privilege, one a role."""

from __future__ import annotations

from saltctl.canary.conversations import RESERVED
from saltctl.salting import bucket_of
from saltctl.settings import Settings

ROLES = ("saltctl-app", "saltctl-service", "saltctl-readonly", "saltctl-canary")
# No client|setinfo: Redis 7.0 does not know it and would refuse the file; redis-py works without it.
_CONNECTION = "+ping +info +hello +client|setname +select"
_STREAM = (
    "+xadd +xack +xlen +xrange +xrevrange +xreadgroup +xautoclaim +xpending +xtrim +xdel "
    "+xinfo|stream +xinfo|groups +xinfo|consumers +xgroup|create +xgroup|createconsumer +xgroup|delconsumer"
)
_CLUSTER = "+cluster|slots +asking"
# A raise in a slot that was moved takes the verification from the primary that had the slot.
_DISTRUST = "+script|flush"
# A script may run only the commands of its user: EVAL adds no permission. doctor counts entries with it.
_READING = (
    "+evalsha +eval +hget +hmget +hgetall +hlen +exists +xlen +xrange +xrevrange +xpending "
    "+xinfo|stream +xinfo|groups +xinfo|consumers"
)
_REGISTRY = "+evalsha +eval +script|load +hget +hmget +hgetall +hlen +hset +hsetnx +hdel +exists +expire"
_CANARY = "+evalsha +eval +hget +hmget +hset"


def users(settings: Settings, role: str | None = None) -> str:
    """Return Redis ACL users as lines of an ACL file, with a placeholder for each password; or that of one role alone.

    Application servers cannot load scripts, so that none of them can verify a server by mistake. They can write
    only to the heat stream. The service can rebuild; people and cron jobs that change something use its user.
    The read-only user has fewer commands. The canary can merge entries into the buckets of the reserved conversations.
    In a cluster, each node needs the file, and all users may read the slots.
    """
    prefix = settings.key_prefix
    start = "on resetpass resetkeys resetchannels -@all"
    clustered = (settings.redis_url or "").partition("://")[0].lower().endswith("+cluster")
    connection = f"{_CONNECTION} {_CLUSTER}" if clustered else _CONNECTION
    registry, canary = (f"{commands} {_DISTRUST}" if clustered else commands for commands in (_REGISTRY, _CANARY))
    buckets = sorted({bucket_of(name, settings.buckets) for name in RESERVED})
    reserved = " ".join(f"~{prefix}:r:{bucket}" for bucket in buckets)
    own = " ".join(f"~{prefix}:{key}" for key in ("r:*", "heat", "dead", "sum:*", "service"))
    lines = (
        f"user saltctl-app {start} >CHANGE-ME-1 {connection} +evalsha +hmget ~{prefix}:r:* (+xadd ~{prefix}:heat)\n",
        f"user saltctl-service {start} >CHANGE-ME-2 {connection} {registry} {_STREAM} {own}\n",
        f"user saltctl-readonly {start} >CHANGE-ME-3 {connection} {_READING} {own}\n",
        f"user saltctl-canary {start} >CHANGE-ME-4 {connection} {canary} {reserved}\n",
    )
    return "".join(line for name, line in zip(ROLES, lines, strict=True) if role in (None, name))
