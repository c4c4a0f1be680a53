"""``aio.Registry.lookup`` compared with redis.asyncio's HGET on the same server, one at a time and 50 at once."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Coroutine, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Any

from saltctl import aio
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from tests.benchmarks.entries import n_of
from tests.benchmarks.measure import interleave, median_ratio
from tests.benchmarks.report import Table, WrongResultError, at_most, times

GOAL = 1.3
AT_ONCE = 50
CALLS = 100
HGET, LOOKUP, HGET_50, LOOKUP_50 = (
    "HGET, redis.asyncio",
    "aio.Registry.lookup",
    f"HGET, {AT_ONCE} at once",
    f"aio.Registry.lookup, {AT_ONCE} at once",
)
Call = Callable[[str], Coroutine[Any, Any, Any]]


@dataclass(frozen=True, slots=True)
class AsyncioResult:
    """Seconds per call in each round, by contender."""

    engine: str
    seconds: dict[str, list[float]]

    def table(self) -> Table:
        """Return the table."""
        rows = []
        for name, figures in self.seconds.items():
            ratio = median_ratio(figures, self.seconds[HGET_50 if name.endswith("at once") else HGET])
            goal = at_most(ratio, GOAL) if name in (LOOKUP, LOOKUP_50) else ""
            rows.append((name, f"{median(figures) * 1e6:.1f}", f"{min(figures) * 1e6:.1f}", f"{ratio:.2f}", goal))
        return Table(
            f"lookup on an event loop, {self.engine}",
            ("", "median µs", "best µs", "x HGET", "goal"),
            rows,
            (f"{times(len(self.seconds[HGET]), 'round')} of {CALLS} calls in turn",),
        )


def measure(
    engine: str, settings: Settings, client: Any, registry: Registry, ids: Sequence[str], rounds: int
) -> AsyncioResult:
    """Measure on verified servers that have these ids. Closes the registry, and the client of redis.asyncio.

    Raises:
        WrongResultError: an answer was wrong, or Redis did not answer a lookup.
    """
    loop = asyncio.new_event_loop()
    ours = aio.Registry(registry)
    keys = {conversation: f"salt:r:{bucket_of(conversation, settings.buckets)}" for conversation in ids}
    chance = random.Random(1)

    async def hget(conversation: str) -> Any:
        return await client.hget(keys[conversation], conversation)

    async def in_turn(call: Call, sample: Sequence[str], at_once: int) -> list[Any]:
        answers: list[Any] = []
        for start in range(0, len(sample), at_once):
            some = sample[start : start + at_once]
            answers += [await call(some[0])] if at_once == 1 else await asyncio.gather(*map(call, some))
        return answers

    def timed(call: Call, at_once: int) -> Callable[[], float]:
        def once() -> float:
            sample = chance.sample(list(ids), CALLS)
            started = time.perf_counter()
            answers = loop.run_until_complete(in_turn(call, sample, at_once))
            seconds = time.perf_counter() - started
            _check(sample, answers)
            return seconds / CALLS

        return once

    contenders = {
        HGET: timed(hget, 1),
        LOOKUP: timed(ours.lookup, 1),
        HGET_50: timed(hget, AT_ONCE),
        LOOKUP_50: timed(ours.lookup, AT_ONCE),
    }
    try:
        for contender in contenders.values():
            contender()  # connects
        return AsyncioResult(engine, interleave(contenders, rounds))
    finally:
        loop.run_until_complete(client.aclose())
        loop.run_until_complete(ours.close())
        loop.close()


def _check(sample: Sequence[str], answers: Sequence[Any]) -> None:
    for conversation, answer in zip(sample, answers, strict=True):
        if isinstance(answer, Lookup) and answer.source != "redis":
            raise WrongResultError(f"Redis did not answer the lookup of {conversation!r}")
        if int(answer.max_n if isinstance(answer, Lookup) else answer) != n_of(conversation):
            raise WrongResultError(f"the answer to {conversation!r} is wrong")
