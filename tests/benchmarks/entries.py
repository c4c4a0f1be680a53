"""The registry that benchmarks fill: any number of entries, each N told from its id, so nothing has to be kept."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

_ODD = 0x9E3779B97F4B
"""Multiplying by an odd number permutes the numbers below a power of two: ids are unique and look random."""


def conversation_id(number: int) -> str:
    """``conv_`` and twelve hexadecimal digits, 17 characters."""
    return f"conv_{number * _ODD % 2**48:012x}"


def n_of(conversation: str) -> int:
    """Its N: 2 to 64."""
    return 2 << int(conversation[-4:], 16) % 6


def entries(count: int) -> Iterator[tuple[str, int]]:
    """The first ``count`` entries."""
    for number in range(count):
        conversation = conversation_id(number)
        yield conversation, n_of(conversation)


def differences(held: Iterable[tuple[str, int]], count: int) -> int:
    """How many of ``held`` are wrong, plus how many of the first ``count`` entries are missing.

    An id is in one bucket only and a bucket is a hash, so no store can return one twice.
    """
    seen = wrong = 0
    for conversation, n in held:
        seen += 1
        wrong += n != n_of(conversation)
    return wrong + abs(count - seen)
