"""Bar charts over time, drawn with block characters."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from saltctl.throttling.time_range import DAY, TimeRange

if TYPE_CHECKING:
    from rich.console import Console

BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT = 3
"""Lines of a chart."""
MAX_WIDTH = 120
_MARGIN = 8


def draw_chart(screen: Console, title: str, values: Sequence[float], over: TimeRange) -> None:
    """Print a chart of one value for each period of a range."""
    from rich.text import Text

    width = min(screen.width, MAX_WIDTH) - _MARGIN
    bars, periods = sum_into_bars(values, width)
    peak = max(bars)
    span = _format_minutes(over.period_s * periods // 60)
    screen.print(Text(f"{title}: {sum(values):,.0f} events, at most {peak:,.0f} in {span}", style="bold"))
    bar_width = max(width // len(bars), 1)
    for row, blocks in enumerate(block_rows(bars)):
        axis = f"{_format_short(peak) if row == 0 else '':>{_MARGIN - 2}} {'│' if row else '┤'}"
        screen.print(Text(axis).append("".join(block * bar_width for block in blocks).rstrip(), style="red"))
    length = bar_width * len(bars)
    screen.print(Text(f"{'0':>{_MARGIN - 2}} ┼{'─' * length}"))
    start, end = format_time(over, over.start), format_time(over, over.end)
    screen.print(Text(f"{'':{_MARGIN}}{start}{end:>{max(length - len(start), len(end) + 1)}}"))


def format_time(over: TimeRange, at: int) -> str:
    """Format a time in UTC, with the date if the range is longer than a day."""
    form = "%H:%M" if over.end - over.start <= DAY else "%m-%d %H:%M"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _format_minutes(minutes: int) -> str:
    return f"{minutes // 60} h" if minutes >= 60 and minutes % 60 == 0 else f"{minutes} min"


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
