"""Parsing pages of a scan: both parsers agree, and damage is reported."""

from __future__ import annotations

import json
from binascii import crc32
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.stores.aws.scan_parser import MalformedPageError, PageParser, ScanClient, ScanPage

CAP = 16
NUMBERS = st.one_of(
    st.sampled_from(("1", "2", "4", "16", "32", "65536", "65537", "0", "-4", "1.5", "1e3", "²", "")),
    st.integers(-10, 10**20).map(str),
)
VALUES = st.one_of(
    NUMBERS.map(lambda text: {"N": text}),
    st.text(max_size=3).map(lambda text: {"S": text}),
    st.just({"NULL": True}),
    st.just({"N": 4}),
)
ITEMS = st.fixed_dictionaries(
    {"conversation_id": st.one_of(st.text(min_size=1, max_size=5), st.just("#lease")).map(lambda text: {"S": text})},
    optional={"max_n": VALUES, "write_n": VALUES},
)
PAGES = st.fixed_dictionaries(
    {"Items": st.lists(ITEMS, max_size=6)},
    optional={
        "LastEvaluatedKey": st.just({"conversation_id": {"S": "last"}}),
        "ConsumedCapacity": st.just({"TableName": "t", "CapacityUnits": 1.5}),
        "Count": st.integers(0, 6),
    },
)


def parse(body: bytes, *, slowly: bool = True) -> ScanPage:
    """Parse the body of a response, by msgspec or by the parser of pages with attributes of any type."""
    parser = PageParser(CAP)
    return parser.parse_any_types(body) if slowly else parser.parse(body)


@pytest.mark.slow
@given(PAGES)
def test_both_parsers_agree(page: dict[str, Any]) -> None:
    """On entries, damage, entries above the cap, consumed capacity and position, for any items."""
    body = json.dumps(page).encode()
    if page.get("Count", len(page["Items"])) != len(page["Items"]):
        for slowly in (True, False):
            with pytest.raises(MalformedPageError):
                parse(body, slowly=slowly)
    else:
        assert parse(body, slowly=False) == parse(body)


@pytest.mark.parametrize("slowly", [True, False])
@pytest.mark.parametrize(
    ("max_n", "entries", "above_cap", "problem"),
    [
        ("16", [("conv", 16, 1)], [], None),
        ("32", [("conv", 32, 1)], [("conv", 32)], None),
        ("65536", [("conv", 65536, 1)], [("conv", 65536)], None),
        ("65537", [], [], "more than any registry allows"),
        ("9" * 5000, [], [], "more than any registry allows"),
        ("-4", [], [], "not a positive whole number"),
        ("1.5", [], [], "not a positive whole number"),
    ],
)
def test_entries_above_the_cap_are_reported_and_impossible_ones_damaged(
    slowly: bool,
    max_n: str,
    entries: list[tuple[str, int, int]],
    above_cap: list[tuple[str, int]],
    problem: str | None,
) -> None:
    """An N of another client is served; an N that no setting allows cannot be saltctl's."""
    page = {"Items": [{"conversation_id": {"S": "conv"}, "max_n": {"N": max_n}, "write_n": {"N": "1"}}]}
    answer = parse(json.dumps(page).encode(), slowly=slowly)
    assert (answer.entries, answer.above_cap) == (entries, above_cap)
    assert [damaged.problem.endswith(problem or "") for damaged in answer.damaged] == [True] * bool(problem)


@pytest.mark.parametrize("slowly", [True, False])
@pytest.mark.parametrize(
    "body", [b"", b'{"Items": [{"conversation_id": {"S"', b"[]", b"{}", b'{"Items": [{}]}', b"\xff"]
)
def test_a_malformed_page_raises_an_error(slowly: bool, body: bytes) -> None:
    """Cut off, empty or foreign: it must never pass for an empty page, which could end a segment."""
    with pytest.raises(MalformedPageError):
        parse(body, slowly=slowly)


@pytest.mark.parametrize("slowly", [True, False])
@pytest.mark.parametrize(
    "page",
    [
        {"Items": [], "Count": 0, "ScannedCount": 0},
        {"Items": [], "LastEvaluatedKey": {}},
        {"Items": [], "ConsumedCapacity": {"CapacityUnits": 1.0}},
        {"Items": [], "ConsumedCapacity": {"TableName": "another"}},
        {"Items": [], "Count": 7, "ConsumedCapacity": {"TableName": "backup"}},
        {"Items": [{"conversation_id": {"S": "c"}, "max_n": {"N": "2"}, "write_n": {"N": "2"}}], "Count": 2},
    ],
    ids=str,
)
def test_a_page_shows_that_it_is_complete_and_of_its_table(slowly: bool, page: dict[str, Any]) -> None:
    """Any server may answer with no items: a rebuild would verify an empty Redis."""
    parser = PageParser(CAP, "arn:aws:dynamodb:eu-central-1:111122223333:table/backup")
    body = json.dumps(page).encode()
    with pytest.raises(MalformedPageError):
        (parser.parse_any_types if slowly else parser.parse)(body)
    own = page | {"ConsumedCapacity": {"TableName": "backup"}, "Count": len(page["Items"])}
    body = json.dumps(own).encode()
    assert len((parser.parse_any_types if slowly else parser.parse)(body).entries) == len(page["Items"])


class Events:
    """A client that passes each response to the listener of before-parse, as botocore does."""

    def __init__(self, body: bytes, headers: dict[str, str]) -> None:
        self.meta = self
        self.events = self
        self._body = body
        self._headers = headers
        self._listener: Any = None

    def register(self, name: str, listener: Any, unique_id: str) -> None:
        """Register the listener."""
        self._listener = listener

    def scan(self, **request: Any) -> dict[str, Any]:
        """Answer one request."""
        customized: dict[str, Any] = {}
        response = {"status_code": 200, "body": self._body, "headers": self._headers}
        self._listener(response_dict=response, customized_response_dict=customized)
        return customized


def test_a_changed_page_fails_its_checksum() -> None:
    """DynamoDB's checksum is compared, except for a response that a proxy has compressed."""
    body = b'{"Items": [{"conversation_id": {"S": "conv"}, "max_n": {"N": "4"}, "write_n": {"N": "4"}}]}'
    right, wrong = {"x-amz-crc32": str(crc32(body))}, {"x-amz-crc32": str(crc32(body) ^ 1)}
    for headers in (right, {}, wrong | {"content-encoding": "gzip"}):
        assert ScanClient(Events(body, headers), CAP).scan({}).entries == [("conv", 4, 4)]
    for headers in (wrong, {"x-amz-crc32": "none"}):
        with pytest.raises(MalformedPageError, match="checksum"):
            ScanClient(Events(body, headers), CAP).scan({})
