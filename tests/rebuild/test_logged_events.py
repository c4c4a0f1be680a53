"""A rebuild leaves the loss of verification and its end in the backup, and never depends on that."""

from __future__ import annotations

from saltctl.errors import AwsUnavailableError
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.event_log import EventLog, EventsItem, LoggedEvent
from saltctl.stores.redis.registry import RedisRegistry


def run(settings: Settings, store: RedisRegistry, backup: BackupTable, log: EventLog) -> None:
    """Rebuild, and wait until its events are written."""
    for _ in Rebuild(settings, store, backup, RebuildOptions(segments=2), log=log).run():
        pass
    log.flush(30)


def test_a_rebuild_notes_the_loss_and_its_end(settings: Settings, store: RedisRegistry, backup: BackupTable) -> None:
    """The first one found Redis unverified; the second one, of a verified Redis, notes its end alone."""
    log = EventLog(EventsItem(backup))
    run(settings, store, backup, log)
    run(settings, store, backup, log)
    assert [event.kind for event in EventsItem(backup).read().events] == ["unverified", "verified", "verified"]
    assert "0 entries, 0 restored" in EventsItem(backup).read().events[1].detail


class Refusing(EventsItem):
    """An item that cannot be written."""

    def append(self, event: LoggedEvent) -> bool:
        """Fail."""
        raise AwsUnavailableError("away")


def test_a_rebuild_does_not_depend_on_its_events(settings: Settings, store: RedisRegistry, backup: BackupTable) -> None:
    """Redis is verified although no event can be written."""
    run(settings, store, backup, EventLog(Refusing(backup)))
    assert all(store.verified().values())
    assert EventsItem(backup).read().events == ()
