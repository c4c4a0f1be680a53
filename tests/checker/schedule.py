"""The schedule of a run: its faults, their times and its processes, as a pure function of the seed."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal


class Fault(StrEnum):
    """The kinds of faults of servers and connections. ``killable_roles`` kills raisers, rebuilds and services."""

    KILL = "SIGKILL, restarted with its AOF"
    DAMAGE = "SIGKILL, restarted with a damaged AOF"
    LOSE = "SIGKILL, restarted empty"
    PAUSE = "SIGSTOP, SIGCONT"
    FLUSH = "FLUSHALL"
    DELETE = "single buckets deleted"
    CUT = "connections cut"
    MUTE = "replies of Redis dropped"
    DELAY = "connections delayed"
    PROMOTE = "replica promoted"
    MOVE = "slot moved to another primary, and home"
    THROTTLE = "DynamoDB throttles"
    UNSURE = "DynamoDB executes a write and returns an error"
    DROP = "backup table deleted"
    RESTORE = "backup table restored to an earlier time"


TABLE_LOSSES = (Fault.DROP, Fault.RESTORE)
"""The faults after which ``saltctl recover`` has to run: see ``backup_loss``."""

PAIR_FAULTS = tuple(fault for fault in Fault if fault is not Fault.MOVE)
"""The kinds of faults of a primary and its replica behind proxies."""
SENTINEL_FAULTS = tuple(fault for fault in PAIR_FAULTS if fault not in (Fault.CUT, Fault.MUTE, Fault.DELAY))
"""Those of Sentinel. Its clients reach the servers without a proxy, which could not follow a failover."""
CLUSTER_FAULTS = (*SENTINEL_FAULTS, Fault.MOVE)
FAULTS = {"pair": PAIR_FAULTS, "sentinel": SENTINEL_FAULTS, "cluster": CLUSTER_FAULTS}
"""The kinds of faults by the arrangement of the Redis servers."""
ENTRY_LOSSES = frozenset({Fault.DAMAGE, Fault.LOSE, Fault.FLUSH, Fault.DELETE, Fault.PROMOTE})
"""Faults that may take entries from Redis. A promoted replica may not be in sync."""
GROUP_ENTRY_LOSSES = ENTRY_LOSSES | {Fault.KILL, Fault.PAUSE, Fault.MOVE}
"""Those of servers that fail over on their own."""


Side = Literal["near", "far"]
SIDES: tuple[Side, Side] = ("near", "far")
"""Each side has its own proxy in front of Redis. The far side also has a stub in front of DynamoDB."""


@dataclass(frozen=True, slots=True)
class Event:
    """One fault, ``at`` seconds after the start. A fault of connections affects those of one side.

    ``seconds`` is its duration. ``amount``, from 0 to 1, is its strength: of a delay, or of the damage to the AOF.
    If it is below ``Plan.both_probability``, a loss of the backup table flushes Redis, too.
    """

    at: float
    fault: Fault
    side: Side
    seconds: float
    amount: float


@dataclass(frozen=True, slots=True)
class Plan:
    """The parameters of one run. Every process draws its choices from ``seed`` and its own name.

    Args:
        seed: the seed of all random choices.
        seconds: the duration of faults and traffic, without the final reads.
        kinds: the kinds of faults; each occurs once before any occurs again. Empty for no faults.
        fault_interval: the average time between two faults, in seconds.
        durations: the shortest and the longest duration of a fault, in seconds.
        fault_side: the side of faults of connections; None for either.
        near, far: the roles of the processes on the two sides, one name for each process.
        conversations: the number of conversations in use at the same time.
        epoch: seconds until the conversations in use are replaced, so that all get raises and none grows forever.
        cap: the largest N.
        raiser_kill_probability: the probability that a raiser is killed.
        raiser_killed_before: the call before which raisers are killed; None for any.
        raise_pause, rebuild_pause: the longest pause between two raises or two rebuilds of one process, in seconds.
        cooler_kill_probability, cool_pause: the same of the processes that cool.
        rebuild_kill_probability: the probability that a rebuild is killed.
        page_limit: the number of items in a page of a rebuild's scan.
        merge_pause: seconds before each merge of a rebuild.
        both_probability: the probability that Redis is flushed when the backup table is lost.
        recovery_kill_probability: the probability that a recovery is killed; it is repeated.
        loop: whether a server with an event loop is among the near ones; None if the seed decides.
        fixed_id: whether the settings of the clients name the registry; None if the seed decides. Without it, clients
            follow the new id of each recovery.
        shared: whether pages send slow queries again, and readers of one process read the same pages at once and share
            their reads; None if the seed decides.
    """

    seed: int
    seconds: float
    kinds: Sequence[Fault] = PAIR_FAULTS
    fault_interval: float = 1.3
    durations: tuple[float, float] = (0.2, 1.2)
    fault_side: Side | None = None
    near: Sequence[str] = (
        "writer",
        "reader",
        "lookup_client",
        "service",
        "raiser",
        "sampler",
        "preforker",
        "recoverer",
        "cooler",
    )
    far: Sequence[str] = ("writer", "reader", "lookup_client", "service", "raiser", "rebuilder", "reporter", "cooler")
    conversations: int = 4
    epoch: float = 6.0
    cap: int = 32
    raiser_kill_probability: float = 0.4
    raiser_killed_before: str | None = None
    raise_pause: float = 0.5
    cooler_kill_probability: float = 0.3
    cool_pause: float = 0.3
    rebuild_pause: float = 1.5
    rebuild_kill_probability: float = 0.3
    page_limit: int = 10
    merge_pause: float = 0.0
    both_probability: float = 0.5
    recovery_kill_probability: float = 0.4
    fixed_id: bool | None = None
    shared: bool | None = None
    loop: bool | None = None

    @property
    def names_registry(self) -> bool:
        """Whether the settings of the clients name the registry."""
        return self.seed % 2 == 1 if self.fixed_id is None else self.fixed_id

    @property
    def shares_reads(self) -> bool:
        """Whether ``hedge_reads`` and ``share_reads`` are on, and readers read the same pages at once."""
        return self.seed // 2 % 2 == 1 if self.shared is None else self.shared

    def events(self) -> list[Event]:
        """Return the faults in the order of their times; the same plan always has the same faults."""
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
                self.fault_side or drawn,
                round(rng.uniform(*self.durations), 3),
                round(rng.random(), 3),
            )
            at += rng.uniform(0.4, 1.6) * self.fault_interval

    def processes(self) -> list[tuple[str, str, Side]]:
        """Return the name, role and side of every process."""
        has_loop = self.seed % 2 == 0 if self.loop is None else self.loop
        sides = zip(SIDES, ((*self.near, "loop_server") if has_loop else self.near, self.far), strict=True)
        return [(f"{role}-{side}-{at}", role, side) for side, roles in sides for at, role in enumerate(roles)]
