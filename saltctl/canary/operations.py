"""The operations of clients, as the judge reads them: what was asked, what was answered, and when.

Times are seconds of one monotonic clock, which all processes of a machine share.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal, NamedTuple

Source = Literal["redis", "backup"]


class Put(NamedTuple):
    """An attempt to write a message. Without ``acknowledged`` the message may or may not have been written.

    ``needed_n`` is the smallest N whose readers cover the salt it was written to: 1 for the base partition.
    """

    process: str
    conversation: str
    began: float
    ended: float
    message: str
    acknowledged: bool
    needed_n: int = 1


class Read(NamedTuple):
    """A complete read of a history. A read that failed or reported that it was incomplete is not recorded."""

    process: str
    conversation: str
    began: float
    ended: float
    messages: tuple[str, ...]


class LookupAnswer(NamedTuple):
    """An answered lookup. ``write_n`` is None if the answer contains only max_n."""

    process: str
    conversation: str
    began: float
    ended: float
    max_n: int
    write_n: int | None
    source: Source


class RaiseAttempt(NamedTuple):
    """An attempt to raise to ``n``. Once acknowledged, all readers cover ``after``, which is n or more."""

    process: str
    conversation: str
    began: float
    ended: float
    n: int
    after: int
    acknowledged: bool


class Sample(NamedTuple):
    """A backup item, read with strong consistency.

    ``raises`` are the N of its records, in order, that of a cool-down negative. ``cooled``: it was cooled, or is being.
    """

    process: str
    conversation: str
    began: float
    ended: float
    max_n: int
    write_n: int
    raises: tuple[int, ...]
    cooled: bool = False


class BackupLoss(NamedTuple):
    """The loss of the backup table, from ``began`` to ``ended``; ``both``: Redis was flushed as well.

    The table came back with what it held at ``kept``, or, if that is 0, with nothing.
    """

    began: float
    ended: float
    kept: float
    both: bool


@dataclass
class Operations:
    """All operations that are judged together."""

    puts: list[Put] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    lookups: list[LookupAnswer] = field(default_factory=list)
    raises: list[RaiseAttempt] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    losses: list[BackupLoss] = field(default_factory=list)
