"""The backup table in DynamoDB: the durable copy of the registry.

Only conditional UpdateItem writes max_n: PutItem, DeleteItem and BatchWriteItem could lower it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

from saltctl.errors import ConfigurationError, DamagedEntryError, ThrottledError
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY, BackupItems, parse_entry, string_attribute
from saltctl.stores.aws.backup_scan import ScanPlan, SegmentReader
from saltctl.stores.aws.client import aws_errors, error_code
from saltctl.stores.aws.parallel_scan import scan_in_parallel
from saltctl.stores.aws.rebuild_items import CheckpointItem, LeaseItem
from saltctl.stores.aws.scan_parser import ScanClient
from saltctl.stores.contracts.registry import BackupEntry, BackupPage, Raise, RaiseOutcome
from saltctl.stores.retry import backoff_seconds

LAYOUT_ID = "#layout"
_MAX_BATCH = 100
"""Keys that one BatchGetItem takes (documented)."""
_BATCH_ATTEMPTS = 8


class BackupTable(BackupItems):
    """The backup store on DynamoDB. Thread-safe. See ``contracts.BackupStore`` for the semantics.

    Args:
        settings: names the table.
        client: a boto3 client for DynamoDB to use instead of a new one.
        sleep: waits before unprocessed keys of a batch are requested again.
    """

    def __init__(self, settings: Settings, *, client: Any = None, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(settings, settings.backup_table, client=client)
        self.lease = LeaseItem(self)
        """The lease store: an item of this table."""
        self.checkpoint = CheckpointItem(self)
        """The checkpoint of an interrupted rebuild: an item of this table."""
        self._sleep = sleep

    # Entries.

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Read one entry, strongly consistent."""
        item = self.read_item(conversation_id)
        return None if item is None else parse_entry(conversation_id, item, self.where)

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Read entries, strongly consistent, in batches of 100; unprocessed keys are requested again."""
        found: dict[str, BackupEntry] = {}
        unique = list(dict.fromkeys(conversation_ids))
        for start in range(0, len(unique), _MAX_BATCH):
            for item in self._read_batch(unique[start : start + _MAX_BATCH]):
                conversation_id = item[KEY]["S"]
                found[conversation_id] = parse_entry(conversation_id, item, self.where)
        return found

    def _read_batch(self, conversation_ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        keys = [{KEY: {"S": conversation_id}} for conversation_id in conversation_ids]
        for attempt in range(_BATCH_ATTEMPTS):
            with aws_errors(self.where):
                response = self.client.batch_get_item(RequestItems={self.name: {"Keys": keys, "ConsistentRead": True}})
            yield from response["Responses"].get(self.name, [])
            keys = response.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            if not keys:
                return
            self._sleep(backoff_seconds(attempt, first=0.05))
        raise ThrottledError(
            f"DynamoDB leaves reads of table {self.where} unprocessed", hint="wait, or give it more capacity"
        )

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Step 1 of a raise."""
        note = {"n": {"N": str(entry.n)}, "at": {"S": entry.at}, "by": {"S": entry.by}}
        if entry.reason:  # DynamoDB Local refuses empty strings
            note["reason"] = {"S": entry.reason}
        old = self.update_item(
            conversation_id,
            "SET max_n = :n, updated_at = :at, #raises = list_append(if_not_exists(#raises, :none), :raise)",
            "attribute_not_exists(max_n) OR max_n < :n",
            {":n": {"N": str(entry.n)}, ":at": {"S": entry.at}, ":none": {"L": []}, ":raise": {"L": [{"M": note}]}},
            names={"#raises": "raises"},
        )
        if old is not None:
            before = parse_entry(conversation_id, old, self.where).max_n if "max_n" in old else 1
            return RaiseOutcome(before, True)
        current = self.get(conversation_id)
        if current is None:
            raise DamagedEntryError(f"the item of {conversation_id!r} vanished from table {self.where} during a raise")
        return RaiseOutcome(current.max_n, False)

    def commit_write_n(self, conversation_id: str, n: int) -> bool:
        """Step 3 of a raise. Call it only once the registry holds n."""
        old = self.update_item(
            conversation_id,
            "SET write_n = :n",
            "max_n >= :n AND (attribute_not_exists(write_n) OR write_n < :n)",
            {":n": {"N": str(n)}},
        )
        return old is not None

    def scan(
        self,
        segments: int,
        *,
        limit: int | None = None,
        only: int | None = None,
        after: Mapping[int, str | None] | None = None,
        max_rcu: float | None = None,
    ) -> Generator[BackupPage, None, None]:
        """Scan in parallel: see ``backup_scan``."""
        plan = ScanPlan(segments, limit, only, after or {}, max_rcu)
        stop = threading.Event()
        reader = SegmentReader(self.scan_client, self.name, plan, stop=stop)
        idle = BackupPage([], [], 0.0, -1)
        timeout = self.settings.aws_timeout + 1
        yield from scan_in_parallel(reader.pages, plan.unfinished, stop, idle_page=idle, stop_timeout=timeout)

    @cached_property
    def scan_client(self) -> ScanClient:
        """Sends Scan requests and parses their responses."""
        return ScanClient(self.client, self.settings.max_n_cap)

    # The layout.

    def claim_layout(self, layout: str, key_prefix: str) -> None:
        """Bind the table to one layout: the first claim writes it, every later one must agree."""
        with aws_errors(self.where):
            response = self.client.update_item(
                TableName=self.name,
                Key={KEY: {"S": LAYOUT_ID}},
                UpdateExpression="SET layout = if_not_exists(layout, :layout), "
                "key_prefix = if_not_exists(key_prefix, :prefix)",
                ExpressionAttributeValues={":layout": {"S": layout}, ":prefix": {"S": key_prefix}},
                ReturnValues="ALL_NEW",
            )
        self._check_layout(_layout_of(response["Attributes"]), layout, key_prefix)

    def check_layout(self, layout: str, key_prefix: str) -> None:
        """Refuse a client of another layout, as :meth:`claim_layout` does, and write nothing."""
        if (bound := self.bound_layout()) is not None:
            self._check_layout(bound, layout, key_prefix)

    def bound_layout(self) -> tuple[str, str] | None:
        """Read the layout and key prefix that the table is bound to; None before the first claim."""
        item = self.read_item(LAYOUT_ID)
        return None if item is None else _layout_of(item)

    def _check_layout(self, bound: tuple[str, str], layout: str, key_prefix: str) -> None:
        bound_layout, bound_prefix = bound
        if "" in bound:
            raise ConfigurationError(
                f"the item {LAYOUT_ID!r} of table {self.where} is damaged: its layout is incomplete",
                hint=f"it was edited by hand: if all clients use the layout {layout} under {key_prefix!r}, "
                "set its strings `layout` and `key_prefix` to these",
            )
        if bound != (layout, key_prefix):
            raise ConfigurationError(
                f"the registry of table {self.where} is laid out as {bound_layout} under the prefix {bound_prefix!r}, "
                f"and this client is set to {layout} under {key_prefix!r}",
                hint=f"set SALTCTL_BUCKETS={bound_layout.rpartition(':')[2]} and SALTCTL_KEY_PREFIX={bound_prefix}",
            )

    # The table itself.

    def identity(self) -> str:
        """Return the table's ARN and id; a table that is deleted and created again has another id (documented)."""
        table = self.require()
        return f"{table.get('TableArn', self.name)} {table.get('TableId', '')}"

    def check_table(self) -> None:
        """Refuse a table that is missing or has other keys than ``conversation_id`` (S).

        Raises:
            ConfigurationError: see above; the hint names `saltctl setup`.
        """
        table = self.require()
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
        import botocore.exceptions as driver

        self.create_on_demand({KEY: "HASH"}, DeletionProtectionEnabled=True)
        recovery = {"PointInTimeRecoveryEnabled": True}
        with aws_errors(self.where):
            try:
                self.client.update_continuous_backups(TableName=self.name, PointInTimeRecoverySpecification=recovery)
            except driver.ClientError as exc:
                # DynamoDB Local has no backups; `saltctl doctor` reports every table without them.
                if error_code(exc) != "UnknownOperationException":
                    raise


def _layout_of(item: Mapping[str, Any]) -> tuple[str, str]:
    return string_attribute(item, "layout"), string_attribute(item, "key_prefix")
