"""The drills with readers pass, and fail with readers that remember N or trust any backup table."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from saltctl.history.history import History
from saltctl.local.drills import after_the_burst, backup_lost, cold_server, offline_reader
from saltctl.local.drills.drill import Step
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import parse_entry
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.registry import BackupEntry
from saltctl.stores.redis.registry import RedisRegistry

pytestmark = pytest.mark.slow


class CachingRegistry:
    """A registry that caches the first lookup of each conversation, as readers must not."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._known: dict[str, Lookup] = {}

    def lookup(self, conversation_id: str) -> Lookup:
        """Return the first lookup's answer."""
        if conversation_id not in self._known:
            self._known[conversation_id] = self._registry.lookup(conversation_id)
        return self._known[conversation_id]


class EmptyRegistry:
    """A registry that knows no raises, as a server with a local counter would at its start."""

    def lookup(self, conversation_id: str) -> Lookup:
        """Return N = 1."""
        return Lookup(conversation_id, 1, 1, "redis", 1)


def _open_caching(settings: Settings) -> History:
    history = History.open(settings)
    history.registry = CachingRegistry(Registry.open(settings))
    return history


def _open_empty(settings: Settings) -> History:
    history = History.open(settings)
    history.registry = EmptyRegistry()
    return history


def kinds_of(step: Step) -> list[str]:
    """Return the kinds of events in a timeline, in its order."""
    return [line.split()[2] for line in step.detail.splitlines()]


def test_the_offline_reader_misses_nothing() -> None:
    """From its old cursor on, through everything, and with a Redis that lost everything."""
    steps = list(offline_reader.run())
    assert [step.what for step in steps if not step.ok] == []
    assert len(steps) == 7
    assert kinds_of(steps[-1]) == ["unverified", "verified", "raise"]


def test_an_offline_reader_that_remembers_n_fails_the_drill() -> None:
    """A drill that cannot fail shows nothing."""
    failed = [step.what for step in offline_reader.run(open_history=_open_caching) if not step.ok]
    assert "the reader returns with the cursor that it had" in failed
    assert "and pages through all of it, newest first" in failed


def test_a_cold_server_routes_at_once() -> None:
    """With Redis verified, down, empty, and rebuilt."""
    steps = list(cold_server.run())
    assert [step.what for step in steps if not step.ok] == []
    assert len(steps) == 6
    assert kinds_of(steps[-1]) == ["unverified", "verified", "raise", "unverified", "verified"]


def test_a_cold_server_that_counts_for_itself_fails_the_drill() -> None:
    """Its writes go to the base partition, and its reads miss the salts."""
    failed = [step for step in cold_server.run(open_history=_open_empty) if not step.ok]
    assert len(failed) == 4
    assert all(" 0 misrouted" not in step.detail for step in failed)


class TrustingBackup(BackupTable):
    """A backup table that takes every item, and every missing one, for the truth."""

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Return the items, from whatever table."""
        items = {i: self.read_item(i) for i in conversation_ids}
        return {i: parse_entry(i, item, self.where) for i, item in items.items() if item is not None}


def _open_trusting(settings: Settings) -> History:
    backup = TrustingBackup(settings)
    store = RedisRegistry(settings, registry_id=lambda: "feed0123456789ab")
    return History.over(settings, Registry.over(settings, store, backup), MessagesTable(settings))


def test_a_lost_backup_is_refused_and_recovered() -> None:
    """Deleted and restored, no read returns less than was acknowledged, and setup and rebuild refuse the table."""
    steps = list(backup_lost.run())
    assert [step.what for step in steps if not step.ok] == []
    assert sum("4 of 4 refused" in step.detail for step in steps) == 2
    assert sum("0 missing" in step.detail for step in steps) == 3
    assert [kind for kind in kinds_of(steps[-1]) if kind != "raise"][-4:] == [
        "backup-lost",
        "unverified",
        "verified",
        "recovered",
    ]


def test_a_reader_that_trusts_any_table_fails_the_drill() -> None:
    """A restored table that lacks the newest raise looks like a short history to it."""
    failed = [step.what for step in backup_lost.run(open_history=_open_trusting) if not step.ok]
    assert "the table is restored to an earlier time, and Redis is empty" in failed


class PastBoundary:
    """A registry whose boundaries lie before every message, as one that is set without asking the salts would."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def lookup(self, conversation_id: str) -> Lookup:
        """Look up, and move the boundary."""
        found = self._registry.lookup(conversation_id)
        return found if found.boundary is None else found._replace(boundary="2026")


def _open_past_boundary(settings: Settings) -> History:
    history = History.open(settings)
    history.registry = PastBoundary(Registry.open(settings))
    return history


def test_a_conversation_is_cheap_after_its_burst() -> None:
    """Its newest page costs what one of an unsalted conversation does, and nothing is missing."""
    steps = list(after_the_burst.run())
    assert [step.what for step in steps if not step.ok] == []
    assert len(steps) == 8
    assert "its newest page: queries: 17" in steps[0].detail
    assert steps[3].detail.startswith("queries: 1,")


def test_a_wrong_boundary_fails_the_drill() -> None:
    """Its reader misses what is on the other salts."""
    failed = [step.what for step in after_the_burst.run(open_history=_open_past_boundary) if not step.ok]
    assert any("after the wait it is sealed" in what for what in failed)
    assert "Redis is killed: the backup knows the boundary, too" in failed
