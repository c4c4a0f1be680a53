"""The abstract models keep the promise in every state, and break it if any part of the protocol is left out."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from tests.model import lost_backup, woken_primary
from tests.model.lost_backup import RECOVERY, Phase
from tests.model.search import Found
from tests.model.woken_primary import At

Woken, Lost = woken_primary.Protocol, lost_backup.Protocol
one = partial(Woken, rebuilds=1)
two = partial(Woken, restarts=False)
NOT_REDIS = tuple(phase for phase in RECOVERY if phase is not Phase.READ_REDIS)
NOT_MESSAGES = tuple(phase for phase in RECOVERY if phase is not Phase.READ_MESSAGES)


def earlier(phase: Phase, before: Phase) -> tuple[Phase, ...]:
    """Return the steps of a recovery with one of them moved before another one."""
    rest = [step for step in RECOVERY if step is not phase]
    return (*rest[: rest.index(before)], phase, *rest[rest.index(before) :])


def cases(protocols: dict[str, Any]) -> pytest.MarkDecorator:
    """One test for each protocol."""
    return pytest.mark.parametrize("protocol", protocols.values(), ids=protocols.keys())


def explore(protocol: Any) -> Found:
    """Explore a protocol of either model."""
    return woken_primary.explore(protocol) if isinstance(protocol, Woken) else lost_backup.explore(protocol)


def assert_caught(protocol: Any, *labels: str) -> None:
    """The mutation breaks the promise, on a path with these steps in this order."""
    found = explore(protocol)
    assert found.broken, str(found)
    steps = iter(found.path)
    assert all(any(label in step for step in steps) for label in labels), str(found)


@cases(
    {
        "one failure, one rebuild": one(),
        "one failure, one rebuild of a new Redis": one(verified=False),
        "a raise is told any server that takes itself for the primary": one(stale_for_raises=True),
        "the table and Redis are lost": Lost(),
    }
)
def test_the_protocol_keeps_the_promise(protocol: Any) -> None:
    """Nothing acknowledged is missed in the backup or on the primary, and nothing older on a deposed one."""
    found = explore(protocol)
    assert not found.broken, str(found)


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(900)
@cases(
    {
        "two failures, one rebuild": one(failures=2),
        "one failure, two rebuilds": Woken(),
        "one failure, two rebuilds of a new Redis": Woken(verified=False),
        "one failure, two rebuilds, stale answers to raises": Woken(stale_for_raises=True),
        "two raises": Woken(targets=(2, 4), rebuilds=1),
        "two failures, two rebuilds": Woken(failures=2),
        "the table is lost twice": Lost(losses=2),
        "a recovery dies": Lost(recoveries=2),
        # The fence, the mark and the recovery suffice. These checks refuse earlier.
        "a raise does not check the identity": Lost(raises_check=False),
        "a rebuild checks the identity only after its scan": Lost(rebuilds_check=False),
    }
)
def test_the_protocol_within_wider_bounds(protocol: Any) -> None:
    """As above."""
    found = explore(protocol)
    assert not found.broken, str(found)


@cases(
    {
        "the note is not read": one(reads_note=False),
        "the note is read before the backup is written": one(order=(At.NOTE, At.BACKUP, At.MERGE, At.COMMIT)),
        "the note is read by an eventually consistent read": one(eventual=True),
        "the commit comes before the merge": one(order=(At.BACKUP, At.NOTE, At.COMMIT, At.MERGE)),
        # The raise is safe; a message is not, of a writer who looked the raise up where it does not count.
        "the note is read after the merge": one(
            conditional=False, order=(At.BACKUP, At.MERGE, At.NOTE, At.COMPARE, At.COMMIT)
        ),
        "the merge does not look at the note": one(
            conditional=False, order=(At.BACKUP, At.NOTE, At.MERGE, At.COMPARE, At.COMMIT)
        ),
        "the same primary twice is accepted": one(refuses_fenced=False, stale_for_raises=True),
        "an unverified primary is accepted at once": one(failures=2, asks_again=False),
        "rebuilds write no note": one(notes=False),
        "a rebuild writes its note after its scan": one(notes_first=False),
    }
)
def test_without_a_part_of_the_note_something_is_missed(protocol: Any) -> None:
    """Each needs a primary that was deposed and does not know it."""
    labels = () if protocol.order.index(At.COMMIT) < protocol.order.index(At.MERGE) else ("B is promoted",)
    assert_caught(protocol, *labels)


@pytest.mark.long
@cases(
    {
        "a raise merges into an unverified primary before it asks": two(verified=False, merges_at_once=True),
        "a rebuild overwrites a newer note": two(compares=False),
        "a rebuild asks for the primary before it reads the note": two(reads_first=False),
        "a rebuild merges although there is a newer note": two(checks=False),
    }
)
def test_without_a_part_of_the_note_two_rebuilds_miss_something(protocol: Any) -> None:
    """Each needs two rebuilds at once, of the deposed primary and of its successor."""
    assert_caught(protocol, "B is promoted")


@cases(
    {
        "setup does not look": Lost(setup_looks=False),
        "setup looks for entries only": Lost(setup_looks_for_buckets=False),
        "fences do not name the registry": Lost(fences_name_registry=False),
        "lookups accept a table that was never claimed": Lost(lookups_check_claim=False),
        "lookups accept a restored table": Lost(lookups_check_home=False),
        "a rebuild checks the identity of its table only before its scan": Lost(rebuilds_check_again=False),
        "a rebuild does not check the identity": Lost(rebuilds_check=False, rebuilds_check_again=False),
        "a recovery keeps the registry id": Lost(new_id=False),
        "a recovery claims a table that took the place of its own": Lost(losses=2, claims_own_table=False),
        "a recovery keeps the fences of the former id": Lost(fences_out=False),
        "a recovery does not read Redis": Lost(recovery=NOT_REDIS),
        "a recovery does not read the messages": Lost(recovery=NOT_MESSAGES),
        "a recovery claims the table before it merges": Lost(recovery=earlier(Phase.CLAIM, Phase.READ_REDIS)),
        "a recovery reads Redis before it marks": Lost(recovery=earlier(Phase.READ_REDIS, Phase.MARK)),
        "a recovery reads the messages before it marks": Lost(recovery=earlier(Phase.READ_MESSAGES, Phase.MARK)),
        "a recovery reads the messages before Redis": Lost(recovery=earlier(Phase.READ_MESSAGES, Phase.READ_REDIS)),
    }
)
def test_without_a_part_of_the_identity_something_is_missed(protocol: Any) -> None:
    """Each needs a table that was lost."""
    assert_caught(protocol, "the table is deleted" if protocol.fences_name_registry else "another table")


@pytest.mark.long
@cases(
    {
        "a rebuild is told a deposed primary": Woken(stale_for_rebuilds=True),
        "a raise is told a deposed primary that was never verified": one(failures=2, stale_for_raises=True),
    }
)
def test_known_limits(protocol: Any) -> None:
    """Sentinels or DNS name a deposed primary after its successor was noted: saltctl/help/failover.txt."""
    assert_caught(protocol, "B is promoted")
