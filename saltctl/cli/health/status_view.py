"""How ``saltctl status`` looks to people: a line or a few for each panel."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from saltctl.cli.text import format_age, printable

if TYPE_CHECKING:
    from rich.table import Table
    from rich.text import Text

BARS = "▁▂▃▄▅▆▇█"
SHOWN_RAISES = 5
GOOD, BAD, ODD, QUIET = "green", "bold red", "yellow", "dim"
Panel = Mapping[str, Any]


def draw(record: Mapping[str, Any]) -> Table:
    """The screen."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(style="bold", no_wrap=True)
    grid.add_column(overflow="fold")
    grid.add_row(_text("at"), _text(printable(str(record["at"])), style=QUIET))
    for name, show in _PANELS.items():
        panel = record[name]
        lines = [_text(printable(str(panel["error"])), style=BAD)] if panel["error"] is not None else show(panel)
        for place, line in enumerate(lines):
            grid.add_row(_text("" if place else name), line)
    return grid


def _text(told: str, style: str = "") -> Text:
    from rich.text import Text

    # A style of the whole would go on in what is appended.
    return Text().append(told, style=style or None)


def _registry(panel: Panel) -> list[Text]:
    primaries: Sequence[Panel] = panel["primaries"]
    if panel["verified"]:
        since = f"since the rebuild {format_age(panel['since'])}" if panel["since"] else "nobody noted since when"
        line = _text("verified", style=GOOD).append(f" {since}", style="default")
    else:
        line = _text("NOT VERIFIED: every lookup asks the backup; saltctl rebuild", style=BAD)
    count = len(primaries)
    line.append(
        f", {panel['entries']:,} entries on {count} {'primary' if count == 1 else 'primaries'}", style="default"
    )
    lines = [line]
    if count > 1:
        lines += [
            _text(f"{printable(p['name'])}  {p['entries']:,} entries, {'' if p['verified'] else 'not '}verified")
            for p in primaries
        ]
    return lines


def _drift(panel: Panel) -> list[Text]:
    if panel["found"]:
        told = f"{panel['found']:,} of a sample of {panel['checked']:,} differ; saltctl compare"
        return [_text(told, style=BAD)]
    if not panel["checked"]:
        return [_text("no conversation is in this sample", style=QUIET)]
    return [_text(f"none in a sample of {panel['checked']:,}", style=GOOD)]


def _service(panel: Panel) -> list[Text]:
    verdict = str(panel["verdict"])
    line = _text(verdict, style=GOOD if verdict == "ok" else BAD)
    lag = "unknown" if panel["lag"] is None else f"{panel['lag']:,}"
    pending = "unknown" if panel["pending"] is None else f"{panel['pending']:,}"
    line.append(f": {panel['alive']} alive, {lag} unread, {pending} pending", style="default")
    letters = panel["dead_letters"]
    if letters:
        line.append(f", {letters:,} dead {'letter' if letters == 1 else 'letters'}", style=ODD)
    return [line]


def _raises(panel: Panel) -> list[Text]:
    latest = panel["last"][:SHOWN_RAISES]
    if not latest:
        return [_text("none that the service noted", style=QUIET)]
    return [
        _text(
            printable(
                f"{raised['conversation_id']}  {raised['before']} → {raised['after']}  {format_age(str(raised['at']))}"
                + (f"  {raised['reason']}" if raised["reason"] else "")
            )
        )
        for raised in latest
    ]


def _throttles(panel: Panel) -> list[Text]:
    if not panel["seen"]:
        return [_text(f"no data of table {printable(panel['table'])}, which is not health", style=ODD)]
    bars = sparkline(panel["per_minute"])
    causes = ", ".join(f"{cause} {count:,.0f}" for cause, count in panel["causes"].items() if count)
    line = _text(bars, style=BAD if panel["total"] else GOOD)
    told = f" {panel['total']:,.0f} in {len(panel['per_minute'])} minutes{f' ({causes})' if causes else ''}"
    return [line.append(printable(told), style="default")]


def sparkline(values: Sequence[float]) -> str:
    """A bar for each value, as high as its share of the largest; the lowest bar is nothing at all."""
    most = max(values, default=0.0)
    if most <= 0:
        return BARS[0] * len(values)
    return "".join(BARS[0] if value <= 0 else BARS[max(1, round(value / most * 7))] for value in values)


def _lease(panel: Panel) -> list[Text]:
    if not panel["held"]:
        return [_text("free", style=GOOD)]
    who = f"process {panel['pid']} on {panel['host']}: {panel['progress']}, heartbeat {format_age(panel['heartbeat'])}"
    return [_text(printable(who), style=ODD)]


_PANELS: Mapping[str, Callable[[Panel], list[Text]]] = {
    "registry": _registry,
    "drift": _drift,
    "service": _service,
    "raises": _raises,
    "throttles": _throttles,
    "lease": _lease,
}
