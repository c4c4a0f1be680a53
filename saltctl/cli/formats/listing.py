"""Reads back what a command has printed: TSV with its header, JSON, or lines of JSON; or ids alone, one a line."""

from __future__ import annotations

import json
from typing import Any

from saltctl.cli.formats.delimited import escape_controls, tsv_field, tsv_value
from saltctl.cli.formats.text import counted

_KEY = "conversation_id"


def ids_of_listing(listing: str) -> list[str]:
    """Return the conversation ids of a listing, in its order.

    A record whose id is null (empty in TSV) is of no conversation, as some events of an incident, and is left out.
    Without a header, and unless it is JSON, each line is an id, or blank. One that TSV would escape is refused: it may
    be escaped already.

    Raises:
        ValueError: it is empty, or is no listing of conversations; the message names the line.
    """
    header, *lines = listing.split("\n")  # only these end a line: TSV escapes all control characters
    if lines and not lines[-1]:
        lines.pop()
    if not listing.strip():
        raise ValueError("it is empty; TSV of nothing has its header, and JSON []")
    fields = header.split("\t")
    if _KEY in fields:
        place = fields.index(_KEY)
        found = (_at_line(number, line, len(fields))[place] for number, line in enumerate(lines, 2) if line.strip())
        return [name for name in found if name]
    if header.startswith("["):
        members = [_member(record, at) for at, record in enumerate(_parse(listing, 1), 1)]
        return [name for name in members if name is not None]
    if header.startswith("{"):
        texts = ((number, line) for number, line in enumerate([header, *lines], 1) if line.strip())
        members = [_member(_parse(line, number), number) for number, line in texts]
        return [name for name in members if name is not None]
    if _KEY in header.split(","):
        raise ValueError("it is CSV, which changes ids that look like formulas")
    return [_plain_id(line, number) for number, line in enumerate([header, *lines], 1) if line.strip(" \r")]


def _plain_id(line: str, number: int) -> str:
    if tsv_field(line) != line or line.startswith("\ufeff"):
        what = "has a tab, a backslash or another character that TSV escapes"
        raise ValueError(f"line {number} {what}, and is not below a TSV header with {_KEY}")
    return line


def tsv_row(line: str, width: int) -> list[str]:
    """Return the values of a line of TSV below a header of ``width`` fields; raises ValueError if it has others."""
    fields = line.split("\t")
    if len(fields) != width:
        raise ValueError(f"it has {counted(len(fields), 'field')}, and the header {width}")
    if any(escape_controls(field) != field for field in fields):
        raise ValueError("it has a control character that is not escaped, such as a carriage return")
    return [tsv_value(field) for field in fields]


def _at_line(number: int, line: str, width: int) -> list[str]:
    try:
        return tsv_row(line, width)
    except ValueError as exc:
        raise ValueError(f"line {number}: {exc}") from None


def _parse(text: str, number: int) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"line {number} is not JSON") from None


def _member(record: Any, number: int) -> str | None:
    if not isinstance(record, dict) or _KEY not in record:
        raise ValueError(f"record {number} has no {_KEY}")
    found = record[_KEY]
    if not isinstance(found, str | None):
        raise ValueError(f"record {number}: {_KEY} is not a string")
    return found
