"""Prints histories in every format: pages, the partitions that they were read from, and planned requests."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict
from datetime import UTC
from decimal import Decimal
from itertools import groupby
from typing import TYPE_CHECKING, Any

from saltctl.cli.formats.tables import print_beside, print_unpadded
from saltctl.cli.formats.text import counted, printable, printable_json
from saltctl.cli.output import (
    Column,
    OutputFormat,
    columns_of,
    console,
    format_value,
    note,
    print_result,
    print_table,
    to_json,
    warn,
    write_header,
    write_json,
    write_json_line,
    write_row,
)
from saltctl.salting import number_text
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.history.models import Message, Page, ReadPlan
    from saltctl.history.sort_key_form import SortKeyForm
    from saltctl.registry.lookups import Lookup

MESSAGE_COLUMNS = columns_of("sort_key message_id partition_key message")
REQUEST_COLUMNS = columns_of("partition_key order limit from to consistent")
SENDER_ATTRIBUTES = ("sender", "from", "author", "user", "sender_id", "user_id", "author_id")
BODY_ATTRIBUTES = ("text", "body", "content", "message", "msg")
"""Attributes that chat services commonly use. The first one that a message has as a string is shown."""
_MAX_SENDER = 20
"""Characters of a sender that is printed beside the body."""
_MESSAGE_KEYS = [column.key for column in MESSAGE_COLUMNS]
_SHARD_COLUMNS = (
    *columns_of(
        "partition_key queries items_read items_returned consumed_rcu",
        items_read="read",
        items_returned="returned",
        consumed_rcu="RCU",
    ),
    Column("seconds", "time", right=True, show=lambda shard: f"{shard['seconds'] * 1000:,.0f} ms"),
    Column("error", "error", show=lambda shard: shard["error"] or ""),
)
_COUNTS = ("queries", "items_read", "items_returned", "consumed_rcu", "seconds", "hedges")
_MAX_SHARDS = 40
"""Partitions that a table shows in full. Of more, it shows those that returned messages or failed."""


class PageWriter:
    """Prints pages on stdout, and a summary. It keeps one page and the counts of each partition in memory.

    ``continue_at`` returns the command that continues at a cursor. ``stats`` shows each partition on a terminal, too.
    ``bounded``: whether the user limited the sort keys.
    """

    def __init__(
        self,
        form: OutputFormat,
        continue_at: Callable[[str], str],
        *,
        oldest_first: bool,
        stats: bool,
        bounded: bool = False,
    ) -> None:
        self._form = form
        self._continue_at = continue_at
        self._stats = stats
        self._where = " between these bounds" if bounded else ""
        self._order = "oldest first" if oldest_first else "newest first"
        self._messages = 0
        self._summary: dict[str, Any] = {}
        self._shards: dict[str, dict[str, Any]] = {}
        self._day = ""

    def write(self, pages: Iterable[Page]) -> None:
        """Print pages; if that is interrupted, also the command that continues, unless the reader closed the pipe."""
        try:
            for page in pages:
                self._add(page)
        except BrokenPipeError:
            raise
        except BaseException:
            if cursor := self._summary.get("next_cursor"):
                note(f"the output ends with a whole message; to continue: {self._continue_at(cursor)}")
            raise

    def _add(self, page: Page) -> None:
        if not self._summary and self._form == "json":
            name = printable_json(to_json(page.conversation_id))
            sys.stdout.write(f'{{\n  "conversation_id": {name},\n  "messages": [')
        elif not self._summary:
            write_header(self._form, _MESSAGE_KEYS)
        for message in page.messages:
            self._write(message)
            self._messages += 1
        if self._form == "table":
            self._day = print_chat(page.messages, self._day)
        self._add_to_summary(page)

    def finish(self) -> bool:
        """Print the end of the output; return whether every partition was read."""
        summary = self._summary
        if self._form == "json":
            sys.stdout.write("\n  ]" if self._messages else "]")
            for key, value in summary.items():
                if key != "conversation_id":
                    sys.stdout.write(f",\n  {to_json(key)}: {printable_json(to_json(value, indent=2, depth=1))}")
            sys.stdout.write("\n}\n")
        if self._form == "table" and self._messages:
            self._print_summary()
        if not self._messages:
            keys = list(self._shards)
            partitions = ", ".join(keys[:5]) + (f" … {keys[-1]}" if len(keys) > 5 else "")
            note(f"no messages{self._where} in {partitions} (max_n {summary['max_n']}, from {summary['source']})")
        if self._form != "json" and summary["next_cursor"]:
            note(f"more: {self._continue_at(summary['next_cursor'])}")
        missing = [key for key, shard in self._shards.items() if shard["error"]]
        if missing:
            warn(f"the history is incomplete: cannot read {', '.join(missing)}. Try again without --allow-partial")
        return not missing

    def _write(self, message: Message) -> None:
        match self._form:
            case "json":
                document = printable_json(to_json(message.attributes, indent=2, depth=2))
                sys.stdout.write(f"{',' if self._messages else ''}\n    {document}")
            case "jsonl":
                write_json_line(message.attributes)
            case "tsv" | "csv":
                write_row(self._form, record_of(message), _MESSAGE_KEYS)

    def _add_to_summary(self, page: Page) -> None:
        for shard in page.shards:
            totals = self._shards.setdefault(shard.partition_key, asdict(shard) | dict.fromkeys(_COUNTS, 0))
            for name in _COUNTS:
                totals[name] += getattr(shard, name)
            totals["error"] = shard.error or totals["error"]
        before = self._summary
        self._summary = {
            "conversation_id": page.conversation_id,
            "next_cursor": page.next_cursor,
            "complete": page.complete and before.get("complete", True),
            "max_n": page.max_n,
            "source": page.source,
            "shards": list(self._shards.values()),
            "items_read": page.items_read + before.get("items_read", 0),
            "seconds": page.seconds + before.get("seconds", 0.0),
            "prev_cursor": before.get("prev_cursor") or page.prev_cursor,
        }

    def _print_summary(self) -> None:
        from rich.text import Text

        summary, screen = self._summary, console()
        screen.print()
        line = (
            f"{counted(self._messages, 'message')} of {summary['conversation_id']}, {self._order}; "
            f"max_n {summary['max_n']} (from {summary['source']}); "
            f"{counted(summary['items_read'], 'item')} read, {summary['seconds']:.3f} s"
        )
        print_beside(screen, Text(), Text(printable(line)), 0)
        if not self._stats:
            return
        shown = summary["shards"]
        if len(shown) > _MAX_SHARDS:
            shown = [shard for shard in shown if shard["items_returned"] or shard["error"]]
        failed = any(shard["error"] for shard in shown)
        print_table(shown, _SHARD_COLUMNS if failed else _SHARD_COLUMNS[:-1], screen)
        if more := len(self._shards) - len(shown):
            note(f"{counted(more, 'more partition')} returned nothing")


def record_of(message: Message) -> dict[str, Any]:
    """Return a message as a record: its keys, and the message as it is stored."""
    key = message.sort_key
    return {
        "sort_key": key if isinstance(key, str) else number_text(key),
        "message_id": message.message_id,
        "partition_key": message.partition_key,
        "message": message.attributes,
    }


def print_chat(messages: Sequence[Message], day: str = "") -> str:
    """Print messages as chats do: the day, then time, sender and body, each in its own column.

    ``day`` is the day that was printed last, so that pages print each day once. Return the day of the last message.
    """
    from rich.table import Table
    from rich.text import Text

    screen = console()
    for next_day, group in groupby(messages, key=lambda message: day_and_time(message)[0]):
        if next_day != day:
            day = next_day
            screen.print(Text(day, style="bold underline"))
        table = Table.grid(padding=(0, 2))
        table.add_column(no_wrap=True, style="dim")
        table.add_column(no_wrap=True, style="bold")
        table.add_column(overflow="fold")
        for message in group:
            sender, body = sender_and_body(message)
            if len(sender) > _MAX_SENDER:  # on a line of its own, so that it is not broken
                sender, body = "", f"{sender}\n{body}"
            table.add_row(Text(day_and_time(message)[1]), Text(sender), Text(body))
        print_unpadded(screen, table)
    return day


def day_and_time(message: Message) -> tuple[str, str]:
    """Return the day and the time of a message in UTC; no day, and the sort key, if that does not begin with a time."""
    sort_key = str(message.sort_key)
    time = sort_key.partition("#")[0]
    try:
        at = parse_iso(time) if isinstance(message.sort_key, str) and time[4:5] == "-" else None
    except ValueError:
        at = None
    if at is None:
        return "", printable(sort_key)
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%d} UTC", f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"


def sender_and_body(message: Message) -> tuple[str, str]:
    """Return the sender and the body of a message, safe to print; its other attributes if it has no body."""
    attributes = message.attributes
    sender = printable(_first_string(attributes, SENDER_ATTRIBUTES) or "")
    body = _first_string(attributes, BODY_ATTRIBUTES)
    if body is not None:
        # Its line breaks stay: its column separates it from other messages.
        return sender, printable(body, keep_newlines=True)
    keys = (message.sort_key, message.partition_key)
    rest = {n: value for n, value in attributes.items() if value not in keys and n not in SENDER_ATTRIBUTES}
    return sender, printable(to_json(rest)) if rest else format_value(None)


def _first_string(attributes: Mapping[str, Any], names: Sequence[str]) -> str | None:
    return next((attributes[name] for name in names if isinstance(attributes.get(name), str)), None)


def old_salts_sentence(lookup: Lookup) -> str:
    """Say from which salts of a cooled conversation a page reads old messages alone."""
    number, boundary = len(lookup.old_salts), lookup.boundary
    text = number_text(boundary) if isinstance(boundary, Decimal) else boundary
    are = "is" if number == 1 else "are"
    return f"{counted(number, 'old salt')} {are} read only below the boundary {text}, once the page reaches there"


def print_plan(plan: ReadPlan, form: OutputFormat, sort_keys: SortKeyForm | None) -> None:
    """Print the first requests of a page, and the form of sort keys that times were turned into."""
    if sort_keys is not None:
        note(
            f"times become sort keys of the form {sort_keys.name}"
            + (f", after {sort_keys.prefix!r}" if sort_keys.prefix else "")
        )
    lookup = plan.lookup
    requests = [
        {
            "partition_key": request.partition_key,
            "order": "newest first" if request.descending else "oldest first",
            "limit": request.limit,
            "from": request.low,
            "to": request.high,
            "consistent": request.consistent,
        }
        for request in plan.requests
    ]
    if form == "json":
        head = {"conversation_id": lookup.conversation_id, "max_n": lookup.max_n, "recent_n": lookup.recent_n}
        write_json(head | {"recent_from": lookup.boundary, "source": lookup.source, "requests": requests})
        return
    note(
        f"{lookup.conversation_id} has max_n {lookup.max_n}, from {lookup.source}. These requests are sent at once; "
        "only a partition that runs dry before the page is full is queried again"
    )
    if lookup.old_salts:
        note(old_salts_sentence(lookup))
    columns = REQUEST_COLUMNS
    if form == "table" and len({(request.low, request.high) for request in plan.requests}) == 1:
        # The bounds are long, and the same in all requests unless old salts end at the boundary.
        columns = tuple(column for column in columns if column.key not in ("from", "to"))
        first = plan.requests[0]
        bounds = [f"from {first.low}"] * (first.low is not None) + [f"up to {first.high}"] * (first.high is not None)
        whole = f"from the {'newest' if first.descending else 'oldest'} message on"
        note(f"every request reads {' '.join(bounds) or whole}")
    print_result(requests, form, columns=columns, empty="no request: no message can lie between these bounds")
