"""``saltctl status``."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli.output import Column, OutputFormat, console, print_result, resolve_format, write_json_line
from saltctl.cli.session import OutputOption, duration_option, session_of
from saltctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from saltctl.health.facts import Facts

KEYS = ("at", "registry", "drift", "service", "raises", "throttles", "lease")
COLUMNS = tuple(Column(key, key) for key in KEYS)
SHORTEST = 0.5


def add_to(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command("status")(status)


def status(
    context: typer.Context,
    watch: Annotated[float, duration_option("--watch", "Look again so often, until q or Ctrl-C.")] = 0.0,
    output: OutputOption = None,
) -> None:
    """Show everything on one screen: registry, drift, service, raises, throttling, lease.

    What is down says so in its own line, and the rest is shown. It judges nothing and exits 0: see saltctl
    doctor. --watch needs a terminal, or -o jsonl, which prints a line each time.

    \b
    Examples:
      saltctl status
      saltctl status -o json
    """
    from saltctl.health.facts import Facts
    from saltctl.health.status import read_status

    chosen = resolve_format(output)
    settings = session_of(context).settings
    settings.require_redis_url()
    facts = Facts(settings)
    if watch:
        _watch(facts, max(watch, SHORTEST), chosen)
        return
    record = read_status(facts)
    print_result(record, output, columns=COLUMNS, human_view=lambda screen: screen.print(_drawn(record)))


def _drawn(record: dict[str, Any]) -> Any:
    from saltctl.cli.health.status_view import draw

    return draw(record)


def _watch(facts: Facts, seconds: float, chosen: OutputFormat) -> None:
    from saltctl.health.status import read_status

    if chosen is OutputFormat.jsonl:
        while True:
            write_json_line(read_status(facts.refreshed()))
            sys.stdout.flush()
            time.sleep(seconds)
    if chosen is not OutputFormat.table or not sys.stdout.isatty():
        raise UsageError("--watch needs a terminal, or a line for each look", hint="saltctl status --watch 2s -o jsonl")
    from rich.live import Live

    with _keys() as pressed, Live(console=console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(_drawn(read_status(facts.refreshed())), refresh=True)
                if pressed(seconds) == "q":
                    return
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None


def _nobody(seconds: float) -> str:
    time.sleep(seconds)
    return ""


@contextmanager
def _keys() -> Iterator[Callable[[float], str]]:
    """Waits for a key and returns it, or nothing once the time is over; the terminal is put back in the end."""
    if not sys.stdin.isatty():
        yield _nobody
        return
    import os
    import select
    import termios
    import tty

    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)

    def pressed(seconds: float) -> str:
        ready, _, _ = select.select([descriptor], [], [], seconds)
        return os.read(descriptor, 1).decode("ascii", "replace").lower() if ready else ""

    try:
        tty.setcbreak(descriptor)
        yield pressed
    finally:
        termios.tcsetattr(descriptor, termios.TCSADRAIN, before)
