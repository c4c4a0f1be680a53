"""What a comparison of Redis with the backup tells while it goes on, and last the report."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from saltctl.errors import UsageError
from saltctl.stores.contracts import DamagedEntry

Kind = Literal["behind", "missing", "unbacked", "uncommitted"]
"""Redis has less than the backup; has nothing; has more, or what the backup lacks; write_n is below max_n."""


@dataclass(frozen=True, slots=True)
class Sample:
    """The ``part``-th of ``parts``, from 1: the buckets whose number is ``part - 1`` modulo ``parts``."""

    part: int
    parts: int

    def __post_init__(self) -> None:
        """Refuse what is no part of the whole."""
        if not 1 <= self.part <= self.parts <= 1_000_000:
            raise UsageError(
                f"{self.part}/{self.parts} is no sample: the first number goes from 1 to the second, that to 1,000,000",
                hint="--sample 1/24 … --sample 24/24 cover everything",
            )


@dataclass(frozen=True, slots=True)
class Drift:
    """One conversation that the two sides do not agree on.

    None where a side has no entry; ``redis_n`` is 0 where Redis holds what is no number. ``problem`` says why
    it was not repaired, where it was to be.
    """

    conversation_id: str
    redis_n: int | None
    backup_n: int | None
    kind: Kind
    write_n: int | None = None
    repaired: bool = False
    problem: str | None = None


@dataclass(frozen=True, slots=True)
class ComparisonProgress:
    """So far. ``consumed_rcu`` is in read capacity units."""

    checked: int
    drift: int
    seconds: float
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """What a comparison found, with the keys of the command line's contract.

    ``checked`` conversations were compared and ``in_sync`` of them agree; the next four count the others by
    kind, ``repaired`` of which now agree. ``verified``: whether Redis answers lookups. ``drift`` names the first
    1,000. ``damaged`` items of the backup could not be compared.
    """

    checked: int
    in_sync: int
    behind: int
    missing: int
    unbacked: int
    uncommitted: int
    repaired: int
    verified: bool
    drift: list[Drift]
    seconds: float
    damaged: int
    consumed_rcu: float

    @property
    def unrepaired(self) -> int:
        """How much drift is left."""
        return self.checked - self.in_sync - self.repaired


Event = ComparisonProgress | Drift | DamagedEntry | ComparisonReport
