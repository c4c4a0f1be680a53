"""The conversation and the bounds of time that commands on histories take."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli.text import parse_duration
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.history.history import History

Conversation = Annotated[str, typer.Argument(metavar="CONV", help="A conversation id.")]
SinceOption = Annotated[
    str | None,
    typer.Option("--since", metavar="TIME", help="From this time or sort key; 2h is two hours ago."),
]
UntilOption = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time or sort key.")]


def sort_key_bound(history: History, text: str | None) -> str | None:
    """Return the sort key of a time or of a duration ago; any other string is a sort key already.

    It is in UTC and has no final zeros, so it is a prefix of every longer form of that time.
    """
    if text is None or history.store.keys.sort_type == "N":
        return text
    if re.fullmatch(r"[0-9.]+(ms|s|m|h|d)", text):
        at = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    elif re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ].+", text):
        try:
            at = parse_iso(text).astimezone(UTC)
        except ValueError:
            return text
    else:
        return text
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
