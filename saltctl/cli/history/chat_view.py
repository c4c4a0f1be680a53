"""Shows messages as chats do: the day, then time, sender and text, each in its own column."""

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
    from rich.table import Table

SENDER_ATTRIBUTES = ("sender", "from", "author", "user", "sender_id", "user_id", "author_id")
BODY_ATTRIBUTES = ("text", "body", "content", "message", "msg")
"""Attributes that chat services commonly use. The first one that a message has as a string is shown."""
_MAX_SENDER = 20


class ChatView:
    """Prints messages page by page, and each day once, above its first message."""

    def __init__(self, screen: Console) -> None:
        self._screen = screen
        self._day = ""

    def show(self, messages: Sequence[Message]) -> None:
        """Print messages that follow the ones printed before."""
        from rich.text import Text

        lines = _new_table()
        for message in messages:
            day, time = day_and_time(message)
            if day != self._day:
                self._print(lines)
                lines, self._day = _new_table(), day
                self._screen.print(Text(day, style="bold underline"))
            sender, body = sender_and_body(message)
            lines.add_row(Text(time), Text(sender), Text(body))
        self._print(lines)

    def _print(self, lines: Table) -> None:
        if lines.row_count:
            self._screen.print(lines)


def _new_table() -> Table:
    from rich.table import Table

    table = Table.grid(padding=(0, 2))
    table.add_column(no_wrap=True, style="dim")
    table.add_column(max_width=_MAX_SENDER, overflow="fold", style="bold")
    table.add_column(overflow="fold")
    return table


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
