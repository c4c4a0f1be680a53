"""Hints, notes and warnings as people read them: with the root options in force, and ``try:`` before commands alone."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextvars import ContextVar
from types import MappingProxyType

from saltctl.commands import is_command, with_root_options
from saltctl.stores.aws_cli import with_aws_options

root_options: ContextVar[Sequence[str]] = ContextVar("root_options", default=())
"""The options of the root that the running command was given, such as ``--context prod``."""
aws_options_in_force: ContextVar[Mapping[str, str]] = ContextVar("aws_options_in_force", default=MappingProxyType({}))
"""The options of the AWS CLI that lead to where the running command asks, once its settings are known."""
OBEYING = frozenset(
    "canary compare config doctor heat help history incident rebuild recover registry service setup status "  # noqa: SIM905
    "stream throttle".split()
)
"""The commands that obey these options. The others set their own servers, or ask none."""


def in_force(text: str, options: Sequence[str] | None = None) -> str:
    """Return a text whose commands lead to the servers of the running command, or to those of ``options``.

    Those are the commands of saltctl and of the AWS CLI.
    """
    options = root_options.get() if options is None else options
    text = with_aws_options(text, aws_options_in_force.get())
    if not options or "saltctl" not in text:
        return text
    return with_root_options(text, options, OBEYING)


def hint_lines(hint: str) -> Iterator[str]:
    """Yield the lines of a hint as they are shown below an error."""
    for line in in_force(hint).split("\n") if hint else ():
        yield f"  try: {line}" if is_command(line) else f"  {line}"
