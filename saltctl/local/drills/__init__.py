"""Drills: what may go wrong, made to go wrong, with figures. One module a scenario; each yields steps."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saltctl.local.drills import cold_server, offline_reader, redis_restart, service_crash
from saltctl.local.drills.drill import Step


@dataclass(frozen=True, slots=True)
class Drill:
    """A scenario: its name on the command line, one line about it, and what runs it."""

    name: str
    about: str
    run: Callable[[], Iterator[Step]]


DRILLS: dict[str, Drill] = {
    drill.name: drill
    for drill in (
        Drill("redis-restart", "Redis dies and returns with all, part or none of its data", redis_restart.run),
        Drill("offline-reader", "A conversation is salted while a reader is away", offline_reader.run),
        Drill("cold-server", "A new server without local state routes correctly at once", cold_server.run),
        Drill("service-crash", "instances of the service are killed, and heat is caught up with", service_crash.run),
    )
}
