"""The output of commands: data on stdout in five formats, notes and warnings on stderr.

A command passes its result once, as records of plain values; tables, TSV, CSV and JSON are derived from them.
"""

from __future__ import annotations

import csv
import json
import sys
import time
from base64 import b64encode
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from itertools import takewhile
from typing import TYPE_CHECKING, Any, Literal, TextIO

from saltctl.cli.formats import tables
from saltctl.cli.formats.delimited import csv_field, tsv_field
from saltctl.cli.formats.text import break_prose, printable, printable_json
from saltctl.cli.hints import hint_lines, in_force
from saltctl.cli.signals import arguments, writes_json_lines
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from rich.console import Console

UNKNOWN = "—"
Record = Mapping[str, Any]
OutputFormat = Literal["table", "json", "jsonl", "tsv", "csv"]
"""The formats of ``--output``."""


def resolve_format(chosen: OutputFormat | None, *, listing: bool) -> OutputFormat:
    """Return the chosen format. The default is a table; in a pipe TSV if the command lists records (``listing``)."""
    return chosen or ("tsv" if listing and not sys.stdout.isatty() else "table")


_HEADINGS = {
    "backup_n": "backup",
    "consumed_rcu": "consumed RCU",
    "consumed_wcu": "consumed WCU",
    "conversation_id": "conversation",
    "entries_per_second": "entries/s",
    "max_n": "max_n",
    "needed_n": "needed N",
    "redis_n": "redis",
    "write_n": "write_n",
}
"""Headings of keys whose heading is not the key with spaces."""
_PROSE = {"about", "action", "actions", "detail", "error", "fields", "fix", "origin", "problem", "raises", "reason"}
"""Keys whose values may be broken between words. Ids, which may have spaces, never are."""


@dataclass(frozen=True)
class Column:
    """A column of a table for people: a key of the record, its heading, and how to show the value.

    The heading is derived from the key if it is empty. Numbers are aligned to the right, and so is every value of
    a column that is ``right``.
    """

    key: str
    heading: str = ""
    right: bool = False
    show: Callable[[Record], str] | None = None

    @property
    def title(self) -> str:
        """The heading as it is printed."""
        return self.heading or _HEADINGS.get(self.key) or self.key.replace("_", " ")

    def cell(self, record: Record) -> str:
        """Return the value as people read it, safe to print."""
        return printable(self.show(record)) if self.show else format_value(record.get(self.key))

    def heading_of(self, records: Iterable[Record]) -> tables.Heading:
        """Return the heading of these records' values."""
        return tables.Heading(self.title, right=self.align(records) == "right", prose=self.key in _PROSE)

    def align(self, records: Iterable[Record]) -> Literal["left", "right"]:
        """Return the side on which the values are aligned."""
        values = [] if self.show else [value for record in records if (value := record.get(self.key)) is not None]
        numbers = [isinstance(value, int | float) and not isinstance(value, bool) for value in values]
        return "right" if self.right or (numbers and all(numbers)) else "left"


def columns_of(keys: str, **changes: str | Callable[[Record], str]) -> tuple[Column, ...]:
    """Return a column for each of the keys, which are separated by spaces.

    ``changes`` map keys to the heading that replaces the derived one, or to the function that shows the value.
    """
    found = [(key, changes.get(key, "")) for key in keys.split()]
    return tuple(Column(key, it) if isinstance(it, str) else Column(key, show=it) for key, it in found)


def format_value(value: Any) -> str:
    """Return one plain value as people read it, safe to print."""
    if value is None:
        return UNKNOWN
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{round(value, 3) + 0.0:,.3f}".rstrip("0").rstrip(".")  # what rounds to zero has no sign
    if isinstance(value, int):
        return f"{value:,}"
    return printable(value if isinstance(value, str) else to_json(value))


def print_result(
    data: Record | Sequence[Record],
    chosen: OutputFormat | None,
    *,
    columns: Sequence[Column],
    lists: Mapping[str, Sequence[Column]] | None = None,
    more: int = 0,
    human_view: Callable[[Console], None] | None = None,
    sentence: str = "",
    empty: str = "nothing found",
    rows: str = "",
) -> None:
    """Print a result.

    Args:
        data: one record, or a list of them; its keys are the contract of the command.
        chosen: the value of ``--output``. By default a pipe gets TSV of a list, and the table of one record.
        columns: the columns of the table; a single record is shown by :func:`print_fields`. TSV and CSV of a single
            record have its other keys, too.
        lists: passed to it.
        more: passed to it.
        human_view: draws the result instead of the table.
        sentence: what happened, printed before either.
        empty: the line on stderr instead of a table without rows.
        rows: the key of the list whose records are the lines of TSV and CSV, instead of the record; ``lists`` has it.
    """
    form = resolve_format(chosen, listing=not isinstance(data, Mapping))
    records = [data] if isinstance(data, Mapping) else list(data)
    if form == "json":
        write_json(data)
    elif form == "jsonl":
        for record in records:
            write_json_line(record)
    elif form in ("tsv", "csv"):
        if rows and isinstance(data, Mapping):
            records, columns = data[rows], (lists or {})[rows]
        _write_rows(form, records, columns, rest=isinstance(data, Mapping) and not rows)
    else:
        screen = console()
        if sentence:
            _print_sentence(screen, sentence)
        if human_view is not None:
            human_view(screen)
        elif isinstance(data, Mapping):
            print_fields(data, columns, lists, more)
        elif records:
            print_table(records, columns, screen)
        else:
            note(empty)


def _write_rows(form: OutputFormat, records: Sequence[Record], columns: Sequence[Column], *, rest: bool) -> None:
    """Write TSV or CSV; with ``rest`` also the keys of the first record that are in no column."""
    keys = [column.key for column in columns]
    if rest:
        keys += [key for key in records[0] if key not in keys]
    write_header(form, keys)
    for record in records:
        write_row(form, record, keys)


def _print_sentence(screen: Console, sentence: str) -> None:
    from rich.text import Text

    from saltctl.cli.formats.tables import print_beside

    print_beside(screen, Text(), Text(printable(sentence), style="bold"), 0)


def write_json(data: Any) -> None:
    """Write one JSON document to stdout: never wrapped, coloured or rounded."""
    sys.stdout.write(printable_json(to_json(data, indent=2)) + "\n")


def write_json_line(record: Any, stream: TextIO | None = None) -> None:
    """Write one JSON line."""
    (stream or sys.stdout).write(printable_json(to_json(record)) + "\n")


def to_json(value: Any, *, indent: int = 0, depth: int = 0) -> str:
    """Return a value as exact JSON: a Decimal digit by digit, bytes as base64, a set as a sorted list.

    json.dumps would write a Decimal as a float, which rounds. With ``indent`` 0 the document is one line;
    ``depth`` is the nesting level of the value in a larger document.
    """
    if isinstance(value, Mapping):
        brackets = "{}"
        parts = [
            f"{json.dumps(str(name), ensure_ascii=False)}: {to_json(inner, indent=indent, depth=depth + 1)}"
            for name, inner in value.items()
        ]
    elif isinstance(value, list | tuple | set | frozenset):
        brackets = "[]"
        items = sorted(value) if isinstance(value, set | frozenset) else value
        parts = [to_json(item, indent=indent, depth=depth + 1) for item in items]
    elif isinstance(value, Decimal):
        return str(value)
    elif isinstance(value, bytes):
        return f'"{b64encode(value).decode()}"'
    else:
        return json.dumps(value, ensure_ascii=False)
    if not parts or not indent:
        return brackets[0] + ", ".join(parts) + brackets[1]
    inner = "\n" + " " * indent * (depth + 1)
    return brackets[0] + inner + f",{inner}".join(parts) + "\n" + " " * indent * depth + brackets[1]


def write_header(form: OutputFormat, keys: Sequence[str]) -> None:
    """Write the header of TSV or CSV; nothing for other formats."""
    if form in ("tsv", "csv"):
        write_row(form, dict(zip(keys, keys, strict=True)), keys)


def write_row(form: OutputFormat, record: Record, keys: Sequence[str]) -> None:
    """Write one line of TSV or CSV. TSV is exact in a pipe; a terminal gets no format characters of it either."""
    fields = [_field(form, record.get(key)) for key in keys]
    if form == "csv":
        csv.writer(_Printed(), lineterminator="\n").writerow(fields)
    else:
        _Printed().write("\t".join(fields) + "\n")


class _Printed:
    """Stdout for data that may hold format characters, such as bidirectional overrides: a terminal gets escapes."""

    def write(self, text: str) -> int:
        """Write a line."""
        if sys.stdout.isatty():
            text = "\t".join(printable(field, keep_newlines=True) for field in text.split("\t"))
        return sys.stdout.write(text)


def _field(form: OutputFormat, value: Any) -> str:
    text = value if isinstance(value, str) else "" if value is None else to_json(value)
    if isinstance(value, int | float):
        return text
    return csv_field(text) if form == "csv" else tsv_field(text)


def console(*, stderr: bool = False) -> Console:
    """Return a Rich console that obeys NO_COLOR, FORCE_COLOR and COLUMNS, and does not interpret markup."""
    from rich.console import Console

    class Screen(Console):
        """A console whose reader may leave: Rich would exit with 1."""

        def on_broken_pipe(self) -> None:
            """Raise the error that Rich has caught."""
            raise BrokenPipeError

    return Screen(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=False)


def print_table(records: Sequence[Record], columns: Sequence[Column], screen: Console | None = None) -> None:
    """Print records as a table, or as lines of fields if the terminal is too narrow; no value is cut off."""
    headings = [column.heading_of(records) for column in columns]
    tables.print_table(screen or console(), headings, [[column.cell(r) for column in columns] for r in records])


def print_fields(
    record: Record, columns: Sequence[Column], lists: Mapping[str, Sequence[Column]] | None = None, more: int = 0
) -> None:
    """Print one record on stdout: a line for each column, and below them its lists as tables.

    ``lists`` are the columns of each list by its key, ``more`` is the number of rows that the lists leave out.
    """
    screen, lists = console(), lists or {}
    shown = [column for column in columns if column.key not in lists]
    headings, cells = [c.heading_of([record]) for c in shown], [c.cell(record) for c in shown]
    tables.print_fields(screen, headings, cells)
    for key, inner in lists.items():
        if record[key]:
            screen.print()
            print_table(record[key], inner, screen)
    if more:
        note(f"and {more:,} more")


def write_log_line(level: str, fields: Record) -> None:
    """Write a JSON line of a command to stderr, as with ``--cron`` or ``-o json``. The event is the command."""
    event = " ".join(takewhile(lambda word: not word.startswith("-"), arguments.get())) or "saltctl"
    write_json_line({"at": iso_utc(time.time()), "level": level, "event": event, **fields}, sys.stderr)


def note(text: str) -> None:
    """Print a line to stderr; with ``--cron`` or ``-o json`` as JSON. Its commands get the root options in force."""
    text = in_force(text)
    if writes_json_lines():
        write_log_line("info", {"message": text})
    else:
        write_to_stderr(printable(text, keep_newlines=True))


def write_to_stderr(text: str) -> None:
    """Print printable lines to stderr; on a terminal, prose that is too long for a line is broken between words."""
    if sys.stderr.isatty():
        text = break_prose(text, console(stderr=True).width)
    sys.stderr.write(text + "\n")


def warn(text: str, hint: str = "") -> None:
    """Print a warning to stderr, and below it what helps; with ``--cron`` or ``-o json`` as JSON."""
    if writes_json_lines():
        write_log_line("warning", {"message": in_force(text)} | ({"hint": in_force(hint)} if hint else {}))
    else:
        note("\n".join([f"warning: {printable(text)}", *map(printable, hint_lines(hint))]))
