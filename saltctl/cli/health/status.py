"""``saltctl status``."""

from __future__ import annotations

import os
import select
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.output import OutputFormat, columns_of, console, print_result, resolve_format, write_json_line
from saltctl.cli.session import session_of
from saltctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from saltctl.health.facts import Facts

COLUMNS = columns_of("at registry drift service raises throttles lease")
MIN_INTERVAL = 0.5
"""Shortest interval of --watch, in seconds."""


def status(
    context: typer.Context,
    watch: Annotated[float, option.duration("--watch", "Refresh at this interval, until q or Ctrl-C.")] = 0.0,
    output: option.Output = None,
) -> None:
    """Show everything on one screen: registry, drift, service, raises, throttling, lease.

    A part that is down shows its error. Exits 0 even then: saltctl doctor reports problems by its exit code.
    --watch needs a terminal, or -o jsonl, which prints a line each time.

    \b
    Examples:
      saltctl status
      saltctl status -o json
    """
    from saltctl.cli.health.status_view import draw
    from saltctl.health.facts import Facts
    from saltctl.health.status import read_status

    chosen = resolve_format(output)
    settings = session_of(context).settings
    settings.require_redis_url()
    facts = Facts(settings)
    if watch:
        _watch(facts, max(watch, MIN_INTERVAL), chosen)
        return
    record = read_status(facts)
    print_result(record, output, columns=COLUMNS, human_view=lambda screen: screen.print(draw(record)))


def _watch(facts: Facts, interval: float, chosen: OutputFormat) -> None:
    from saltctl.cli.health.status_view import draw
    from saltctl.health.status import read_status

    if chosen is OutputFormat.jsonl:
        while True:
            write_json_line(read_status(facts.refreshed()))
            sys.stdout.flush()
            time.sleep(interval)
    if chosen is not OutputFormat.table or not sys.stdout.isatty():
        raise UsageError("--watch needs a terminal or -o jsonl", hint="saltctl status --watch 2s -o jsonl")
    from rich.live import Live

    with _key_reader() as read_key, Live(console=console(), screen=True, auto_refresh=False) as live:
        try:
            while True:
                live.update(draw(read_status(facts.refreshed())), refresh=True)
                if read_key(interval) == "q":
                    return
        except KeyboardInterrupt:
            raise typer.Exit(ExitCode.INTERRUPTED) from None


@contextmanager
def _key_reader() -> Iterator[Callable[[float], str]]:
    """Yield a function that waits for a key and returns it, or "" after a timeout. Restore the terminal at the end."""
    if not sys.stdin.isatty():
        yield _wait
        return
    import termios
    import tty

    attributes = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield _read_key
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, attributes)


def _wait(timeout: float) -> str:
    time.sleep(timeout)
    return ""


def _read_key(timeout: float) -> str:
    descriptor = sys.stdin.fileno()
    ready, _, _ = select.select([descriptor], [], [], timeout)
    return os.read(descriptor, 1).decode("ascii", "replace").lower() if ready else ""
