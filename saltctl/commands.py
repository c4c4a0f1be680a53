"""Commands in hints: a shell that they are pasted into gets exactly these words."""

from __future__ import annotations

import re
import shlex
from collections.abc import Collection, Iterable, Mapping, Sequence
from itertools import dropwhile, takewhile

_COMMAND = re.compile(
    r"""(?:[A-Z_]+=(?:"[^"]*"|\S+) )*(?:saltctl|aws|redis-cli|export|unset|ls|ulimit|echo|openssl|python3) \S"""
)
"""The beginning of a hint's line that is a command: a sentence never begins with one of these words."""
_QUOTED_OR_SALTCTL = re.compile(r"(?<!\w)'[^']*'|\bsaltctl (?P<command>[a-z]+)\b")


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


def is_command(line: str) -> bool:
    """Return whether a line of a hint is a command, which can be pasted as it stands, and not a sentence."""
    return _COMMAND.match(line) is not None


def commands_in(hint: str) -> list[str]:
    """Return the commands of a hint, in the order in which they are to be run. Its other lines are sentences."""
    return [line for line in hint.split("\n") if is_command(line)]


def first_commands(hint: str) -> list[str]:
    """Return the commands of a hint that can be run one after another: a sentence after them says what to do next."""
    return list(takewhile(is_command, dropwhile(lambda line: not is_command(line), hint.split("\n"))))


def hint_of(*lines: str) -> str:
    """Return a hint of several lines: each is a command that can be pasted, or a sentence. Empty ones are left out."""
    return "\n".join(dict.fromkeys(line for part in lines for line in part.split("\n") if line))


def with_root_options(text: str, options: Sequence[str], names: Collection[str]) -> str:
    """Put the root's options into every saltctl command of a text. One that has them already stays as it is.

    Args:
        text: a hint, a note or a topic. What it quotes, such as an id, is not changed.
        options: the root's options as words, such as ``--context prod``.
        names: the first words of the commands that obey these options.
    """

    def replaced(found: re.Match[str]) -> str:
        """Return the command with the options, and anything else unchanged."""
        return f"saltctl {shown} {found['command']}" if found["command"] in names else found[0]

    shown = join_words(options)
    return _QUOTED_OR_SALTCTL.sub(replaced, text) if shown else text


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
