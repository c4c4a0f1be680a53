"""The lease and the checkpoint of rebuilds in the backup table."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from saltctl.errors import SaltctlError
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import LeaseHolder
from tests.stores.aws.backup_helpers import put_items


def take(backup: BackupTable, owner: str, now: float) -> LeaseHolder | None:
    """As a rebuild does it, with 30 seconds to expiry."""
    return backup.lease.acquire(owner, now, host=f"host-of-{owner}", pid=len(owner), expiry=30.0)


def test_a_lease_has_one_holder(backup: BackupTable) -> None:
    """A second process gets the holder's name; the holder may acquire the lease again."""
    assert backup.lease.holder() is None
    assert take(backup, "me", 1000.0) is None
    mine = LeaseHolder("me", "host-of-me", 2, 1000.0, 1000.0, "starting")
    assert backup.lease.holder() == mine
    assert take(backup, "you", 1001.0) == mine
    assert take(backup, "me", 1002.0) is None


def test_a_heartbeat_renews_the_lease(backup: BackupTable) -> None:
    """Its age counts from the last heartbeat, and it carries the holder's progress."""
    take(backup, "me", 1000.0)
    assert backup.lease.renew("me", 1029.0, "12 entries") is True
    holder = take(backup, "you", 1058.0)
    assert holder == LeaseHolder("me", "host-of-me", 2, 1000.0, 1029.0, "12 entries")


def test_a_lease_without_heartbeat_is_taken_over(backup: BackupTable) -> None:
    """Only after its expiry; the former holder learns that it lost the lease, and cannot release the new one."""
    take(backup, "me", 1000.0)
    assert take(backup, "you", 1030.0) is not None
    assert take(backup, "you", 1030.5) is None
    assert backup.lease.renew("me", 1031.0, "still there") is False
    backup.lease.release("me")
    holder = backup.lease.holder()
    assert holder is not None
    assert holder.owner == "you"


def test_a_released_lease_is_free(backup: BackupTable) -> None:
    """At once; a late heartbeat does not restore it."""
    take(backup, "me", 1000.0)
    backup.lease.release("me")
    assert backup.lease.holder() is None
    assert backup.lease.renew("me", 1001.0, "late") is False
    assert backup.lease.holder() is None
    assert take(backup, "you", 1001.0) is None


@pytest.mark.parametrize("damage", [{}, {"lease_heartbeat": {"S": "soon"}, "lease_pid": {"S": "x"}}])
def test_a_lease_edited_by_hand_can_be_acquired(backup: BackupTable, damage: dict[str, Any]) -> None:
    """It has no time at which it expires. Its holder can be shown, and the next process acquires it."""
    put_items(backup, {"conversation_id": {"S": "#lease"}, "lease_owner": {"S": "unknown"}, **damage})
    holder = backup.lease.holder()
    assert holder is not None
    assert (holder.owner, holder.host, holder.pid, holder.heartbeat) == ("unknown", "unknown", 0, 0.0)
    assert take(backup, "me", 1000.0) is None
    assert take(backup, "you", 1001.0) is not None


@pytest.mark.usefixtures("atomic")
def test_concurrent_processes_acquire_the_lease_once(backup: BackupTable) -> None:
    """All service instances see the same unverified Redis at the same moment."""
    _ = backup.client
    barrier = threading.Barrier(8)

    def try_it(number: int) -> bool:
        barrier.wait()
        return take(backup, f"owner-{number}", 1000.0) is None

    with ThreadPoolExecutor(8) as pool:
        assert sum(pool.map(try_it, range(8))) == 1


def test_a_saved_checkpoint_is_loaded(backup: BackupTable) -> None:
    """The next one replaces it, and a deleted one is gone. Deleting none creates no item."""
    backup.checkpoint.delete()
    assert backup.read_item("#checkpoint") is None
    assert backup.checkpoint.load() is None
    for content in ("first: ä", "second"):
        backup.checkpoint.save(content)
        assert backup.checkpoint.load() == content
    backup.checkpoint.delete()
    assert backup.read_item("#checkpoint") == {"conversation_id": {"S": "#checkpoint"}}
    assert backup.checkpoint.load() is None
    backup.checkpoint.delete()


def test_a_failed_save_keeps_the_old_checkpoint(backup: BackupTable) -> None:
    """DynamoDB refuses an item of more than 400 KB as a whole."""
    backup.checkpoint.save("first")
    with pytest.raises(SaltctlError):
        backup.checkpoint.save("x" * 410_000)
    assert backup.checkpoint.load() == "first"


@pytest.mark.parametrize("value", [{"N": "1"}, {"B": b"first"}, {"NULL": True}, {"M": {"S": {"S": "first"}}}])
def test_a_checkpoint_of_another_type_is_empty(backup: BackupTable, value: dict[str, Any]) -> None:
    """An empty string is not a checkpoint, so the rebuild refuses it."""
    put_items(backup, {"conversation_id": {"S": "#checkpoint"}, "rebuild_checkpoint": value})
    assert backup.checkpoint.load() == ""
