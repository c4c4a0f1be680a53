"""The output and the exit codes of a Nagios plugin."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from saltctl.cli.formats.text import printable
from saltctl.health.findings import Status

_PLUGIN: dict[Status, tuple[int, str]] = {
    "ok": (0, "OK"),
    "warn": (1, "WARNING"),
    "fail": (2, "CRITICAL"),
    "skip": (3, "UNKNOWN"),
}
"""Exit code and name of each status (documented: Monitoring Plugins' guidelines)."""


def plugin_output(
    status: Status, summary: str, figures: Mapping[str, float], problems: Iterable[str] = ()
) -> tuple[int, str]:
    """Return a plugin's exit code and output: a line with performance data, then one for each problem."""
    code, name = _PLUGIN[status]
    performance = " ".join(f"{key}={_plain(value)}" for key, value in figures.items())
    first = f"SALTCTL {name} - {_without_bars(summary)}" + (f" | {performance}" if performance else "")
    return code, "\n".join([first, *map(_without_bars, problems)]) + "\n"


def _without_bars(text: str) -> str:
    """Return a printable text without vertical bars, which would begin performance data."""
    return printable(text).replace("|", "/")


def _plain(value: float) -> str:
    """Return a number without an exponent and trailing zeros; what rounds to zero has no sign."""
    return f"{round(value, 6) + 0.0:.6f}".rstrip("0").rstrip(".")
