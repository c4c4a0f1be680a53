"""Every read on which the promise depends is strongly consistent: the requests say so, whoever sends them.

Emulators answer every read consistently, so only the requests show it.
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

from saltctl.history.history import History
from saltctl.history.models import FindOptions, ReadOptions
from saltctl.registry.discover import discover
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.testing import MemoryRedis
from tests.stores.aws.backup_helpers import make_item, make_raise, put_items
from tests.support.aws_stub import AwsStub

READS = ("GetItem", "BatchGetItem", "Query", "Scan")


class Tables:
    """Both tables behind a stub, and all that read them. ``reads`` are operations, each with its ConsistentRead."""

    def __init__(self, settings: Settings, stub: AwsStub) -> None:
        there = stub.settings(settings)
        self.backup = BackupTable(there)
        self.messages = MessagesTable(there)
        for table in (self.backup, self.messages):
            table.create()
        put_items(self.backup, make_item("conv", 4, 4), make_item("other", 8))
        redis = MemoryRedis()
        redis.restart()  # every lookup falls back
        self.registry = Registry.over(there, redis, self.backup)
        self.history = History.over(there, self.registry, self.messages)
        self.history.put("conv", "t#m1", {"text": "hi"})
        self.reads: list[tuple[str, object]] = []
        stub.rule = self._record

    def _record(self, operation: str, request: dict[str, Any]) -> None:
        if operation == "BatchGetItem":
            self.reads += [(operation, wanted.get("ConsistentRead")) for wanted in request["RequestItems"].values()]
        elif operation in READS:
            self.reads.append((operation, request.get("ConsistentRead")))


@pytest.fixture
def tables(aws_settings: Settings, aws_stub: AwsStub) -> Iterator[Tables]:
    """Tables with an entry and a message."""
    found = Tables(replace(aws_settings, messages_table=f"messages-{uuid.uuid4().hex[:8]}"), aws_stub)
    yield found
    found.history.close()


CALLS: dict[str, tuple[Callable[[Tables], object], set[str]]] = {
    "one entry": (lambda t: t.backup.get("conv"), {"BatchGetItem"}),
    "many entries": (lambda t: t.backup.get_many(["conv", "other"]), {"BatchGetItem"}),
    "a scan": (lambda t: list(t.backup.scan(2)), {"Scan"}),
    "the layout": (lambda t: t.backup.registry.layout(), {"GetItem"}),
    "the identity": (lambda t: t.backup.check_registry(), {"GetItem"}),
    "the id of the registry": (lambda t: BackupTable(t.backup.settings).registry.id(), {"GetItem"}),
    "the lease": (lambda t: t.backup.lease.holder(), {"GetItem"}),
    "the checkpoint": (lambda t: t.backup.checkpoint.load(), {"GetItem"}),
    "a raise that is there": (lambda t: t.backup.raise_max_n("other", make_raise(2)), {"BatchGetItem"}),
    "a lookup": (lambda t: t.registry.lookup("conv"), {"BatchGetItem"}),
    "many lookups": (lambda t: t.registry.lookup_many(["conv", "other"]), {"BatchGetItem"}),
    "the completion of a raise": (lambda t: t.registry.complete("conv"), {"BatchGetItem"}),
    "a partition": (lambda t: t.messages.query(PartitionQuery("conv")), {"Query"}),
    "a partition's rows": (lambda t: list(t.messages.rows("conv")), {"Query"}),
    "a row": (lambda t: t.messages.get("conv", "t#m1"), {"GetItem"}),
    "all keys": (lambda t: list(t.messages.scan_keys(2)), {"Scan"}),
    "a page": (lambda t: t.history.page("conv"), {"BatchGetItem", "Query"}),
    "a page of a range": (
        lambda t: t.history.page("conv", ReadOptions(since="a", until="z")),
        {"BatchGetItem", "Query"},
    ),
    "a whole history": (lambda t: list(t.history.messages("conv")), {"BatchGetItem", "Query"}),
    "a message by its id": (lambda t: t.history.find("conv", "m1"), {"BatchGetItem", "Query"}),
    "a message by its key": (lambda t: t.history.find("conv", "m1", FindOptions(sort_key="t#m1")), {"GetItem"}),
    "a repeated write": (lambda t: t.history.put("conv", "t#m1", {}), {"GetItem"}),
    "the conversations in use": (
        lambda t: list(discover(t.messages, t.backup, message_id=lambda row: None, segments=2, cap=256)),
        {"Scan", "BatchGetItem"},
    ),
}


@pytest.mark.parametrize("name", CALLS)
def test_a_read_is_strongly_consistent(tables: Tables, name: str) -> None:
    """Every request that reads says so; one that does not might miss a write that was acknowledged before."""
    call, operations = CALLS[name]
    call(tables)
    assert {operation for operation, _ in tables.reads} >= operations
    assert [operation for operation, consistent in tables.reads if consistent is not True] == []


def test_only_a_reader_who_asks_for_it_reads_eventually(tables: Tables) -> None:
    """Half the price, and outside the promise: the reader says so for each call."""
    tables.history.page("conv", ReadOptions(consistent=False))
    list(tables.messages.scan_keys(1, consistent=False))
    queries = [consistent for operation, consistent in tables.reads if operation in ("Query", "Scan")]
    assert set(queries) == {False}
    assert all(consistent for operation, consistent in tables.reads if operation == "BatchGetItem")
