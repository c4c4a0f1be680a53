"""How the findings of ``saltctl doctor`` look: to people, to Nagios and its kin, and to Prometheus."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from saltctl.cli.text import printable

if TYPE_CHECKING:
    from rich.console import Console

    from saltctl.health.findings import CheckResult

_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_WORDS = {"fail": "CRITICAL", "warn": "WARNING", "ok": "OK", "skip": "UNKNOWN"}
_CODES = {"ok": 0, "warn": 1, "fail": 2, "skip": 3}
_WORST_FIRST = ("fail", "warn", "ok", "skip")
_WORD = re.compile(r"""(?:[^\s"']|"(?:[^"\\]|\\.)*"|'[^']*')+""")
"""A word of a shell command: blanks in quotes do not end it."""


def draw(screen: Console, results: Sequence[CheckResult]) -> None:
    """A line for each check; below, the command for each that is not well, ready to be pasted."""
    from rich.table import Table
    from rich.text import Text

    table = Table.grid(padding=(0, 2, 0, 0))
    for _ in range(2):
        table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for result in results:
        style = _STYLES[result.status]
        detail = Text(printable(result.detail), style="dim" if result.status == "skip" else "")
        table.add_row(Text(result.status, style=style), Text(result.name), detail)
    screen.print(table)
    for result in results:
        if result.fix:
            screen.print()
            screen.print(Text(f"To mend {result.name}:", style=_STYLES[result.status]))
            for line in pasteable(printable(result.fix), screen.width - 2):
                screen.print(Text(f"  {line}"), soft_wrap=True)
    screen.print()
    screen.print(Text(_counted(results)))


def pasteable(command: str, width: int) -> list[str]:
    """A shell command on lines of at most ``width``, where its words allow it, that is still the same command."""
    words = _WORD.findall(command)
    lines = [""]
    for word in words:
        longer = f"{lines[-1]} {word}" if lines[-1].strip() else lines[-1] + word
        if len(longer) <= width - 2 or not lines[-1].strip():
            lines[-1] = longer
        else:
            lines[-1] += " \\"
            lines.append("  " + word)
    return lines


def _counted(results: Sequence[CheckResult]) -> str:
    count = Counter(result.status for result in results)
    return f"{len(results)} checks: {count['ok']} ok, {count['warn']} warn, {count['fail']} fail, {count['skip']} skip"


def _worst(results: Sequence[CheckResult]) -> str:
    return min((result.status for result in results), key=_WORST_FIRST.index, default="skip")


def nagios_code(results: Sequence[CheckResult]) -> int:
    """The exit code of a plugin (documented: Monitoring Plugins' guidelines)."""
    return _CODES[_worst(results)]


def nagios(results: Sequence[CheckResult]) -> str:
    """A plugin's output: one line with performance data, then a line for each check that is not well."""
    worst = _worst(results)
    told = [result for result in results if result.status in ("fail", "warn")]
    names = ", ".join(result.name for result in told)
    count = Counter(result.status for result in results)
    figures = {
        "failed": count["fail"],
        "warnings": count["warn"],
        "skipped": count["skip"],
        **{name: value for result in results for name, value in result.measures.items()},
    }
    performance = " ".join(f"{name}={_figure(value)}" for name, value in figures.items())
    head = f"SALTCTL {_WORDS[worst]} - {_counted(results)}{f' ({names})' if names else ''} | {performance}\n"
    return head + "".join(
        f"{result.status} {result.name}: {_plain(result.detail)}{f' - {_plain(result.fix)}' if result.fix else ''}\n"
        for result in told
    )


def _plain(text: str) -> str:
    # A bar would begin performance data.
    return printable(text).replace("|", "/")


def _figure(value: float) -> str:
    return f"{value:.6f}".rstrip("0").rstrip(".")


def prometheus(results: Sequence[CheckResult]) -> str:
    """Prometheus' text format: a state set for each check, and every number that was measured."""
    lines = [
        "# HELP saltctl_doctor_check Whether a check found this status.",
        "# TYPE saltctl_doctor_check gauge",
    ]
    for result in results:
        lines += [
            f'saltctl_doctor_check{{check="{result.name}",status="{status}"}} {int(result.status == status)}'
            for status in _CODES
        ]
    for result in results:
        for name, value in result.measures.items():
            lines += [f"# TYPE saltctl_doctor_{name} gauge", f"saltctl_doctor_{name} {_figure(value)}"]
    return "\n".join(lines) + "\n"
