"""``saltctl status``."""

from __future__ import annotations

import os
import re
import select
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import unsealed_note
from saltctl.cli.formats.tables import lines_beside
from saltctl.cli.formats.text import counted, format_age, format_seconds_ago, printable
from saltctl.cli.hints import in_force
from saltctl.cli.output import (
    OutputFormat,
    columns_of,
    console,
    format_value,
    print_result,
    resolve_format,
    write_json_line,
)
from saltctl.cli.session import place_of, session_of
from saltctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

    from saltctl.health.facts import Facts

COLUMNS = columns_of(
    "at context protected redis backup_table messages_table state headline next "
    "registry backup lookups drift service raises throttles audit lease"
)
MIN_INTERVAL = 0.5
"""Shortest interval of --watch, in seconds."""
BARS = "▁▂▃▄▅▆▇█"
MAX_RAISES = 3
MAX_DAMAGED = 3
MAX_PRIMARIES = 3
BAR_MINUTES = 3
"""Minutes that a bar of the throttle events stands for."""
GOOD, BAD, WARNING, QUIET = "green", "bold red", "yellow", "dim"
Panel = Mapping[str, Any]


def status(
    context: typer.Context,
    watch: Annotated[float, option.duration("--watch", "Refresh at this interval, until q or Ctrl-C.")] = 0.0,
    output: option.Output = None,
) -> None:
    """Show everything on one screen: a headline with the next command, and then each part.

    OK: all is well. DEGRADED: lookups are right, but something else does not work. BROKEN: lookups fail or may be
    wrong. Exits 0 even then: saltctl doctor reports problems by its exit code.
    --watch needs a terminal, or -o jsonl, which prints a line each time.

    \b
    Examples:
      saltctl status
      saltctl status -o json
    """
    from saltctl.health.facts import Facts

    session = session_of(context)
    session.names_place = False
    settings = session.settings
    settings.require_redis_url()
    facts = Facts(settings)
    if watch:
        _watch(facts, max(watch, MIN_INTERVAL), resolve_format(output, listing=False))
        return
    record = _read(facts)
    print_result(record, output, columns=COLUMNS, human_view=lambda screen: _print(screen, record, place_of(settings)))


def _read(facts: Facts) -> dict[str, Any]:
    """Read the status; its commands have the root options in force."""
    from saltctl.health.status import PANELS, read_status

    record = read_status(facts)
    for holder, key in ((record, "next"), *((record[name], "hint") for name in PANELS)):
        holder[key] = in_force(holder[key]) if holder[key] else holder[key]
    for finding in record["audit"]["findings"] or ():
        finding["command"] = in_force(finding["command"])
    return record


def _watch(facts: Facts, interval: float, chosen: OutputFormat) -> None:
    if chosen == "jsonl":
        while True:
            write_json_line(_read(facts.refreshed()))
            sys.stdout.flush()
            time.sleep(interval)
    if chosen != "table" or not sys.stdout.isatty():
        raise UsageError("--watch needs a terminal or -o jsonl", hint="saltctl status --watch 2s -o jsonl")
    from rich.console import Group
    from rich.live import Live

    place, screen = place_of(facts.settings), console()
    with _key_reader() as read_key, Live(console=screen, screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(Group(*draw(_read(facts.refreshed()), place, screen.width)), refresh=True)
                if read_key(interval) == "q":
                    return
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None


@contextmanager
def _key_reader() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits for a key and returns it, or "" after a timeout. Restore the terminal at the end."""
    keyboard = [sys.stdin.fileno()] if sys.stdin.isatty() else []

    def read_key(timeout: float) -> str:
        """Wait for a key."""
        ready, _, _ = select.select(keyboard, [], [], timeout)
        return os.read(ready[0], 1).decode("ascii", "replace").lower() if ready else ""

    if not keyboard:
        yield read_key
        return
    import termios
    import tty

    attributes = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield read_key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, attributes)


# The screen: the headline, and a few lines for each panel. All of it fits on a terminal of 24 lines.


def draw(record: Mapping[str, Any], place: str, width: int) -> list[Text]:
    """Return the lines of the screen. No word is broken; one that is wider than the screen is wider here."""
    from rich.text import Text

    label = max(map(len, _PANELS)) + 2
    rows = [(Text(), line, 0) for line in _head(record, place)]
    rows += [(Text(name, style="bold"), line, label) for name, line in _lines(record)]
    return [line for lead, text, at in rows for line in lines_beside(lead, text, width, at)]


def _print(screen: Console, record: Mapping[str, Any], place: str) -> None:
    for line in draw(record, place, screen.width):
        screen.print(line, soft_wrap=True)


def _lines(record: Mapping[str, Any]) -> Iterator[tuple[str, Text]]:
    """Yield the lines of the screen below its head; the first one of each panel with its name."""
    causes: dict[str, str] = {}
    for name, draw_panel in _PANELS.items():
        panel = record[name]
        if panel["error"] is None:
            lines = draw_panel(panel)
        else:
            first = causes.setdefault(_cause(panel["error"]), name)
            lines = [_line((str(panel["error"]), BAD) if first == name else (f"see {first}", QUIET))]
        for number, line in enumerate(lines):
            yield "" if number else name, line
    yield "at", _line((str(record["at"]), QUIET))


def _cause(error: str) -> str:
    """Return what errors of one cause have in common: they differ in the table that they name."""
    return re.sub(r"'[^']*'", "''", error)


def _head(record: Mapping[str, Any], place: str) -> list[Text]:
    """Return what the screen begins with: where this is, how it is, and what to do next."""
    where = _line((place, QUIET))
    style = {"OK": GOOD, "DEGRADED": WARNING}.get(record["state"], BAD)
    headline = _line((f"{record['state']}: ", style), str(record["headline"]))
    return [where, headline, *([_line("next: ", (str(record["next"]), "bold"))] if record["next"] else []), _line("")]


def _line(*parts: str | tuple[str, str]) -> Text:
    """Return a line of strings, and of pairs of a string and its style."""
    from rich.text import Text

    return Text.assemble(
        *(printable(part) if isinstance(part, str) else (printable(part[0]), part[1]) for part in parts)
    )


def _lookups(panel: Panel) -> list[Text]:
    if 0 < (unverified := panel["unverified_buckets"] or 0) < panel["buckets"]:
        few = f"from Redis; {unverified:,} of {panel['buckets']:,} buckets from the backup"
        return [_line((few, WARNING))]
    return [_line(("from Redis", GOOD) if panel["source"] == "redis" else ("from the backup", WARNING))]


def _registry(panel: Panel) -> list[Text]:
    primaries: Sequence[Panel] = panel["primaries"]
    count = counted(len(primaries), "primary", "primaries")
    entries = f", {counted(panel['entries'], 'entry', 'entries')} on {count}"
    buckets, fenced = (sum(each[key] for each in primaries) for key in ("buckets", "fenced"))
    some = f"{buckets - fenced:,} of {buckets:,} buckets " * (0 < fenced < buckets)
    lines = [_line((f"{some}not verified", WARNING), entries)]
    if panel["verified"]:
        since = format_age(panel["since"]) if panel["since"] else "at an unknown time"
        lines = [_line(("verified", GOOD), f"; last rebuild {since}{entries}")]
    if len(primaries) > 1:
        for each in primaries[:MAX_PRIMARIES]:
            state = "verified" if each["verified"] else "not verified"
            lines.append(_line(f"{each['name']}  {counted(each['entries'], 'entry', 'entries')}, {state}"))
    if len(primaries) > MAX_PRIMARIES:
        lines.append(_line((f"and {len(primaries) - MAX_PRIMARIES:,} more; saltctl doctor --only redis", QUIET)))
    return lines


def _backup(panel: Panel) -> list[Text]:
    return [_line(("usable", GOOD), f"; registry id {panel['registry_id']}")]


def _drift(panel: Panel) -> list[Text]:
    lines = [_line((f"damaged: {item['conversation_id']!r}: {item['problem']}", BAD)) for item in _damaged(panel)]
    if panel["unsealed"]:
        narrowed = in_force(unsealed_note(panel["unsealed"], panel["unsealed_ids"], sampled=True))
        lines += [_line((line, QUIET)) for line in narrowed.split("\n")]
    return [*_differences(panel), *lines]


def _damaged(panel: Panel) -> Sequence[Panel]:
    items: Sequence[Panel] = panel["damaged_items"]
    return items[:MAX_DAMAGED]


def _differences(panel: Panel) -> list[Text]:
    if panel["found"] is None:
        return [_line(("not compared: Redis is not verified", WARNING))]
    if panel["found"]:
        text = f"{panel['found']:,} of a sample of {panel['checked']:,} differ"
        if panel["found"] == panel["interrupted"]:
            return [_line((f"{text}: raises were interrupted, and readers miss nothing", WARNING))]
        return [_line((text, BAD))]
    if not panel["checked"]:
        return [_line(("the sample contains no conversation", QUIET))]
    return [_line((f"none in a sample of {panel['checked']:,}", GOOD))]


def _service(panel: Panel) -> list[Text]:
    dead = (f", {counted(panel['dead_letters'], 'dead letter')}" if panel["dead_letters"] else "", WARNING)
    if panel["pending"] is None:
        return [_line(("stream not found", BAD), dead)]
    verdict = str(panel["verdict"])
    lag = "unknown" if panel["lag"] is None else format_value(panel["lag"])
    backlog = f": {panel['alive']} alive, {lag} unread, {panel['pending']:,} pending"
    late = [f"{one['name']}: {', '.join(one['late'])}" for one in panel["instances"] if one.get("late")]
    lines = [_line((f"late: {', '.join(late)}; see the log of the instance", BAD))] if late else []
    return [_line((verdict, GOOD if verdict == "ok" else BAD), backlog, dead), *lines]


def _raises(panel: Panel) -> list[Text]:
    return [
        _line(
            f"{raised['conversation_id']}  {raised['before']} → {raised['after']}  {format_age(str(raised['at']))}"
            + (f"  {raised['reason']}" if raised["reason"] else "")
        )
        for raised in panel["last"][:MAX_RAISES]
    ] or [_line(("no raises recorded by the service", QUIET))]


def _throttles(panel: Panel) -> list[Text]:
    if not panel["seen"]:
        return [_line((f"no data of table {panel['table']}; no data does not mean healthy", WARNING))]
    events = panel["per_minute"]
    bars = sparkline([sum(events[at : at + BAR_MINUTES]) for at in range(0, len(events), BAR_MINUTES)])
    causes = " and ".join(cause for cause, count in panel["causes"].items() if count)
    count = f" {panel['total']:,.0f} in 1 h{causes and f', {causes}'}"
    if panel["total"] and not panel["ongoing"]:
        return [_line((bars, WARNING), f"{count}, ended {format_age(panel['last_at'])}")]
    return [_line((bars, BAD if panel["total"] else GOOD), count)]


def sparkline(values: Sequence[float]) -> str:
    """Draw a bar for each value, scaled to the largest one. Only a zero has the lowest bar."""
    peak = max(values, default=0.0)
    return "".join(BARS[0] if value <= 0 else BARS[max(1, round(value / peak * 7))] for value in values)


def _audit(panel: Panel) -> list[Text]:
    if panel["found"] is None:
        return [_line(("never run; saltctl history audit --all", QUIET))]
    since, sample = (_ago(panel[key]) for key in ("oldest_age_s", "sample_age_s"))
    ages = f"conversations {since}, messages {sample}"
    if not panel["found"]:
        return [_line(("nothing found", GOOD if panel["oldest_age_s"] is not None else QUIET), f"; {ages}")]
    missed = (f"readers miss messages of {panel['missed']:,}", BAD)
    others = (f"{panel['found']:,} to look at", WARNING)
    return [_line(missed if panel["missed"] else others, f"; {ages}")]


def _ago(seconds: float | None) -> str:
    return "never" if seconds is None else format_seconds_ago(seconds)


def _lease(panel: Panel) -> list[Text]:
    if not panel["held"]:
        return [_line(("free", GOOD))]
    process = f"process {panel['pid']} on {panel['host']}"
    return [_line((f"{process}: {panel['progress']}, heartbeat {format_age(panel['heartbeat'])}", WARNING))]


_PANELS: Mapping[str, Callable[[Panel], list[Text]]] = {
    "registry": _registry,
    "backup": _backup,
    "lookups": _lookups,
    "drift": _drift,
    "service": _service,
    "raises": _raises,
    "throttles": _throttles,
    "audit": _audit,
    "lease": _lease,
}
