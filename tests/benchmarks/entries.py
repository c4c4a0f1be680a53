"""The entries for the benchmarks: each N is computed from its id, so that checks need no copy of the entries."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saltctl.stores.contracts.entries import Entry

REGISTRY_ID = "feed01234567"
"""The id of the registry of all benchmarks."""
_MULTIPLIER = 0x9E3779B97F4B
"""An odd number. Multiplication by it permutes the numbers below a power of two: ids are unique and look random."""


def conversation_id(number: int) -> str:
    """Return ``conv_`` and twelve hexadecimal digits, 17 characters."""
    return f"conv_{number * _MULTIPLIER % 2**48:012x}"


def n_of(conversation: str) -> int:
    """Return the N of a conversation: 2 to 64."""
    return 2 << int(conversation[-4:], 16) % 6


def entries(count: int) -> Iterator[tuple[str, int]]:
    """Yield the first ``count`` entries."""
    for number in range(count):
        conversation = conversation_id(number)
        yield conversation, n_of(conversation)


def differences(held: Iterable[tuple[str, Entry]], count: int) -> int:
    """Return how many of the ``held`` entries are wrong, plus how many of the first ``count`` entries are missing.

    An id is in one bucket only, and a bucket is a hash, so a store cannot return it twice.
    """
    seen = wrong = 0
    for conversation, n in held:
        seen += 1
        wrong += n != n_of(conversation)
    return wrong + abs(count - seen)
