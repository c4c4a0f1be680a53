"""Events that a rebuild yields while it runs, and last its report."""

from __future__ import annotations

from dataclasses import dataclass, field

from saltctl.stores.contracts.registry import DamagedEntry


@dataclass(frozen=True, slots=True)
class StartDelayed:
    """The rebuild cannot start yet: Redis is down or loading, or another process holds the lease.

    ``percent`` and ``eta_seconds`` come from Redis' INFO while it loads its data.
    """

    reason: str
    percent: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """The cost of reading the whole backup: items, bytes, read capacity units, and seconds at ``max_rcu``.

    The sizes come from DescribeTable and are about six hours old (documented). What it has not counted yet is None.
    ``seconds`` is None without ``max_rcu``, too.
    """

    items: int | None
    bytes: int | None
    rcu: int | None
    seconds: float | None


@dataclass(frozen=True, slots=True)
class RebuildStarted:
    """The rebuild holds the lease and is about to mark the buckets."""

    primaries: int
    verified_before: bool


@dataclass(frozen=True, slots=True)
class RebuildResumed:
    """The rebuild resumes from a checkpoint. ``written`` is the checkpoint's time, in seconds since the epoch."""

    written: float
    entries: int


@dataclass(frozen=True, slots=True)
class CheckpointRejected:
    """There is a checkpoint, but it is not valid any more. The rebuild starts over."""

    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointNotSaved:
    """A checkpoint could not be written. The rebuild continues; if it is interrupted, it cannot be resumed."""

    reason: str


@dataclass(frozen=True, slots=True)
class EntryAboveCap:
    """An entry above ``max_n_cap``, for example from a time with a larger cap. It is merged like every other entry."""

    conversation_id: str
    max_n: int


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """Counts so far. ``consumed_rcu`` is in read capacity units."""

    entries: int
    restored: int
    seconds: float
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """Result of a rebuild, with the keys of the command line's contract.

    ``entries`` were read from the backup. ``restored`` of them increased the value in Redis, ``unchanged`` did not.
    ``skipped`` items were damaged, the first 20 of which are ``damaged_items``. A bucket of theirs answers lookups only
    if it did before; ``unverified_buckets`` do not. ``verified``: every bucket does.
    ``committed`` half-done raises were completed. ``verified_before``: Redis was verified already when the rebuild
    started.
    """

    entries: int = 0
    restored: int = 0
    unchanged: int = 0
    skipped: int = 0
    seconds: float = 0.0
    entries_per_second: float = 0.0
    consumed_rcu: float = 0.0
    segments: int = 0
    primaries: int = 0
    verified: bool = False
    resumed: bool = False
    dry_run: bool = False
    committed: int = 0
    estimate: CostEstimate | None = None
    verified_before: bool = False
    unverified_buckets: int = 0
    damaged_items: list[DamagedEntry] = field(default_factory=list)


Event = (
    StartDelayed
    | CostEstimate
    | RebuildStarted
    | RebuildResumed
    | CheckpointRejected
    | CheckpointNotSaved
    | RebuildProgress
    | DamagedEntry
    | EntryAboveCap
    | RebuildReport
)
