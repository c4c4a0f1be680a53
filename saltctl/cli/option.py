"""Options and arguments that several commands have, and the durations, times and ids that they take.

A command names the defaults.
"""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saltctl.cli.guide.completion import complete_contexts
from saltctl.cli.output import OutputFormat
from saltctl.cli.session import session_of
from saltctl.errors import ConfirmationRequiredError, UsageError
from saltctl.times import TIMES, parse_duration, parse_time
from saltctl.values import parse_name

if TYPE_CHECKING:
    from saltctl.rebuild.checkpoint import ResumeMode


def parse_seconds(text: str | float) -> float:
    """Parse a duration for typer, which passes defaults as numbers; a usage error names the accepted formats."""
    try:
        return parse_duration(text) if isinstance(text, str) else text
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None


def parse_whole_number(text: str) -> int:
    """Parse a whole number for typer, which would also accept underscores, spaces and digits of other scripts."""
    if re.fullmatch(r"[+-]?[0-9]{1,18}", text) is None:
        raise typer.BadParameter(f"{text!r:.60} is not a whole number")
    return int(text)


def _parse_positive_seconds(text: str | float) -> float:
    """Parse a duration; typer passes defaults as numbers, and a default of 0 means that the option is omitted."""
    seconds = parse_seconds(text)
    if isinstance(text, str) and not seconds:
        raise typer.BadParameter(f"{text!r} must be at least 1ms")
    return seconds


def parse_text(text: str | None, most: int = 2000) -> str | None:
    """Refuse a string that cannot be meant: that of a variable that is not set, or of a file. None is the default."""
    if text is not None and (not text.strip() or "\0" in text or len(text) > most):
        shown = f"a string of {len(text):,} characters" if len(text) > most else repr(text[:60])
        raise typer.BadParameter(f"{shown} is not a text of 1 to {most:,} characters")
    return text


def parse_file(text: str) -> Path:
    """Return a path; an empty string, such as of a variable that is not set, would be the working directory."""
    if not text.strip() or "\0" in text or max(len(os.fsencode(part)) for part in text.split("/")) > 255:
        raise typer.BadParameter(f"{text!r:.60} is not the name of a file")
    return Path(text)


def _parse_reason(text: str | None) -> str | None:
    return parse_text(text, MAX_REASON)


def _parse_table(text: str | None) -> str | None:
    try:
        return None if text is None else parse_name(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r:.60} {exc}") from None


def _check_context(context: typer.Context, value: str | None) -> str | None:
    """Refuse to confirm another context than the one in use: the servers may be others than those that are meant."""
    if value is not None and not context.resilient_parsing and value != (used := session_of(context).settings.context):
        told = f"the context in use is {used!r}" if used else "no context is in use"
        raise ConfirmationRequiredError(f"cannot confirm the context {value!r:.60}: {told}", hint="saltctl config show")
    return value


def text(name: str, about: str, metavar: str, **more: Any) -> Any:
    """Return a typer option that takes a text, and neither an empty nor a blank one."""
    return typer.Option(name, metavar=metavar, parser=parse_text, help=about, **more)


def duration(name: str, about: str, *, zero: bool = False) -> Any:
    """Return a typer option that takes a duration. ``zero``: whether 0 is accepted, as by a wait."""
    parser = parse_seconds if zero else _parse_positive_seconds
    return typer.Option(name, metavar="DURATION", parser=parser, help=about, show_default=False)


def number(name: str, about: str, least: float, most: float, *, whole: bool = True, metavar: str = "NUMBER") -> Any:
    """Return a typer option that takes a number of a range; neither nan nor infinity. ``whole``: an integer."""

    def parse(text: str | float) -> float:
        """Parse a number for typer, which passes defaults as numbers."""
        if not isinstance(text, str):
            return text
        try:
            value = parse_whole_number(text) if whole else float(text if _FLOAT.fullmatch(text) else "")
        except (ValueError, typer.BadParameter):
            value = least - 1
        if not least <= value <= most:  # so nan is refused, too
            kind = "a whole number" if whole else "a number"
            raise typer.BadParameter(f"{text!r:.60} is not {kind} from {least:,} to {most:,}")
        return value

    return typer.Option(name, metavar=metavar, parser=parse, help=f"{about} From {least:,} to {most:,}.")


_FLOAT = re.compile(r"[0-9]+(\.[0-9]*)?([eE][+-]?[0-9]{1,3})?|\.[0-9]+")
MAX_REASON = 500
"""The longest reason of a raise: saltctl.registry.registry.MAX_REASON, which takes long to import."""
Conversation = Annotated[str, typer.Argument(metavar="CONV", help="A conversation id.")]
Conversations = Annotated[
    list[str] | None, typer.Argument(metavar="CONV", help="Conversation ids; after -- if one begins with -.")
]
Output = Annotated[
    OutputFormat | None,
    typer.Option(
        "--output",
        "-o",
        help="How to print. Default: table; tsv in a pipe if records are listed. csv is for spreadsheets.",
        show_default=False,
    ),
]
Timeout = Annotated[float, duration("--timeout", "Give up after this long, such as 15m.")]
Window = Annotated[float, duration("--window", "Seconds between the two readings; 1s if omitted.")]
Since = Annotated[str | None, typer.Option("--since", metavar="TIME", help="From this time on; 2h is two hours ago.")]
Until = Annotated[str | None, typer.Option("--until", metavar="TIME", help="Before this time.")]
RangeStart = Annotated[
    str, typer.Option("--since", metavar="TIME|DURATION", help="Start of the range; 2h is two hours ago.")
]
RangeEnd = Annotated[
    str | None, typer.Option("--until", metavar="TIME|DURATION", help="End of the range; now if omitted.")
]
SinceKey = Annotated[str | None, text("--since-key", "From this sort key on.", "KEY")]
UntilKey = Annotated[str | None, text("--until-key", "Before this sort key.", "KEY")]
Eventual = Annotated[bool, typer.Option("--eventual", help="Eventually consistent: half the cost.")]
Segments = Annotated[int, number("--segments", "Parallel scans of the table.", 1, 1_000_000)]
Source = Annotated[
    Literal["redis", "backup"] | None,
    typer.Option("--source", help="Default: redis if it is verified, else the backup.", show_default=False),
]
Table = Annotated[
    str | None,
    typer.Option("--table", metavar="TABLE", parser=_parse_table, help="The table; the messages table if omitted."),
]

MaxRcu = Annotated[
    float | None,
    number("--max-rcu", "Maximum read capacity units a second.", 1, 10**9, whole=False, metavar="UNITS"),
]
LockWait = Annotated[float, duration("--lock-wait", "Wait for a rebuild that is in progress.", zero=True)]
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
_REASON = typer.Option("--reason", metavar="TEXT", parser=_parse_reason, help="Recorded with each raise.")
Reason = Annotated[str, _REASON]
OptionalReason = Annotated[str | None, _REASON]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Print what would change, and change nothing.")]
Yes = Annotated[bool, typer.Option("--yes", "-y", help="Do not ask for confirmation.")]
Confirm = Annotated[
    str | None,
    typer.Option(
        "--confirm",
        metavar="CONTEXT",
        help="The name of the protected context, to confirm the change.",
        callback=_check_context,
        autocompletion=complete_contexts,
    ),
]

# Jobs run by cron.
Cron = Annotated[
    bool,
    typer.Option(
        "--cron", help="Print nothing unless something happened: then one JSON line on stderr, and the -o format."
    ),
]
MetricsFile = Annotated[
    Path | None,
    typer.Option(
        "--metrics-file",
        metavar="FILE",
        parser=parse_file,
        help="Write Prometheus metrics to this file, at failure too.",
    ),
]


def parse_time_option(name: str, text: str | None, now: datetime) -> datetime | None:
    """Return the time in UTC that the option ``name`` has; None without one.

    Raises:
        UsageError: the string is not a time.
    """
    try:
        return None if text is None else parse_time(text, now)
    except ValueError as exc:
        raise UsageError(f"{name}: {exc}", hint=f"{name} 2h, or {name} 2026-01-31T12:00:00Z") from None


def parse_stream_id(text: str) -> str:
    """Return the stream id of an id, or of a time. A number alone is an id if it has 13 digits, or is 0.

    Raises:
        UsageError: the string is none of them.
    """
    if re.fullmatch(r"0|[0-9]{13}|[0-9]+-[0-9]+", text) and all(
        len(part) <= 20 and int(part) < 2**64 for part in text.split("-")
    ):
        return text
    try:
        at = parse_time(text, datetime.now(UTC))
    except ValueError:
        raise UsageError(
            f"{text!r:.60} is neither a stream id nor a time", hint=f"write 1700000000000-0, or {TIMES}"
        ) from None
    return str(max((at - datetime.fromtimestamp(0, UTC)) // timedelta(milliseconds=1), 0))
