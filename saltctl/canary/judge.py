"""The promise as pure functions of a history (saltctl/help/promise.txt). Each function yields the violations.

Operation A is *before* operation B if A ended before B began. If two operations overlap, either may be the first.

**Reads.** A complete read contains every message that was acknowledged before it. It contains every message of a
complete read before it, acknowledged or not. It contains no message whose write began after the read ended. It
contains each message once.

**Lookups** are a max-register with one exception. A lookup returns at least every raise acknowledged before it, and at
least the *write_n* of every lookup before it. It returns at most the largest N of all raises that began before the
lookup ended. It never returns less than a lookup before it, except if the backup answered the earlier lookup and Redis
answers this one: between steps 1 and 2 of a raise the backup holds more than Redis. That raise is not acknowledged
and no writer uses it yet, so readers miss no message; see :func:`lookups_below_backup`.

A lookup covers the salt of every message acknowledged before it, whatever was lost.

**A lost backup.** The table was deleted or restored, and recovered later. It may lack raises that were not
acknowledged, and its records are new ones. If only the table was lost, lookups stay a max-register: Redis held every
acknowledged raise. If Redis was flushed at the same time, only the messages show what both held: a lookup that ends
after the loss may be lower than a raise acknowledged before, but never so low that it does not cover the salt of an
acknowledged message. What ended before the copy that was restored still counts, and so does what began after the loss.

**The backup.** Its max_n never goes down in one table, and write_n only by a cool-down. write_n is never above max_n.
It holds every raise acknowledged before. Its records of raises increase strictly, up to max_n; those after a cool-down
increase from its N. Existing records never change.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple, Protocol, TypeVar

from saltctl.canary.operations import BackupLoss, LookupAnswer, Operations, Put, RaiseAttempt, Read, Sample
from saltctl.stores.contracts.registry import MAX_RAISES_KEPT


class Violation(NamedTuple):
    """One violation of the promise. ``check`` is the name of the rule; ``message`` describes the violation.

    ``process`` ran the operation that shows it; empty if several did.
    """

    check: str
    conversation: str
    message: str
    process: str = ""


class Operation(Protocol):
    """A logged operation."""

    @property
    def process(self) -> str:
        """The process that ran it."""
        ...

    @property
    def conversation(self) -> str:
        """The conversation it was about."""
        ...

    @property
    def began(self) -> float:
        """The time of its start."""
        ...

    @property
    def ended(self) -> float:
        """The time of its end."""
        ...


T = TypeVar("T", bound=Operation)


def check(history: Operations) -> list[Violation]:
    """Return all violations of the promise."""
    # A sample is also a lookup in the backup, without Redis.
    samples = [LookupAnswer(*sample[:6], "backup") for sample in history.samples]
    return [
        *check_reads(history.puts, history.reads),
        *check_lookups([*history.lookups, *samples], history.raises, history.puts, history.losses),
        *check_samples(history.samples, history.losses),
    ]


def check_reads(puts: Sequence[Put], reads: Sequence[Read]) -> Iterator[Violation]:
    """Check that reads contain every message they must contain, each once, and no message that was never sent."""
    puts_of, reads_of = _by_conversation(puts), _by_conversation(reads)
    for conversation, conversation_reads in reads_of.items():
        sent: dict[str, float] = {}
        known: dict[str, float] = {}
        for put in puts_of.get(conversation, ()):
            _keep_earliest(sent, put.message, put.began)
            if put.acknowledged:
                _keep_earliest(known, put.message, put.ended)
        for read in conversation_reads:
            for message in read.messages:
                _keep_earliest(known, message, read.ended)
        for read in conversation_reads:
            yield from _check_read(read, sent, known)


def _check_read(read: Read, sent: dict[str, float], known: dict[str, float]) -> Iterator[Violation]:
    held = Counter(read.messages)
    missing = sorted(message for message, since in known.items() if since < read.began and message not in held)
    rules = {
        "missing": (missing, "without {}, which was acknowledged or read before"),
        "never sent": (
            [message for message in held if sent.get(message, inf) > read.ended],
            "with {}, which no process had sent",
        ),
        "duplicate": ([message for message, times in held.items() if times > 1], "with {} more than once"),
    }
    for name, (messages, description) in rules.items():
        if messages:
            which = messages[0] + (f" and {len(messages) - 1} more" if len(messages) > 1 else "")
            since = f" at {known[messages[0]]:.3f}" if name == "missing" else ""
            message = f"{_describe(read)} read {len(held)} messages {description.format(which)}{since}"
            yield Violation(name, read.conversation, message, read.process)


class Floors(NamedTuple):
    """The largest N of the lookups and the acknowledged raises that ended before some moment, by kind."""

    acknowledged: int = 1
    in_redis: int = 1
    in_backup: int = 1
    writable: int = 1
    written: int = 1
    """The smallest N that covers every acknowledged message."""

    def including(self, ended: LookupAnswer | RaiseAttempt | Put, losses: Sequence[BackupLoss]) -> Floors:
        """Return the floors with one more operation, as far as these losses left it."""
        if isinstance(ended, Put):
            return self._replace(written=max(self.written, ended.needed_n)) if ended.acknowledged else self
        lost = [loss for loss in losses if loss.kept <= ended.ended and ended.began < loss.ended]
        if any(loss.both for loss in lost):
            return self
        if isinstance(ended, RaiseAttempt):
            # A raise that was not acknowledged sets no floor.
            return self._replace(acknowledged=max(self.acknowledged, ended.after)) if ended.acknowledged else self
        in_redis, in_backup = (ended.max_n, 1) if ended.source == "redis" else (1, ended.max_n)
        return self._replace(
            in_redis=max(self.in_redis, in_redis),
            in_backup=max(self.in_backup, 1 if lost else in_backup),
            writable=max(self.writable, ended.write_n or 1),
        )


def check_lookups(
    lookups: Sequence[LookupAnswer],
    raises: Sequence[RaiseAttempt],
    puts: Sequence[Put] = (),
    losses: Sequence[BackupLoss] = (),
) -> Iterator[Violation]:
    """Check that lookups are a max-register, with the exceptions of the module's docstring."""
    raises_of, puts_of = _by_conversation(raises), _by_conversation(puts)
    for conversation, answers in _by_conversation(lookups).items():
        changes = [*raises_of.get(conversation, ()), *puts_of.get(conversation, ())]
        for lookup, floors in _lookups_with_floors(answers, changes, losses):
            rules = {
                "uncovered message": (floors.written, "covers the messages acknowledged before"),
                "lost raise": (floors.acknowledged, "was acknowledged before"),
                "below write_n": (floors.writable, "was the write_n of an earlier lookup"),
                "went down": (floors.in_redis, "was found in Redis before"),
            }
            if lookup.source == "backup":
                rules["backup went down"] = (floors.in_backup, "was found in the backup before")
            for name, (floor, reason) in rules.items():
                if lookup.max_n < floor:
                    message = f"{_describe(lookup)} found {lookup.max_n} in {lookup.source}, and {floor} {reason}"
                    yield Violation(name, conversation, message, lookup.process)
        yield from _check_ceilings(answers, raises_of.get(conversation, ()))


def lookups_below_backup(history: Operations) -> list[tuple[LookupAnswer, int]]:
    """Return the lookups in Redis that returned less than an earlier lookup in the backup, and the earlier N.

    This is allowed if no raise to the earlier N was acknowledged: lookups are a regular register, not an atomic one.
    """
    return [
        (lookup, floors.in_backup)
        for answers in _by_conversation(history.lookups).values()
        for lookup, floors in _lookups_with_floors(answers, (), history.losses)
        if lookup.source == "redis" and lookup.max_n < floors.in_backup
    ]


def _lookups_with_floors(
    answers: Sequence[LookupAnswer], changes: Sequence[RaiseAttempt | Put], losses: Sequence[BackupLoss]
) -> Iterator[tuple[LookupAnswer, Floors]]:
    """Yield each lookup with the floors of the operations before it."""
    floors, past, position = Floors(), list[BackupLoss](), 0
    by_end: list[LookupAnswer | RaiseAttempt | Put] = sorted([*answers, *changes], key=lambda one: one.ended)
    for lookup in sorted(answers, key=lambda answer: answer.began):
        if past != (past := [loss for loss in losses if loss.began < lookup.ended]):
            floors, position = Floors(), 0  # the losses took a part of the floors
        while position < len(by_end) and by_end[position].ended < lookup.began:
            floors = floors.including(by_end[position], past)
            position += 1
        yield lookup, floors


def _check_ceilings(answers: Sequence[LookupAnswer], raises: Sequence[RaiseAttempt]) -> Iterator[Violation]:
    by_start = sorted((attempt.began, attempt.n) for attempt in raises)
    starts = [began for began, _ in by_start]
    largest = [1, *accumulate((n for _, n in by_start), max)]
    for lookup in answers:
        ceiling = largest[bisect_left(starts, lookup.ended)]
        if lookup.max_n > ceiling:
            message = f"{_describe(lookup)} found {lookup.max_n} in {lookup.source}; the largest raise was to {ceiling}"
            yield Violation("never raised", lookup.conversation, message, lookup.process)


def check_samples(samples: Sequence[Sample], losses: Sequence[BackupLoss] = ()) -> Iterator[Violation]:
    """Check the rules of the backup that :func:`check_lookups` does not check: write_n and the raise records.

    Samples of one table are compared: none from before a loss with one from after it.
    """
    for conversation, taken in _by_conversation(samples).items():
        previous: Sample | None = None
        for sample in sorted(taken, key=lambda sample: sample.began):
            if previous and any(previous.began < loss.ended and loss.began < sample.ended for loss in losses):
                previous = None
            for name, violated in _sample_rules(sample, previous):
                if violated:
                    message = (
                        f"{_describe(sample)} found {sample[4:]} in the backup; before, {previous and previous[4:]}"
                    )
                    yield Violation(name, conversation, message, sample.process)
            # Overlapping samples may be in either order: compare only with a sample that is certainly earlier.
            if previous is None or sample.began > previous.ended:
                previous = sample


def _sample_rules(sample: Sample, previous: Sample | None) -> Iterator[tuple[str, bool]]:
    yield "write_n above max_n", sample.write_n > sample.max_n
    yield "records of raises", any(abs(a) >= b if b > 0 else abs(a) < -b for a, b in pairwise(sample.raises))
    yield "records of raises", not sample.cooled and (sample.raises or (1,))[-1] != sample.max_n
    if previous is not None and previous.ended < sample.began and len(sample.raises) < MAX_RAISES_KEPT:
        since = sample.raises[len(previous.raises) :]
        yield "write_n went down", sample.write_n < previous.write_n and not any(n < 0 for n in since)
        yield "records of raises", sample.raises[: len(previous.raises)] != previous.raises


def _by_conversation(operations: Sequence[T]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for operation in operations:
        groups[operation.conversation].append(operation)
    return groups


def _keep_earliest(times: dict[str, float], message: str, at: float) -> None:
    times[message] = min(at, times.get(message, inf))


def _describe(operation: Operation) -> str:
    return f"{operation.process} from {operation.began:.3f} to {operation.ended:.3f}"
