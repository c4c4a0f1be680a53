"""Scan requests to the backup table, and the parser of their responses.

Parsing is most of the work that a scan costs a client. botocore interprets every value by its model of the service:
6.9 µs an item. msgspec decodes the three attributes that a scan requests straight into structs: 0.4 µs an item
(measured on pages of 1 MB).
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cache, partial
from math import inf
from typing import Any

from saltctl.forks import importing, this_process
from saltctl.stores.aws.backup_items import KEY, OWN_ITEM_PREFIX, find_damage, parse_entry
from saltctl.stores.aws.failures.responses import EMPTY, check_crc
from saltctl.stores.bounded.errors import UnreadableResponseError
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import DamagedEntry

_EVENT = "before-parse.dynamodb.Scan"
_BODY = "saltctl.body"
_in_this_thread = threading.local()


class MalformedPageError(Exception):
    """A response that is not a page of a scan: cut off, changed on its way, or sent by another server."""


@dataclass(slots=True)
class ScanPage:
    """One page of a scan. ``last`` is the id up to which its segment is read, None at the segment's end.

    ``above_cap`` are those of ``entries`` whose max_n is above the cap. ``consumed_rcu`` is 0 if DynamoDB omits it.
    """

    entries: list[tuple[str, Entry, int]] = field(default_factory=list)
    damaged: list[DamagedEntry] = field(default_factory=list)
    above_cap: list[tuple[str, int]] = field(default_factory=list)
    consumed_rcu: float = 0.0
    last: str | None = None


class PageParser:
    """Parses responses to Scan requests. Thread-safe.

    Args:
        max_n_cap: an entry above it is reported, and is an entry like any other.
        table: the table that responses name; empty to check no name.
    """

    def __init__(self, max_n_cap: int, table: str = "") -> None:
        self._table = table.rpartition("/")[2]  # without the rest of an ARN
        self._cap = max_n_cap
        self._decode = _page_decoder()
        # DynamoDB writes numbers as strings. One look-up checks and converts such a string.
        self._known = {str(n): n for n in range(1, min(max_n_cap, 4096) + 1)}

    def parse(self, body: bytes) -> ScanPage:
        """Parse the body of a response. Raises MalformedPageError if it is not a page."""
        from msgspec import to_builtins

        try:
            decoded = self._decode(body)
        except (ValueError, RecursionError):  # not JSON, or an attribute has an unexpected type
            return self.parse_any_types(body)
        capacity = decoded.ConsumedCapacity
        self._check(len(decoded.Items), decoded.Count, "" if capacity is None else capacity.TableName)
        page = ScanPage(
            consumed_rcu=0.0 if capacity is None else _units(capacity.CapacityUnits),
            last=None if decoded.LastEvaluatedKey is None else decoded.LastEvaluatedKey.conversation_id.S,
        )
        known, add = self._known, page.entries.append
        for item in decoded.Items:
            conversation_id = item.conversation_id.S
            try:
                entry = (conversation_id, known[item.max_n.N], known[item.write_n.N])
            except (KeyError, AttributeError):
                entry = None
            if entry is None or item.cooling is not None:
                self._add_unusual(page, conversation_id, to_builtins(item))
                continue
            if conversation_id[:1] != OWN_ITEM_PREFIX:
                add(entry)
        return page

    def parse_any_types(self, body: bytes) -> ScanPage:
        """Parse a body as ``parse`` does, with attributes of any type; slower. Raises MalformedPageError."""
        try:
            response = json.loads(body)
        except (ValueError, RecursionError) as exc:
            raise MalformedPageError("its JSON is cut off or damaged") from exc
        return self.from_dictionary(response)

    def from_dictionary(self, response: Any) -> ScanPage:
        """Convert a response that was parsed already. Raises MalformedPageError if it is not a page."""
        if not isinstance(response, dict) or not isinstance(response.get("Items"), list):
            raise MalformedPageError("it has no items")
        try:
            last = response["LastEvaluatedKey"][KEY]["S"] if response.get("LastEvaluatedKey") else None
            capacity = response.get("ConsumedCapacity") or {}
            self._check(len(response["Items"]), response.get("Count"), capacity.get("TableName", ""))
            units = _units(capacity.get("CapacityUnits", 0.0))
            items = [(item[KEY]["S"], item) for item in response["Items"]]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise MalformedPageError("its items have no conversation_id") from exc
        page = ScanPage(consumed_rcu=units, last=last)
        for conversation_id, item in items:
            self._add_unusual(page, conversation_id, item)
        return page

    def _check(self, items: int, count: int | None, table: str) -> None:
        """Refuse a page of another table, or one without any sign that it is of this one: it would end the scan."""
        if self._table and (table.rpartition("/")[2] != self._table if table else not items):
            raise MalformedPageError("it belongs to another request")
        if count not in (None, items):
            raise MalformedPageError(f"it has {items:,} items, and says {count}")

    def _add_unusual(self, page: ScanPage, conversation_id: str, item: Mapping[str, Any]) -> None:
        """Add an item that may be damaged, not committed, cooled, above the cap, or one of saltctl's own items."""
        if conversation_id.startswith(OWN_ITEM_PREFIX):
            return
        if damage := find_damage(item):
            page.damaged.append(DamagedEntry(conversation_id, damage))
            return
        found = parse_entry(conversation_id, item, self._table)
        if found.max_n > self._cap:
            page.above_cap.append((conversation_id, found.max_n))
        page.entries.append((conversation_id, found.entry, found.write_n))


def _units(value: Any) -> float:
    """Return consumed units. Others would stop the rate limit, or end it."""
    if not isinstance(value, int | float) or not 0 <= value < inf:
        raise MalformedPageError("its consumed capacity is not a number")
    return float(value)


class ScanClient:
    """Sends Scan requests by a boto3 client, and parses the responses itself. Thread-safe.

    Args:
        client: sends the requests; signatures, retries and errors stay botocore's.
        max_n_cap, table: see PageParser.
    """

    def __init__(self, client: Any, max_n_cap: int, table: str = "") -> None:
        self.client = client
        self._parser = PageParser(max_n_cap, table)
        self._parsing = threading.Lock()
        events = getattr(getattr(client, "meta", None), "events", None)
        if events is not None:
            events.register(_EVENT, self._before_parse, unique_id=f"saltctl-scan-{id(self)}")

    def scan(self, request: Mapping[str, Any]) -> ScanPage:
        """Send one request.

        Raises:
            MalformedPageError: the response is not a page. Every error of botocore.
        """
        # botocore emits the event in the thread that sent the request. The marker tells this object's requests from
        # other scans by the same client.
        _in_this_thread.scanning = self
        process = this_process()
        try:
            response = self.client.scan(**request)
        finally:
            _in_this_thread.scanning = None
        if process != this_process():
            raise MalformedPageError("this process was forked during the request")
        if _BODY not in response:  # a client without botocore's events has parsed the response itself
            return self._parser.from_dictionary(response)
        # A page takes three times the memory of its body while it is parsed, and the interpreter lock lets only one
        # thread parse at a time anyway.
        with self._parsing:
            return self._parser.parse(response.pop(_BODY))

    def _before_parse(
        self, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
    ) -> None:
        if getattr(_in_this_thread, "scanning", None) is not self or response_dict["status_code"] >= 300:
            return
        body = response_dict["body"]
        try:
            check_crc(body, response_dict["headers"])
        except UnreadableResponseError as exc:
            raise MalformedPageError(str(exc)) from exc
        customized_response_dict[_BODY] = body
        response_dict["body"] = EMPTY  # leaves nothing to parse for botocore


@cache
def _page_decoder() -> Callable[[bytes], Any]:
    """Return msgspec's decoder of a page."""
    with importing:
        import msgspec

    # gc=False: a page has thousands of structs, none of which can be part of a reference cycle.
    define: Any = partial(msgspec.defstruct, gc=False, omit_defaults=True)
    string = define("String", [("S", str)])
    number = define("Number", [("N", str | None, None)])
    key = define("Key", [(KEY, string)])
    numbers = [(name, number | None, None) for name in ("max_n", "write_n")]
    item = define("Item", [(KEY, string), *numbers, ("cooling", Any, None)])
    capacity = define("Capacity", [("CapacityUnits", float, 0.0), ("TableName", str, "")])
    page = define(
        "Page",
        [
            ("Items", list.__class_getitem__(item)),
            ("Count", int | None, None),
            ("LastEvaluatedKey", key | None, None),
            ("ConsumedCapacity", capacity | None, None),
        ],
    )
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(page).decode
    return decode
