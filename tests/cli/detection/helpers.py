"""Reports on the stream, for tests of its commands."""

from __future__ import annotations

import time

from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream

HOSTILE = "[/]\x1b[2Jconv"


def report(stream: HeatStream, *conversations: str, writes: int = 900) -> list[str]:
    """One report of each conversation, just now, each in an entry; the ids of all entries there are."""
    window = int(time.time())
    for name in conversations:
        stream.append_reports([HeatReport(name, "app", window, writes)])
    return [entry.id for entry in stream.range("-", "+", 1000)]
