"""Runs contenders in turn, and compares their measurements."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from statistics import median


def interleave(contenders: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, list[float]]:
    """Run every contender once in each round, starting with a different one; return the measurements of each.

    If the machine is slow for a while, it is slow for all contenders.
    """
    names = list(contenders)
    figures: dict[str, list[float]] = {name: [] for name in names}
    for number in range(rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            figures[name].append(contenders[name]())
    return figures


def median_ratio(figures: Sequence[float], to: Sequence[float]) -> float:
    """Return the median of the ratios within each round: unlike a ratio of medians, drift does not change it."""
    return median(figure / base for figure, base in zip(figures, to, strict=True))
