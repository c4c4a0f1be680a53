"""Commands in hints: a shell that they are pasted into gets exactly these words."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping


def command_line(*words: str, ids: Iterable[str] = (), given: Mapping[str, object] | None = None) -> str:
    """Return a saltctl command that can be pasted into a shell: each word is quoted if it has to be.

    Args:
        words: the command, and what it gets first.
        ids: arguments that other people chose. One that begins with a dash would be an option: then all of them
            come last, after ``--``.
        given: values by the names of their options; None and False are left out, True is a flag.
    """
    ids, options = list(ids), []
    for name, value in (given or {}).items():
        if value is not None and value is not False:
            options += [name] if value is True else [name, str(value)]
    dashed = any(word.startswith("-") for word in ids)
    return join_words(["saltctl", *words, *([*options, "--", *ids] if dashed else [*ids, *options])])


def join_words(words: Iterable[str]) -> str:
    r"""Return the words as a shell reads them back. What is not printable is written as in ``$'a\x1b'``."""
    return " ".join(shlex.quote(word) if word.isprintable() else _ansi_c_quoted(word) for word in words)


def _ansi_c_quoted(word: str) -> str:
    """Quote a word for bash and zsh by printable ASCII alone, so that it can be shown and pasted."""
    return "$'" + "".join(map(_escaped, word)) + "'"


def _escaped(char: str) -> str:
    code = ord(char)
    if char in "\\'":
        return f"\\{char}"
    if " " <= char <= "~":
        return char
    if 0xDC80 <= code <= 0xDCFF:
        return f"\\x{code - 0xDC00:02x}"  # a byte of an argument that is not UTF-8
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"
