"""Words that are no commands, and the command that was probably meant: for :mod:`saltctl.cli.guide.usage`.

A word inside a group leads to a command of that group, or to one that only reads: never to a change somewhere else.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from difflib import get_close_matches
from typing import Any

from saltctl.cli.guide.topics import topics

NEAR_WORDS = {
    "raise": "registry set",
    "salt": "registry set",
    "lower": "registry cool",
    "narrow": "registry cool",
    "seal": "registry cool",
    "shrink": "registry cool",
    "unsalt": "registry cool",
    "lookup": "registry get",
    "list": "registry list",
    "ls": "registry list",
    "verify": "compare",
    "diff": "compare",
    "drift": "compare",
    "repair": "compare --repair",
    "restore": "recover",
    "resync": "rebuild",
    "check": "doctor",
    "health": "doctor",
    "diagnose": "doctor",
    "probe": "canary",
    "selftest": "canary",
    "self-test": "canary",
    "smoke": "canary",
    "prove": "canary",
    "info": "status",
    "top": "status --watch 2s",
    "watch": "status --watch 2s",
    "logs": "service status",
    "run": "service run",
    "start": "service run",
    "systemd": "service emit systemd",
    "service install": "service emit systemd",
    "kubernetes": "service emit kubernetes",
    "alerts": "service emit alerts",
    "throttle alerts": "throttle alarms list",
    "prometheus": "help metrics",
    "dlq": "stream dead list",
    "tail": "stream peek",
    "events": "stream peek",
    "throttles": "throttle scan",
    "messages": "history read",
    "cat": "history read",
    "grep": "history find",
    "search": "history find",
    "show": "config show",
    "settings": "config show",
    "env": "config show",
    "context": "config show",
    "contexts": "config path",
    "use": "config use-context",
    "config set": "config path",
    "config edit": "config path",
    "create": "setup",
    "install": "setup",
    "demo": "local shell",
    "try": "local shell",
    "drills": "drill --list",
    "vectors": "conform --vectors",
    "conformance": "conform",
    "man": "help",
    "topics": "help",
    "docs": "help",
    "version": "--version",
}
"""What somebody types who knows other tools, and the command that does it. A subcommand's name alone needs no row.

A row of a group's name and a word is for this group alone."""
_SHOWING = frozenset({"show", "get", "view", "print", "describe", "read", "cat"})
_SHOWS = {
    "registry": "registry get",
    "history": "history read",
    "stream": "stream status",
    "stream dead": "stream dead list",
    "service": "service status",
    "throttle": "throttle scan",
    "throttle alarms": "throttle alarms list",
    "config": "config show",
}
"""What shows the things of a group."""
_READING = frozenset(
    {*_SHOWS.values(), "compare", "status", "doctor", "incident", "heat", "help", "completion", "--version"}
    | {"config path"}
    | {"registry list", "registry discover", "registry export", "history find", "history audit", "stream peek"}
    | {"service emit", "drill", "conform"}
)
"""Commands that change no data, without an option that makes them."""


def near_command(root: Any, group: Any, path: Sequence[str], word: str) -> list[str]:
    """Return the words of the command that was probably meant; empty if none is near.

    Args:
        root: the whole command tree.
        group: the group that does not know the word; the root itself for a first word.
        path: the words of the group, none for the root.
        word: what was typed.
    """
    candidates = _candidates(root, group, list(path), word.lower().strip("-"))
    return next((words for words in candidates if words[: len(path)] == [*path] or _only_reads(words)), [])


def _only_reads(words: Sequence[str]) -> bool:
    return "--repair" not in words and any(" ".join(words[:length]) in _READING for length in (1, 2, 3))


def _candidates(root: Any, group: Any, path: list[str], word: str) -> Iterator[list[str]]:
    """Yield the commands that may be meant, the likeliest first."""
    names, known = list(group.commands), topics()
    paths = {words[-1]: words for words in reversed(list(_paths(root)))}
    if word in names:
        yield [*path, word]
    if path:
        yield from _inside(group, path, word)
    for found in (NEAR_WORDS.get(word, "").split(), paths.get(word, []), ["help", word] if word in known else []):
        if found:
            yield found
    for close in get_close_matches(word, names, 1, 0.6):
        yield [*path, close]
    for close in get_close_matches(word, [*paths, *(row for row in NEAR_WORDS if " " not in row), *known], 3, 0.75):
        yield paths.get(close) or NEAR_WORDS.get(close, f"help {close}").split()


def _inside(group: Any, path: list[str], word: str) -> Iterator[list[str]]:
    """Yield the commands of a group that a word may mean."""
    prefix = " ".join(path)
    if row := NEAR_WORDS.get(f"{prefix} {word}"):
        yield row.split()
    if (near := NEAR_WORDS.get(word, "")).startswith(f"{prefix} "):
        yield near.split()
    if word in _SHOWING and prefix in _SHOWS:
        yield _SHOWS[prefix].split()
    for words in _paths(group, tuple(path)):
        if words[-1] == word:
            yield words


def _paths(command: Any, path: tuple[str, ...] = ()) -> Iterator[list[str]]:
    """Yield the words of every command, in the order of the help."""
    for name, child in getattr(command, "commands", {}).items():
        if hasattr(child, "commands"):
            yield from _paths(child, (*path, name))
        else:
            yield [*path, name]
