"""The human view of a throttle scan: verdict, charts, series, spikes, hot keys and next commands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from saltctl.cli.output import Column, Record, columns_of, format_value, table_of
from saltctl.cli.text import printable
from saltctl.cli.throttling.chart import draw_chart, format_time
from saltctl.salting import split_partition_key
from saltctl.throttling.analysis import CAUSE_OF, CAUSES, ThrottleAnalysis
from saltctl.throttling.scan import ScanResult, as_record

if TYPE_CHECKING:
    from rich.console import Console

SERIES_COLUMNS = (
    Column("metric"),
    Column("scope", show=lambda r: str(r["index"] or r["operation"] or "table")),
    *columns_of("sum peak"),
    Column("peak_at", "peak at", show=lambda r: str(r["peak_at"])[5:16].replace("T", " ")),
)
KEY_COLUMNS = (
    *columns_of("conversation_id partitions throttles max_n"),
    Column("partition_key", "most throttled", show=lambda r: _partition(r["partition_key"])),
)
_STYLES = {"quiet": "bold green", "no-data": "bold yellow"}


def draw(screen: Console, result: ScanResult) -> None:
    """Print a scan."""
    from rich.text import Text

    record = as_record(result)
    over, found = result.options.time_range, result.analysis
    span = f"{format_time(over, over.start)} to {format_time(over, over.end)} UTC"
    head = Text(record["verdict"], style=_STYLES.get(record["verdict"], "bold red"))
    screen.print(head.append(f"  {printable(result.options.table)}, {span}", "default"))
    for reason in result.diagnosis.reasons:
        _draw_bullet(screen, reason)
    if found is not None and found.throttled:
        _draw_series(screen, found, record["series"])
    if record["keys"]:
        screen.print()
        screen.print(table_of(record["keys"], KEY_COLUMNS))
    service = {key: format_value(value) for key, value in record["service"].items()}
    screen.print()
    screen.print(f"service: {service['verdict']}, {service['alive']} alive, lag {service['lag']}", soft_wrap=True)
    if result.diagnosis.advice:
        screen.print()
        screen.print(Text("next:", style="bold"))
        for command in result.diagnosis.advice:
            # Not wrapped, so that the command can be copied.
            screen.print(Text(f"  {printable(command)}"), soft_wrap=True)


def _draw_series(screen: Console, found: ThrottleAnalysis, records: Sequence[Record]) -> None:
    for title, values in _charts(found):
        screen.print()
        draw_chart(screen, title, values, found.time_range)
    screen.print()
    screen.print(table_of(records, SERIES_COLUMNS))
    _draw_bullet(screen, _spike_summary(found))


def _partition(key: str) -> str:
    _, salt = split_partition_key(key)
    return "base partition" if salt is None else f"salt {salt}"


def _draw_bullet(screen: Console, line: str) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 1))
    grid.add_column()
    grid.add_column(overflow="fold")
    grid.add_row("·", Text(printable(line)))
    screen.print(grid)


def _charts(found: ThrottleAnalysis) -> list[tuple[str, list[float]]]:
    charts = [(cause.replace("_", " "), found.events_per_period(cause)) for cause in CAUSES if found.causes[cause]]
    return charts or [("throttle events, cause unknown", found.events_per_period())]


def _spike_summary(found: ThrottleAnalysis) -> str:
    if not found.spikes:
        return "no spikes: not above the level before"
    # Several metrics count the same events: show the one that names the cause.
    spikes = [spike for spike in found.spikes if spike.key.metric in CAUSE_OF] or found.spikes
    worst = max(spikes, key=lambda spike: spike.events - spike.typical)
    count = sum(spike.key == worst.key for spike in spikes)
    source = worst.key.index or worst.key.operation
    metric = worst.key.metric + (f" of {source}" if source else "")
    minutes = found.time_range.period_s // 60
    unit = "min" if minutes == 1 else f"{minutes} min"
    peak = f"highest {worst.events:,.0f}/{unit} at {format_time(found.time_range, worst.at)}"
    return f"{metric}: {count} {'spike' if count == 1 else 'spikes'}; {peak} (typical {worst.typical:,.0f})"
