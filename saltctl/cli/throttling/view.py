"""A throttle scan as people see it: the verdict, a chart over time for each cause, the series, and what to do."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from saltctl.cli.output import Column, columns_of, format_value, table_of
from saltctl.cli.text import printable
from saltctl.throttling.analysis import CAUSES, DAY, METRICS, ThrottleAnalysis, TimeRange
from saltctl.throttling.scan import Scan, as_record

if TYPE_CHECKING:
    from rich.console import Console

BLOCKS = " ▁▂▃▄▅▆▇█"
HEIGHT = 3
_MARGIN = 8
SERIES_COLUMNS = (
    Column("metric"),
    Column("of", "of", show=lambda r: str(r["index"] or r["operation"] or "table")),
    *columns_of("sum peak"),
    Column("peak_at", "peak at", show=lambda r: str(r["peak_at"])[5:16].replace("T", " ")),
)
KEY_COLUMNS = columns_of(
    "conversation_id partition_key partitions throttles max_n", partition_key="worst partition key", partitions="keys"
)
_GOOD = {"quiet": "bold green", "no-data": "bold yellow"}


def draw(screen: Console, scan: Scan) -> None:
    """Print a scan."""
    from rich.text import Text

    record = as_record(scan)
    over, found = scan.options.window, scan.found
    head = Text(record["verdict"], style=_GOOD.get(record["verdict"], "bold red"))
    head.append(
        f"  {printable(scan.options.table)}, {_moment(over, over.start)} to {_moment(over, over.end)} UTC", "default"
    )
    screen.print(head)
    for reason in scan.diagnosis.reasons:
        _point(screen, "·", reason)
    if found is not None and found.throttled:
        for title, values in _charts(found):
            screen.print()
            _chart(screen, title, values, over)
        screen.print()
        screen.print(table_of(record["series"], SERIES_COLUMNS))
        _spikes(screen, found)
    if record["keys"]:
        screen.print()
        screen.print(table_of(record["keys"], KEY_COLUMNS))
    service = scan.service
    lag = format_value(service.lag)
    screen.print()
    screen.print(
        f"service: {format_value(service.verdict)}, {format_value(service.alive)} alive, lag {lag}", soft_wrap=True
    )
    if scan.diagnosis.advice:
        screen.print()
        screen.print(Text("next:", style="bold"))
        for command in scan.diagnosis.advice:
            # Not wrapped: a command has to survive being copied.
            screen.print(Text(f"  {printable(command)}"), soft_wrap=True)


def _point(screen: Console, bullet: str, text: str) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row(bullet, Text(printable(text)))
    screen.print(grid)


def _moment(over: TimeRange, at: int) -> str:
    form = "%H:%M" if over.end - over.start <= DAY else "%m-%d %H:%M"
    return datetime.fromtimestamp(at, UTC).strftime(form)


def _charts(found: ThrottleAnalysis) -> list[tuple[str, list[float]]]:
    charts = [(cause.replace("_", " "), found.events_per_period(cause)) for cause in CAUSES if found.causes[cause]]
    return charts or [("throttle events, cause unknown", found.events_per_period())]


def _chart(screen: Console, title: str, values: Sequence[float], over: TimeRange) -> None:
    from rich.text import Text

    width = min(screen.width, 120) - _MARGIN
    bars, each = columns(values, width)
    peak = max(bars)
    span = over.period_s * each // 60
    screen.print(Text(f"{title}: {sum(values):,.0f} events, at most {peak:,.0f} in {_minutes(span)}", style="bold"))
    wide = max(width // len(bars), 1)
    for row, line in enumerate(rows(bars)):
        label = f"{_short(peak)}" if row == 0 else ""
        drawn = "".join(block * wide for block in line).rstrip()
        text = Text(f"{label:>{_MARGIN - 2}} ┤" if row == 0 else f"{'':>{_MARGIN - 2}} │")
        screen.print(text.append(drawn, style="red"))
    length = wide * len(bars)
    screen.print(Text(f"{'0':>{_MARGIN - 2}} ┼{'─' * length}"))
    left, right = _moment(over, over.start), _moment(over, over.end)
    screen.print(Text(f"{'':{_MARGIN}}{left}{right:>{max(length - len(left), len(right) + 1)}}"))


def _minutes(minutes: int) -> str:
    if minutes >= 60 and minutes % 60 == 0:
        return f"{minutes // 60} h"
    return f"{minutes} min"


def _short(value: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.1f}{unit}"
    return f"{value:,.0f}"


def columns(values: Sequence[float], width: int) -> tuple[list[float], int]:
    """The values added up into at most ``width`` bars, and how many of them a bar holds."""
    each = max(-(-len(values) // width), 1)
    return [sum(values[at : at + each]) for at in range(0, len(values), each)], each


def rows(bars: Sequence[float]) -> list[list[str]]:
    """The bars as lines of eighth blocks, top first. What is above zero is never drawn as nothing."""
    peak = max(bars) or 1.0
    eighths = [max(round(bar / peak * HEIGHT * 8), 1) if bar > 0 else 0 for bar in bars]
    return [[BLOCKS[min(max(full - row * 8, 0), 8)] for full in eighths] for row in reversed(range(HEIGHT))]


def _spikes(screen: Console, found: ThrottleAnalysis) -> None:
    if not found.spikes:
        screen.print("no spikes: as high as it was before")
        return
    # The same events stand in several metrics: that of the cause says most.
    by_cause = [spike for spike in found.spikes if spike.key.metric in METRICS] or found.spikes
    worst = max(by_cause, key=lambda spike: spike.events - spike.usual)
    of = worst.key.index or worst.key.operation
    name = worst.key.metric + (f" of {of}" if of else "")
    many = sum(spike.key == worst.key for spike in by_cause)
    how = "a spike" if many == 1 else f"{many} times far above what is usual"
    at = _moment(found.window, worst.at)
    _point(screen, "·", f"{name}: {how}; at {at} {worst.events:,.0f}, usually {worst.usual:,.0f}")
