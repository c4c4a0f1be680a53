"""Which conversations were idle for a time, so that fewer salts are enough, and which cool-downs wait for their end.

A hot conversation must not look idle because its reports were lost. So a search is refused unless the stream has the
reports of the whole time, without a long silence, and Redis was verified throughout: at a restart or a failover the
newest reports may be lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import KW_ONLY, dataclass
from datetime import UTC, datetime
from itertools import islice

from saltctl.cooling.recent_heat import needed_salts
from saltctl.errors import RefusedError
from saltctl.registry.failures import read_undamaged
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.entries import CooledEntry, recent_n_of
from saltctl.stores.contracts.registry import BackupEntry
from saltctl.stores.event_log import EventsItem
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.times import parse_iso

LONGEST_SILENCE = 600.0
"""Seconds without any report, of any conversation, after which a part of them may be lost."""
_BATCH = 1000
_SIGNS_OF_LOSS = {"unverified", "verified", "rebuilt", "backup-lost", "recovered"}


@dataclass(eq=False)
class IdleSearch:
    """A search for conversations that can be cooled. ``now`` returns the current time."""

    settings: Settings
    store: RedisRegistry
    backup: BackupTable
    stream: HeatStream
    state: ServiceState
    _: KW_ONLY
    now: Callable[[], datetime] = lambda: datetime.now(UTC)

    def unsealed(self) -> dict[str, int]:
        """Return the conversations whose cool-down was begun and not sealed, and the N of it.

        Raises:
            UnavailableError, AccessDeniedError, ConfigurationError: the backup cannot be read.
        """
        found = self._entries(lambda entry: isinstance(entry, CooledEntry) and entry.era < entry.epoch)
        return {i: e.cooling.cool_to for i, e in found if e.cooling is not None and e.cooling.unsealed}

    def idle(self, seconds: float) -> dict[str, int]:
        """Return the conversations that can be cooled, by the last ``seconds``, and the N that is enough for each.

        Conversations that were raised in that time, or that are being cooled, are left out.

        Raises:
            RefusedError: reports of that time may be lost, or older ones are.
            UnavailableError, AccessDeniedError, ConfigurationError: Redis or the backup cannot be read.
        """
        now = self.now().timestamp()
        self._check_verified(now - seconds)
        found = dict(self._entries(lambda entry: recent_n_of(entry) > 1))
        needed = needed_salts(self.stream, found, self.settings, now, seconds=seconds, longest_silence=LONGEST_SILENCE)
        return {
            conversation_id: n
            for conversation_id, n in needed.items()
            if n < found[conversation_id].recent_n and _is_quiet(found[conversation_id], now - seconds)
        }

    def _entries(self, wanted: Callable[[int | CooledEntry], bool]) -> Iterator[tuple[str, BackupEntry]]:
        """Yield the sound items whose entries are wanted."""
        ids = (i for page in self.backup.scan(1) for i, entry, _ in page.entries if wanted(entry))
        while batch := list(islice(ids, _BATCH)):
            yield from read_undamaged(self.backup, batch)[0].items()

    def _check_verified(self, start: float) -> None:
        """Refuse a Redis that is not known to have been verified from ``start`` on, in seconds since the epoch."""
        verified = all(self.store.verified().values())
        rebuilt = self.state.verification()
        lasting = rebuilt is not None and rebuilt.at <= start
        if verified and rebuilt and lasting and self.store.replication_ids() <= set(rebuilt.replication_ids):
            return
        logged = EventsItem(self.backup).read()
        losses = [event for event in logged.events if event.kind in _SIGNS_OF_LOSS and event.at > start]
        if verified and logged.since is not None and logged.since <= start and not losses:
            return
        problem = "Redis is not verified" if not verified else "it is not known that Redis was verified throughout"
        raise RefusedError(
            f"cannot tell what was idle: {problem}, so that heat reports of that time may be lost",
            hint="wait, give --idle a shorter time, or name the conversations and their N",
        )


def _is_quiet(entry: BackupEntry, start: float) -> bool:
    """Return whether no raise or cool-down is in progress, and none was begun since ``start``."""
    if entry.half_done or (entry.cooling is not None and entry.cooling.unsealed):
        return False
    try:
        return all(parse_iso(past.at).timestamp() < start for past in entry.raises)
    except (ValueError, OverflowError):  # edited by hand
        return False
