"""Prints a history page by page in every format, and how each partition was read."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from saltctl.cli.history.chat_view import ChatView
from saltctl.cli.output import (
    Column,
    OutputFormat,
    columns_of,
    console,
    note,
    print_table,
    to_json,
    write_json_line,
    write_tsv_line,
)
from saltctl.cli.text import counted, printable, printable_json
from saltctl.history.models import Message, Page

MESSAGE_COLUMNS = columns_of("sort_key message_id partition_key message")
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
_COUNTS = ("queries", "items_read", "items_returned", "consumed_rcu", "seconds")
_MAX_SHARDS = 40
"""Partitions that a table shows in full. Of more, it shows those that returned messages or failed."""


class PageWriter:
    """Prints pages on stdout, and a summary. It keeps one page and the counts of each partition in memory."""

    def __init__(self, form: OutputFormat, *, oldest_first: bool) -> None:
        self._form = form
        self._order = "oldest first" if oldest_first else "newest first"
        self._messages = 0
        self._summary: dict[str, Any] = {}
        self._shards: dict[str, dict[str, Any]] = {}
        self._chat = ChatView(console()) if form is OutputFormat.table else None

    @property
    def cursor(self) -> str | None:
        """The cursor of the next page; None at the end, and before the first page."""
        cursor: str | None = self._summary.get("next_cursor")
        return cursor

    def add(self, page: Page) -> None:
        """Print a page."""
        if not self._summary:
            self._begin(page)
        for message in page.messages:
            self._write(message)
            self._messages += 1
        if self._chat:
            self._chat.show(page.messages)
        self._add_to_summary(page)

    def finish(self) -> dict[str, Any]:
        """Print the end of the output; return the summary, with all keys of the JSON but the messages."""
        summary = self._summary
        if self._form is OutputFormat.json:
            sys.stdout.write("\n  ]" if self._messages else "]")
            for key, value in summary.items():
                if key != "conversation_id":
                    sys.stdout.write(f",\n  {to_json(key)}: {printable_json(to_json(value, indent=2, depth=1))}")
            sys.stdout.write("\n}\n")
        if self._chat and self._messages:
            self._print_summary()
        if not self._messages:
            keys = list(self._shards)
            partitions = ", ".join(keys[:5]) + (f" … {keys[-1]}" if len(keys) > 5 else "")
            note(f"no messages in {partitions} (max_n {summary['max_n']}, from {summary['source']})")
        return summary

    def _begin(self, page: Page) -> None:
        match self._form:
            case OutputFormat.json:
                name = printable_json(to_json(page.conversation_id))
                sys.stdout.write(f'{{\n  "conversation_id": {name},\n  "messages": [')
            case OutputFormat.tsv:
                sys.stdout.write("\t".join(_MESSAGE_KEYS) + "\n")

    def _write(self, message: Message) -> None:
        match self._form:
            case OutputFormat.json:
                document = printable_json(to_json(message.attributes, indent=2, depth=2))
                sys.stdout.write(f"{',' if self._messages else ''}\n    {document}")
            case OutputFormat.jsonl:
                write_json_line(message.attributes)
            case OutputFormat.tsv:
                write_tsv_line(record_of(message), _MESSAGE_KEYS)

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
        summary, screen = self._summary, console()
        screen.print()
        screen.print(
            printable(
                f"{counted(self._messages, 'message')} of {summary['conversation_id']}, {self._order}; "
                f"max_n {summary['max_n']} (from {summary['source']}); "
                f"{counted(summary['items_read'], 'item')} read, {summary['seconds']:.3f} s"
            )
        )
        shards = list(self._shards.values())
        shown = shards
        if len(shards) > _MAX_SHARDS:
            shown = [shard for shard in shards if shard["items_returned"] or shard["error"]]
        failed = any(shard["error"] for shard in shown)
        print_table(shown, _SHARD_COLUMNS if failed else _SHARD_COLUMNS[:-1])
        if len(shown) < len(shards):
            note(f"{counted(len(shards) - len(shown), 'more partition')} returned nothing")


def record_of(message: Message) -> dict[str, Any]:
    """Return a message as a record: its keys, and the message as it is stored."""
    return {
        "sort_key": str(message.sort_key),
        "message_id": message.message_id,
        "partition_key": message.partition_key,
        "message": message.attributes,
    }
