"""The drill ``redis-restart`` passes, and fails without the fence."""

from __future__ import annotations

from collections.abc import Sequence

import pytest

from saltctl.local.drills import redis_restart
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.redis.registry import RedisRegistry

pytestmark = pytest.mark.slow


class Unfenced(RedisRegistry):
    """A registry that trusts every answer of Redis, as a client with a plain HGET would."""

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[Entry | None]:
        """Return the entries in Redis, verified or not."""
        held = self.read_unverified(conversation_ids)
        return [held[conversation_id] for conversation_id in conversation_ids]


def _open_unfenced(settings: Settings) -> Registry:
    backup = BackupTable(settings)
    _ = backup.client
    return Registry.over(settings, Unfenced(settings, registry_id=backup.registry.id), backup)


@pytest.mark.long
@pytest.mark.exhaustive  # the gate runs the README's `saltctl drill`, where all drills have to pass
def test_the_drill_passes() -> None:
    """Killed and returned in three ways, no lookup is wrong and no acknowledged message is missing."""
    steps = list(redis_restart.run())
    assert [step.what for step in steps if not step.ok] == []
    assert sum("killed with SIGKILL" in step.what for step in steps) == 3
    assert steps[-1].detail.count("  verified ") == 4, "the timeline has the first rebuild, and one after each restart"
    assert sum("rebuilt from the backup" in step.what and "verified" in step.what for step in steps) == 3


def test_the_drill_fails_without_the_fence() -> None:
    """With a client that trusts an unverified Redis, messages are missing and the drill says which."""
    failed = []
    for step in redis_restart.run(open_registry=_open_unfenced):
        if not step.ok:
            failed.append(step)
        lost = [step for step in failed if "AOF directory lost" in step.what]
        if lost and any("messages, such as" in step.detail for step in failed):
            break
    assert failed, "a drill that cannot fail shows nothing"
    assert lost
    assert "acknowledged was" in lost[0].detail
    assert any("messages, such as" in step.detail for step in failed)
