"""The human view of ``saltctl status``: a few lines for each panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saltctl.cli.output import format_value
from saltctl.cli.text import counted, format_age, printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
MAX_RAISES = 5
GOOD, BAD, WARNING, QUIET = "green", "bold red", "yellow", "dim"
Panel = Mapping[str, Any]


def draw(record: Mapping[str, Any]) -> Table:
    """Build the screen."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row("at", _line(str(record["at"]), style=QUIET))
    for name, draw_panel in _PANELS.items():
        panel = record[name]
        lines = draw_panel(panel) if panel["error"] is None else [_line(str(panel["error"]), style=BAD)]
        for number, line in enumerate(lines):
            grid.add_row("" if number else name, line)
    return grid


def _line(content: str, style: str = "") -> Text:
    from rich.text import Text

    # Text(content, style=style) would also style whatever is appended.
    return Text().append(printable(content), style=style or None)


def _registry(panel: Panel) -> list[Text]:
    primaries: Sequence[Panel] = panel["primaries"]
    if panel["verified"]:
        since = format_age(panel["since"]) if panel["since"] else "at an unknown time"
        line = _line("verified", style=GOOD).append(f"; last rebuild {since}", style="default")
    else:
        line = _line("NOT VERIFIED, lookups use the backup", style=BAD)
    count = counted(len(primaries), "primary", "primaries")
    line.append(f", {counted(panel['entries'], 'entry', 'entries')} on {count}", style="default")
    lines = [line]
    if len(primaries) > 1:
        lines += [
            _line(
                f"{each['name']}  {counted(each['entries'], 'entry', 'entries')}, "
                f"{'' if each['verified'] else 'not '}verified"
            )
            for each in primaries
        ]
    if not panel["verified"]:
        lines.append(_line("run: saltctl rebuild"))
    return lines


def _drift(panel: Panel) -> list[Text]:
    if panel["found"]:
        found = f"{panel['found']:,} of a sample of {panel['checked']:,} differ"
        return [_line(found, style=BAD), _line("run: saltctl compare")]
    if not panel["checked"]:
        return [_line("the sample contains no conversation", style=QUIET)]
    return [_line(f"none in a sample of {panel['checked']:,}", style=GOOD)]


def _service(panel: Panel) -> list[Text]:
    if panel["pending"] is None:
        line = _line("stream not found; saltctl setup", style=BAD)
    else:
        verdict = str(panel["verdict"])
        lag = "unknown" if panel["lag"] is None else format_value(panel["lag"])
        line = _line(verdict, style=GOOD if verdict == "ok" else BAD)
        line.append(f": {panel['alive']} alive, {lag} unread, {panel['pending']:,} pending", style="default")
    if panel["dead_letters"]:
        line.append(f", {counted(panel['dead_letters'], 'dead letter', 'dead letters')}", style=WARNING)
    return [line]


def _raises(panel: Panel) -> list[Text]:
    return [
        _line(
            f"{raised['conversation_id']}  {raised['before']} → {raised['after']}  {format_age(str(raised['at']))}"
            + (f"  {raised['reason']}" if raised["reason"] else "")
        )
        for raised in panel["last"][:MAX_RAISES]
    ] or [_line("no raises recorded by the service", style=QUIET)]


def _throttles(panel: Panel) -> list[Text]:
    if not panel["seen"]:
        return [_line(f"no data of table {panel['table']}; no data does not mean healthy", style=WARNING)]
    causes = ", ".join(f"{cause} {count:,.0f}" for cause, count in panel["causes"].items() if count)
    line = _line(sparkline(panel["per_minute"]), style=BAD if panel["total"] else GOOD)
    count = f" {panel['total']:,.0f} in {len(panel['per_minute'])} minutes{f' ({causes})' if causes else ''}"
    return [line.append(printable(count), style="default")]


def sparkline(values: Sequence[float]) -> str:
    """Draw a bar for each value, scaled to the largest one. Only a zero has the lowest bar."""
    peak = max(values, default=0.0)
    return "".join(BARS[0] if value <= 0 else BARS[max(1, round(value / peak * 7))] for value in values)


def _lease(panel: Panel) -> list[Text]:
    if not panel["held"]:
        return [_line("free", style=GOOD)]
    process = f"process {panel['pid']} on {panel['host']}"
    return [_line(f"{process}: {panel['progress']}, heartbeat {format_age(panel['heartbeat'])}", style=WARNING)]


_PANELS: Mapping[str, Callable[[Panel], list[Text]]] = {
    "registry": _registry,
    "drift": _drift,
    "service": _service,
    "raises": _raises,
    "throttles": _throttles,
    "lease": _lease,
}
