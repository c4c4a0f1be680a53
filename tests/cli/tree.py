"""The command tree: every command by its name, and the examples in its help."""

from __future__ import annotations

import re
from collections.abc import Iterator

from saltctl.cli.app import build


def leaves(command: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the names and the commands below a group."""
    children = getattr(command, "commands", None)
    if children is None:
        yield path, command
        return
    for name, child in children.items():
        yield from leaves(child, f"{path} {name}".strip())


LEAVES = dict(leaves(build()))
"""Every command by its name, such as ``registry get``."""


def examples_of(name: str) -> list[str]:
    """Return the examples in a command's help."""
    text = str(getattr(LEAVES[name], "help", ""))
    found = re.search(r"Examples:\n((?:\s+saltctl.*\n?)+)", text)
    return [line.strip() for line in found[1].splitlines()] if found else []
