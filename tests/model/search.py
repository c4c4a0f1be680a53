"""Breadth-first search through the states of an abstract model; the first broken state is on a shortest path."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Hashable, Iterable
from typing import NamedTuple, TypeVar

S = TypeVar("S", bound=Hashable)


class Found(NamedTuple):
    """The result of a search. ``broken`` is empty if the promise holds in all ``states``."""

    broken: str
    path: tuple[str, ...]
    states: int

    def __str__(self) -> str:
        """Return the verdict, the number of states, and the path."""
        return "\n    ".join([f"{self.broken or 'holds'} ({self.states:,} states)", *self.path])


def search(start: S, steps: Callable[[S], Iterable[tuple[str, S]]], broken: Callable[[S], str]) -> Found:
    """Visit every state that is reachable by ``steps`` until ``broken`` returns a reason."""
    predecessors: dict[S, tuple[S, str] | None] = {start: None}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        if reason := broken(state):
            return Found(reason, _path(predecessors, state), len(predecessors))
        for label, after in steps(state):
            if after not in predecessors:
                predecessors[after] = state, label
                queue.append(after)
    return Found("", (), len(predecessors))


def _path(predecessors: dict[S, tuple[S, str] | None], state: S) -> tuple[str, ...]:
    labels = []
    while (before := predecessors[state]) is not None:
        state, label = before
        labels.append(label)
    return tuple(reversed(labels))
