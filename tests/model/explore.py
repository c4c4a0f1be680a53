"""Breadth-first search through every reachable state of a case; the first broken one is on a shortest path."""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

from tests.model.world import Broken, Case, State, Step, World, acknowledged


@dataclass(frozen=True)
class Verdict:
    """The result of a search. ``broken`` is None if the promise holds in all ``states``."""

    case: Case
    broken: Broken | None
    path: tuple[str, ...]
    states: int

    def __str__(self) -> str:
        """Return the case, the verdict, the number of states, and the path."""
        lines = [f"{self.case.name}: {self.broken or 'holds'} ({self.states:,} states)"]
        lines += [f"    {step}" for step in self.path]
        return "\n".join(lines)


def explore(case: Case) -> Verdict:
    """Visit every state of the case until one breaks the promise."""
    world = World(case)
    start = world.start()
    predecessors: dict[State, State] = {start: start}
    queue = deque([start])
    while queue:
        state = queue.popleft()
        for label, after, broken in world.steps(state):
            if broken is None and after in predecessors:
                continue
            predecessors.setdefault(after, state)
            queue.append(after)
            if broken is not None or misses_acknowledged(world, after):
                path = [*_path(world, predecessors, state), (label, after, broken)]
                return Verdict(
                    case, broken or _name(world, path), tuple(step for step, _, _ in path), len(predecessors)
                )
    return Verdict(case, None, (), len(predecessors))


def misses_acknowledged(world: World, state: State) -> bool:
    """Return whether a lookup in this state returns less than was acknowledged."""
    in_redis, in_backup, deposed, owed = world.lookup_results(state)
    promised = acknowledged(state)
    return deposed < owed or any(found is not None and found < promised for found in (in_redis, in_backup))


def _name(world: World, path: list[Step]) -> Broken:
    """Return which lookup misses the acknowledged N at the end of a path."""
    in_redis, in_backup, *_ = world.lookup_results(path[-1][1])
    promised = acknowledged(path[-1][1])
    by_message = next(label for label, state, _ in path if acknowledged(state) == promised).startswith("writer")
    if in_redis is not None and in_redis < promised:
        return Broken.REDIS_MESSAGE if by_message else Broken.REDIS_RAISE
    if in_backup is None or in_backup >= promised:
        return Broken.DEPOSED
    return Broken.BACKUP_MESSAGE if by_message else Broken.BACKUP_RAISE


def _path(world: World, predecessors: dict[State, State], state: State) -> list[Step]:
    """Return the steps to a state. They are computed again, since storing one for each state takes too much memory."""
    steps: list[Step] = []
    while (before := predecessors[state]) != state:
        steps.append(next(step for step in world.steps(before) if step[1] == state))
        state = before
    return steps[::-1]
