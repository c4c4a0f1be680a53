"""The protocol with one thing otherwise, so that it loses messages; and the runs in which that shows at once.

A mutant is a subclass of a real class. Each has a run that is directed at its weakness, for the tests. A general run
finds some as soon, such as the missing fence; an overwriting rebuild may take it many minutes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.registry.registry import Registry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts import BackupEntry, Raise, RaiseOutcome
from saltctl.stores.redis.merge_commands import Entry
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from tests.checker.schedule import Fault


@dataclass(frozen=True, slots=True)
class Parts:
    """The classes that every process uses."""

    store: type[RedisRegistry] = RedisRegistry
    backup: type[BackupTable] = BackupTable
    registry: type[Registry] = Registry


REAL = Parts()
"""Nothing is otherwise."""


class _Wrapped:
    """Everything as the wrapped store has it, but for what a subclass defines."""

    def __init__(self, store: Any) -> None:
        self._inner = store

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)


class Unfenced(RedisRegistry):
    """A lookup that takes Redis at its word."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """HGET."""
        held = self.read_unverified(conversation_ids)
        return [held[conversation_id] for conversation_id in conversation_ids]


class RedisBeforeBackup(Registry):
    """A raise whose second step comes first."""

    def __init__(self, store: Any, backup: Any, **options: Any) -> None:
        class Backup(_Wrapped):
            def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
                store.merge(conversation_id, entry.n)
                outcome: RaiseOutcome = backup.raise_max_n(conversation_id, entry)
                return outcome

        super().__init__(store, Backup(backup), **options)


class CommitBeforeRedis(Registry):
    """A raise whose third step comes second."""

    def __init__(self, store: Any, backup: Any, **options: Any) -> None:
        class Store(_Wrapped):
            def merge(self, conversation_id: str, n: int) -> Any:
                backup.commit_write_n(conversation_id, n)
                return store.merge(conversation_id, n)

        super().__init__(Store(store), backup, **options)


class FallbackUsesMaxN(BackupTable):
    """Writers who look in the backup use what readers use."""

    def get(self, conversation_id: str) -> BackupEntry | None:
        """The entry, as if every raise were committed."""
        entry = super().get(conversation_id)
        return entry and BackupEntry(entry.conversation_id, entry.max_n, entry.max_n, entry.raises)


class OverwritingSession(RedisRebuildSession):
    """What the backup said some time ago replaces what Redis has."""

    def begin_merge(self, entries: Sequence[Entry]) -> None:
        """HSET."""
        commands = [("HSET", self._buckets.key_of(entry[0]), entry[0], entry[1]) for entry in entries]
        self._connection.execute(commands)


class OverwritingRebuild(RedisRegistry):
    """A rebuild by sessions that overwrite."""

    def sessions(self) -> list[RedisRebuildSession]:
        """As they are, but for their merging."""
        sessions = super().sessions()
        for session in sessions:
            session.__class__ = OverwritingSession
        return sessions


@dataclass(frozen=True, slots=True)
class Mutant:
    """What is otherwise, and what of the plan is so that it shows at once."""

    parts: Parts
    directed: Mapping[str, Any]


_HALF_DONE: dict[str, Any] = {
    # Writers and lookers of one side ask the backup, those of the other one Redis, while raises are left half done.
    "kinds": (Fault.CUT,),
    "strike_side": "far",
    "gap": 1.0,
    "lasts": (0.8, 0.9),
    "near": ("reader", "reader", "looker", "raiser", "raiser", "sampler"),
    "far": ("writer", "writer", "writer", "looker"),
    "raiser_deaths": 0.9,
    "raise_pause": 0.1,
    "conversations": 3,
    "epoch": 3.0,
}

MUTANTS: dict[str, Mutant] = {
    "no-fence": Mutant(
        Parts(store=Unfenced),
        {
            "kinds": (Fault.FLUSH, Fault.LOSE),
            "gap": 0.8,
            "near": ("writer", "writer", "reader", "reader", "looker"),
            "far": ("raiser", "raiser", "rebuilder"),
            "raiser_deaths": 0.0,
            "raise_pause": 0.1,
        },
    ),
    "redis-before-backup": Mutant(
        Parts(registry=RedisBeforeBackup),
        {
            "kinds": (Fault.LOSE,),
            "gap": 2.5,  # a slow machine is to have time to rebuild, and to write
            "near": ("writer", "writer", "reader", "reader", "raiser", "raiser", "looker"),
            "far": ("rebuilder",),
            "raiser_deaths": 0.9,
            "raiser_dies_before": "raise_max_n",
            "raise_pause": 0.1,
            "rebuild_pause": 0.3,
            "rebuild_deaths": 0.0,
            "conversations": 3,
        },
    ),
    "commit-before-redis": Mutant(Parts(registry=CommitBeforeRedis), _HALF_DONE | {"raiser_dies_before": "merge"}),
    "fallback-on-max-n": Mutant(Parts(backup=FallbackUsesMaxN), _HALF_DONE | {"raiser_dies_before": "merge"}),
    "overwriting-rebuild": Mutant(
        Parts(store=OverwritingRebuild),
        {
            "kinds": (),
            "near": ("writer", "writer", "reader", "reader", "looker"),
            "far": ("raiser", "raiser", "rebuilder"),
            "raiser_deaths": 0.0,
            "raise_pause": 0.05,
            "rebuild_pause": 0.05,
            "rebuild_deaths": 0.0,
            "page_limit": 1,
            "merge_pause": 0.5,
            "conversations": 3,
            "epoch": 4.0,
            "cap": 128,
        },
    ),
}
