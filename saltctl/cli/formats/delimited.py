"""TSV for pipes, which loses nothing, and CSV for spreadsheets, which compute nothing of it."""

from __future__ import annotations

import re

_UNESCAPED = re.compile("[\x00-\x1f\x7f-\x9f\ud800-\udfff]")
"""Control characters, and lone surrogates, which no encoding can write."""
_ESCAPE = re.compile(r"\\(?:[\\tnr]|x[0-9a-f]{2}|u[0-9a-f]{4}|U[0-9a-f]{8}|)")
_FORMULAS = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What formulas begin with, also in full width."""
_NAMED = {"\\\\": "\\", "\\t": "\t", "\\n": "\n", "\\r": "\r"}


def escape_controls(text: str) -> str:
    r"""Replace each control character and lone surrogate by its escape, such as ``\t`` or ``\x1b``."""
    return _UNESCAPED.sub(lambda match: match[0].encode("unicode_escape").decode(), text)


def tsv_field(value: str) -> str:
    """Return a value as one TSV field: backslashes and control characters are escaped, and nothing else."""
    return escape_controls(value.replace("\\", "\\\\"))


def tsv_value(field: str) -> str:
    r"""Return the value of a TSV field: the inverse of :func:`tsv_field`.

    It takes ``\u202e`` and ``\U0001f600`` as well: a terminal and a poor locale get such escapes.

    Raises:
        ValueError: a backslash begins none of these escapes.
    """

    def value_of(match: re.Match[str]) -> str:
        """Return the character of one escape."""
        escape = match[0]
        if escape == "\\":
            raise ValueError(rf"{field!r:.60} has a backslash that begins no escape; a backslash is written \\")
        return _NAMED.get(escape) or chr(int(escape[2:], 16))

    return _ESCAPE.sub(value_of, field)


def csv_field(value: str) -> str:
    """Return a value for a CSV field: a spreadsheet shows it, and never takes it for a formula.

    It is escaped as in TSV: a tab, and a backslash before a t, must not look the same. A value that would be a formula
    gets an apostrophe in front, so CSV is not for programs.
    """
    text = tsv_field(value)
    return f"'{text}" if text.lstrip().startswith(_FORMULAS) else text
