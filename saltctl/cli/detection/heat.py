"""``saltctl heat``."""

from __future__ import annotations

from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.output import columns_of, note, print_result, warn
from saltctl.cli.session import Session, session_of
from saltctl.errors import IncompleteError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from saltctl.incident.heat_map import ConversationHeat, HeatMap

COLUMNS = columns_of(
    "conversation_id minute writes max_n peak events",
    events=lambda record: " ".join(event["kind"] for event in record["events"]),
)
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", ".:-=+*%#"
MARKS = {"raise": "R", "cooled": "C", "throttled": "T"}
SEVERAL = "*"
MAX_WIDTH = 160
_MAX_LABEL = 24
"""Cells of the conversation ids. A longer one has a line of its own."""
_MAX_STRETCH = 4
"""Cells of one column at most."""
_DAY = 86400


def heat(
    context: typer.Context,
    since: Annotated[
        str, typer.Option("--since", metavar="TIME|DURATION", help="Start of the range; 2h is two hours ago.")
    ] = "2h",
    until: Annotated[
        str | None, typer.Option("--until", metavar="TIME|DURATION", help="End of the range; now if omitted.")
    ] = None,
    count: Annotated[int, option.number("--count", "How many of the hottest conversations to show.", 1, 1000)] = 20,
    output: option.Output = None,
) -> None:
    """Draw how hot each conversation was, minute by minute, and when it was raised, cooled or throttled.

    A full bar is the write units that the salts of that time take in a second (wps_per_salt each); more is red. The
    reports are those that the heat stream still has, so servers below heat_floor are not in it. max_n is N at the end
    of the minute, null if the backup does not know it any more; peak the most writes in a second. Without a
    conversation_id, the record is about the whole messages table, which CloudWatch counts.

    Exits 4 if Redis, the backup or CloudWatch cannot be read, and draws what the others have.

    \b
    Examples:
      saltctl heat
      saltctl heat --since 30m --count 5
      saltctl heat --since 3h --until 1h -o json
    """
    session = session_of(context)
    session.settings.require_redis_url()
    found = _read(session, since, until, count)
    view = partial(draw, found=found, wps_per_salt=session.settings.wps_per_salt)
    print_result(found.as_records(), output, columns=COLUMNS, human_view=view)
    if found.more:
        note(f"not shown: {counted(found.more, 'conversation')}; --count shows more")
    failed = [source for source in found.sources if source.error is not None]
    for source in failed[1:]:
        warn(f"{source.name}: missing, since {source.error and source.error.message}")
    if failed and (first := failed[0].error) is not None:
        raise IncompleteError(f"the picture lacks {failed[0].name}: {first.message}", hint=first.hint)


def _read(session: Session, since: str, until: str | None, count: int) -> HeatMap:
    from saltctl.incident.heat_reader import HeatReader
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
    from saltctl.throttling.analysis import time_range

    now = datetime.now(UTC)
    start = option.parse_time_option("--since", since, now) or now
    end = option.parse_time_option("--until", until, now) or now
    try:
        over = time_range(start.timestamp(), end.timestamp(), None, now.timestamp())
    except UsageError as exc:
        raise UsageError(exc.message, hint="saltctl heat --since 3h --until 1h") from None
    settings = session.settings
    reader = HeatReader(settings, CloudWatchMetrics(settings), session.heat_stream, session.backup)
    return reader.read(start.timestamp(), end.timestamp(), over, count)


def draw(screen: Console, found: HeatMap, wps_per_salt: int) -> None:
    """Draw a line for each conversation, and below it one with its events, if it has any."""
    from rich.text import Text

    from saltctl.cli.formats.tables import print_beside

    shown = [one for one in found.conversations if one.conversation_id is not None]
    span = f"{_format_time(found, found.since)} to {_format_time(found, found.until)} UTC"
    counts = f"{counted(len(shown), 'conversation')}, {counted(found.reports, 'heat report')}"
    print_beside(screen, Text(), Text(f"Heat from {span}: {counts}", style="bold"), 0)
    if found.conversations:
        _Grid(screen, found, wps_per_salt).draw()
    for source in found.sources:
        if source.error is None:
            has = "no data, which does not mean that all was well"
            since = has if source.since is None else f"since {_iso(source.since)}"
            print_beside(screen, Text(), Text(f"{source.name}: {since}"), 0)


class _Grid:
    """Conversations as lines, and minutes as columns, each of one minute or more."""

    def __init__(self, screen: Console, found: HeatMap, wps_per_salt: int) -> None:
        from rich.cells import cell_len

        self._screen, self._found, self._wps = screen, found, wps_per_salt
        labels = [cell_len(_label(one)) for one in found.conversations]
        self._label = max(len("conversation"), *(length for length in labels if length <= _MAX_LABEL), 0)
        minutes = max(-(-int(found.until - found.since) // 60), 1)
        room = max(min(screen.width, MAX_WIDTH) - self._label - 9, 10)
        self._minutes = -(-minutes // room)
        self._columns = -(-minutes // self._minutes)
        self._stretch = min(max(room // self._columns, 1), _MAX_STRETCH)

    def draw(self) -> None:
        """Print it."""
        from rich.text import Text

        from saltctl.cli.formats.tables import print_beside

        start, end = _format_time(self._found, self._found.since), _format_time(self._found, self._found.until)
        length = self._columns * self._stretch
        axis = f"{start}{end:>{max(length - len(start), len(end) + 1)}}"
        self._screen.print(Text(f"{'conversation':{self._label}}  {'N':>5}  {axis}", style="bold"), soft_wrap=True)
        for one in self._found.conversations:
            self._draw_line(one)
        each = "1 minute" if self._minutes == 1 else f"{self._minutes} minutes"
        full = f"full bar: {self._wps:,} write units a second on each salt, red: more"
        for legend in (f"column: {each}; {full}", "R raised, C cooled, T throttled, * several of them"):
            print_beside(self._screen, Text(), Text(legend, style="dim"), 0)

    def _draw_line(self, one: ConversationHeat) -> None:
        from rich.cells import cell_len
        from rich.text import Text

        label = _label(one)
        if cell_len(label) > self._label:
            self._screen.print(Text(label), soft_wrap=True)
            label = ""
        n = one.counts.write_n(self._found.until)
        shown_n = "" if one.conversation_id is None else "?" if n is None else f"{n:,}"
        marks = self._marks(one)
        line = Text(label + " " * (self._label - cell_len(label))).append(f"  {shown_n:>5}  ")
        below = Text(" " * (self._label + 9)).append(marks, style="bold")
        if one.conversation_id is None:
            self._screen.print(line.append(marks, style="bold"), soft_wrap=True)
            return
        self._print(line.append_text(self._bars(one)))
        if marks:
            self._print(below)

    def _print(self, line: Text) -> None:
        line.rstrip()
        self._screen.print(line, soft_wrap=True)

    def _column(self, minute: int) -> int:
        return min((minute - self._found.since) // 60 // self._minutes, self._columns - 1)

    def _bars(self, one: ConversationHeat) -> Text:
        """Return a bar for each column: its hottest second, as a share of what the salts took."""
        from rich.text import Text

        shares = [0.0] * self._columns
        for minute in one.writes:
            at = self._column(minute)
            shares[at] = max(shares[at], one.share(minute, self._wps))
        blocks = BLOCKS if self._screen.encoding.startswith("utf") else ASCII_BLOCKS
        bars = Text()
        for share in shares:
            block = blocks[min(int(share * (len(blocks) - 1)), len(blocks) - 1)] if share else " "
            bars.append(block * self._stretch, style="red" if share > 1 else None)
        return bars

    def _marks(self, one: ConversationHeat) -> str:
        """Return the letters of the events, below their columns."""
        from saltctl.incident.heat_map import minute_of

        letters = [" "] * self._columns
        for event in one.events:
            at, letter = self._column(minute_of(event)), MARKS[event.kind]
            letters[at] = letter if letters[at] in (" ", letter) else SEVERAL
        return "".join(letter.ljust(self._stretch) for letter in letters).rstrip()


def _label(one: ConversationHeat) -> str:
    return "messages table" if one.conversation_id is None else printable(one.conversation_id)


def _format_time(found: HeatMap, at: float) -> str:
    """Format a time in UTC, with the date if the range is longer than a day."""
    form = "%H:%M" if found.until - found.since <= _DAY else "%m-%d %H:%M"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
