"""Drift: how Redis and the backup can disagree, how it differs from a raise in progress, and its repair."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from saltctl.errors import RefusedError
from saltctl.registry.registry import Registry
from saltctl.salting import power_of_two_at_least
from saltctl.stores.contracts.registry import BackupEntry
from saltctl.stores.retry import retry_while_throttled

REPAIR_REASON = "compare --repair: Redis had more than the backup"
"""The reason that is recorded with a raise of the backup."""

DriftKind = Literal["behind", "missing", "unbacked", "uncommitted"]
"""behind: Redis has less than the backup. missing: Redis has no entry. unbacked: Redis has more than the backup, or
the backup has no entry. uncommitted: write_n is below max_n."""


@dataclass(frozen=True, slots=True)
class Drift:
    """One conversation on which Redis and the backup disagree.

    A side without an entry is None. ``redis_n`` is 0 if the value in Redis is not a number. ``problem`` is the reason
    why a repair was refused.
    """

    conversation_id: str
    redis_n: int | None
    backup_n: int | None
    kind: DriftKind
    write_n: int | None = None
    repaired: bool = False
    problem: str | None = None


class Suspect(NamedTuple):
    """A conversation that looked like drift, as the scan of the backup saw it, and when to check it again."""

    due: float
    conversation_id: str
    max_n: int
    write_n: int


def count_of(redis_n: int | None) -> int:
    """Return the number of salts that an entry of Redis stands for; no entry means 1."""
    return 1 if redis_n is None else redis_n


def looks_like_drift(redis_n: int | None, max_n: int, write_n: int) -> bool:
    """Return whether the sides disagree, or a raise is in progress. No entry means the same as an N of 1."""
    if redis_n is None and max_n == write_n == 1:
        return False
    return write_n < max_n or redis_n != max_n


def classify(suspect: Suspect, redis_n: int | None, entry: BackupEntry | None) -> Drift | None:
    """Return the drift of a suspect that was checked again, or None.

    Args:
        suspect: the numbers that the scan saw. Redis must hold at least max_n by now.
        redis_n: the number in Redis now.
        entry: the entry of the backup, read after Redis. Not needed if Redis is below what the scan saw.
    """
    conversation_id, held = suspect.conversation_id, count_of(redis_n)
    if held < suspect.max_n:
        kind: DriftKind = "missing" if redis_n is None else "behind"
        return Drift(conversation_id, redis_n, suspect.max_n, kind, suspect.write_n)
    if entry is None:
        # The item was deleted after the scan.
        return Drift(conversation_id, redis_n, None, "unbacked") if held > 1 else None
    if held > entry.max_n:
        return Drift(conversation_id, redis_n, entry.max_n, "unbacked", entry.write_n)
    if entry.write_n < suspect.max_n:
        return Drift(conversation_id, redis_n, entry.max_n, "uncommitted", entry.write_n)
    return None


def repair(registry: Registry, drift: Drift, sleep: Callable[[float], None]) -> Drift:
    """Raise the side that has less, by the protocol; never lower one. Return the drift with the outcome.

    Lookups returned an unbacked N, so messages may be on its salts: the backup is raised to it. An N that is not a
    power of two is rounded up, since covering more salts is safe for readers. ``sleep`` waits while AWS throttles.
    """
    conversation_id = drift.conversation_id
    try:
        if drift.kind != "unbacked":
            retry_while_throttled(lambda: registry.complete(conversation_id), sleep)
        elif not drift.redis_n:
            return replace(drift, problem="the value in Redis is not a number, and the backup has no entry")
        else:
            n = power_of_two_at_least(drift.redis_n)
            retry_while_throttled(lambda: registry.raise_to(conversation_id, n, reason=REPAIR_REASON), sleep)
    except RefusedError as exc:
        return replace(drift, problem=exc.message)
    return replace(drift, repaired=True)
