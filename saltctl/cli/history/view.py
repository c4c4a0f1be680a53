"""How a history is printed: page by page as it comes, in every format, and the account of its partitions."""

from __future__ import annotations

import sys
from dataclasses import asdict
from typing import Any

from saltctl.cli.history.chat_view import Chat
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
from saltctl.cli.text import printable, printable_json
from saltctl.history.models import Message, Page

MESSAGE_KEYS = ("sort_key", "message_id", "partition_key", "message")
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
_MOST_SHARDS = 40
"""Partitions that a table shows in full; of more, those that returned something or failed."""


class PageWriter:
    """Prints pages on stdout as they come, and sums up. In memory is one page, and a line for each partition."""

    def __init__(self, form: OutputFormat, *, oldest_first: bool) -> None:
        self._form = form
        self._order = "oldest first" if oldest_first else "newest first"
        self._messages = 0
        self._summary: dict[str, Any] = {}
        self._shards: dict[str, dict[str, Any]] = {}
        self._chat = Chat(console()) if form is OutputFormat.table else None

    @property
    def cursor(self) -> str | None:
        """Where the next page begins."""
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
        self._account(page)

    def finish(self) -> dict[str, Any]:
        """Print what comes after the messages; the summary, with the keys of the contract but the messages."""
        summary = self._summary
        if self._form is OutputFormat.json:
            sys.stdout.write("\n  ]" if self._messages else "]")
            for key, value in summary.items():
                if key != "conversation_id":
                    sys.stdout.write(f",\n  {to_json(key)}: {printable_json(to_json(value, indent=2, depth=1))}")
            sys.stdout.write("\n}\n")
        if self._chat and self._messages:
            self._table()
        if not self._messages:
            keys = list(self._shards)
            where = ", ".join(keys[:5]) + (f" … {keys[-1]}" if len(keys) > 5 else "")
            note(f"no messages: looked in {where} (max_n {summary['max_n']}, says {summary['source']})")
        return summary

    def _begin(self, page: Page) -> None:
        match self._form:
            case OutputFormat.json:
                name = printable_json(to_json(page.conversation_id))
                sys.stdout.write(f'{{\n  "conversation_id": {name},\n  "messages": [')
            case OutputFormat.tsv:
                sys.stdout.write("\t".join(MESSAGE_KEYS) + "\n")

    def _write(self, message: Message) -> None:
        match self._form:
            case OutputFormat.json:
                document = printable_json(to_json(message.attributes, indent=2, depth=2))
                sys.stdout.write(f"{',' if self._messages else ''}\n    {document}")
            case OutputFormat.jsonl:
                write_json_line(message.attributes)
            case OutputFormat.tsv:
                write_tsv_line(record_of(message), MESSAGE_KEYS)

    def _account(self, page: Page) -> None:
        for shard in page.shards:
            held = self._shards.setdefault(shard.partition_key, asdict(shard) | dict.fromkeys(_COUNTS, 0))
            for name in _COUNTS:
                held[name] += getattr(shard, name)
            held["error"] = shard.error or held["error"]
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

    def _table(self) -> None:
        summary, screen = self._summary, console()
        screen.print()
        screen.print(
            printable(
                f"{self._messages:,} messages of {summary['conversation_id']}, {self._order}; "
                f"max_n {summary['max_n']}, says {summary['source']}; "
                f"{summary['items_read']:,} items read in {summary['seconds']:.3f} s"
            )
        )
        shards = list(self._shards.values())
        shown = shards
        if len(shards) > _MOST_SHARDS:
            shown = [shard for shard in shards if shard["items_returned"] or shard["error"]]
        failed = any(shard["error"] for shard in shown)
        print_table(shown, _SHARD_COLUMNS if failed else _SHARD_COLUMNS[:-1])
        if len(shown) < len(shards):
            note(f"{len(shards) - len(shown)} more partitions were asked and returned nothing")


def record_of(message: Message) -> dict[str, Any]:
    """A message as a record: where it is, and the message as it is stored."""
    return {
        "sort_key": str(message.sort_key),
        "message_id": message.message_id,
        "partition_key": message.partition_key,
        "message": message.attributes,
    }
