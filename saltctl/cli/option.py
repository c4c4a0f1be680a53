"""Options and arguments that several commands have, and the durations, times and ids that they take.

A command names the defaults.
"""

from __future__ import annotations

import re
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saltctl.cli.output import OutputFormat
from saltctl.errors import UsageError
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.history.history import History
    from saltctl.rebuild.checkpoint import ResumeMode


def parse_duration(text: str) -> float:
    """Return the seconds of ``90``, ``90s``, ``15m``, ``2h``, ``1d`` or ``500ms``; ValueError for other strings."""
    match = re.fullmatch(r"([0-9]+(?:\.[0-9]+)?)(ms|s|m|h|d)?", text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not a duration; write it as 90s, 15m or 2h")
    return float(match[1]) * {"ms": 0.001, None: 1, "s": 1, "m": 60, "h": 3600, "d": 86400}[match[2]]


def parse_seconds(text: str | float) -> float:
    """Parse a duration for typer, which passes defaults as numbers; a usage error names the accepted formats."""
    try:
        return parse_duration(text) if isinstance(text, str) else text
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None


def parse_whole_number(text: str) -> int:
    """Parse a whole number for typer, which would also accept underscores, spaces and digits of other scripts."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text) is None:
        raise typer.BadParameter(f"{text!r} is not a whole number")
    return int(text)


def duration(name: str, about: str) -> Any:
    """Return a typer option that takes a duration."""
    return typer.Option(name, metavar="DURATION", parser=parse_seconds, help=about, show_default=False)


Conversation = Annotated[str, typer.Argument(metavar="CONV", help="A conversation id.")]
Output = Annotated[
    OutputFormat | None,
    typer.Option("--output", "-o", help="How to print: table on a terminal, tsv in a pipe.", show_default=False),
]
Timeout = Annotated[float, duration("--timeout", "Give up after this long, such as 15m.")]
Window = Annotated[float, duration("--window", "Seconds between the two readings; 1s if omitted.")]
Since = Annotated[
    str | None, typer.Option("--since", metavar="TIME", help="From this time or sort key; 2h is two hours ago.")
]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time or sort key.")]
Eventual = Annotated[bool, typer.Option("--eventual", help="Eventually consistent: half the cost.")]
Segments = Annotated[int, typer.Option("--segments", help="Parallel scans of the table.")]
Source = Annotated[
    Literal["redis", "backup"] | None,
    typer.Option("--source", help="Default: redis if it is verified, else the backup.", show_default=False),
]
Table = Annotated[
    str | None, typer.Option("--table", metavar="TABLE", help="The table; the messages table if omitted.")
]

MaxRcu = Annotated[
    float | None,
    typer.Option("--max-rcu", metavar="UNITS", help="Maximum read capacity units a second.", show_default=False),
]
LockWait = Annotated[float, duration("--lock-wait", "Wait for a rebuild that is in progress.")]
Resume = Annotated[bool, typer.Option("--resume", help="Resume from the checkpoint, or fail.")]
Restart = Annotated[bool, typer.Option("--restart", help="Start over, even if there is a checkpoint.")]


def resume_mode(*, resume: bool, restart: bool) -> ResumeMode | None:
    """Return the mode that the options choose; None without one.

    Raises:
        UsageError: they exclude each other.
    """
    from saltctl.rebuild.checkpoint import ResumeMode

    if resume and restart:
        raise UsageError("--resume and --restart exclude each other", hint="give one of them, or neither")
    if resume or restart:
        return ResumeMode.ALWAYS if resume else ResumeMode.NEVER
    return None


# Changes.
Reason = Annotated[str, typer.Option("--reason", help="Recorded with each raise.")]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Confirm = Annotated[
    str | None,
    typer.Option("--confirm", metavar="CONTEXT", help="The name of the protected context, to confirm the change."),
]

# Jobs run by cron.
Cron = Annotated[
    bool, typer.Option("--cron", help="Print one JSON line on stderr if something happened, and nothing else.")
]
MetricsFile = Annotated[
    Path | None,
    typer.Option("--metrics-file", metavar="FILE", help="Write Prometheus metrics to this file, at failure too."),
]


def parse_time(text: str, now: float) -> float:
    """Return the seconds since the epoch of an ISO 8601 time, or of a duration before ``now``.

    Raises:
        ValueError: the string is neither.
    """
    try:
        return now - parse_duration(text)
    except ValueError:
        pass
    try:
        return parse_iso(text).timestamp()
    except OverflowError as exc:
        raise ValueError(str(exc)) from exc


def parse_stream_id(text: str) -> str:
    """Return the stream id of an id, an ISO 8601 time, or a duration ago.

    Raises:
        UsageError: the string is none of them.
    """
    error = UsageError(
        f"{text!r} is neither a stream id nor a time", hint="write 1700000000000-0, 2026-01-31T12:00:00Z or 15m"
    )
    if re.fullmatch(r"[0-9]+(-[0-9]+)?", text):
        if any(len(part) > 20 or int(part) >= 2**64 for part in text.split("-")):
            raise error
        return text
    try:
        return str(max(int(parse_time(text, time.time()) * 1000), 0))
    except ValueError:
        raise error from None


def sort_key_bound(history: History, text: str | None) -> str | None:
    """Return the sort key of a time or of a duration ago; any other string is a sort key already.

    It is in UTC and has no final zeros, so it is a prefix of every longer form of that time.
    """
    if text is None or history.store.keys.sort_type == "N":
        return text
    if re.fullmatch(r"[0-9.]+(ms|s|m|h|d)", text):
        at = datetime.now(UTC) - timedelta(seconds=parse_duration(text))
    elif re.fullmatch(r"[0-9]{4}-[0-9]{2}-[0-9]{2}[T ].+", text):
        try:
            at = parse_iso(text).astimezone(UTC)
        except ValueError:
            return text
    else:
        return text
    return at.strftime("%Y-%m-%dT%H:%M:%S.%f").rstrip("0").rstrip(".")
