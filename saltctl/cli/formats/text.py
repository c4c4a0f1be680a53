"""Strings made safe for a terminal. Only through here is foreign data printed."""

from __future__ import annotations

import codecs
import json
import re
import sys
import textwrap
from datetime import UTC, datetime

_EMOJI = "[\u2194\u2195\u2600-\u27bf\u2b00-\u2bff\U0001f000-\U0001faff]"
_JOINER_OF_EMOJI = re.compile(f"(?:(?<={_EMOJI})|(?<={_EMOJI}\ufe0f))\u200d(?={_EMOJI})")
"""U+200D between pictures, which makes one of them, such as a family; elsewhere it cannot be seen."""
_UNSAFE_IN_JSON = re.compile("[^ -\\[\\]-~]")
_HAS_COMMAND = re.compile(r"\btry: |\b(saltctl|aws|redis-cli) ")
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]*:)\S*@")


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """Replace every character that is not printable by its escape, such as ``\\x1b``.

    That covers control characters, bidirectional overrides, other format characters, unusual spaces and lone
    surrogates, but not the joiner within an emoji. ``keep_newlines`` is for saltctl's own output of several lines.
    """
    if text.isprintable():
        return text
    kept = {match.start() for match in _JOINER_OF_EMOJI.finditer(text)}
    return "".join(
        c if c.isprintable() or (keep_newlines and c == "\n") or at in kept else c.encode("unicode_escape").decode()
        for at, c in enumerate(text)
    )


def break_prose(text: str, width: int) -> str:
    """Break lines between words, so that a terminal of that many columns breaks none inside a word.

    A line with a command stays whole, so that it can be copied; a word that is too long does, too.
    """
    lines = []
    for line in text.split("\n"):
        whole = len(line) <= width or _HAS_COMMAND.search(line) is not None
        indent = "  " if line.startswith("  ") else ""
        wrapper = textwrap.TextWrapper(width, "", indent, break_long_words=False, break_on_hyphens=False)
        lines += [line] if whole else wrapper.wrap(line)
    return "\n".join(lines)


def counted(count: int, singular: str, plural: str = "") -> str:
    """Return a count and its noun, such as ``1 entry`` or ``2,000 entries``; the default plural ends in s."""
    return f"{count:,} {singular if count == 1 else plural or singular + 's'}"


def scan_cost(items: int | None, size: int | None, units: int | None) -> str:
    """Describe the cost of reading a table by its size in bytes; None is a size that is not known."""
    if items is None or size is None or units is None:
        return "the cost is unknown: DescribeTable counts about every six hours, and has not counted this table yet"
    return f"it costs about {counted(units, 'read capacity unit')} for {counted(items, 'item')} ({size:,} bytes)"


def without_passwords(text: str) -> str:
    """Mask the password in every URL of a string: drivers quote URLs in their errors.

    A password ends at the last ``@`` before a space, since an unquoted one may contain any other character.
    """
    return _PASSWORD_IN_URL.sub(r"\1***@", text)


def printable_json(document: str) -> str:
    """Write every character of a JSON document that is not printable as a JSON escape.

    Printable characters stay as they are, so that people can read names in their own script. JSON is UTF-8, so in a
    locale with another encoding, such as C, every character that is not ASCII becomes an escape.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    shows_all = codecs.lookup(encoding).name == "utf-8"

    def escaped(match: re.Match[str]) -> str:
        """Return the character, or its JSON escape."""
        as_it_is = match[0] == "\n" or (match[0].isprintable() and (shows_all or match[0].isascii()))
        return match[0] if as_it_is else json.dumps(match[0])[1:-1]

    return _UNSAFE_IN_JSON.sub(escaped, document)


def format_age(at: str, now: datetime | None = None) -> str:
    """Return ``3m ago`` for an ISO 8601 time; a string that is not such a time is returned unchanged."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError):
        return at
    return at if seconds < 0 else format_seconds_ago(seconds)


def format_seconds_ago(seconds: float) -> str:
    """Return ``3m ago`` for 180 seconds and some more."""
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} ago"
    return f"{int(seconds)}s ago"
