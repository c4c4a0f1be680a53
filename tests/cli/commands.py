"""The contract of every command: an example call, and the keys that it promises. Add new commands here.

The arguments work in the seeded local environment and touch conversations that no other entry touches.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Contract:
    """The promise of a command to scripts.

    Args:
        name: the command.
        args: the arguments of the example call.
        keys: the keys of the JSON document, or of each record if the document is a list.
        listed: whether the document is a list.
        nested: the keys of the records in a list, by the key of the list.
        line_keys: the keys of JSONL, if they are not ``keys``: JSONL has one record a line.
        columns: the columns of TSV and CSV, if they are not ``keys``.
        rows: whether it lists records, so that its default in a pipe is TSV; commands with a listed document do.
        code: the exit code of the example call.
        returns_data: whether the command has ``--output``.
        slow: whether the call starts servers, or does not end by itself.
    """

    name: str
    args: tuple[str, ...] = ()
    keys: tuple[str, ...] = ()
    listed: bool = False
    nested: dict[str, tuple[str, ...]] = field(default_factory=dict)
    line_keys: tuple[str, ...] | None = None
    columns: tuple[str, ...] | None = None
    rows: bool = False
    code: int = 0
    returns_data: bool = True
    slow: bool = False


REBUILD_KEYS = (
    "entries",
    "restored",
    "unchanged",
    "skipped",
    "seconds",
    "entries_per_second",
    "consumed_rcu",
    "segments",
    "primaries",
    "verified",
    "resumed",
    "dry_run",
)
RECOVER_KEYS = (
    "entries",
    "from_backup",
    "from_redis",
    "from_messages",
    "raised",
    "verified",
    "consumed_rcu",
    "seconds",
    "dry_run",
    "table",
    "registry_id",
    "skipped",
    "consumed_wcu",
)
COMPARE_KEYS = (
    "checked",
    "in_sync",
    "behind",
    "missing",
    "unbacked",
    "uncommitted",
    "repaired",
    "verified",
    "drift",
    "seconds",
)
DRIFT_KEYS = ("conversation_id", "redis_n", "backup_n", "kind")
RAISE_KEYS = ("n", "at", "by", "reason")
COOL_COLUMNS = (
    "conversation_id",
    "phase",
    "max_n",
    "write_n",
    "recent_n",
    "recent_from",
    "ready_at",
    "changed",
    "reason",
    "problem",
    "queries_before",
    "queries_after",
    "rcu_before",
    "rcu_after",
)
COOL_KEYS = (*COOL_COLUMNS[:10], "dry_run", *COOL_COLUMNS[10:])
GET_COLUMNS = ("conversation_id", "max_n", "write_n", "source", "redis_n", "backup_n", "in_sync", "raises")
"""Scripts have these; the keys that came later are in JSON."""

ACTION_KEYS = ("resource", "action", "detail")
READ_KEYS = (
    "conversation_id",
    "messages",
    "next_cursor",
    "complete",
    "max_n",
    "source",
    "shards",
    "items_read",
    "seconds",
)
SHARD_KEYS = ("partition_key", "queries", "items_read", "items_returned", "consumed_rcu", "seconds", "error")
MESSAGE_KEYS = ("conversation_id", "sort_key", "message_id", "sender", "text")
MESSAGE_COLUMNS = ("sort_key", "message_id", "partition_key", "message")
REQUEST_KEYS = ("partition_key", "order", "limit", "from", "to", "consistent")
AUDIT_KEYS = (
    "conversation_id",
    "max_n",
    "orphans",
    "needed_n",
    "duplicates",
    "skew",
    "partitions",
    "complete",
    "unproven",
    "recent_n",
)
ALL_KEYS = (
    "audited",
    "orphans",
    "found",
    "lost",
    "findings",
    "cycle_complete",
    "cycle_began_at",
    "cycle_audited",
    "unread",
    "oldest_age_s",
    "sample_items",
    "sample_age_s",
    "consumed_rcu",
    "seconds",
)
FINDING_KEYS = ("conversation_id", "kind", "orphans", "max_n", "needed_n", "at", "detail")
IMPORT_KEYS = ("read", "raised", "unchanged", "completed", "skipped", "raises", "bad_lines", "seconds", "dry_run")
DISCOVERED_KEYS = ("conversation_id", "needed_n", "backup_n", "state", "problem")

GROUP_KEYS = ("name", "lag", "pending", "oldest_pending_s", "last_delivered_id", "trimmed_unread", "consumers")
PEEK_KEYS = ("id", "at", "conversation_id", "server", "window", "writes", "valid")
REPLAY_KEYS = ("read", "claimed", "raised", "unchanged", "stale", "dead", "drained", "raises", "dry_run")

SCAN_KEYS = (
    "table",
    "start",
    "end",
    "period_s",
    "throttled",
    "total",
    "causes",
    "series",
    "keys",
    "service",
    "verdict",
    "advice",
)
SERIES_KEYS = ("metric", "index", "operation", "sum", "peak", "peak_at", "points")
HOT_KEY_KEYS = ("conversation_id", "partition_key", "throttles", "max_n")
ALARM_KEYS = ("name", "metric", "table", "operation", "threshold", "periods", "actions", "state", "description")
ALARM_COLUMNS = ("name", "metric", "operation", "threshold", "periods", "state", "action", "actions")
HEAT_KEYS = ("conversation_id", "minute", "writes", "max_n", "write_n", "peak", "events")
INCIDENT_KEYS = ("at", "kind", "conversation_id", "detail")
CHECK_KEYS = ("name", "status", "detail", "fix")

COMMANDS = (
    Contract("setup", keys=("actions",), nested={"actions": ACTION_KEYS}, columns=ACTION_KEYS),
    Contract("setup", ("--dry-run",), keys=("actions",), nested={"actions": ACTION_KEYS}, columns=ACTION_KEYS),
    Contract(
        "registry get",
        ("conv_hot_03", "conv_0200"),
        keys=(
            "conversation_id",
            "max_n",
            "write_n",
            "recent_n",
            "recent_from",
            "source",
            "redis_n",
            "backup_n",
            "in_sync",
            "salted",
            "raises",
        ),
        columns=GET_COLUMNS,
        listed=True,
        nested={"raises": RAISE_KEYS},
    ),
    Contract(
        "registry set",
        ("conv_0201", "4", "--yes", "--reason", "contract"),
        keys=("conversation_id", "before", "after", "changed", "committed", "dry_run"),
    ),
    Contract(
        "registry cool", ("conv_hot_01", "--to", "1", "--dry-run"), keys=COOL_KEYS, columns=COOL_COLUMNS, listed=True
    ),
    Contract("registry list", ("--limit", "3"), keys=("conversation_id", "max_n"), listed=True),
    Contract("registry export", returns_data=False),
    Contract("registry import", (str(Path(__file__).with_name("empty_listing.tsv")), "--yes"), keys=IMPORT_KEYS),
    Contract("registry discover", ("--cost",), keys=("items", "bytes", "rcu")),
    Contract(
        "registry discover",
        keys=(
            *("items", "conversations", "consumed_rcu", "seconds", "foreign_rows", "foreign_key"),
            *("behind", "raised", "dry_run"),
        ),
        nested={"conversations": DISCOVERED_KEYS},
        line_keys=DISCOVERED_KEYS,
        columns=DISCOVERED_KEYS,
        rows=True,
    ),
    Contract(
        "history read",
        ("conv_hot_05", "--limit", "7"),
        keys=READ_KEYS,
        nested={"messages": MESSAGE_KEYS, "shards": SHARD_KEYS},
        line_keys=MESSAGE_KEYS,
        columns=MESSAGE_COLUMNS,
    ),
    Contract(
        "history read",
        ("conv_hot_05", "--all", "--oldest-first"),
        keys=READ_KEYS,
        nested={"messages": MESSAGE_KEYS, "shards": SHARD_KEYS},
        line_keys=MESSAGE_KEYS,
        columns=MESSAGE_COLUMNS,
    ),
    Contract(
        "history read",
        ("conv_hot_05", "--explain"),
        keys=("conversation_id", "max_n", "recent_n", "recent_from", "source", "requests"),
        nested={"requests": REQUEST_KEYS},
        line_keys=REQUEST_KEYS,
        columns=REQUEST_KEYS,
    ),
    Contract("history find", ("conv_hot_12", "ma5abd5f5b05b"), keys=MESSAGE_KEYS, columns=MESSAGE_COLUMNS),
    Contract(
        "history audit",
        ("conv_hot_05",),
        keys=AUDIT_KEYS,
        nested={"partitions": ("partition_key", "messages")},
    ),
    Contract("history audit", ("--all", "--for", "1ms", "--sample-items", "0"), keys=ALL_KEYS),
    Contract(
        "stream status",
        ("--window", "50ms"),
        keys=("stream", "length", "first_id", "last_id", "dead", "groups", "verdict"),
        nested={"groups": GROUP_KEYS},
        code=3,
    ),
    Contract("stream peek", ("--count", "3"), keys=PEEK_KEYS, listed=True),
    Contract("stream replay", ("--dry-run",), keys=REPLAY_KEYS, nested={"raises": ()}),
    Contract("stream replay", ("--from", "1h", "--max-age", "1h"), keys=REPLAY_KEYS),
    Contract("stream dead list", keys=("id", "original_id", "reason", "fields"), listed=True),
    Contract("stream dead requeue", ("--all", "--dry-run"), keys=("id", "new_id", "action"), listed=True),
    Contract("stream dead drop", ("--all", "--dry-run"), keys=("id", "new_id", "action"), listed=True),
    Contract("throttle scan", keys=SCAN_KEYS, nested={"series": SERIES_KEYS, "keys": HOT_KEY_KEYS}, code=3),
    Contract("throttle alarms list", keys=ALARM_KEYS, columns=ALARM_COLUMNS, listed=True),
    Contract(
        "throttle alarms create",
        ("--sns", "arn:aws:sns:us-east-1:123456789012:oncall"),
        keys=ALARM_KEYS,
        columns=ALARM_COLUMNS,
        listed=True,
    ),
    Contract("throttle alarms remove", ("--dry-run",), keys=ALARM_KEYS, columns=ALARM_COLUMNS, listed=True),
    Contract(
        "service status",
        ("--window", "50ms"),
        keys=("verdict", "alive", "lag", "pending", "verified", "last_raise", "instances"),
        code=3,
    ),
    Contract("service emit", ("acl",), returns_data=False),
    Contract("service emit", ("iam", "--role", "saltctl-app"), returns_data=False),
    Contract("service emit", ("kubernetes", "--image", "saltctl"), returns_data=False),
    Contract("service run", returns_data=False, slow=True),
    Contract("rebuild", keys=REBUILD_KEYS),
    Contract("rebuild", ("--dry-run",), keys=REBUILD_KEYS),
    Contract("recover", ("--dry-run",), keys=RECOVER_KEYS, columns=RECOVER_KEYS),
    Contract("compare", keys=COMPARE_KEYS, nested={"drift": DRIFT_KEYS}),
    Contract("compare", ("--sample", "1/1", "--repair", "--dry-run"), keys=COMPARE_KEYS),
    Contract(
        "doctor",
        keys=("ok", "checks", "platform"),
        nested={"checks": CHECK_KEYS},
        line_keys=CHECK_KEYS,
        columns=CHECK_KEYS,
        code=3,
    ),
    Contract(  # reports of rounds, which take longer: tests/cli/canary
        "canary",
        ("--dry-run",),
        keys=("ok", "checks", "seconds"),
        nested={"checks": ("name", "ok", "detail")},
        columns=("name", "ok", "detail"),
    ),
    Contract(
        "incident",
        keys=("detected_s", "cured_s", "events"),
        nested={"events": INCIDENT_KEYS},
        line_keys=INCIDENT_KEYS,
        columns=INCIDENT_KEYS,
    ),
    Contract("heat", keys=HEAT_KEYS, listed=True),
    Contract(
        "status",
        keys=("at", "registry", "drift", "service", "raises", "throttles", "audit", "lease"),
    ),
    Contract("config show", keys=("name", "value", "origin"), listed=True),
    Contract("config path", keys=("path", "exists")),
    Contract("config init", ("--dry-run",), keys=("path", "created", "dry_run")),
    Contract("config use-context", ("staging", "--dry-run"), keys=("path", "before", "after", "changed", "dry_run")),
    Contract(
        "drill",
        ("redis-restart",),
        keys=("passed", "scenarios"),
        nested={"scenarios": ("name", "passed", "seconds", "steps")},
        slow=True,
    ),
    Contract("drill", ("--list",), keys=("name", "about"), listed=True),
    Contract(
        "conform",
        ("--only", "raises", "--", "python3", "-m", "saltctl.conformance.python_client"),
        keys=("passed", "seed", "seconds", "checks"),
        nested={"checks": ("name", "passed", "seconds", "findings", "ran", "note", "more")},
        slow=True,
    ),
    Contract("completion", ("bash",), returns_data=False),
    Contract("help", ("redis-restarted",), returns_data=False),
    Contract("local run", ("--", "true"), returns_data=False, slow=True),
    Contract(
        "local load",
        ("--rate", "2000", "--servers", "2", "--duration", "300ms"),
        keys=("writes", "seconds", "reports", "dropped", "written", "failed", "hottest"),
        nested={"hottest": ("conversation_id", "rate", "max_n", "partitions")},
    ),
    Contract("local shell", returns_data=False, slow=True),
)
