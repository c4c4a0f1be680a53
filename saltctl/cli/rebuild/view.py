"""Show the events of a rebuild on stderr, and its report on stdout."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from saltctl.cli.formats.text import printable, scan_cost
from saltctl.cli.jobs import MAX_DAMAGED_NAMED, drain
from saltctl.cli.output import columns_of, note, print_fields, warn
from saltctl.cli.progress import PrintLine, Show, Step, show_progress
from saltctl.rebuild import events
from saltctl.stores.contracts.registry import DamagedEntry
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from rich.console import Console

COLUMNS = columns_of(
    "verified entries restored unchanged skipped committed seconds entries_per_second consumed_rcu segments primaries"
    " resumed dry_run"
)


def print_report(screen: Console, report: events.RebuildReport) -> None:
    """Print the report as a table, unless there was nothing to do."""
    if not (report.verified_before and report.seconds == 0):
        print_fields(asdict(report), COLUMNS)


def show_rebuild(
    running: Generator[events.Event, None, None],
    clock: Callable[[], float] = time.monotonic,
    *,
    doing: str = "rebuilding",
    total: int | None = None,
    quiet: bool = False,
) -> events.RebuildReport:
    """Run a rebuild, show its events on stderr and return its report. ``clock`` returns seconds.

    ``total`` is about the number of entries. ``quiet`` shows skipped items and failed checkpoints alone.
    """
    with show_progress("acquiring the lease", clock, quiet=quiet) as (show, keep_line):
        return drain(running, events.RebuildReport, _EventPrinter(show, keep_line, quiet, doing, total))


def step_of(event: events.RebuildProgress, doing: str, total: int | None) -> Step:
    """Return the step that the progress of a rebuild shows."""
    more = (f"{event.restored:,} of them new to Redis", f"{event.consumed_rcu:,.1f} RCU")
    return Step(doing, event.entries, total=total, more=more)


@dataclass
class _EventPrinter:
    """Prints events. ``show`` shows the current state, ``keep_line`` prints a line that stays."""

    show: Show
    keep_line: PrintLine
    quiet: bool
    doing: str
    total: int | None
    named: int = 0

    def __call__(self, event: events.Event) -> None:
        match event:
            case events.StartDelayed() | events.RebuildStarted():
                self.show(printable(_describe(event)))
            case events.RebuildProgress():
                self.show(step_of(event, self.doing, self.total))
            case events.CostEstimate() | events.RebuildResumed() | events.CheckpointRejected():
                if not self.quiet:
                    note(printable(_describe(event)))
            case events.CheckpointNotSaved():
                warn(f"cannot write the checkpoint, the rebuild continues: {event.reason}")
            case DamagedEntry() | events.EntryAboveCap():
                self.named += 1
                if self.named <= MAX_DAMAGED_NAMED:
                    self.keep_line(printable(_describe(event)))
                elif self.named == MAX_DAMAGED_NAMED + 1:
                    warn("more items are damaged or above the cap; they are counted, but no longer named")


def _describe(event: events.Event) -> str:
    match event:
        case events.StartDelayed():
            loaded = "" if event.percent is None else f": {event.percent:.0f} %"
            remaining = "" if event.eta_seconds is None else f", {event.eta_seconds:,.0f} s to go"
            return f"waiting: {event.reason}{loaded}{remaining}"
        case events.RebuildStarted():
            return "marking buckets" if event.verified_before else "Redis is not verified; marking buckets"
        case events.CostEstimate():
            duration = "" if event.seconds is None else f", {event.seconds:,.0f} s at this --max-rcu"
            return f"reading the backup: {scan_cost(event.items, event.bytes, event.rcu)}{duration}"
        case events.RebuildResumed():
            at = iso_utc(event.written, "seconds")
            return f"resuming from the checkpoint of {at}, after {event.entries:,} entries; --restart starts over"
        case events.CheckpointRejected():
            return f"starting over: {event.reason}"
        case events.EntryAboveCap():
            n = event.max_n
            return f"{event.conversation_id!r} has N {n}, above max_n_cap; it is merged like every other entry"
        case DamagedEntry():
            return f"skipped {event.conversation_id!r}: {event.problem}"
    raise TypeError(event)
