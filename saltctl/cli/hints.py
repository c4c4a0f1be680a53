"""Hints, notes and warnings as people read them: with the root options in force, and ``try:`` before commands alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextvars import ContextVar

from saltctl.commands import is_command, with_root_options

root_options: ContextVar[Sequence[str]] = ContextVar("root_options", default=())
"""The options of the root that the running command was given, such as ``--context prod``."""
OBEYING = frozenset(
    "compare config doctor help history incident rebuild recover registry service setup status stream throttle".split()  # noqa: SIM905
)
"""The commands that obey these options. The others set their own servers, or ask none."""


def in_force(text: str, options: Sequence[str] | None = None) -> str:
    """Return a text whose saltctl commands lead to the servers of the running command, or to those of ``options``."""
    options = root_options.get() if options is None else options
    if not options or "saltctl" not in text:
        return text
    return with_root_options(text, options, OBEYING)


def hint_lines(hint: str) -> Iterator[str]:
    """Yield the lines of a hint as they are shown below an error."""
    for line in in_force(hint).split("\n") if hint else ():
        yield f"  try: {line}" if is_command(line) else f"  {line}"
