"""What a Scan of the backup table answers, from its bytes straight to entries.

Parsing is most of what a client spends on a scan. botocore walks every value of an answer along its model of the
service, 6.9 µs an item; msgspec, of the extra ``fast``, decodes the three attributes that are asked for
straight into structs, 0.4 µs; the standard library's parser, used without it, 1.3 µs (measured on pages of 1 MB).
"""

from __future__ import annotations

import json
import threading
from binascii import crc32
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from saltctl.stores.contracts import DamagedEntry

KEY = "conversation_id"
OWN_ITEMS = "#"
LARGEST_N = 65_536
"""No setting of max_n_cap goes beyond it, so no saltctl wrote an N above it."""
_EVENT = "before-parse.dynamodb.Scan"
_ANSWER = "saltctl.answer"
_ours = threading.local()


class MalformedPageError(Exception):
    """What arrived is no page of a scan: cut off, changed on its way, or somebody else's answer."""


@dataclass(slots=True)
class ScanPage:
    """One answer to a Scan. ``last`` is the id up to which its segment is read, None at its end.

    ``above_cap`` are entries of ``entries``, too. ``consumed_rcu`` is 0 where DynamoDB does not say.
    """

    entries: list[tuple[str, int, int]] = field(default_factory=list)
    damaged: list[DamagedEntry] = field(default_factory=list)
    above_cap: list[tuple[str, int]] = field(default_factory=list)
    consumed_rcu: float = 0.0
    last: str | None = None


class ScanClient:
    """Scans by a boto3 client, and reads what comes back past botocore's parser. Thread-safe.

    Args:
        client: what sends requests: signatures, retries and errors stay botocore's.
        max_n_cap: an entry above it is named, and is an entry like any other.
        slowly: without msgspec, also where it is installed.
    """

    def __init__(self, client: Any, max_n_cap: int, *, slowly: bool = False) -> None:
        self._client = client
        self._cap = max_n_cap
        self._decode = None if slowly else fast_decoder()
        # N as text, as DynamoDB writes numbers, to N: one look-up checks an entry and converts it.
        self._known = {str(n): n for n in range(1, min(max_n_cap, 4096) + 1)}
        events = getattr(getattr(client, "meta", None), "events", None)
        if events is not None:
            events.register(_EVENT, self._before_parse, unique_id=f"saltctl-scan-{id(self)}")

    def scan(self, request: Mapping[str, Any]) -> ScanPage:
        """One request.

        Raises:
            MalformedPageError: see there. Whatever botocore raises besides.
        """
        with self._reading():
            answer = self._client.scan(**request)
        found = answer.get(_ANSWER)
        # A client without botocore's events has parsed the answer itself.
        return found if isinstance(found, ScanPage) else self._answer(answer)

    @contextmanager
    def _reading(self) -> Iterator[None]:
        # The event arrives in the thread that sent the request; scans of other tables by the same client are
        # nobody's business here.
        _ours.reader = self
        try:
            yield
        finally:
            _ours.reader = None

    def _before_parse(
        self, response_dict: dict[str, Any], customized_response_dict: dict[str, Any], **_: object
    ) -> None:
        if getattr(_ours, "reader", None) is not self or response_dict["status_code"] >= 300:
            return
        body = response_dict["body"]
        _check_crc(body, response_dict["headers"])
        customized_response_dict[_ANSWER] = self.read(body)
        response_dict["body"] = b""  # for botocore nothing is left to parse

    def read(self, body: bytes) -> ScanPage:
        """The answer in the body of a response."""
        if self._decode is not None:
            try:
                page = self._decode(body)
            except ValueError:  # no JSON, or an attribute of another type: looked at more closely below
                page = None
            if page is not None:
                return self._structs(page)
        try:
            parsed = json.loads(body)
        except ValueError as exc:
            raise MalformedPageError("its JSON is cut off or damaged") from exc
        return self._answer(parsed)

    def _answer(self, parsed: Any) -> ScanPage:
        """From JSON as dictionaries."""
        if not isinstance(parsed, dict) or not isinstance(parsed.get("Items"), list):
            raise MalformedPageError("it has no items")
        try:
            last = parsed["LastEvaluatedKey"][KEY]["S"] if parsed.get("LastEvaluatedKey") else None
            units = float((parsed.get("ConsumedCapacity") or {}).get("CapacityUnits", 0.0))
            items = [(item[KEY]["S"], item) for item in parsed["Items"]]
        except (KeyError, TypeError, ValueError, AttributeError) as exc:
            raise MalformedPageError("its items have no conversation_id") from exc
        answer = ScanPage(consumed_rcu=units, last=last)
        known = self._known
        for conversation_id, item in items:
            try:
                entry = (conversation_id, known[item["max_n"]["N"]], known[item["write_n"]["N"]])
            except (KeyError, TypeError):
                self._add_closely(answer, conversation_id, item)
                continue
            if not conversation_id.startswith(OWN_ITEMS):
                answer.entries.append(entry)
        return answer

    def _structs(self, page: Any) -> ScanPage:
        """From what the fast decoder made."""
        answer = ScanPage(
            consumed_rcu=0.0 if page.ConsumedCapacity is None else page.ConsumedCapacity.CapacityUnits,
            last=None if page.LastEvaluatedKey is None else page.LastEvaluatedKey.conversation_id.S,
        )
        known, add = self._known, answer.entries.append
        for item in page.Items:
            conversation_id = item.conversation_id.S
            try:
                entry = (conversation_id, known[item.max_n.N], known[item.write_n.N])
            except (KeyError, AttributeError):
                self._add_closely(answer, conversation_id, _as_dictionary(item))
                continue
            if conversation_id[:1] != OWN_ITEMS:
                add(entry)
        return answer

    def _add_closely(self, answer: ScanPage, conversation_id: str, item: Mapping[str, Any]) -> None:
        """An item that is not quite as most are: damaged, half-done, above the cap, or no conversation's."""
        if conversation_id.startswith(OWN_ITEMS):
            return
        if problem := problem_of(item):
            answer.damaged.append(DamagedEntry(conversation_id, problem))
            return
        max_n, write_n = int(item["max_n"]["N"]), int(item["write_n"]["N"]) if "write_n" in item else 1
        if max_n > self._cap:
            answer.above_cap.append((conversation_id, max_n))
        answer.entries.append((conversation_id, max_n, write_n))


def problem_of(item: Mapping[str, Any]) -> str:
    """What is wrong with an item, or an empty text."""
    if "max_n" not in item:
        return "it has no max_n"
    for name in ("max_n", "write_n"):
        if name not in item:
            continue
        number = item[name].get("N") if isinstance(item[name], Mapping) else None
        if not isinstance(number, str):
            return f"its {name} is no number"
        if not (number.isascii() and number.isdigit()) or int(number) < 1:
            return f"its {name} is {number}, no positive whole number"
        if int(number) > LARGEST_N:
            return f"its {name} is {number}, more than any registry allows"
    return ""


@cache
def fast_decoder() -> Callable[[bytes], Any] | None:
    """Bytes to a page of structs, by msgspec; None where it is not installed."""
    try:
        import msgspec
    except ImportError:
        return None
    # gc=False: thousands of structs a page that can be in no cycle, and that the collector need not visit.
    make: Any = lambda name, fields: msgspec.defstruct(name, fields, gc=False, omit_defaults=True)  # noqa: E731
    text = make("Text", [("S", str)])
    number = make("Number", [("N", str | None, None)])
    key = make("Key", [(KEY, text)])
    item = make("Item", [(KEY, text), ("max_n", number | None, None), ("write_n", number | None, None)])
    capacity = make("Capacity", [("CapacityUnits", float, 0.0)])
    page = make(
        "Page",
        [
            ("Items", list.__class_getitem__(item)),
            ("LastEvaluatedKey", key | None, None),
            ("ConsumedCapacity", capacity | None, None),
        ],
    )
    decode: Callable[[bytes], Any] = msgspec.json.Decoder(page).decode
    return decode


def _as_dictionary(item: Any) -> dict[str, Any]:
    import msgspec

    found: dict[str, Any] = msgspec.to_builtins(item)
    return found


def _check_crc(body: bytes, headers: Mapping[str, str]) -> None:
    """Compare DynamoDB's checksum. botocore's retry mode ``standard`` does not (read in botocore 1.44).

    Where a proxy has compressed the answer, the checksum is not that of what it was before.
    """
    told = headers.get("x-amz-crc32")
    if told is None or headers.get("content-encoding"):
        return
    if not told.isdigit() or int(told) != crc32(body):
        raise MalformedPageError("its checksum differs")
