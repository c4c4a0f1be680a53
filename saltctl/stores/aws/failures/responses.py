"""Parsers of AWS' responses that check their shape. botocore's own parsers take almost any JSON for a response."""

from __future__ import annotations

import json
import re
import threading
from binascii import crc32
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cache
from math import isfinite
from struct import error as StructError  # noqa: N812  an exception
from types import SimpleNamespace
from typing import Any

from saltctl.stores.bounded.errors import UnreadableResponseError

EMPTY = b"{}"
"""The body of a response without members, and of one that ScanClient has parsed."""

_PROXY_LOGIN = 407

_TYPES: dict[str, Any] = {
    "structure": dict,
    "map": dict,
    "list": list,
    "string": str,
    "boolean": bool,
    "integer": int,
    "long": int,
    "float": int | float,
    "double": int | float,
    "timestamp": datetime,
}
_REQUIRED = {
    "AssumeRoleResponse": ("Credentials",),
    "AssumeRoleWithWebIdentityResponse": ("Credentials",),
    "AttributeDefinition": ("AttributeName", "AttributeType"),
    "ContinuousBackupsDescription": ("ContinuousBackupsStatus",),
    "CreateTableOutput": ("TableDescription",),
    "Credentials": ("AccessKeyId", "SecretAccessKey", "SessionToken", "Expiration"),
    "CreateTokenResponse": ("accessToken", "expiresIn"),
    "DescribeAlarmsOutput": ("MetricAlarms",),
    "DescribeContinuousBackupsOutput": ("ContinuousBackupsDescription",),
    "DescribeContributorInsightsOutput": ("ContributorInsightsStatus",),
    "DescribeTableOutput": ("Table",),
    "Dimension": ("Name", "Value"),
    "GetInsightRuleReportOutput": ("Contributors",),
    "GetMetricDataOutput": ("MetricDataResults",),
    "GetRoleCredentialsResponse": ("roleCredentials",),
    "GlobalSecondaryIndexDescription": ("IndexName",),
    "InsightRuleContributor": ("Keys", "ApproximateAggregateValue"),
    "KeySchemaElement": ("AttributeName", "KeyType"),
    "ListTablesOutput": ("TableNames",),
    "ListTagsForResourceOutput": ("Tags",),
    "MetricAlarm": ("AlarmName", "AlarmArn"),
    "MetricDataResult": ("Id", "Timestamps", "Values"),
    "RoleCredentials": ("accessKeyId", "secretAccessKey", "sessionToken", "expiration"),
    "TableDescription": ("TableName",),
}
"""Members without which a shape, by its name in the services' models, is not an answer."""
_COUNTS = {
    "ConsumedCapacity": ("CapacityUnits",),
    "QueryOutput": ("Count", "ScannedCount"),
    "ScanOutput": ("Count", "ScannedCount"),
    "TableDescription": ("ItemCount", "TableSizeBytes"),
}
"""Members that are never negative."""
# fmt: off
_MALFORMED = (
    ArithmeticError, AttributeError, LookupError, MemoryError, OSError, RuntimeError, StructError, TypeError,
    ValueError,
)
# fmt: on


# DynamoDB's numbers have 38 digits and at most 126 places (documented). Python converts no 5,000 digits.
_is_number = re.compile(r"[+-]?[0-9]{0,200}\.?[0-9]{1,200}(?:[eE][+-]?[0-9]{1,3})?").fullmatch


def create_parser(protocol: str) -> Any:
    """Create a parser of a protocol, such as ``json``. It raises UnreadableResponseError; botocore's own does not."""
    from botocore.parsers import PROTOCOL_PARSERS, ResponseParserError

    parser, is_json = _checked(PROTOCOL_PARSERS[protocol])(), protocol in ("json", "rest-json")

    def parse(response: Any, shape: Any) -> Any:
        """Parse a response, unless its body cannot be one."""
        body, answered = response["body"], response["status_code"] < 300
        if response["status_code"] == _PROXY_LOGIN:  # no service of AWS answers so, and the body may be any page
            return {"Error": {"Code": str(_PROXY_LOGIN)}, "ResponseMetadata": {"HTTPStatusCode": _PROXY_LOGIN}}
        check_crc(body, response["headers"])
        # botocore reads a 200 whose body is not JSON, such as a proxy's page, as a response without members. A GetItem
        # would then find no item, and a lookup would call a salted conversation unsalted.
        if is_json and answered and body[:1] + body.rstrip()[-1:] != b"{}":
            raise UnreadableResponseError("the body is not JSON")
        # Other bytes may declare a string of any length, for which botocore would allocate memory.
        if protocol == "smithy-rpc-v2-cbor" and answered and shape is not None and (not body or body[0] >> 5 != 5):
            raise UnreadableResponseError("the body is not a map of CBOR")
        try:
            parsed = parser.parse(response, shape)
            if is_json and answered and not parsed.keys() - {"ResponseMetadata"}:
                _check_members(body, shape)
        # botocore's parser does not check the shape, and fails with the error that an unexpected shape causes.
        except (*_MALFORMED, ResponseParserError) as exc:
            raise UnreadableResponseError(str(exc)) from exc
        for name in ("LastEvaluatedKey", "NextToken"):  # an empty one means the end, as a missing one
            if not parsed.get(name, True):
                del parsed[name]
        return parsed

    return SimpleNamespace(parse=parse)


# Clients of the application.

_in_this_thread = threading.local()


@contextmanager
def own_requests() -> Iterator[None]:
    """Mark the requests that this thread sends inside the block as saltctl's own."""
    outer = getattr(_in_this_thread, "own", False)
    _in_this_thread.own = True
    try:
        yield
    finally:
        _in_this_thread.own = outer


def check_responses(client: Any) -> None:
    """Check the responses to saltctl's own requests by a client that has botocore's parser, as those of other clients.

    The application's requests by the same client are left alone.
    """
    meta = getattr(client, "meta", None)  # a substitute in a test has none
    if meta is not None and not hasattr(client, "shared_credentials"):  # saltctl's own client has the parser
        meta.events.register("before-parse", _before_parse, unique_id="saltctl-responses")


def _before_parse(
    response_dict: dict[str, Any], customized_response_dict: dict[str, Any], operation_model: Any, **_: object
) -> None:
    if not getattr(_in_this_thread, "own", False):
        return
    protocol, shape = operation_model.service_model.resolved_protocol, operation_model.output_shape
    parsed = create_parser(protocol).parse(dict(response_dict), shape)
    if response_dict["status_code"] >= 300:
        return
    customized_response_dict.update((name, value) for name, value in parsed.items() if name != "ResponseMetadata")
    if protocol == "json":
        response_dict["body"] = EMPTY  # leaves nothing to parse for botocore
    elif shape is not None and "NextToken" in shape.members:
        customized_response_dict.setdefault("NextToken", None)  # botocore's parser may find an empty one


@cache
def _checked(base: Any) -> Any:
    """Return a class of botocore's parsers that checks each value."""

    # A private method of botocore. If a version has none of this name, values are not checked, and tests fail.
    class Checked(base):  # type: ignore[misc]
        def _parse_shape(self, shape: Any, node: Any) -> Any:
            kind = shape.type_name
            if kind == "list" and isinstance(node, str | dict):  # botocore would iterate over them
                raise UnreadableResponseError(f"{shape.name} is not a list")
            value = super()._parse_shape(shape, node)
            expected = _TYPES.get(kind)
            if expected is None or value is None:
                return value
            if not isinstance(value, expected) or (isinstance(value, bool) and kind != "boolean"):
                raise UnreadableResponseError(f"{shape.name} is not of type {kind}")
            if isinstance(value, float) and not isfinite(value):  # Python's JSON has NaN and Infinity
                raise UnreadableResponseError(f"{shape.name} is not a number")
            if kind == "structure":
                _require(shape.name, value)
            return value

        def _handle_map(self, shape: Any, node: Any) -> Any:
            of = shape.value
            if of.name != "AttributeValue":
                return super()._handle_map(shape, node)
            # Most attributes are strings and numbers, which stay as they are. This is most of the time of a page.
            return {name: one if _is_plain(one) else self._parse_shape(of, one or {}) for name, one in node.items()}

    return Checked


def _is_plain(attribute: Any) -> bool:
    """Return whether an attribute of DynamoDB is one string or one number, which JSON has as a string, too."""
    if type(attribute) is not dict or len(attribute) != 1:
        return False
    ((kind, value),) = attribute.items()
    return type(value) is str and (kind == "S" or (kind == "N" and _is_number(value) is not None))


def _require(name: str, value: Mapping[str, Any]) -> None:
    for member in _REQUIRED.get(name, ()):
        if member not in value:
            raise UnreadableResponseError(f"{name} has no {member}")
    for member in _COUNTS.get(name, ()):
        if value.get(member, 0) < 0:
            raise UnreadableResponseError(f"{member} is negative")
    if name == "AttributeValue":
        numbers = value.get("NS", [value["N"]] if "N" in value else [])
        if len(value) != 1 or "SDK_UNKNOWN_MEMBER" in value or not all(map(_is_number, numbers)):
            raise UnreadableResponseError("an attribute has no type of DynamoDB")
    if name == "MetricDataResult" and len(value["Timestamps"]) != len(value["Values"]):
        raise UnreadableResponseError("a metric has other times than values")


def _check_members(body: bytes, shape: Any) -> None:
    """Refuse a body none of whose members is known: another server's JSON. No members at all are no result."""
    members = json.loads(body)
    if members and shape is not None and not members.keys() & shape.members.keys():
        raise UnreadableResponseError("none of its members is known")


def check_crc(body: bytes, headers: Mapping[str, str]) -> None:
    """Compare DynamoDB's checksum. botocore's retry mode ``standard`` does not (read in botocore 1.44).

    A response that a proxy has compressed is not checked: the checksum is that of the uncompressed body.

    Raises:
        UnreadableResponseError: they differ.
    """
    expected = headers.get("x-amz-crc32")
    if expected is None or headers.get("content-encoding") or body == EMPTY:
        return
    if not expected.isdigit() or int(expected) != crc32(body):
        raise UnreadableResponseError("its checksum differs")


class Progress:
    """Notices that a list never ends, since its pages repeat. It remembers one position (Brent's algorithm).

    A cycle of n pages that begins after m pages is noticed after at most 2 max(m, n) + n pages.
    """

    def __init__(self) -> None:
        self._mark: Any = None
        self._pages = 0
        self._next_mark = 1

    def check(self, position: Any) -> None:
        """Note a key or token at which a page ends; None at the end. Raises UnreadableResponseError."""
        if position is not None and position == self._mark:
            raise UnreadableResponseError("its pages repeat")
        self._pages += 1
        if self._pages == self._next_mark:
            self._mark, self._next_mark = position, 2 * self._next_mark
