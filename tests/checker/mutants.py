"""Mutants: deliberately broken variants of the protocol that lose messages, and the runs that show it quickly.

A mutant is a subclass of a real class. Each has a plan directed at its weakness, for the tests. A general run finds
some mutants as quickly, such as the missing fence. To find an overwriting rebuild may take it many minutes.
"""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from functools import cached_property
from typing import Any

from saltctl.canary.classes import Classes
from saltctl.cooling.boundary import Boundary
from saltctl.cooling.cooling import Cooling
from saltctl.errors import BackupLostError
from saltctl.history.history import History
from saltctl.history.pages.sharing import PageReads, SharedRead, SharedReads
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import RegistryItem
from saltctl.stores.aws.table import Table
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.messages import KeysPage
from saltctl.stores.contracts.registry import BackupEntry, Raise, RaiseOutcome, RegistryIdentity
from saltctl.stores.redis.buckets import Buckets
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.dedicated_connection import DedicatedConnection
from saltctl.stores.redis.merge_commands import Merge
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from tests.checker.schedule import Fault


@dataclass(frozen=True, slots=True)
class ProtocolClasses(Classes):
    """The classes that every process uses."""

    recovered_messages: type[MessagesTable] = MessagesTable
    """The messages that a recovery reads."""


REAL = ProtocolClasses()
"""The real classes."""


class _Wrapped:
    """A wrapper that forwards to a store every attribute that its subclass does not define."""

    def __init__(self, store: Any) -> None:
        self._inner = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Unfenced(RedisRegistry):
    """A registry in Redis that looks up without checking the fence."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Look up without the script."""
        held = self.read_unverified(conversation_ids)
        return [held[conversation_id] for conversation_id in conversation_ids]


class RedisBeforeBackup(Registry):
    """A raise with steps 1 and 2 exchanged."""

    def __init__(self, store: Any, backup: Any, **options: Any) -> None:
        class Backup(_Wrapped):
            def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
                held = backup.get(conversation_id) or BackupEntry(conversation_id, 1, 1)
                store.merge(conversation_id, held.raised(entry).entry)
                outcome: RaiseOutcome = backup.raise_max_n(conversation_id, entry)
                return outcome

        super().__init__(store, Backup(backup), **options)


class CommitBeforeRedis(Registry):
    """A raise with steps 2 and 3 exchanged."""

    def __init__(self, store: Any, backup: Any, **options: Any) -> None:
        class Store(_Wrapped):
            def merge(self, conversation_id: str, entry: Entry, *arguments: Any, **options: Any) -> Any:
                backup.commit_write_n(conversation_id, entry)
                return store.merge(conversation_id, entry, *arguments, **options)

        super().__init__(Store(store), backup, **options)


class FallbackUsesMaxN(BackupTable):
    """A backup whose write_n is max_n, so that writers that fall back to it use what readers use."""

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Return the entry as if every raise were committed."""
        entry = super().get(conversation_id)
        return entry and BackupEntry(entry.conversation_id, entry.max_n, entry.max_n, entry.raises)


class OverwritingSession(RedisRebuildSession):
    """A rebuild session whose scanned entries replace newer ones in Redis."""

    def __init__(self, connection: DedicatedConnection, buckets: Buckets) -> None:
        super().__init__(connection, list(buckets.keys()), buckets, clustered=False)
        self.connection = connection
        self.buckets = buckets

    def begin_merge(self, entries: Sequence[Merge]) -> None:
        """Set the entries without comparing them."""
        commands = [("HSET", self.buckets.key_of(entry[0]), entry[0], str(entry[1])) for entry in entries]
        self.connection.execute(commands)


class OverwritingRebuild(RedisRegistry):
    """A registry in Redis whose rebuild sessions overwrite."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        self.connections = Connections(settings, timeout=settings.redis_timeout, retries=2)
        self.buckets = Buckets.of(settings)
        super().__init__(settings, others=self.connections, **options)

    def sessions(self) -> list[RedisRebuildSession]:
        """Return a session for each primary; it overwrites instead of merging."""
        buckets = replace(self.buckets, layout=self.layout)
        return [OverwritingSession(self.connections.dedicated(primary), buckets) for primary in self.primaries()]


class _SharedConnections(Table):
    """A table whose client a forked child shares with its parent, and whose responses are not checked."""

    @cached_property
    def client(self) -> Any:
        """The client of the first process."""
        return create_client(self.settings, "dynamodb")

    def send(self, operation: str, request: Mapping[str, Any], *_: Any, **__: Any) -> dict[str, Any]:
        """Send a request, and return whatever arrives."""
        named = {} if operation == "batch_get_item" else {"TableName": self.name}
        response: dict[str, Any] = getattr(self.client, operation)(**named, **request)
        return response


class SharedBackup(_SharedConnections, BackupTable):
    """The backup table over shared connections."""


class SharedMessages(_SharedConnections, MessagesTable):
    """The messages table over shared connections."""


class TrustsAnyTable(RegistryItem):
    """An identity of the registry that takes every table for the right one: a missing item is unsalted."""

    def check(self, item: Mapping[str, Any] | None) -> RegistryIdentity:
        """Check the item, and accept one that is missing or of another table."""
        try:
            return super().check(item)
        except BackupLostError:
            named = (item or {}).get("registry_id", {}).get("S", "")
            return RegistryIdentity(named, frozenset())


class NoMessages(MessagesTable):
    """A messages table whose rows a recovery does not see."""

    def scan_keys(self, segments: int, **_: Any) -> Generator[KeysPage, None, None]:
        """Yield an empty page of each segment."""
        yield from (KeysPage((), 0.0, segment) for segment in range(segments))


class _InFlight(SharedReads):
    """Reads that are joined while they are in progress."""

    def join(self, page: PageReads) -> SharedRead:
        """Return the read in progress, or the next one."""
        with page.lock:
            return next((read for read in page.in_progress if not read.over), page.next)


class JoinsAReadInFlight(History):
    """A history whose readers share a read that may have passed what was written before they asked."""

    shared_reads = _InFlight


class BoundaryInThePast(Cooling):
    """A cool-down whose boundary lies before it, whatever the salts hold that new messages do not use."""

    def _find_boundary(self, entry: BackupEntry) -> Boundary:
        """Return the sort key of a few seconds ago."""
        return Boundary((self.now() - timedelta(seconds=5)).isoformat(timespec="milliseconds"))


@dataclass(frozen=True, slots=True)
class Mutant:
    """The changed classes, and the values of the plan that show the weakness quickly."""

    classes: ProtocolClasses
    directed: Mapping[str, Any]


_UNFINISHED_RAISES: dict[str, Any] = {
    # Clients on one side use the backup and those on the other side use Redis, while raises stay unfinished.
    "kinds": (Fault.CUT,),
    "fault_side": "far",
    "fault_interval": 1.0,
    "durations": (0.8, 0.9),
    "near": ("reader", "reader", "lookup_client", "raiser", "raiser", "sampler"),
    "far": ("writer", "writer", "writer", "lookup_client"),
    "raiser_kill_probability": 0.9,
    "raise_pause": 0.1,
    "conversations": 3,
    "epoch": 3.0,
}

_LOST_TABLES: dict[str, Any] = {
    "fault_interval": 2.0,
    "near": ("writer", "writer", "reader", "reader", "lookup_client", "recoverer"),
    "far": ("raiser", "raiser", "rebuilder", "writer"),
    "both_probability": 1.0,
    "recovery_kill_probability": 0.0,
    "raiser_kill_probability": 0.0,
    "raise_pause": 0.2,
    "conversations": 3,
    "epoch": 8.0,
}

MUTANTS: dict[str, Mutant] = {
    "boundary-in-the-past": Mutant(
        ProtocolClasses(cooling=BoundaryInThePast),
        {
            "kinds": (),
            "near": ("writer", "writer", "reader", "reader", "cooler", "cooler"),
            "far": ("writer", "raiser"),
            "raiser_kill_probability": 0.0,
            "cooler_kill_probability": 0.0,
            "raise_pause": 4.0,
            "conversations": 3,
            "epoch": 12.0,
        },
    ),
    "joins-a-read-in-flight": Mutant(
        ProtocolClasses(history=JoinsAReadInFlight),
        {
            "kinds": (),
            "near": ("writer", "writer", "reader", "reader"),
            "far": ("writer", "writer", "raiser"),
            "raiser_kill_probability": 0.0,
            "raise_pause": 2.0,
            "conversations": 1,
            "epoch": 2.5,
            "shared": True,
        },
    ),
    "trusts-any-table": Mutant(
        ProtocolClasses(registry_item=TrustsAnyTable),
        # A slow client must find the restored table before it is recovered.
        _LOST_TABLES | {"kinds": (Fault.RESTORE,), "durations": (6.0, 9.0)},
    ),
    "recovery-skips-messages": Mutant(
        ProtocolClasses(recovered_messages=NoMessages), _LOST_TABLES | {"kinds": (Fault.DROP,)}
    ),
    "no-fence": Mutant(
        ProtocolClasses(store=Unfenced),
        {
            "kinds": (Fault.FLUSH, Fault.LOSE),
            "fault_interval": 0.8,
            "near": ("writer", "writer", "reader", "reader", "lookup_client"),
            "far": ("raiser", "raiser", "rebuilder"),
            "raiser_kill_probability": 0.0,
            "raise_pause": 0.1,
        },
    ),
    "redis-before-backup": Mutant(
        ProtocolClasses(registry=RedisBeforeBackup),
        {
            "kinds": (Fault.LOSE,),
            "fault_interval": 2.5,  # so that a slow machine has time to rebuild and to write
            "near": ("writer", "writer", "reader", "reader", "raiser", "raiser", "lookup_client"),
            "far": ("rebuilder",),
            "raiser_kill_probability": 0.9,
            "raiser_killed_before": "raise_max_n",
            "raise_pause": 0.1,
            "rebuild_pause": 0.3,
            "rebuild_kill_probability": 0.0,
            "conversations": 3,
        },
    ),
    "commit-before-redis": Mutant(
        ProtocolClasses(registry=CommitBeforeRedis), _UNFINISHED_RAISES | {"raiser_killed_before": "merge"}
    ),
    "fallback-on-max-n": Mutant(
        ProtocolClasses(backup=FallbackUsesMaxN), _UNFINISHED_RAISES | {"raiser_killed_before": "merge"}
    ),
    "shared-after-fork": Mutant(
        ProtocolClasses(backup=SharedBackup, messages=SharedMessages),
        {
            "kinds": (),
            "near": ("preforker", "preforker", "writer"),
            "far": ("raiser",),
            "raiser_kill_probability": 0.0,
            "conversations": 3,
            "epoch": 4.0,
        },
    ),
    "overwriting-rebuild": Mutant(
        ProtocolClasses(store=OverwritingRebuild),
        {
            "kinds": (),
            "near": ("writer", "writer", "reader", "reader", "lookup_client"),
            "far": ("raiser", "raiser", "rebuilder"),
            "raiser_kill_probability": 0.0,
            "raise_pause": 0.05,
            "rebuild_pause": 0.05,
            "rebuild_kill_probability": 0.0,
            "page_limit": 1,
            "merge_pause": 0.5,
            "conversations": 3,
            "epoch": 4.0,
            "cap": 128,
        },
    ),
}
