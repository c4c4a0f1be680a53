"""Drills: edge cases, provoked on a local environment and checked with figures. One module for each scenario."""

from __future__ import annotations

from saltctl.local.drills import after_the_burst, backup_lost, cold_server, offline_reader, redis_restart, service_crash
from saltctl.local.drills.drill import Drill

DRILLS: dict[str, Drill] = {
    drill.name: drill
    for drill in (
        Drill("redis-restart", "Redis dies and returns with all, part or none of its data", redis_restart.run),
        Drill("offline-reader", "A conversation is salted while a reader is away", offline_reader.run),
        Drill("cold-server", "A new server without local state routes correctly at once", cold_server.run),
        Drill("backup-lost", "The backup table is deleted or restored, and recovered", backup_lost.run),
        Drill("after-the-burst", "A conversation is cooled, and its newest page is cheap again", after_the_burst.run),
        Drill("service-crash", "Instances of the service are killed, and no raise is lost", service_crash.run),
    )
}
