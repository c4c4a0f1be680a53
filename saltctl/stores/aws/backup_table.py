"""The backup table in DynamoDB: the durable copy of the registry.

Only conditional UpdateItem writes max_n: PutItem, DeleteItem and BatchWriteItem could lower it.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from saltctl.errors import (
    AwsUnavailableError,
    ConfigurationError,
    DamagedEntryError,
    MismatchedResponseError,
    SaltctlError,
    ThrottledError,
)
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import (
    KEY,
    BackupItems,
    cooling_attribute,
    find_damage,
    parse_entry,
    raise_attribute,
)
from saltctl.stores.aws.backup_scan import ScanPlan, SegmentReader
from saltctl.stores.aws.failures.errors import error_code
from saltctl.stores.aws.rebuild_items import CheckpointItem, LeaseItem, ScanCheckpointItems
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID, RegistryItem
from saltctl.stores.aws.scan_parser import ScanClient
from saltctl.stores.bounded.deadline import TimeBudget, remaining
from saltctl.stores.contracts.entries import CooledEntry, Entry, lacks, write_n_of
from saltctl.stores.contracts.registry import (
    MAX_RAISES_KEPT,
    BackupEntry,
    BackupPage,
    Raise,
    RaiseOutcome,
    RegistryIdentity,
)
from saltctl.stores.parallel_scan import scan_in_parallel
from saltctl.stores.retry import backoff_seconds

_MAX_BATCH = 100
"""Keys that one BatchGetItem takes (documented). One of them is that of the registry's identity."""
_BATCH_ATTEMPTS = 8
CHANGES = 20
"""Attempts to raise a cooled conversation whose item others change at the same time; one of them succeeds each time."""


class BackupTable(BackupItems):
    """The backup store on DynamoDB. Thread-safe. See ``contracts.BackupStore`` for the semantics.

    Args:
        settings: names the table.
        client: a boto3 client for DynamoDB to use instead of a new one. The application's own
            renews its credentials itself.
        sleep: waits before unprocessed keys of a batch are requested again.
    """

    def __init__(self, settings: Settings, *, client: Any = None, sleep: Callable[[float], None] = time.sleep) -> None:
        super().__init__(settings, settings.backup_table, client=client)
        self.lease = LeaseItem(self)
        """The lease store: an item of this table."""
        self.checkpoint = CheckpointItem(self)
        """The checkpoint of an interrupted rebuild: an item of this table."""
        self.scan_checkpoint = ScanCheckpointItems(self)
        """The checkpoint of an interrupted recovery: items of this table."""
        self.registry = RegistryItem(self)
        """The identity of the registry: an item of this table."""
        self._sleep = sleep
        self._scan_client: ScanClient | None = None

    @contextmanager
    def errors(self, where: str = "") -> Iterator[None]:
        """Convert the errors of a request; after one, the table may be another one."""
        try:
            with super().errors(where):
                yield
        except SaltctlError:
            self.registry.forget_check()
            raise

    def check_registry(self) -> RegistryIdentity:
        """Read the identity of the registry, and check that this table is its backup."""
        return self.registry.read()

    # Entries.

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Read one entry, strongly consistent."""
        return self.get_many([conversation_id]).get(conversation_id)

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Read entries, strongly consistent, in batches of 100, each with the identity of the registry."""
        found: dict[str, BackupEntry] = {}
        unique = list(dict.fromkeys(conversation_ids))
        _ = self.client  # as in send
        for start in range(0, len(unique), _MAX_BATCH - 1):
            with TimeBudget(self.settings.aws_timeout):
                items = {item[KEY]["S"]: item for item in self._read_batch(unique[start : start + _MAX_BATCH - 1])}
            # First the identity: without it, a missing item proves nothing.
            self.registry.check(items.pop(REGISTRY_ITEM_ID, None))
            found |= {i: parse_entry(i, item, self.where) for i, item in items.items()}
        return found

    def _read_batch(self, conversation_ids: Sequence[str]) -> Iterator[Mapping[str, Any]]:
        """Yield these items and that of the registry; unprocessed keys are requested again."""
        keys = [{KEY: {"S": item_id}} for item_id in (REGISTRY_ITEM_ID, *conversation_ids)]
        for attempt in range(_BATCH_ATTEMPTS):
            request = {self.name: {"Keys": keys, "ConsistentRead": True}}
            try:
                with self.errors():
                    response = self.send("batch_get_item", {"RequestItems": request}, fits=partial(_only_of, keys))
            except AwsUnavailableError:
                # Less than this is too short for another attempt. So the time has ended, since keys were unprocessed.
                if attempt == 0 or (remaining() or 0.0) >= self.settings.aws_timeout / 10:
                    raise
                break
            keys = response.get("UnprocessedKeys", {}).get(self.name, {}).get("Keys", [])
            yield from response.get("Responses", {}).get(self.name, [])
            if not keys:
                return
            if not (left := remaining()):
                break
            self._sleep(min(backoff_seconds(attempt, first=0.05), left))
        raise ThrottledError(
            f"DynamoDB leaves reads of table {self.where} unprocessed", hint="wait, or give it more capacity"
        )

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Step 1 of a raise."""
        old = self._write_raise(conversation_id, entry)
        if old is not None:
            before = parse_entry(conversation_id, old, self.where).max_n if "max_n" in old else 1
            return RaiseOutcome(before, True, entry.n)
        for _ in range(CHANGES):
            current = self.get(conversation_id)
            if current is None:
                raise DamagedEntryError(
                    f"the item of {conversation_id!r} vanished from table {self.where} during a raise"
                )
            if current.target >= entry.n:
                return RaiseOutcome(current.target, False, current.entry)
            if current.cooling is None:
                problem = "belongs to another request"
                raise MismatchedResponseError(
                    f"the response to the raise of {conversation_id!r} in table {self.where} {problem}",
                    hint="run it again",
                )
            raised = current.raised(entry)
            if self.replace(current, raised):
                return RaiseOutcome(current.target, True, raised.entry)
        raise self._contended(conversation_id)

    def _contended(self, conversation_id: str) -> ThrottledError:
        problem = f"the item of {conversation_id!r} in table {self.where} is changed all the time"
        return ThrottledError(problem, hint="run it again")

    def restore(self, conversation_id: str, entry: Entry, by: Raise, *, commit: bool) -> bool:
        """Add what an entry holds to the item, in a table that may not be claimed; return whether it changed.

        ``by`` records it, and ``commit`` sets write_n in the same write.
        """
        if isinstance(entry, int):
            also = ", write_n = :n" if commit else ""
            if self._write_raise(conversation_id, replace(by, n=entry), also) is not None:
                return True
        for _ in range(CHANGES):
            item = self.read_item(conversation_id)
            if item is not None and find_damage(item):
                return False  # the scan has reported it; a person must repair it
            held = BackupEntry(conversation_id, 1, 1)
            if item is not None:
                held = parse_entry(conversation_id, item, self.where)
            union = held.holding(entry)
            if union.cooling is None or not lacks(held.entry, entry):
                return False
            if commit:
                union = replace(union, write_n=union.target)
            record = replace(by, n=union.target, cooled=union.target <= held.target)
            union = replace(union, raises=(*held.raises, record)[-MAX_RAISES_KEPT:])
            if self.replace(held if item is not None else None, union):
                return True
        raise self._contended(conversation_id)

    def _write_raise(self, conversation_id: str, entry: Raise, also: str = "") -> dict[str, Any] | None:
        """Raise an item that was never cooled."""
        return self.update_item(
            conversation_id,
            f"SET max_n = :n, updated_at = :at, #raises = list_append(if_not_exists(#raises, :none), :raise){also}",
            # An item without a max_n, or with one that is no N, once had one: it must not become a lower one.
            f"attribute_not_exists({KEY}) OR (max_n >= :one AND max_n < :n AND attribute_not_exists(cooling))",
            {":n": {"N": str(entry.n)}, ":one": {"N": "1"}, ":at": {"S": entry.at}}
            | {":none": {"L": []}, ":raise": {"L": [raise_attribute(entry)]}},
            names={"#raises": "raises"},
        )

    def commit_write_n(self, conversation_id: str, entry: Entry) -> bool:
        """Step 3 of a raise. Call it only once the registry holds the entry."""
        values = {":n": {"N": str(write_n_of(entry))}}
        if isinstance(entry, CooledEntry):
            holds = "cooling.epoch = :epoch AND cooling.target >= :n"
            values[":epoch"] = {"N": str(entry.epoch)}
        else:
            holds = "max_n >= :n AND attribute_not_exists(cooling)"
        condition = f"{holds} AND (attribute_not_exists(write_n) OR write_n < :n)"
        return self.update_item(conversation_id, "SET write_n = :n", condition, values) is not None

    def replace(self, before: BackupEntry | None, after: BackupEntry) -> bool:
        """Write an item of a conversation that is or was cooled, unless it has changed since it was read."""
        assert after.cooling is not None
        condition, old = _unchanged(before)
        at = after.raises[-1].at if after.raises else after.cooling.narrowed_at or "unknown"
        values = old | {
            ":new_max_n": {"N": str(after.max_n)},
            ":new_write_n": {"N": str(after.write_n)},
            ":cooling": cooling_attribute(after.cooling),
            ":raises": {"L": [raise_attribute(entry) for entry in after.raises]},
            ":at": {"S": at},
        }
        update = (
            "SET max_n = :new_max_n, write_n = :new_write_n, cooling = :cooling, raises = :raises, updated_at = :at"
        )
        return self.update_item(after.conversation_id, update, condition, values) is not None

    def allow_cooling(self) -> bool:
        """Refuse clients that do not know cooled entries, from now on; return whether they were served before."""
        return self.registry.allow_cooling()

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
        reader = SegmentReader(self.scan_client, self.name, plan, stop=stop, missing=self.missing)
        idle = BackupPage([], [], 0.0, -1)
        timeout = self.settings.aws_timeout + 1
        yield from scan_in_parallel(reader.pages, plan.unfinished, stop, idle_page=idle, stop_timeout=timeout)

    @property
    def scan_client(self) -> ScanClient:
        """Sends Scan requests and parses their responses."""
        client, scan_client = self.client, self._scan_client
        if scan_client is None or scan_client.client is not client:
            self._scan_client = scan_client = ScanClient(client, self.settings.max_n_cap, self.name)
        return scan_client

    # The table itself.

    def check_table(self) -> None:
        """Refuse a table that is missing or has other keys than ``conversation_id`` (S).

        Raises:
            ConfigurationError: see above; the hint names `saltctl setup`.
        """
        keys = self.key_types()
        if keys != {"HASH": (KEY, "S")}:
            found = ", ".join(f"{name} ({type_}, {kind})" for kind, (name, type_) in keys.items())
            raise ConfigurationError(
                f"table {self.where} has the keys {found}; a backup table has {KEY} (S, HASH) alone",
                hint="is SALTCTL_BACKUP_TABLE the backup table and not the messages table?",
            )

    def create(self) -> None:
        """Create the table as the backup of a new registry; wait for it."""
        self.create_table()
        self.registry.create()

    def create_table(self) -> None:
        """Create the table, on demand, with deletion protection and point-in-time recovery, as no registry's backup."""
        import botocore.exceptions as driver

        self.create_on_demand({KEY: "HASH"}, DeletionProtectionEnabled=True)
        recovery = {"PointInTimeRecoveryEnabled": True}
        with self.errors():
            try:
                self.client.update_continuous_backups(TableName=self.name, PointInTimeRecoverySpecification=recovery)
            except driver.ClientError as exc:
                # DynamoDB Local has no backups; `saltctl doctor` reports every table without them.
                if error_code(exc) != "UnknownOperationException":
                    raise


def _unchanged(before: BackupEntry | None) -> tuple[str, dict[str, Any]]:
    """Return the condition that an item is still as it was read, and the values in it; None is no item.

    Every raise and every step of a cool-down changes one of these values.
    """
    if before is None:
        return f"attribute_not_exists({KEY})", {}
    numbers = {"max_n": before.max_n, "write_n": before.write_n}
    unchanged = ["max_n = :max_n", "write_n = :write_n"]
    if before.write_n == 1:  # as parse_entry reads an item without it
        unchanged[1] = "(write_n = :write_n OR attribute_not_exists(write_n))"
    times = {}
    if before.cooling is None:
        unchanged.append("attribute_not_exists(cooling)")
    else:
        for name in ("epoch", "target", "era"):
            numbers[name] = getattr(before.cooling, name)
            unchanged.append(f"cooling.{name} = :{name}")
        if before.cooling.narrowed_at:
            times[":narrowed_at"] = {"S": before.cooling.narrowed_at}
            unchanged.append("cooling.narrowed_at = :narrowed_at")
        else:
            unchanged.append("attribute_not_exists(cooling.narrowed_at)")
    return " AND ".join(unchanged), {f":{name}": {"N": str(n)} for name, n in numbers.items()} | times


def _only_of(keys: Sequence[Mapping[str, Any]], response: Mapping[str, Any]) -> bool:
    """Return whether a response to BatchGetItem has, or leaves unprocessed, only items of ``keys``, each once."""
    left = [key for table in response.get("UnprocessedKeys", {}).values() for key in table["Keys"]]
    items = [item for found in response.get("Responses", {}).values() for item in found]
    named = [*left, *({KEY: item[KEY]} for item in items)]
    return all(key in keys for key in named) and len({key[KEY]["S"] for key in named}) == len(named)
