"""Messages as people read chats: the day, then time, sender and text, wrapped in its own column."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import UTC
from typing import TYPE_CHECKING, Any

from saltctl.cli.output import format_value, to_json
from saltctl.cli.text import printable
from saltctl.history.models import Message
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from rich.console import Console

SENDERS = ("sender", "from", "author", "user", "sender_id", "user_id", "author_id")
TEXTS = ("text", "body", "content", "message", "msg")
"""Attributes that chat services commonly use; the first that a message has is shown."""
_MAX_SENDER = 20


class Chat:
    """Prints messages page by page; a day is named once, above its first message."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._day = ""

    def show(self, messages: Sequence[Message]) -> None:
        """Print some messages, which go on where the ones before ended."""
        from rich.table import Table
        from rich.text import Text

        def grid() -> Table:
            table = Table.grid(padding=(0, 2))
            table.add_column(no_wrap=True, style="dim")
            table.add_column(max_width=_MAX_SENDER, overflow="fold", style="bold")
            table.add_column(overflow="fold")
            return table

        lines = grid()
        for message in messages:
            day, time = when(message)
            if day != self._day:
                self._flush(lines)
                lines, self._day = grid(), day
                self._screen.print(Text(day, style="bold underline"))
            sender, text = who_and_what(message)
            lines.add_row(Text(time), Text(sender), Text(text))
        self._flush(lines)

    def _flush(self, lines: Any) -> None:
        if lines.row_count:
            self._screen.print(lines)


def when(message: Message) -> tuple[str, str]:
    """The day and the time of day of a message, in UTC; the sort key itself where it is no time."""
    text = str(message.sort_key)
    time = text.partition("#")[0]
    try:
        at = parse_iso(time) if isinstance(message.sort_key, str) and time[4:5] == "-" else None
    except ValueError:
        at = None
    if at is None:
        return "", printable(text)
    at = at.astimezone(UTC)
    return f"{at:%Y-%m-%d} UTC", f"{at:%H:%M:%S}.{at.microsecond // 1000:03d}"


def who_and_what(message: Message) -> tuple[str, str]:
    """The sender and the text of a message, safe to print; without a text, its attributes."""
    attributes = message.attributes
    sender = _first(attributes, SENDERS)
    text = _first(attributes, TEXTS)
    if text is not None:
        # Its line breaks stay: its column keeps its lines apart from other messages.
        return sender or "", printable(text, keep_newlines=True)
    own = (message.sort_key, message.partition_key)
    rest = {name: value for name, value in attributes.items() if value not in own and name not in SENDERS}
    return sender or "", printable(to_json(rest)) if rest else format_value(None)


def _first(attributes: Mapping[str, Any], names: Sequence[str]) -> str | None:
    for name in names:
        value = attributes.get(name)
        if isinstance(value, str):
            return value if name in TEXTS else printable(value)
    return None
