"""The human view of a throttle scan: verdict, bar charts over time, series, spikes, hot keys and next commands."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from saltctl.cli.formats.tables import print_beside
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.output import Column, columns_of, format_value, print_table
from saltctl.salting import split_partition_key
from saltctl.throttling.analysis import CAUSE_OF, CAUSES, DAY, ONGOING_MINUTES, ThrottleAnalysis, TimeRange
from saltctl.throttling.scan import ScanResult, as_record

if TYPE_CHECKING:
    from rich.console import Console

SERIES_COLUMNS = columns_of(
    "metric scope sum peak peak_at",
    scope=lambda series: str(series["index"] or series["operation"] or "table"),
    peak_at=lambda series: str(series["peak_at"])[5:16].replace("T", " "),
)
KEY_COLUMNS = (
    *columns_of("conversation_id partitions throttles max_n"),
    Column(
        "partition_key", "most throttled", show=lambda key: _partition(key["conversation_id"], key["partition_key"])
    ),
)
BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT = 3
"""Lines of a chart, which is drawn with block characters."""
MAX_WIDTH = 120
_MARGIN = 8
_STYLES = {"quiet": "bold green", "no-data": "bold yellow"}


def draw(screen: Console, result: ScanResult) -> None:
    """Print a scan."""
    from rich.text import Text

    record = as_record(result)
    over, found = result.options.time_range, result.analysis
    span = f"{_format_time(over, over.start)} to {_format_time(over, over.end)} UTC"
    head = Text(record["verdict"], style=_STYLES.get(record["verdict"], "bold red"))
    print_beside(screen, Text(), head.append(f"  {printable(result.options.table)}, {span}", "default"), 0)
    for reason in (*result.diagnosis.reasons, *_end_of(found)):
        _draw_bullet(screen, reason)
    if found is not None and found.throttled:
        charts = {cause.replace("_", " "): found.events_per_period(cause) for cause in CAUSES if found.causes[cause]}
        for title, values in (charts or {"throttle events, cause unknown": found.events_per_period()}).items():
            screen.print()
            _draw_chart(screen, title, values, over)
        screen.print()
        print_table(record["series"], SERIES_COLUMNS, screen)
        _draw_bullet(screen, _spike_summary(found))
    if record["keys"]:
        screen.print()
        print_table(record["keys"], KEY_COLUMNS, screen)
    service = {key: format_value(value) for key, value in record["service"].items()}
    screen.print()
    screen.print(f"service: {service['verdict']}, {service['alive']} alive, lag {service['lag']}", soft_wrap=True)
    if result.diagnosis.advice:
        screen.print()
        screen.print(Text("next:", style="bold"))
        for command in result.diagnosis.advice:
            # Not wrapped, so that the command can be copied.
            screen.print(Text(f"  {printable(command)}"), soft_wrap=True)


def _end_of(found: ThrottleAnalysis | None) -> list[str]:
    """Say that throttling ended, if it did well before the end of the range."""
    events = [] if found is None else found.events_per_period()
    if found is None or not found.throttled or not any(events):
        return []
    over = found.time_range
    last = over.start + over.period_s * max(at for at, count in enumerate(events) if count)
    minutes = (over.end - last) // 60
    if minutes <= ONGOING_MINUTES:
        return []
    return [f"throttling ended at {_format_time(over, last)}, {minutes} min before the end of the range"]


def _partition(conversation_id: str, key: str) -> str:
    return "base partition" if key == conversation_id else f"salt {split_partition_key(key)[1]}"


def _draw_bullet(screen: Console, line: str) -> None:
    from rich.text import Text

    print_beside(screen, Text("·"), Text(printable(line)), 2)


def _spike_summary(found: ThrottleAnalysis) -> str:
    if not found.spikes:
        return "no spikes: not above the level before"
    # Several metrics count the same events: show the one that names the cause.
    spikes = [spike for spike in found.spikes if spike.key.metric in CAUSE_OF] or found.spikes
    worst = max(spikes, key=lambda spike: spike.events - spike.typical)
    count = counted(sum(spike.key == worst.key for spike in spikes), "spike")
    source = worst.key.index or worst.key.operation
    metric = worst.key.metric + (f" of {source}" if source else "")
    minutes = found.time_range.period_s // 60
    unit = "min" if minutes == 1 else f"{minutes} min"
    peak = f"highest {worst.events:,.0f}/{unit} at {_format_time(found.time_range, worst.at)}"
    return f"{metric}: {count}; {peak} (typical {worst.typical:,.0f})"


def _draw_chart(screen: Console, title: str, values: Sequence[float], over: TimeRange) -> None:
    """Print a chart of one value for each period of a range."""
    from rich.text import Text

    width = min(screen.width, MAX_WIDTH) - _MARGIN
    bars, periods = sum_into_bars(values, width)
    peak = max(bars)
    minutes = over.period_s * periods // 60
    span = f"{minutes // 60} h" if minutes >= 60 and minutes % 60 == 0 else f"{minutes} min"
    heading = Text(f"{title}: {sum(values):,.0f} events, at most {peak:,.0f} in {span}", style="bold")
    print_beside(screen, Text(), heading, 0)
    bar_width = max(width // len(bars), 1)
    for row, blocks in enumerate(block_rows(bars)):
        axis = f"{_format_short(peak) if row == 0 else '':>{_MARGIN - 2}} {'│' if row else '┤'}"
        screen.print(Text(axis).append("".join(block * bar_width for block in blocks).rstrip(), style="red"))
    length = bar_width * len(bars)
    screen.print(Text(f"{'0':>{_MARGIN - 2}} ┼{'─' * length}"))
    start, end = _format_time(over, over.start), _format_time(over, over.end)
    screen.print(Text(f"{'':{_MARGIN}}{start}{end:>{max(length - len(start), len(end) + 1)}}"))


def _format_time(over: TimeRange, at: int) -> str:
    """Format a time in UTC, with the date if the range is longer than a day."""
    form = "%H:%M" if over.end - over.start <= DAY else "%m-%d %H:%M"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _format_short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:,.0f}"


def sum_into_bars(values: Sequence[float], width: int) -> tuple[list[float], int]:
    """Add up consecutive values into at most ``width`` bars. Return the bars, and the number of values in each."""
    each = max(-(-len(values) // width), 1)
    return [sum(values[at : at + each]) for at in range(0, len(values), each)], each


def block_rows(bars: Sequence[float]) -> list[list[str]]:
    """Draw bars as rows of block characters, top row first. A bar above zero is at least an eighth of a row."""
    peak = max(bars) or 1.0
    eighths = [max(round(bar / peak * HEIGHT * 8), 1) if bar > 0 else 0 for bar in bars]
    return [[BLOCKS[min(max(full - row * 8, 0), 8)] for full in eighths] for row in reversed(range(HEIGHT))]
