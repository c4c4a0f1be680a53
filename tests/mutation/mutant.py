"""One mutant: a change in one place of one file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import takewhile

_LONG = 90
_CONTEXT = 25
"""Characters that are shown around the difference of two long pieces of code."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """A change in one place of one file. ``scope`` is the function around it, and ``source`` the changed file.

    ``number`` tells mutants of a function that make the same change apart.
    """

    path: str
    line: int
    scope: str
    before: str
    after: str
    source: str
    number: int = 1

    @property
    def key(self) -> str:
        """The name. It consists of code, not of a line's number, so that it stays when the file grows."""
        before, after = _differing(" ".join(self.before.split()), " ".join(self.after.split()))
        again = f" ({self.number})" if self.number > 1 else ""
        return f"{self.path} {self.scope}: {before} -> {after or 'nothing'}{again}"


def numbered(mutants: Iterable[Mutant]) -> Iterator[Mutant]:
    """Yield the mutants with names of their own."""
    seen: Counter[str] = Counter()
    for mutant in mutants:
        seen[mutant.key] += 1
        yield replace(mutant, number=seen[mutant.key])


def _differing(before: str, after: str) -> tuple[str, str]:
    """Return both; if they are long, the parts that differ, with a little of their surroundings."""
    if len(before) <= _LONG or after in ("pass", ""):
        return before[:_LONG] + "…" * (len(before) > _LONG), after
    start = _equal_characters(before, after)
    end = _equal_characters(before[start:][::-1], after[start:][::-1])
    first = max(start - _CONTEXT, 0)
    parts = (code[first : min(len(code) - end + _CONTEXT, len(code))] for code in (before, after))
    short_before, short_after = (part[:_LONG] + "…" * (len(part) > _LONG) for part in parts)
    return short_before, short_after


def _equal_characters(one: str, other: str) -> int:
    """Return how many characters are equal at the beginning."""
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))
