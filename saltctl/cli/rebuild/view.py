"""A rebuild's events, told to people on stderr."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from typing import TYPE_CHECKING, cast

from saltctl.cli.output import columns_of, note, print_fields, warn
from saltctl.cli.progress import MAX_DAMAGED_NAMED, PrintLine, show_progress
from saltctl.cli.text import printable
from saltctl.rebuild.events import (
    CheckpointNotSaved,
    CheckpointRejected,
    CostEstimate,
    EntryAboveCap,
    Event,
    RebuildProgress,
    RebuildReport,
    RebuildResumed,
    RebuildStarted,
    StartDelayed,
)
from saltctl.stores.contracts import DamagedEntry
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from rich.console import Console


COLUMNS = columns_of(
    "verified entries restored unchanged skipped committed seconds entries_per_second consumed_rcu segments primaries"
    " resumed dry_run"
)


def print_report(screen: Console, report: RebuildReport) -> None:
    """Print the outcome as one sentence, and the report as a table below it."""
    outcome = "Dry run" if report.dry_run else "Verified"
    restored = f"{report.restored:,} {'to restore' if report.dry_run else 'restored'}"
    screen.print(f"{outcome}: {report.entries:,} entries, {restored}, in {report.seconds:,.1f} s")
    print_fields(asdict(report), COLUMNS)


def narrate(
    events: Iterator[Event], clock: Callable[[], float] = time.monotonic, *, quiet: bool = False
) -> RebuildReport:
    """Drain the events, telling about them on stderr, and return the report. ``clock`` is in seconds.

    ``quiet`` tells about damaged items and unwritten checkpoints alone.
    """
    # Closed on every way out, so that an interrupted rebuild gives its lease back before the process ends.
    with closing(cast("_Closing", events)), show_progress("taking the lease", clock, quiet=quiet) as (say, above):
        return _drain(events, say, above, (lambda text: None) if quiet else note)


class _Closing(Iterator[Event]):
    def close(self) -> None: ...


def _drain(events: Iterator[Event], say: PrintLine, above: PrintLine, tell: PrintLine) -> RebuildReport:
    named = 0
    for event in events:
        match event:
            case RebuildReport():
                return event
            case StartDelayed():
                say(printable(_waiting(event)))
            case RebuildStarted():
                say("marking buckets" if event.verified_before else "Redis is not verified; marking buckets")
            case CostEstimate() | RebuildResumed() | CheckpointRejected():
                tell(printable(_taken_up(event)))
            case CheckpointNotSaved():
                warn(f"no checkpoint can be written, and the rebuild goes on: {event.reason}")
            case RebuildProgress():
                say(
                    f"{event.entries:,} entries, {event.restored:,} of them new to Redis, "
                    f"{event.entries / max(event.seconds, 0.001):,.0f}/s, {event.consumed_rcu:,.1f} RCU"
                )
            case DamagedEntry() | EntryAboveCap():
                named += 1
                if named <= MAX_DAMAGED_NAMED:
                    above(printable(_odd(event)))
                elif named == MAX_DAMAGED_NAMED + 1:
                    warn("more items are damaged or above the cap; they are counted, and no longer named")
    raise RuntimeError("the rebuild ended without a report")


def _odd(event: DamagedEntry | EntryAboveCap) -> str:
    if isinstance(event, EntryAboveCap):
        return f"{event.conversation_id!r} has N {event.max_n}, above max_n_cap; it is merged like any other"
    return f"skipped {event.conversation_id!r}: {event.problem}"


def _taken_up(event: CostEstimate | RebuildResumed | CheckpointRejected) -> str:
    match event:
        case RebuildResumed():
            at = iso_utc(event.written, "seconds")
            return f"going on from a checkpoint of {at}, after {event.entries:,} entries; --restart begins anew"
        case CheckpointRejected():
            return f"beginning anew: {event.reason}"
    time = "" if event.seconds is None else f", {event.seconds:,.0f} s at this --max-rcu"
    return (
        f"reading the backup costs about {event.rcu:,} RCU{time}: {event.items:,} items, {event.bytes:,} bytes, as "
        "DescribeTable had them up to six hours ago"
    )


def _waiting(event: StartDelayed) -> str:
    if event.percent is None:
        return f"waiting: {event.reason}"
    eta = "" if event.eta_seconds is None else f", {event.eta_seconds:,.0f} s to go"
    return f"waiting: {event.reason}: {event.percent:.0f} %{eta}"
