"""Options and arguments that several commands have. A command names their default."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from saltctl.cli.output import OutputFormat
from saltctl.cli.times import parse_duration


def parse_seconds(text: str | float) -> float:
    """Parse a duration for typer, which passes defaults as numbers; a usage error names the accepted formats."""
    try:
        return parse_duration(text) if isinstance(text, str) else text
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None


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
