"""Text made fit for a terminal. Everything that comes from outside goes through here before it is shown."""

from __future__ import annotations

import re
import shlex
from collections.abc import Mapping
from datetime import UTC, datetime

_UNSAFE_IN_JSON = re.compile("[^ -\\[\\]-~]")
_PASSWORD_IN_URL = re.compile(r"(://[^\s:/@]*:)\S*@")


def printable(text: str, *, keep_newlines: bool = False) -> str:
    """The text with every character that is not printable replaced by its escape, such as ``\\x1b``.

    That covers control characters, bidirectional overrides, other format characters, odd spaces and lone
    surrogates. ``keep_newlines`` is for texts of ours that have several lines.
    """
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() or (keep_newlines and c == "\n") else _escape(c) for c in text)


def _escape(character: str) -> str:
    code = ord(character)
    if code <= 0xFF:
        named = {"\n": "\\n", "\r": "\\r", "\t": "\\t"}.get(character)
        return named or f"\\x{code:02x}"
    return f"\\u{code:04x}" if code <= 0xFFFF else f"\\U{code:08x}"


def command_line(*words: str, given: Mapping[str, object] | None = None) -> str:
    """A saltctl command to be pasted into a shell: an id is one word of it, whatever characters it has.

    ``given`` are options by their names; those that are None or False were not given, True is a flag.
    """
    options: list[str] = []
    for name, value in (given or {}).items():
        if value is not None and value is not False:
            options += [name] if value is True else [name, str(value)]
    return shlex.join(["saltctl", *words, *options])


def without_passwords(text: str) -> str:
    """The text with the password in every URL of it masked: drivers quote the URLs that they could not use.

    Up to the last ``@`` before a space, since a password that is not quoted may hold anything else.
    """
    return _PASSWORD_IN_URL.sub(r"\1***@", text)


def printable_json(document: str) -> str:
    """A JSON document with every character that is not printable written as a JSON escape.

    What is printable stays as it is, so that people can read names in their own script.
    """
    return _UNSAFE_IN_JSON.sub(lambda match: _json_escape(match[0]), document)


def _json_escape(character: str) -> str:
    if character.isprintable() or character == "\n":
        return character
    units = character.encode("utf-16-be", "surrogatepass")
    return "".join(f"\\u{units[i]:02x}{units[i + 1]:02x}" for i in range(0, len(units), 2))


def tsv_field(value: str) -> str:
    """A value as one TSV field: no tab or newline, and no formula to a spreadsheet that opens it."""
    text = printable(value.replace("\\", "\\\\"))
    return "'" + text if text[:1] in ("=", "+", "-", "@") else text


def format_age(at: str, now: datetime | None = None) -> str:
    """``3m ago`` for an ISO 8601 time; the text itself where it is none."""
    try:
        seconds = ((now or datetime.now(UTC)) - datetime.fromisoformat(at)).total_seconds()
    except (ValueError, TypeError):
        return at
    if seconds < 0:
        return at
    for size, unit in ((86400, "d"), (3600, "h"), (60, "m")):
        if seconds >= size:
            return f"{int(seconds // size)}{unit} ago"
    return f"{int(seconds)}s ago"


def parse_duration(text: str) -> float:
    """Seconds in ``90``, ``90s``, ``15m``, ``2h``, ``1d`` or ``500ms``; ValueError for anything else."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no duration; write it as 90s, 15m or 2h")
    return float(match[1]) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]
