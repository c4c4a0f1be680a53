"""The backup table in DynamoDB: the registry's durable copy, and the lease beside it.

Only conditional UpdateItem ever touches max_n: PutItem, DeleteItem and BatchWriteItem could lower it.
Ids that begin with ``#`` are saltctl's own items and are no conversations.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from saltctl.errors import ConfigurationError, DamagedEntryError, ThrottledError
from saltctl.settings import Settings
from saltctl.stores.aws import scan_parser as backup_items
from saltctl.stores.aws.backup_scan import ScanPlan, SegmentReader, scan_in_parallel
from saltctl.stores.aws.client import aws_errors, create_client, describe_table, error_code
from saltctl.stores.aws.scan_parser import ScanClient, problem_of
from saltctl.stores.contracts import BackupEntry, BackupPage, LeaseHolder, Raise, RaiseOutcome, TableSize

KEY = backup_items.KEY
LEASE_ID = "#lease"
LAYOUT_ID = "#layout"
_MAX_BATCH = 100
"""Keys that one BatchGetItem takes (documented)."""


class BackupTable:
    """The backup store on DynamoDB. Thread-safe. See ``contracts.BackupStore`` for the semantics.

    Args:
        settings: names the table.
        client: a ready boto3 client instead of one of its own.
        sleep: waits before what a batch left unprocessed is asked again.
    """

    def __init__(self, settings: Settings, *, client: Any = None, sleep: Callable[[float], None] = time.sleep) -> None:
        self._settings = settings
        self._table = settings.backup_table
        self._client = client
        self._reader: ScanClient | None = None
        self._lock = threading.Lock()
        self._sleep = sleep

    @property
    def client(self) -> Any:
        """The boto3 client, made at first use: importing boto3 takes longer than most commands."""
        if self._client is None:
            with self._lock:
                if self._client is None:
                    self._client = create_client(self._settings, "dynamodb")
        return self._client

    @property
    def where(self) -> str:
        """The table's name for messages."""
        return f"{self._table!r}"

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Strongly consistent read of one item."""
        with aws_errors(self.where):
            answer = self.client.get_item(TableName=self._table, Key={KEY: {"S": conversation_id}}, ConsistentRead=True)
        item = answer.get("Item")
        return None if item is None else self._entry(conversation_id, item)

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Strongly consistent reads in batches of 100; what a batch leaves unprocessed is asked again."""
        found: dict[str, BackupEntry] = {}
        wanted = list(dict.fromkeys(conversation_ids))
        for start in range(0, len(wanted), _MAX_BATCH):
            keys = [{KEY: {"S": conversation_id}} for conversation_id in wanted[start : start + _MAX_BATCH]]
            for attempt in range(8):
                with aws_errors(self.where):
                    answer = self.client.batch_get_item(
                        RequestItems={self._table: {"Keys": keys, "ConsistentRead": True}}
                    )
                for item in answer["Responses"].get(self._table, []):
                    conversation_id = item[KEY]["S"]
                    found[conversation_id] = self._entry(conversation_id, item)
                keys = answer.get("UnprocessedKeys", {}).get(self._table, {}).get("Keys", [])
                if not keys:
                    break
                self._sleep(random.uniform(0, 0.05 * 2**attempt))
            else:
                raise ThrottledError(
                    f"DynamoDB leaves reads of table {self.where} unprocessed", hint="wait, or give it more capacity"
                )
        return found

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Step 1 of a raise."""
        note = {"M": {"n": {"N": str(entry.n)}, "at": {"S": entry.at}, "by": {"S": entry.by}}}
        if entry.reason:  # no reason is left out: DynamoDB Local refuses empty texts
            note["M"]["reason"] = {"S": entry.reason}
        old = self._update(
            conversation_id,
            "SET max_n = :n, updated_at = :at, #raises = list_append(if_not_exists(#raises, :none), :raise)",
            "attribute_not_exists(max_n) OR max_n < :n",
            {":n": {"N": str(entry.n)}, ":at": {"S": entry.at}, ":none": {"L": []}, ":raise": {"L": [note]}},
            names={"#raises": "raises"},
        )
        if old is not None:
            return RaiseOutcome(self._entry(conversation_id, old).max_n if "max_n" in old else 1, True)
        held = self.get(conversation_id)
        if held is None:
            raise DamagedEntryError(f"the item of {conversation_id!r} vanished from table {self.where} during a raise")
        return RaiseOutcome(held.max_n, False)

    def commit_write_n(self, conversation_id: str, n: int) -> bool:
        """Step 3 of a raise. Only ever after the registry holds n."""
        return (
            self._update(
                conversation_id,
                "SET write_n = :n",
                "max_n >= :n AND (attribute_not_exists(write_n) OR write_n < :n)",
                {":n": {"N": str(n)}},
            )
            is not None
        )

    def claim_layout(self, layout: str, key_prefix: str) -> None:
        """Bind the table to one layout: the first claim writes it, every later one must agree."""
        with aws_errors(self.where):
            answer = self.client.update_item(
                TableName=self._table,
                Key={KEY: {"S": LAYOUT_ID}},
                UpdateExpression="SET layout = if_not_exists(layout, :layout), "
                "key_prefix = if_not_exists(key_prefix, :prefix)",
                ExpressionAttributeValues={":layout": {"S": layout}, ":prefix": {"S": key_prefix}},
                ReturnValues="ALL_NEW",
            )
        self._agree(answer["Attributes"], layout, key_prefix)

    def check_layout(self, layout: str, key_prefix: str) -> None:
        """Refuse a client of another layout, as :meth:`claim_layout` does, and write nothing."""
        with aws_errors(self.where):
            answer = self.client.get_item(TableName=self._table, Key={KEY: {"S": LAYOUT_ID}}, ConsistentRead=True)
        if "Item" in answer:
            self._agree(answer["Item"], layout, key_prefix)

    def bound_layout(self) -> tuple[str, str] | None:
        """The layout and key prefix that the table is bound to; None where nobody has claimed one yet."""
        with aws_errors(self.where):
            answer = self.client.get_item(TableName=self._table, Key={KEY: {"S": LAYOUT_ID}}, ConsistentRead=True)
        item = answer.get("Item")
        return None if item is None else (_text(item, "layout"), _text(item, "key_prefix"))

    def _agree(self, held: Mapping[str, Any], layout: str, key_prefix: str) -> None:
        theirs = (_text(held, "layout"), _text(held, "key_prefix"))
        if "" in theirs:
            raise ConfigurationError(
                f"the item {LAYOUT_ID!r} of table {self.where} is damaged: it does not say what layout there is",
                hint=f"somebody wrote it by hand: where the layout is {layout} under {key_prefix!r} for all clients, "
                "set its texts `layout` and `key_prefix` to these",
            )
        if theirs != (layout, key_prefix):
            raise ConfigurationError(
                f"the registry of table {self.where} is laid out as {theirs[0]} under the prefix {theirs[1]!r}, "
                f"and this client is set to {layout} under {key_prefix!r}",
                hint=f"set SALTCTL_BUCKETS={theirs[0].rpartition(':')[2]} and SALTCTL_KEY_PREFIX={theirs[1]}",
            )

    def scan(
        self,
        segments: int,
        *,
        limit: int | None = None,
        only: int | None = None,
        after: Mapping[int, str | None] | None = None,
        max_rcu: float | None = None,
    ) -> Iterator[BackupPage]:
        """Parallel scan: see ``backup_scan``."""
        plan = ScanPlan(segments, limit, only, after or {}, max_rcu)
        stop = threading.Event()
        reader = SegmentReader(self.reader, self._table, plan, stop=stop)
        yield from scan_in_parallel(reader, plan, stop, patience=self._settings.aws_timeout + 1)

    @property
    def reader(self) -> ScanClient:
        """What reads the answers of scans, made at first use."""
        if self._reader is None:
            client = self.client
            with self._lock:
                if self._reader is None:
                    self._reader = ScanClient(client, self._settings.max_n_cap)
        return self._reader

    def identity(self) -> str:
        """The table's ARN and id; a table that is deleted and made again has another id (documented)."""
        table = self.describe()
        if table is None:
            raise ConfigurationError(f"there is no DynamoDB table {self.where}", hint="saltctl setup")
        return f"{table.get('TableArn', self._table)} {table.get('TableId', '')}"

    def size(self) -> TableSize:
        """How large the table is, as DescribeTable says: about six hours old (documented)."""
        table = self.describe() or {}
        return TableSize(int(table.get("ItemCount", 0)), int(table.get("TableSizeBytes", 0)))

    def _entry(self, conversation_id: str, item: Mapping[str, Any]) -> BackupEntry:
        problem = problem_of(item)
        if problem:
            raise DamagedEntryError(
                f"the item of {conversation_id!r} in table {self.where} is damaged: {problem}",
                hint="somebody wrote it by hand: set its max_n to the N in its `raises`, as a number",
            )
        raises = tuple(
            Raise(
                int(note["M"]["n"]["N"]),
                note["M"].get("at", {}).get("S", ""),
                note["M"].get("by", {}).get("S", ""),
                note["M"].get("reason", {}).get("S", ""),
            )
            for note in item.get("raises", {}).get("L", [])
            if "M" in note and note["M"].get("n", {}).get("N", "").isdigit()
        )
        write_n = int(item["write_n"]["N"]) if "write_n" in item else 1
        return BackupEntry(conversation_id, int(item["max_n"]["N"]), write_n, raises)

    def _update(
        self,
        item_id: str,
        update: str,
        condition: str,
        values: dict[str, Any],
        names: dict[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """A conditional UpdateItem.

        Returns the item as it was before, {} where there was none, or None where the condition failed.
        """
        import botocore.exceptions as driver

        request: dict[str, Any] = {
            "TableName": self._table,
            "Key": {KEY: {"S": item_id}},
            "UpdateExpression": update,
            "ConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ReturnValues": "ALL_OLD",
        }
        if names:
            request["ExpressionAttributeNames"] = names
        with aws_errors(self.where):
            try:
                answer = self.client.update_item(**request)
            except driver.ClientError as exc:
                if error_code(exc) == "ConditionalCheckFailedException":
                    return None
                raise
        attributes: dict[str, Any] = answer.get("Attributes", {})
        return attributes

    # The table itself.

    def describe(self) -> dict[str, Any] | None:
        """DescribeTable's answer, or None where the table does not exist."""
        return describe_table(self.client, self._table)

    def check_table(self) -> None:
        """Refuse a table that is missing or has other keys than ``conversation_id`` (S).

        Raises:
            ConfigurationError: see above; the hint names `saltctl setup`.
        """
        table = self.describe()
        if table is None:
            raise ConfigurationError(f"there is no DynamoDB table {self.where}", hint="saltctl setup")
        keys = [(key["AttributeName"], key["KeyType"]) for key in table["KeySchema"]]
        types = {item["AttributeName"]: item["AttributeType"] for item in table["AttributeDefinitions"]}
        if keys != [(KEY, "HASH")] or types.get(KEY) != "S":
            found = ", ".join(f"{name} ({types.get(name)}, {kind})" for name, kind in keys)
            raise ConfigurationError(
                f"table {self.where} has the keys {found}; a backup table has {KEY} (S, HASH) alone",
                hint="is SALTCTL_BACKUP_TABLE the backup table and not the messages table?",
            )

    def create(self) -> None:
        """Create the table, on demand, with deletion protection and point-in-time recovery; wait for it."""
        with aws_errors(self.where):
            self.client.create_table(
                TableName=self._table,
                AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
                KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
                BillingMode="PAY_PER_REQUEST",
                DeletionProtectionEnabled=True,
            )
            self.client.get_waiter("table_exists").wait(
                TableName=self._table, WaiterConfig={"Delay": 1, "MaxAttempts": 120}
            )
            self._enable_recovery()

    def _enable_recovery(self) -> None:
        import botocore.exceptions as driver

        try:
            self.client.update_continuous_backups(
                TableName=self._table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": True}
            )
        except driver.ClientError as exc:
            # DynamoDB Local has no backups at all; `saltctl doctor` says so of any table that has none.
            if error_code(exc) != "UnknownOperationException":
                raise

    # The lease. Taken by UpdateItem like everything else, so that no role needs PutItem or DeleteItem.

    def take(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease where it is free or its holder stopped renewing it."""
        for _ in range(3):
            taken = self._update(
                LEASE_ID,
                "SET lease_owner = :owner, lease_host = :host, lease_pid = :pid, lease_since = :now, "
                "lease_heartbeat = :now, lease_progress = :progress",
                # A lease that somebody wrote by hand, without a time, must not keep everybody out for ever.
                "attribute_not_exists(lease_owner) OR lease_owner = :owner OR "
                "NOT attribute_type(lease_heartbeat, :number) OR lease_heartbeat < :expired",
                {
                    ":owner": {"S": owner},
                    ":host": {"S": host},
                    ":pid": {"N": str(pid)},
                    ":now": {"N": f"{now:.3f}"},
                    ":expired": {"N": f"{now - expiry:.3f}"},
                    ":number": {"S": "N"},
                    ":progress": {"S": "starting"},
                },
            )
            if taken is not None:
                return None
            # Between the refusal and this read the holder may have let go: then there is nobody to name.
            if holder := self.holder():
                return holder
        return LeaseHolder("unknown", "unknown", 0, now, now, "")

    def beat(self, owner: str, now: float, progress: str) -> bool:
        """Renew the lease."""
        return (
            self._update(
                LEASE_ID,
                "SET lease_heartbeat = :now, lease_progress = :progress",
                "lease_owner = :owner",
                {":owner": {"S": owner}, ":now": {"N": f"{now:.3f}"}, ":progress": {"S": progress}},
            )
            is not None
        )

    def release(self, owner: str) -> None:
        """Give the lease back."""
        self._update(
            LEASE_ID,
            "REMOVE lease_owner, lease_heartbeat",
            "lease_owner = :owner",
            {":owner": {"S": owner}},
        )

    def holder(self) -> LeaseHolder | None:
        """Who holds the lease."""
        with aws_errors(self.where):
            item = self.client.get_item(TableName=self._table, Key={KEY: {"S": LEASE_ID}}, ConsistentRead=True).get(
                "Item", {}
            )
        if "lease_owner" not in item:
            return None
        return LeaseHolder(
            _text(item, "lease_owner") or "unknown",
            _text(item, "lease_host") or "unknown",
            int(_decimal(item, "lease_pid")),
            _decimal(item, "lease_since"),
            _decimal(item, "lease_heartbeat"),
            _text(item, "lease_progress"),
        )


def _text(item: Mapping[str, Any], name: str) -> str:
    """A text of one of saltctl's own items; empty where somebody left it out or made something else of it."""
    return str(item.get(name, {}).get("S", ""))


def _decimal(item: Mapping[str, Any], name: str) -> float:
    """A number of one of saltctl's own items; 0 where there is none."""
    return float(item.get(name, {}).get("N", 0))
