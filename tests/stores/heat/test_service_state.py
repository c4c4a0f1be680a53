"""The state shown to operators, on real servers: when Redis was verified, and the latest raises."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.service_state import KEPT_RAISES, ServiceState, Verification
from saltctl.stores.redis.registry import RedisRegistry

AT = "2026-07-01T08:00:00.000Z"


@pytest.fixture
def state(settings: Settings) -> Iterator[ServiceState]:
    """The notes of the test's own Redis."""
    notes = ServiceState(settings)
    yield notes
    notes.close()


@pytest.mark.slow
def test_a_rebuild_records_the_primaries_that_it_verified(
    settings: Settings, store: RedisRegistry, backup: BackupTable, state: ServiceState, admin: Any
) -> None:
    """The note has the time that was handed in, the replication id that the primary has, and the table's name."""
    job = Rebuild(
        settings,
        store,
        backup,
        RebuildOptions(segments=1),
        notes=state,
        now=lambda: 1000.5,
    )
    assert state.verification() is None
    list(job.run())
    expected = Verification(1000.5, (admin.info("replication")["master_replid"],), settings.backup_table, "us-east-1")
    assert state.verification() == expected


def test_the_latest_raises_are_kept_newest_first(state: ServiceState) -> None:
    """Of many raises the latest are kept, the newest first; the latest of all is ``last_raise``."""
    for n in range(KEPT_RAISES + 3):
        state.note_raise(f"conv\n{n}", 1, 2, AT, "worker")
    names = [raised["conversation_id"] for raised in state.last_raises()]
    assert names == [f"conv\n{n}" for n in range(KEPT_RAISES + 2, 2, -1)]
    assert state.last_raise() == {"conversation_id": names[0], "before": 1, "after": 2, "at": AT, "by": "worker"}


@pytest.mark.parametrize(
    "junk", ["", "no json", "[]", "3", '{"at": "x", "replication_ids": []}', '{"at": 1, "replication_ids": "x"}']
)
def test_invalid_values_are_none(state: ServiceState, settings: Settings, admin: Any, junk: str) -> None:
    """A value that another program wrote is ignored without an error."""
    admin.hset(
        f"{settings.key_prefix}:service", mapping={"verified": junk, "last_raise": junk, "raises": f"{junk}\n{{}}"}
    )
    assert state.verification() is None
    assert state.last_raises() == []
    assert state.last_raise() is None


def test_the_late_parts_of_instances(state: ServiceState, admin: Any) -> None:
    """By name; instances without a valid record, and those that signed out, are left out."""
    state.note_instance("one", ["loop", "metrics"], 1000.0)
    state.note_instance("two", [], 1000.0)
    admin.hset(state.key, "instance:odd", '{"late": 5}')
    names = ["one", "two", "odd", "unknown"]
    assert state.late_parts(names) == {"one": ["loop", "metrics"], "two": []}
    state.forget_instances(["one", "unknown"])
    assert state.late_parts(names) == {"two": []}
    state.forget_instances([])
    assert state.late_parts([]) == {}
