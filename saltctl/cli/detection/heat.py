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
from saltctl.errors import ExitCode, IncompleteError, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from saltctl.incident.heat_map import ConversationHeat, HeatMap

COLUMNS = columns_of(
    "conversation_id minute writes max_n write_n peak events",
    events=lambda record: " ".join(event["kind"] for event in record["events"]),
)
BLOCKS, ASCII_BLOCKS = "▁▂▃▄▅▆▇█", "_-~=+*%#"
UNKNOWN = "·", "?"
"""What stands for minutes whose reports are gone; the second of each without Unicode."""
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
    since: option.RangeStart = "2h",
    until: option.RangeEnd = None,
    count: Annotated[int, option.number("--count", "How many of the hottest conversations to show.", 1, 1000)] = 20,
    output: option.Output = None,
) -> None:
    """Draw how hot each conversation was, minute by minute, and when it was raised, cooled or throttled.

    A bar is the hottest second of its minutes. It is full at the write units that the salts of that second took
    (wps_per_salt each), and red above. First come conversations above that or with a raise, then the others. The
    reports are those that the heat stream still has; servers below heat_floor are not in them. writes and peak, the
    most in a second, are null where there are none any more; max_n and write_n, at the end of the minute, if the backup
    does not know them. Without a conversation_id a record is about the whole messages table, as CloudWatch counts.

    Exits 3 if the heat stream is missing; 4 if Redis, the backup or CloudWatch cannot be read: draws what the others
    have.

    \b
    Examples:
      saltctl heat
      saltctl heat --since 30m --count 5
      saltctl heat --since 3h --until 1h -o json
    """
    session = session_of(context)
    session.settings.require_redis_url()
    found, code = _read(session, since, until, count), ExitCode.DONE
    view = partial(draw, found=found, wps_per_salt=session.settings.wps_per_salt)
    print_result(found.as_records(), output, columns=COLUMNS, human_view=view)
    if found.more:
        note(f"not shown: {counted(found.more, 'conversation')}; --count shows more")
    if found.sources[0].error is None and (missing := session.heat_stream.missing()):
        warn(f"{missing}: nobody reports heat, or what was reported is lost", "saltctl setup")
        code = ExitCode.FOUND_SOMETHING
    failed = [source for source in found.sources if source.error is not None]
    for source in failed[1:]:
        warn(f"{source.name}: missing, since {source.error and source.error.message}")
    if failed and (first := failed[0].error) is not None:
        raise IncompleteError(f"the picture lacks {failed[0].name}: {first.message}", hint=first.hint)
    if code:
        raise typer.Exit(code)


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
    span = f"{_format_time(found, found.since)} to {_format_time(found, found.until)} UTC"  # whole minutes
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
    """Conversations as lines, and minutes as columns, each of one minute or more, and of one character or more."""

    def __init__(self, screen: Console, found: HeatMap, wps_per_salt: int) -> None:
        from rich.cells import cell_len

        self._screen, self._found, self._wps = screen, found, wps_per_salt
        self._unicode = screen.encoding.startswith("utf")
        labels = [cell_len(_label(one)) for one in found.conversations]
        self._label = max(len("conversation"), *(length for length in labels if length <= _MAX_LABEL), 0)
        minutes = max((found.until - found.since) // 60, 1)
        room = max(min(screen.width, MAX_WIDTH) - self._label - 9, 10)
        self._minutes = -(-minutes // room)
        self._columns = -(-minutes // self._minutes)
        self._stretch = min(max(room // self._columns, 1), _MAX_STRETCH)

    def draw(self) -> None:
        """Print it."""
        from rich.text import Text

        from saltctl.cli.formats.tables import print_beside

        head = f"{'conversation':{self._label}}  {'N':>5}  {self._axis()}"
        self._screen.print(Text(head, style="bold"), soft_wrap=True)
        for one in self._found.conversations:
            self._draw_line(one)
        scale = f"{_lasting(self._minutes)}: {counted(self._stretch, 'character')}"
        full = f"full bar: {self._wps:,} write units a second on each salt, red: more"
        marks = f"R raised, C cooled, T throttled, * several, {UNKNOWN[not self._unicode]} no reports any more"
        for legend in (f"{scale}; {full}", marks):
            print_beside(self._screen, Text(), Text(legend, style="dim"), 0)

    def _axis(self) -> str:
        """Return times, each above its column, as far as they have room."""
        axis, every = "", -(-(len(_format_time(self._found, 0)) + 3) // self._stretch)
        for column in range(0, self._columns, every):
            label = _format_time(self._found, self._found.since + 60 * self._minutes * column)
            if column * self._stretch + len(label) <= self._columns * self._stretch or not column:
                axis = axis.ljust(column * self._stretch) + label
        return axis

    def _draw_line(self, one: ConversationHeat) -> None:
        from rich.cells import cell_len
        from rich.text import Text

        label = _label(one)
        if cell_len(label) > self._label:
            self._screen.print(Text(label), soft_wrap=True)
            label = ""
        line = Text(label + " " * (self._label - cell_len(label))).append(f"  {self._salts(one):>5}  ")
        marks = Text(self._marks(one), style="bold")
        self._print(line.append_text(marks if one.conversation_id is None else self._bars(one)))
        if one.conversation_id is not None and one.events:
            self._print(Text(" " * (self._label + 9)).append_text(marks))

    def _print(self, line: Text) -> None:
        line.rstrip()
        self._screen.print(line, soft_wrap=True)

    def _salts(self, one: ConversationHeat) -> str:
        """Return N at the end of the range; of a cooled conversation those of writers and of readers."""
        if one.conversation_id is None:
            return ""
        write_n, max_n = one.counts.write_n(self._found.until), one.counts.max_n(self._found.until)
        if write_n is None or max_n is None:
            return "?"
        return f"{write_n}" if write_n == max_n else f"{write_n}/{max_n}"

    def _column(self, minute: int) -> int:
        return min((minute - self._found.since) // 60 // self._minutes, self._columns - 1)

    def _bars(self, one: ConversationHeat) -> Text:
        """Return a bar for each column: its hottest second, as a share of what the salts took."""
        from rich.text import Text

        columns: list[tuple[float, bool] | None] = [None] * self._columns
        for minute in range(self._found.since, self._found.until, 60):
            load = one.load(minute, self._wps) if minute in one.writes else (0.0, True)
            if load[0] or self._found.is_known(minute):
                at = self._column(minute)
                columns[at] = max(columns[at] or load, load)
        bars, blocks = Text(), BLOCKS if self._unicode else ASCII_BLOCKS
        for column in columns:
            share, known = column or (0.0, True)
            block = blocks[min(int(share * (len(blocks) - 1)), len(blocks) - 1)] if share else " "
            if column is None:
                block = UNKNOWN[not self._unicode]
            style = "dim" if column is None or not known else "red" if share > 1 else None
            bars.append(block * self._stretch, style=style)
        return bars

    def _marks(self, one: ConversationHeat) -> str:
        """Return the letters of the events, below their columns."""
        from saltctl.incident.heat_map import minute_of

        letters = [" "] * self._columns
        for event in one.events:
            at, letter = self._column(minute_of(event)), MARKS[event.kind]
            letters[at] = letter if letters[at] in (" ", letter) else SEVERAL
        return "".join(letter.ljust(self._stretch) for letter in letters).rstrip()


def _lasting(minutes: int) -> str:
    """Return a number of minutes, or of hours if it is many."""
    return counted(minutes, "minute") if minutes < 120 else f"{minutes / 60:,.1f} hours"


def _label(one: ConversationHeat) -> str:
    return "messages table" if one.conversation_id is None else printable(one.conversation_id)


def _format_time(found: HeatMap, at: float) -> str:
    """Format a time in UTC, with the date if the range is longer than a day."""
    form = "%H:%M" if found.until - found.since <= _DAY else "%Y-%m-%d %H:%M"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _iso(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
