"""The timeline of a drill, from the same sources as ``saltctl incident``: its last step."""

from __future__ import annotations

import time
from collections.abc import Collection
from contextlib import closing
from itertools import groupby

from saltctl.incident.sources import IncidentReader
from saltctl.incident.timeline import Event, Incident
from saltctl.local.drills.drill import Step
from saltctl.local.environment import LocalEnvironment
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.throttling.analysis import time_range

MAX_LINES = 30


def timeline(environment: LocalEnvironment, conversation_ids: Collection[str] = (), *, seconds: float = 3600.0) -> Step:
    """Return a step with the events of the last ``seconds``; it fails if a source cannot be read.

    ``conversation_ids`` are conversations whose raises are shown, in addition to those that the service raised.
    """
    settings, now = environment.settings, time.time()
    with closing(HeatStream(settings)) as stream, closing(ServiceState(settings)) as state:
        reader = IncidentReader(
            settings, CloudWatchMetrics(settings), stream, state, BackupTable(settings), named=conversation_ids
        )
        found = reader.read(now - seconds, now, time_range(now - seconds, now, None, now))
    errors = [f"{source.name}: {source.error.message}" for source in found.sources if source.error is not None]
    return Step("its timeline, as saltctl incident shows it", not errors, "\n".join([*errors, *_lines(found)]))


def _lines(found: Incident) -> list[str]:
    """Return a line for each event; one for several of a kind in a row."""
    start = found.events[0].at if found.events else 0.0
    lines = [_line(start, list(events)) for _, events in groupby(found.events, key=lambda event: event.kind)]
    more = [f"and {len(lines) - MAX_LINES:,} more lines"] if len(lines) > MAX_LINES else []
    return [*lines[:MAX_LINES], *more]


def _line(start: float, events: list[Event]) -> str:
    first = events[0]
    parts = [first.conversation_id or "", first.detail, f"and {len(events) - 1:,} more" if len(events) > 1 else ""]
    return f"{first.at - start:+7.1f} s  {first.kind:15}  {'  '.join(filter(None, parts))}".rstrip()
