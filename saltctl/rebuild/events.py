"""What a rebuild tells while it goes on, and last the report: for a person, a bar, a log or a program."""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.stores.contracts import DamagedEntry


@dataclass(frozen=True, slots=True)
class StartDelayed:
    """Redis is down or loading, or somebody holds the lease. ``percent`` and ``eta_seconds`` are INFO's."""

    reason: str
    percent: float | None = None
    eta_seconds: float | None = None


@dataclass(frozen=True, slots=True)
class CostEstimate:
    """What reading the whole backup costs: items, bytes, read capacity units, and the seconds that max_rcu makes of it.

    By DescribeTable, which is about six hours old (documented). ``seconds`` is None without max_rcu.
    """

    items: int
    bytes: int
    rcu: int
    seconds: float | None


@dataclass(frozen=True, slots=True)
class RebuildResumed:
    """An earlier rebuild is taken up again. ``written`` is its checkpoint's time, in seconds since the epoch."""

    written: float
    entries: int


@dataclass(frozen=True, slots=True)
class CheckpointRejected:
    """There is a checkpoint, and it cannot be gone on from."""

    reason: str


@dataclass(frozen=True, slots=True)
class CheckpointNotSaved:
    """A checkpoint could not be written. The rebuild goes on; should it end, all of it has to be done again."""

    reason: str


@dataclass(frozen=True, slots=True)
class EntryAboveCap:
    """An entry above max_n_cap: somebody else's, or of a time with a larger cap. It is merged like any other."""

    conversation_id: str
    max_n: int


@dataclass(frozen=True, slots=True)
class RebuildStarted:
    """The lease is taken. The buckets are about to be marked."""

    primaries: int
    verified_before: bool


@dataclass(frozen=True, slots=True)
class RebuildProgress:
    """So far. ``consumed_rcu`` is in read capacity units."""

    entries: int
    restored: int
    seconds: float
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class RebuildReport:
    """What a rebuild did, with the keys of the command line's contract.

    ``entries`` were read from the backup; ``restored`` of them increased what Redis held, ``unchanged`` did
    not, and ``skipped`` were damaged. ``committed`` half-done raises were completed.
    """

    entries: int
    restored: int
    unchanged: int
    skipped: int
    seconds: float
    entries_per_second: float
    consumed_rcu: float
    segments: int
    primaries: int
    verified: bool
    resumed: bool
    dry_run: bool
    committed: int
    estimate: CostEstimate | None = None


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
