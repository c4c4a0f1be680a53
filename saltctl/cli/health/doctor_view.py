"""The human view of ``saltctl doctor``: a line for each check, then a fix for each problem."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saltctl.cli.health.monitoring import summary
from saltctl.cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from saltctl.health.findings import Finding

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_WORD = re.compile(r"""(?:[^\s"']|"(?:[^"\\]|\\.)*"|'[^']*')+""")
"""A word of a shell command; a space inside quotes does not end it."""


def draw(screen: Console, findings: Sequence[Finding]) -> None:
    """Print a line for each check, and the commands that fix the problems."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in findings:
        style = _STYLES[finding.status]
        detail = Text(printable(finding.detail), style="dim" if finding.status == "skip" else "")
        table.add_row(Text(finding.status, style=style), Text(finding.check), detail)
    screen.print(table)
    for finding in findings:
        if finding.fix:
            screen.print()
            screen.print(Text(f"To fix {finding.check}:", style=_STYLES[finding.status]))
            for line in pasteable(printable(finding.fix), screen.width - 2):
                screen.print(Text(f"  {line}"), soft_wrap=True)
    screen.print()
    screen.print(Text(summary(findings)))


def pasteable(command: str, width: int) -> list[str]:
    """Break a shell command into lines of at most ``width`` that are still one command; a long word is not broken."""
    first, *words = _WORD.findall(command)
    lines = [first]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= width - 2:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {word}")
    return lines
