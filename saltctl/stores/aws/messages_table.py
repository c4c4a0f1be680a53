"""The messages table. A row's partition key is a conversation id or a salt of it."""

from __future__ import annotations

import threading
from collections.abc import Generator, Iterable, Iterator, Mapping
from decimal import Decimal
from functools import partial
from itertools import islice
from typing import Any

from saltctl.errors import ConfigurationError, ThrottledError
from saltctl.salting import number_text
from saltctl.settings import Settings
from saltctl.stores.aws.backup_scan import RateLimiter
from saltctl.stores.aws.failures.errors import none_if_condition_fails
from saltctl.stores.aws.failures.refusals import RESTORE
from saltctl.stores.aws.failures.responses import Progress
from saltctl.stores.aws.table import Table
from saltctl.stores.bounded.errors import UnreadableResponseError
from saltctl.stores.contracts.messages import (
    NOTHING_READ,
    Item,
    KeysPage,
    PartitionAnswer,
    PartitionQuery,
    SortKey,
    TableKeys,
)
from saltctl.stores.parallel_scan import IDLE_SECONDS, scan_in_parallel
from saltctl.stores.retry import retry_while_throttled

PARTITION_KEY = "conversation_id"
SORT_KEY = "sort_key"
"""The key names of a table that saltctl creates for trial use. The names of other tables are read from the table."""
_SAMPLE_SEGMENTS = 16
_SAMPLE_ROWS = 500
SAMPLE = _SAMPLE_SEGMENTS * _SAMPLE_ROWS
"""Rows of a sample of partition keys."""
_MAX_STUCK = 10
"""Requests for a page that ends where it starts, until the read is given up: it would never end."""
_BATCH = 25
"""Items that one BatchWriteItem takes (documented)."""


class MessagesTable(Table):
    """Messages as DynamoDB stores them. Thread-safe. See ``contracts.MessageStore`` for the semantics.

    An application's own ``client`` renews its credentials itself.
    """

    missing_hint = f"check SALTCTL_MESSAGES_TABLE and AWS_REGION ({{region}}), or {RESTORE}\nsaltctl config show"

    def __init__(self, settings: Settings, *, client: Any = None) -> None:
        super().__init__(settings, settings.messages_table, client=client)
        self._keys: TableKeys | None = None

    @property
    def keys(self) -> TableKeys:
        """The key names and the type of the sort key, read once by DescribeTable."""
        # Not a cached_property: on Python 3.11 its lock is held during the request, and so in the child of a fork.
        if self._keys is None:
            self._keys = self._read_keys()
        return self._keys

    def _read_keys(self) -> TableKeys:
        keys = self.key_types()
        partition_key, partition_type = keys["HASH"]
        sort_key, sort_type = keys.get("RANGE", (None, None))
        if partition_type != "S" or sort_key is None or sort_type not in ("S", "N"):
            found = ", ".join(f"{name} ({type_}, {kind})" for kind, (name, type_) in keys.items())
            raise ConfigurationError(
                f"table {self.name!r} has the keys {found}; a messages table has a partition key of type S and a "
                "sort key of type S or N",
                hint="is SALTCTL_MESSAGES_TABLE the messages table?\nsaltctl config show",
            )
        return TableKeys(partition_key, sort_key, "S" if sort_type == "S" else "N")

    def create(self) -> None:
        """Create the table with saltctl's own key names, on demand, and wait for it."""
        self.create_on_demand({PARTITION_KEY: "HASH", SORT_KEY: "RANGE"})

    # Reading.

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Send one Query to one partition."""
        with self.errors(self._where(request.partition_key)):
            key = {self.keys.partition_key: {"S": request.partition_key}}
            fits = partial(self._fits, request)
            for _ in range(_MAX_STUCK):
                response = self.send("query", self._query_request(request), key, fits)
                if request.start is None or response.get("LastEvaluatedKey") != request.start:
                    break
            else:
                raise UnreadableResponseError("each page ends where it starts")
        return PartitionAnswer(
            response["Items"],
            int(response.get("ScannedCount", len(response["Items"]))),
            _consumed_rcu(response),
            # Only a missing or empty LastEvaluatedKey ends a partition; an empty page does not.
            response.get("LastEvaluatedKey") or None,
        )

    def _fits(self, request: PartitionQuery, response: Mapping[str, Any]) -> bool:
        """Return whether the rows are in the range, the order and the limit of a request."""
        keys = [self._plain_sort_key(row) for row in response["Items"]]
        start = None if request.start is None else self._plain_sort_key(request.start)
        pairs = [(start, keys[0])] if keys and start is not None else []
        pairs += [(keys[0], keys[-1])] if len(keys) > 1 else []
        last = response.get("LastEvaluatedKey")
        end = self._plain_sort_key(last) if last else None
        read = [key for key in (start, *keys[-1:]) if key is not None and end is not None]
        return (
            all(key >= end if request.descending else key <= end for key in read)
            and all(before > after if request.descending else before < after for before, after in pairs)
            and all(request.low is None or key >= request.low for key in {*keys[:1], *keys[-1:]})
            and all(request.high is None or key <= request.high for key in {*keys[:1], *keys[-1:]})
            and (request.limit is None or len(keys) <= request.limit)
        )

    def _plain_sort_key(self, row: Mapping[str, Any]) -> Any:
        value = row[self.keys.sort_key][self.keys.sort_type]
        return Decimal(value) if self.keys.sort_type == "N" else value

    def _query_request(self, request: PartitionQuery) -> dict[str, Any]:
        condition = "#saltctl_p = :saltctl_p"
        names = {"#saltctl_p": self.keys.partition_key}
        values: dict[str, Mapping[str, Any]] = {":saltctl_p": {"S": request.partition_key}}
        bounds = {":saltctl_low": request.low, ":saltctl_high": request.high}
        given = {name: self._sort_value(bound) for name, bound in bounds.items() if bound is not None}
        values |= given
        if len(given) == 2:
            condition += " AND #saltctl_s BETWEEN :saltctl_low AND :saltctl_high"
        elif given:
            condition += f" AND #saltctl_s {'>=' if ':saltctl_low' in given else '<='} {next(iter(given))}"
        if given or request.keys_only:
            names["#saltctl_s"] = self.keys.sort_key
        query: dict[str, Any] = {
            "KeyConditionExpression": condition,
            "ScanIndexForward": not request.descending,
            "ConsistentRead": request.consistent,
        }
        if request.keys_only:
            query["ProjectionExpression"] = "#saltctl_p, #saltctl_s"
        if request.limit is not None:
            query["Limit"] = request.limit
        if request.start is not None:
            query["ExclusiveStartKey"] = request.start
        if request.filter is not None:
            query["FilterExpression"] = request.filter.expression
            names |= request.filter.names
            values |= request.filter.values
        return query | {"ExpressionAttributeNames": names, "ExpressionAttributeValues": values}

    def get(self, partition_key: str, sort_key: SortKey) -> Item | None:
        """Read one row, strongly consistent."""
        with self.errors(self._where(partition_key)):
            return self.get_item(self._key(partition_key, sort_key))

    def rows(self, partition_key: str) -> Iterator[Item]:
        """Yield every row of one partition, strongly consistent, in the order of the sort key."""
        start: Item | None = None
        while True:
            answer = self.query(PartitionQuery(partition_key, descending=False, start=start))
            yield from answer.items
            if answer.next is None:
                return
            start = answer.next

    def scan_keys(
        self,
        segments: int,
        *,
        consistent: bool = True,
        attribute: str | None = None,
        after: Mapping[int, Item | None] = NOTHING_READ,
        max_rcu: float | None = None,
    ) -> Generator[KeysPage, None, None]:
        """Yield the keys of all rows, by a parallel scan that holds at most one page a segment in memory."""
        names = dict.fromkeys([self.keys.partition_key, self.keys.sort_key, attribute or self.keys.sort_key])
        aliases = {f"#saltctl_{number}": name for number, name in enumerate(names)}
        request: dict[str, Any] = {
            "TotalSegments": segments,
            "ConsistentRead": consistent,
            "ProjectionExpression": ", ".join(aliases),
            "ExpressionAttributeNames": aliases,
        }
        stop, limiter = threading.Event(), RateLimiter(max_rcu)

        def pages(segment: int) -> Iterator[KeysPage]:
            """Scan one segment."""
            last, position, progress = after.get(segment), {"Segment": segment}, Progress()
            while not stop.is_set():
                if (permit := limiter.request_permit()).wait:
                    stop.wait(min(permit.wait, IDLE_SECONDS))
                    continue
                start = {} if last is None else {"ExclusiveStartKey": last}
                limit = {} if (items := limiter.page_limit()) is None else {"Limit": items}
                scan = partial(self._scan, request | position | start | limit)
                response = retry_while_throttled(scan, stop.wait, stopped=stop.is_set)
                last, consumed = response.get("LastEvaluatedKey") or None, _consumed_rcu(response)
                with self.errors():
                    progress.check(last)
                limiter.settle(permit, consumed, response.get("ScannedCount", len(response["Items"])))
                yield KeysPage(response["Items"], consumed, segment, last)
                if last is None:
                    return

        unfinished = [segment for segment in range(segments) if after.get(segment, {}) is not None]
        idle, timeout = KeysPage([], 0.0), self.settings.aws_timeout + 1
        yield from scan_in_parallel(pages, unfinished, stop, idle_page=idle, stop_timeout=timeout)

    def sample_partition_keys(self) -> Iterator[str]:
        """Yield the partition keys of up to 8,000 rows, the first ones of sixteen segments; for a first look."""
        key = self.keys.partition_key
        request = {
            "TotalSegments": _SAMPLE_SEGMENTS,
            "Limit": _SAMPLE_ROWS,
            "ProjectionExpression": "#saltctl_p",
            "ExpressionAttributeNames": {"#saltctl_p": key},
        }
        for segment in range(_SAMPLE_SEGMENTS):
            yield from (item[key]["S"] for item in self._scan(request | {"Segment": segment})["Items"])

    def _scan(self, request: Mapping[str, Any]) -> dict[str, Any]:
        with self.errors():
            return self.send("scan", request, fits=partial(_advances, request))

    # Writing.

    def put(self, partition_key: str, sort_key: SortKey, attributes: Mapping[str, Any]) -> bool:
        """Write one row unless it exists; return whether it was written. It is safe to repeat."""
        request = {
            "Item": {**attributes, **self._key(partition_key, sort_key)},
            "ConditionExpression": "attribute_not_exists(#saltctl_s)",
            "ExpressionAttributeNames": {"#saltctl_s": self.keys.sort_key},
        }
        with self.errors(self._where(partition_key)):
            return none_if_condition_fails(lambda: self.send("put_item", request)) is not None

    def delete(self, partition_key: str, sort_key: SortKey, marked: str) -> None:
        """Delete one row if it has the attribute ``marked``. It is safe to repeat."""
        request = {
            "Key": self._key(partition_key, sort_key),
            "ConditionExpression": "attribute_exists(#saltctl_marked)",
            "ExpressionAttributeNames": {"#saltctl_marked": marked},
        }
        with self.errors(self._where(partition_key)):
            none_if_condition_fails(lambda: self.send("delete_item", request))

    def load(self, items: Iterable[Item]) -> None:
        """Write many rows, in batches of 25 and in any order; for seeding."""
        rows = iter(items)
        while batch := [{"PutRequest": {"Item": item}} for item in islice(rows, _BATCH)]:
            left: dict[str, Any] = {self.name: batch}
            for _ in range(8):
                with self.errors():
                    left = self.client.batch_write_item(RequestItems=left).get("UnprocessedItems", {})
                    if left and not (left.keys() == {self.name} and all(one in batch for one in left[self.name])):
                        raise UnreadableResponseError("its unprocessed items were not requested")
                if not left:
                    break
            else:
                raise ThrottledError(
                    f"DynamoDB leaves writes to table {self.where} unprocessed", hint="try again later"
                )

    def _key(self, partition_key: str, sort_key: SortKey) -> dict[str, Any]:
        return {self.keys.partition_key: {"S": partition_key}, self.keys.sort_key: self._sort_value(sort_key)}

    def _sort_value(self, sort_key: SortKey) -> dict[str, str]:
        return {"N": number_text(sort_key)} if isinstance(sort_key, Decimal) else {"S": sort_key}

    def _where(self, partition_key: str) -> str:
        return f"{self.where} (partition key {partition_key!r})"


def _consumed_rcu(response: Mapping[str, Any]) -> float:
    return float(response.get("ConsumedCapacity", {}).get("CapacityUnits", 0.0))


def _advances(request: Mapping[str, Any], response: Mapping[str, Any]) -> bool:
    """Return whether a page of a scan ends at another key than the one where it starts, so that the scan ends."""
    last = response.get("LastEvaluatedKey")
    return not last or last != request.get("ExclusiveStartKey")
