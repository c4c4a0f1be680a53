"""Reports of the canary for people and for Nagios."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from saltctl.canary.conversations import RESERVED
from saltctl.canary.report import CanaryReport, Check
from saltctl.cli.formats.nagios import plugin_output
from saltctl.cli.formats.tables import print_beside
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.hints import in_force
from saltctl.commands import command_line, hint_of
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from rich.console import Console

    from saltctl.health.findings import Status

State = Literal["ok", "FAILED", "not judged", "skipped"]
_STYLES: Mapping[State, str] = {"ok": "green", "FAILED": "bold red", "not judged": "yellow", "skipped": "dim"}
_WIDTH = max(map(len, _STYLES)) + 2
PLANS = {
    "lookup": "look up each reserved conversation, and compare N with where its messages are",
    "write": "write messages, each twice, and delete old ones of a canary",
    "read": "look up N and read every message, by Redis and by the backup",
    "shared-read": "read with share_reads and hedge_reads while messages are written",
    "find": "find messages by their ids",
    "unfinished-raise": "stop a raise before each of its steps, and write and read each time",
    "raise": "complete this raise, and look it up",
    "cool": "take cool-downs one phase further; skipped if the registry never had one",
    "late-merge": "merge an older N into Redis, as a slow rebuild does, which must not lower it",
    "foreign-client": "look up as a client of another registry, which must get no answer",
    "fork": "write and read in a forked child",
}
"""What each check does, for a dry run."""
_PROBLEMS = ("FAILED", "not judged")
_SAID = 2
"""Reasons that one sentence names."""


def state_of(check: Check) -> State:
    """Return the state of a check in plain words. An outage leaves it unjudged, and so does a round without time."""
    if check.ok is not None:
        return "ok" if check.ok else "FAILED"
    return "skipped" if check.skipped else "not judged"


def title_of(name: str) -> str:
    """Return the name of a check in plain words."""
    return name.replace("-", " ")


def titles(report: CanaryReport, state: State) -> str:
    """Return the names of the checks in a state, separated by commas."""
    return ", ".join(title_of(check.name) for check in report.checks if state_of(check) == state)


def sentence_of(report: CanaryReport) -> str:
    """Say in one line how a round ended."""
    unjudged = titles(report, "not judged")
    rest = f"{f'; not judged: {unjudged}' if unjudged else ''}, in {report.seconds:,.1f} s"
    if report.ok is False:
        return f"FAILED: {titles(report, 'FAILED')}{rest}"
    return f"The promise holds: {counted(sum(check.ok is True for check in report.checks), 'check')} ok{rest}"


def draw(screen: Console, checks: Sequence[Check], indent: str = "") -> None:
    """Print a line for each check: its state, its name, and the detail beside or below them."""
    from rich.text import Text

    label = len(indent) + _WIDTH + max((len(check.name) for check in checks), default=0) + 2
    for check in checks:
        state = state_of(check)
        lead = Text.assemble(indent, (state, _STYLES[state]), " " * (_WIDTH - len(state)), title_of(check.name))
        print_beside(screen, lead, Text(printable(in_force(check.detail))), label)


def draw_line(screen: Console, report: CanaryReport) -> None:
    """Print one line for a round, and those of the checks that failed."""
    from rich.text import Text

    at = iso_utc(time.time())
    print_beside(screen, Text(at), Text(sentence_of(report)), len(at) + 2)
    draw(screen, [check for check in report.checks if check.ok is False], "  ")


def draw_plan(screen: Console, checks: Sequence[Check]) -> None:
    """Print the name and the detail of each check."""
    from rich.text import Text

    label = max(len(check.name) for check in checks) + 2
    for check in checks:
        print_beside(screen, Text(title_of(check.name)), Text(check.detail), label)


def unjudged_reasons(report: CanaryReport) -> str:
    """Say why checks could not be judged, each reason once."""
    details = list(dict.fromkeys(check.detail for check in report.checks if state_of(check) == "not judged"))
    reasons = [one for one in details if not any(one != other and one in other for other in details)]
    more = [counted(len(reasons) - _SAID, "more reason")] if len(reasons) > _SAID else []
    return "; ".join(reasons[:_SAID] + more)


def find_cause(report: CanaryReport) -> str:
    """Return the hint of a round that failed: commands that find the cause, and name what mends it."""
    details = " ".join(check.detail for check in report.checks if check.ok is False)
    named = [name for name in RESERVED if re.search(rf"{re.escape(name)}(?!\w)", details)]
    audits = [command_line("history", "audit", ids=[name]) for name in named]
    return hint_of(*audits, "saltctl status", "what each check proves, and what to do: saltctl help canary")


def nagios(report: CanaryReport) -> tuple[int, str]:
    """Return a plugin's exit code and output. Part that could not be judged is a warning, all of it is unknown."""
    states = [state_of(check) for check in report.checks]
    status: Status = "fail" if report.ok is False else "skip" if report.ok is None else "ok"
    if status == "ok" and "not judged" in states:
        status = "warn"
    figures = {"failed": states.count("FAILED"), "not_judged": states.count("not judged"), "seconds": report.seconds}
    if report.ok is None:  # all of them have few reasons, often one
        return plugin_output(status, f"nothing could be judged: {unjudged_reasons(report)}", figures)
    shown = [(state, check) for state, check in zip(states, report.checks, strict=True) if state in _PROBLEMS]
    told = [f"{state} {title_of(check.name)}: {in_force(check.detail)}" for state, check in shown]
    return plugin_output(status, sentence_of(report), figures, told)
