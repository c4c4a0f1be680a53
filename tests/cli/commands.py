"""Every command, once: what a call of it looks like and which keys it promises. New commands join here.

The arguments work in the seeded local environment and touch conversations that no other entry touches.
"""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(frozen=True)
class Contract:
    """A command as scripts may rely on it.

    ``keys``: of the JSON document, or of each record where the document is a list. ``nested``: keys of the
    records in a list under a key. ``columns``: of TSV, where they are not the keys.
    """

    name: str
    args: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    listed: bool = False
    nested: dict[str, tuple[str, ...]] = field(default_factory=dict)
    code: int = 0
    returns_data: bool = True
    slow: bool = False


REBUILD_KEYS = (
    "entries",
    "raised",
    "unchanged",
    "skipped",
    "seconds",
    "entries_per_second",
    "consumed_rcu",
    "segments",
    "nodes",
    "verified",
    "resumed",
    "dry_run",
)
RAISE_KEYS = ("n", "at", "by", "reason")

COMMANDS = (
    Contract("setup", keys=("actions",), nested={"actions": ("resource", "action", "detail")}),
    Contract("setup", ("--dry-run",), keys=("actions",), nested={"actions": ("resource", "action", "detail")}),
    Contract(
        "registry get",
        ("conv_hot_03", "conv_0200"),
        keys=(
            "conversation_id",
            "max_n",
            "write_n",
            "source",
            "redis_n",
            "backup_n",
            "in_sync",
            "salted",
            "raises",
        ),
        listed=True,
        nested={"raises": RAISE_KEYS},
    ),
    Contract(
        "registry set",
        ("conv_0201", "4", "--yes", "--reason", "contract"),
        keys=("conversation_id", "before", "after", "changed", "committed", "dry_run"),
    ),
    Contract("registry list", ("--limit", "3"), keys=("conversation_id", "max_n"), listed=True),
    Contract("rebuild", keys=REBUILD_KEYS),
    Contract("rebuild", ("--dry-run",), keys=REBUILD_KEYS),
    Contract("config show", keys=("name", "value", "origin"), listed=True),
    Contract("config path", keys=("path", "exists")),
    Contract(
        "drill",
        ("redis-restart",),
        keys=("passed", "scenarios"),
        nested={"scenarios": ("name", "passed", "seconds", "steps")},
        slow=True,
    ),
    Contract("drill", ("--list",), keys=("name", "about"), listed=True),
    Contract("completion", ("bash",), returns_data=False),
    Contract("local run", ("--", "true"), returns_data=False, slow=True),
    Contract("local shell", returns_data=False, slow=True),
)
