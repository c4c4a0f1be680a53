"""The promise as pure functions of a history (saltctl/help/promise.txt). Each yields what breaks it.

What is *before* what is told by time alone: an operation was before another where it ended before that one began.
Of two that overlap, either may have come first.

**Reads.** A complete read has every message that was acknowledged before it, and every message that a complete read
before it had, acknowledged or not; nothing whose writing had not begun when it ended; each message once.

**Lookups** are a max-register, with one exception. A lookup returns at least every raise acknowledged before it, at
least the *write_n* of every lookup before it (readers look before writers leap), and at most the largest N that a
raise had aimed at when it ended. It never returns less than a lookup before it, unless that one was answered by the
backup and this one is by Redis: between steps 1 and 2 of a raise the backup holds more than Redis. Nobody has
acknowledged that raise and nobody writes by it yet, so no message hides there; see :func:`went_back`.

**The backup.** Its max_n and write_n never go down, write_n is never above max_n, it holds every raise acknowledged
before, and its records of raises grow strictly, in the same order for ever, up to max_n.
"""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from itertools import accumulate, pairwise
from math import inf
from typing import NamedTuple, Protocol, TypeVar

from tests.checker.log import History, Looked, Put, Raised, Read, Sample


class Violation(NamedTuple):
    """One way in which the promise was broken; ``check`` names the rule, ``text`` says it for people."""

    check: str
    conversation: str
    text: str


class Timed(Protocol):
    """An operation."""

    @property
    def who(self) -> str: ...  # noqa: D102
    @property
    def conversation(self) -> str: ...  # noqa: D102
    @property
    def began(self) -> float: ...  # noqa: D102
    @property
    def ended(self) -> float: ...  # noqa: D102


T = TypeVar("T", bound=Timed)


def check(history: History) -> list[Violation]:
    """Everything that breaks the promise."""
    # A sample is a lookup in the backup, too, by somebody who can ask nobody else.
    samples = [Looked(*sample[:6], "backup") for sample in history.samples]
    return [
        *check_reads(history.puts, history.reads),
        *check_lookups([*history.lookups, *samples], history.raises),
        *check_samples(history.samples, history.raises),
    ]


def check_reads(puts: Sequence[Put], reads: Sequence[Read]) -> Iterator[Violation]:
    """See above: nothing missing, nothing invented, nothing twice."""
    written, read = _by_conversation(puts), _by_conversation(reads)
    for conversation, complete in read.items():
        begun: dict[str, float] = {}
        known: dict[str, float] = {}
        for put in written.get(conversation, ()):
            _earliest(begun, put.message, put.began)
            if put.acknowledged:
                _earliest(known, put.message, put.ended)
        for one in complete:
            for message in one.messages:
                _earliest(known, message, one.ended)
        for one in complete:
            yield from _check_read(one, begun, known)


def _check_read(read: Read, begun: dict[str, float], known: dict[str, float]) -> Iterator[Violation]:
    held = Counter(read.messages)
    missing = sorted(message for message, since in known.items() if since < read.began and message not in held)
    rules = {
        "missing": (missing, "without {}, which was acknowledged or read before"),
        "invented": (
            [message for message in held if begun.get(message, inf) > read.ended],
            "with {}, which nobody sent",
        ),
        "twice": ([message for message, times in held.items() if times > 1], "with {} more than once"),
    }
    for name, (messages, text) in rules.items():
        if messages:
            which = messages[0] + (f" and {len(messages) - 1} more" if len(messages) > 1 else "")
            since = f" at {known[messages[0]]:.3f}" if name == "missing" else ""
            what = f"{_told(read)} read {len(held)} messages {text.format(which)}{since}"
            yield Violation(name, read.conversation, what)


class Known(NamedTuple):
    """What lookups before some moment returned, and raises that were acknowledged before it: the largest N of each."""

    acknowledged: int = 1
    in_redis: int = 1
    in_backup: int = 1
    writable: int = 1

    def and_also(self, ended: Looked | Raised) -> Known:
        """With one more of them."""
        if isinstance(ended, Raised):
            # One that was not acknowledged is known to nobody.
            return self._replace(acknowledged=max(self.acknowledged, ended.after)) if ended.acknowledged else self
        in_redis, in_backup = (ended.max_n, 1) if ended.source == "redis" else (1, ended.max_n)
        return self._replace(
            in_redis=max(self.in_redis, in_redis),
            in_backup=max(self.in_backup, in_backup),
            writable=max(self.writable, ended.write_n or 1),
        )


def check_lookups(lookups: Sequence[Looked], raises: Sequence[Raised]) -> Iterator[Violation]:
    """See above: a max-register, with the one exception."""
    made = _by_conversation(raises)
    for conversation, found in _by_conversation(lookups).items():
        for lookup, known in _lookups_with_known(found, made.get(conversation, ())):
            floors = {
                "lost raise": (known.acknowledged, "was acknowledged before"),
                "writer's leap": (known.writable, "may have been written by before"),
                "went back": (known.in_redis, "was found in Redis before"),
            }
            if lookup.source == "backup":
                floors["backup went back"] = (known.in_backup, "was found in the backup before")
            for name, (floor, why) in floors.items():
                if lookup.max_n < floor:
                    text = f"{_told(lookup)} found {lookup.max_n} in {lookup.source}, and {floor} {why}"
                    yield Violation(name, conversation, text)
        yield from _check_ceilings(found, made.get(conversation, ()))


def went_back(lookups: Sequence[Looked], raises: Sequence[Raised]) -> list[tuple[Looked, int]]:
    """Lookups in Redis that returned less than one in the backup before them, and what that one returned.

    That is allowed where no raise to as much was acknowledged: the protocol's lookups are a regular register and no
    atomic one.
    """
    made = _by_conversation(raises)
    return [
        (lookup, known.in_backup)
        for conversation, found in _by_conversation(lookups).items()
        for lookup, known in _lookups_with_known(found, made.get(conversation, ()))
        if lookup.source == "redis" and lookup.max_n < known.in_backup
    ]


def _lookups_with_known(found: Sequence[Looked], made: Sequence[Raised]) -> Iterator[tuple[Looked, Known]]:
    """Each lookup, with what was known before it."""
    known = Known()
    before: list[Looked | Raised] = sorted([*found, *made], key=lambda one: one.ended)
    at = 0
    for lookup in sorted(found, key=lambda one: one.began):
        while at < len(before) and before[at].ended < lookup.began:
            known = known.and_also(before[at])
            at += 1
        yield lookup, known


def _check_ceilings(found: Sequence[Looked], made: Sequence[Raised]) -> Iterator[Violation]:
    aimed = sorted((one.began, one.n) for one in made)
    began = [at for at, _ in aimed]
    largest = [1, *accumulate((n for _, n in aimed), max)]
    for lookup in found:
        ceiling = largest[bisect_left(began, lookup.ended)]
        if lookup.max_n > ceiling:
            text = f"{_told(lookup)} found {lookup.max_n} in {lookup.source}, and nobody had raised above {ceiling}"
            yield Violation("invented raise", lookup.conversation, text)


def check_samples(samples: Sequence[Sample], raises: Sequence[Raised]) -> Iterator[Violation]:
    """See above, but for what samples have in common with lookups."""
    for conversation, taken in _by_conversation(samples).items():
        held: Sample | None = None
        for sample in sorted(taken, key=lambda one: one.began):
            for name, wrong in _rules_of_a_sample(sample, held):
                if wrong:
                    text = f"{_told(sample)} found {sample[4:]} in the backup; before, {held and held[4:]}"
                    yield Violation(name, conversation, text)
            # Samples that overlap one another may come in either order: only what is sure to be later is compared.
            if held is None or sample.began > held.ended:
                held = sample


def _rules_of_a_sample(sample: Sample, held: Sample | None) -> Iterator[tuple[str, bool]]:
    yield "write_n above max_n", sample.write_n > sample.max_n
    yield "records of raises", any(a >= b for a, b in pairwise(sample.raises))
    yield "records of raises", (sample.raises or (1,))[-1] != sample.max_n
    if held is not None and held.ended < sample.began:
        yield "write_n went down", sample.write_n < held.write_n
        yield "records of raises", sample.raises[: len(held.raises)] != held.raises


def _by_conversation(operations: Sequence[T]) -> dict[str, list[T]]:
    groups: dict[str, list[T]] = defaultdict(list)
    for operation in operations:
        groups[operation.conversation].append(operation)
    return groups


def _earliest(times: dict[str, float], message: str, at: float) -> None:
    times[message] = min(at, times.get(message, inf))


def _told(operation: Timed) -> str:
    return f"{operation.who} from {operation.began:.3f} to {operation.ended:.3f}"
