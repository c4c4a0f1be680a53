"""The backup table: its values, and what operations may expect of it and of the lease in it."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol


@dataclass(frozen=True, slots=True)
class Raise:
    """One raise as the backup remembers it. ``at`` is ISO 8601 UTC."""

    n: int
    at: str
    by: str
    reason: str


@dataclass(frozen=True, slots=True)
class BackupEntry:
    """One conversation's item in the backup table. ``write_n`` is never above ``max_n``."""

    conversation_id: str
    max_n: int
    write_n: int
    raises: tuple[Raise, ...] = ()


@dataclass(frozen=True, slots=True)
class DamagedEntry:
    """An item of the backup table that saltctl cannot have written, and what is wrong with it."""

    conversation_id: str
    problem: str


@dataclass(frozen=True, slots=True)
class BackupPage:
    """One page of a scan: (conversation id, max_n, write_n) triples, in no order."""

    entries: list[tuple[str, int, int]]
    damaged: list[DamagedEntry]
    consumed_rcu: float
    """Read capacity units that the page consumed, as DynamoDB reports it; 0 where it does not."""
    segment: int
    """-1 for an empty page that is a sign of life."""
    last: str | None = None
    """The id up to which the segment is read now; None at its end."""
    above_cap: list[tuple[str, int]] = field(default_factory=list)
    """Those of ``entries`` whose max_n is above max_n_cap: somebody else's, or of a larger cap; served all the same."""


@dataclass(frozen=True, slots=True)
class RaiseOutcome:
    """What a conditional update found: max_n before it, and whether it changed anything."""

    before: int
    changed: bool


class BackupStore(Protocol):
    """The backup table. It never loses what it acknowledged, and conditions are checked at one primary copy.

    All methods raise ConfigurationError where the table is missing or has other keys, AccessDeniedError,
    ThrottledError and AwsUnavailableError (after retries). A write that raised may still have happened.
    """

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Strongly consistent read; None where there is no item. Raises DamagedEntryError."""
        ...

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Strongly consistent reads; an id without an item is left out. Raises DamagedEntryError."""
        ...

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Atomically: set max_n to ``entry.n`` and remember the raise where max_n is absent or lower.

        Where the condition fails, nothing changes and the outcome's ``before`` is what is held.
        """
        ...

    def commit_write_n(self, conversation_id: str, n: int) -> bool:
        """Atomically: set write_n to n where it is absent or lower; whether it changed."""
        ...

    def claim_layout(self, layout: str, key_prefix: str) -> None:
        """Bind the table to one registry layout, once and for all; a second claim of the same is no change.

        Raises ConfigurationError where the table is bound to another: a client that merged into other
        buckets would acknowledge raises that nobody sees.
        """
        ...

    def check_layout(self, layout: str, key_prefix: str) -> None:
        """Raise as ``claim_layout`` does, and write nothing."""
        ...

    def scan(
        self,
        segments: int,
        *,
        limit: int | None = None,
        only: int | None = None,
        after: Mapping[int, str | None] | None = None,
        max_rcu: float | None = None,
    ) -> Generator[BackupPage, None, None]:
        """Every item that existed before the call, by ``segments`` parallel strongly consistent scans.

        ``after`` has, by segment, the id after which it goes on, None where it is done; the others begin at their
        start. ``limit`` bounds the items of a page, for tests; ``only`` scans one segment of the
        so many and leaves the others out; ``max_rcu`` bounds the read capacity units a second.
        Each item's read is consistent, the scan as a whole is no snapshot. Waits out throttling, and goes slower
        after it. Closing the iterator stops the segments. An empty page is yielded about every second while
        nothing arrives, so that the caller can do what it must do regularly.
        """
        ...


@dataclass(frozen=True, slots=True)
class LeaseHolder:
    """Who holds the lease. Times are seconds since the epoch, by the holder's clock."""

    owner: str
    host: str
    pid: int
    since: float
    heartbeat: float
    progress: str


class LeaseStore(Protocol):
    """The lease item in the backup table, which keeps rebuilds from wasting each other's work.

    Safety does not hang on it: two rebuilds at once break each other's tokens.
    """

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease where it is free or its heartbeat is older than ``expiry`` seconds.

        Returns None when taken, else the holder.
        """
        ...

    def renew(self, owner: str, now: float, progress: str) -> bool:
        """Renew; False where somebody else has taken it over."""
        ...

    def release(self, owner: str) -> None:
        """Give it back where it is still ours."""
        ...

    def holder(self) -> LeaseHolder | None:
        """Who holds it now, also where the heartbeat is old."""
        ...
