"""Contenders in turn, and what is made of their figures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every contender once a round, each round beginning with another one; their figures in order of rounds.

    A machine that is slow for a while is so for all of them.
    """
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(contenders[name]())
    return figures


def median_ratio(figures: Sequence[float], to: Sequence[float]) -> float:
    """The median of the ratios within each round, which outlives a drift that the ratio of medians does not."""
    return median(mine / theirs for mine, theirs in zip(figures, to, strict=True))
