"""What befalls whom and when: a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Fault(StrEnum):
    """The kinds. Raisers and rebuilds are killed, and services killed and paused, by who starts them: see ``roles``."""

    KILL = "SIGKILL, restarted with its AOF"
    DAMAGE = "SIGKILL, restarted with a damaged AOF"
    LOSE = "SIGKILL, restarted empty"
    PAUSE = "SIGSTOP, SIGCONT"
    FLUSH = "FLUSHALL"
    DELETE = "single buckets deleted"
    CUT = "connections cut"
    MUTE = "answers of Redis swallowed"
    DELAY = "connections delayed"
    PROMOTE = "replica promoted"
    THROTTLE = "DynamoDB throttles"
    UNSURE = "DynamoDB did it and says that it failed"


LASTING = {Fault.CUT, Fault.MUTE, Fault.DELAY, Fault.THROTTLE, Fault.UNSURE}
"""They go on for a while, beside others; the rest is over when the next one begins."""
Side = Literal["near", "far"]
SIDES: tuple[Side, Side] = ("near", "far")
"""Each has a proxy before Redis of its own; the far one also has DynamoDB behind a stub that can refuse."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fault: ``at`` seconds after the beginning, on the connections of one side where it is about connections.

    ``seconds`` is how long it lasts; ``amount`` from 0 to 1 says how much of it: of a delay, of the AOF's tail.
    """

    at: float
    fault: Fault
    side: Side
    seconds: float
    amount: float


@dataclass(frozen=True, slots=True)
class Plan:
    """One run. Every process draws its own choices from ``seed`` and its name.

    Args:
        seconds: how long faults and traffic go on; the final reads come on top.
        kinds: the faults, each once before any comes again; empty for none.
        gap: seconds between two faults, on average.
        lasts: the shortest and the longest that one of them lasts.
        strike_side: where faults of connections strike; None for either.
        near, far: the roles on the two sides, with as many names as there are to be processes.
        conversations: that are in use at once.
        epoch: seconds after which others are, so that each has its raises and none grows for ever.
        cap: the largest N.
        raiser_deaths: how likely a raiser is killed, and before which of its calls; None for any.
        raise_pause, rebuild_pause: the longest wait between two raises, or two rebuilds, of one process.
        page_limit: items in a page of a rebuild's scan.
        merge_pause: seconds before each merge of a rebuild.
    """

    seed: int
    seconds: float
    kinds: Sequence[Fault] = tuple(Fault)
    gap: float = 1.3
    lasts: tuple[float, float] = (0.2, 1.2)
    strike_side: Side | None = None
    near: Sequence[str] = ("writer", "reader", "looker", "service", "raiser", "sampler")
    far: Sequence[str] = ("writer", "reader", "looker", "service", "raiser", "rebuilder", "reporter")
    conversations: int = 4
    epoch: float = 6.0
    cap: int = 32
    raiser_deaths: float = 0.4
    raiser_dies_before: str | None = None
    raise_pause: float = 0.5
    rebuild_pause: float = 1.5
    rebuild_deaths: float = 0.3
    page_limit: int = 10
    merge_pause: float = 0.0

    def events(self) -> list[Event]:
        """The faults in the order in which they begin. The same for the same plan."""
        return list(self._events(random.Random(f"{self.seed} schedule")))

    def _events(self, rng: random.Random) -> Iterator[Event]:
        at = 1.0
        deck: list[Fault] = []
        while self.kinds and at < self.seconds:
            if not deck:
                deck = rng.sample(list(self.kinds), len(self.kinds))
            drawn = rng.choice(SIDES)
            yield Event(
                round(at, 3),
                deck.pop(),
                self.strike_side or drawn,
                round(rng.uniform(*self.lasts), 3),
                round(rng.random(), 3),
            )
            at += rng.uniform(0.4, 1.6) * self.gap

    def processes(self) -> list[tuple[str, str, Side]]:
        """Name, role and side of every process."""
        sides = zip(SIDES, (self.near, self.far), strict=True)
        return [(f"{role}-{side}-{at}", role, side) for side, roles in sides for at, role in enumerate(roles)]
