"""A page of 50 messages over N salts, with 5 ms added to each query, compared with one query and a simple fan-out.

The table is in the memory of this process, so the benchmark measures the number of rounds and the cost of the merge,
not an emulator. Message ids are random like UUIDs, so the messages of a page are spread over the salts like balls over
bins. Messages are independent, one second apart on average. Each round reads another conversation: its newest page,
for which only N is known, and the next page by its cursor.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from statistics import fmean

from saltctl.history.history import CONCURRENCY, History
from saltctl.history.models import ReadOptions
from saltctl.salting import partition_key, read_set, salt_of
from saltctl.stores.contracts import PartitionQuery
from saltctl.testing import MemoryMessages
from tests.benchmarks.measure import interleave, median_ratio
from tests.benchmarks.report import Table, WrongResultError, at_most, times
from tests.support.lookups import FixedLookups

LIMIT = 50
DELAY = 0.005
SALTS = (1, 4, 16, 64)
GOAL_N, GOAL_TIME, GOAL_ITEMS = 16, 1.3, 2.0
ONE, NAIVE, FIRST, NEXT = "one query", "fan-out", "newest page", "next page"


@dataclass(frozen=True, slots=True)
class SaltCountResult:
    """The measurements at one N, by row.

    ``seconds`` has the time of each round. ``items`` has the number of items read for each item returned.
    ``one_round`` is the share of pages that needed at most one query for each partition.
    """

    n: int
    seconds: dict[str, list[float]]
    items: dict[str, list[float]]
    one_round: dict[str, float]

    def ratio(self, name: str) -> float:
        """Return the median ratio of a row's time to the time of one query."""
        return median_ratio(self.seconds[name], self.seconds[ONE])


@dataclass(frozen=True, slots=True)
class HistoryOutcome:
    """The measurements at all N."""

    results: list[SaltCountResult]
    rounds: int

    def tables(self) -> list[Table]:
        """Return the tables to print."""
        rows = []
        for result in self.results:
            for name in (ONE, NAIVE, FIRST, NEXT):
                goals = result.n == GOAL_N and name in (FIRST, NEXT)
                items = fmean(result.items[name])
                rows.append(
                    (
                        f"N = {result.n:<3} {name}",
                        f"{1000 * sorted(result.seconds[name])[self.rounds // 2]:.1f}",
                        f"{result.ratio(name):.2f} x",
                        at_most(result.ratio(name), GOAL_TIME) if goals else "",
                        f"{items:.2f}",
                        at_most(items, GOAL_ITEMS) if goals else "",
                        f"{result.one_round.get(name, 1):.0%}",
                    )
                )
        return [
            Table(
                f"a page of {LIMIT}, {1000 * DELAY:.0f} ms a query, median of {times(self.rounds, 'round')}",
                ("", "ms", "to one", "goal", "items", "goal", "1 round"),
                rows,
                (
                    "items: items read for each item returned, on average. For a newest page only N is known: any "
                    f"method that takes one round half of the time at N = {GOAL_N} reads at least "
                    f"{least_items(LIMIT, GOAL_N):.2f}.",
                ),
            )
        ]


def least_items(wanted: int, spread: int) -> float:
    """Return the fewest rows to request for each row returned, so that half of all first pages take one round.

    ``wanted`` rows are spread over ``spread`` salts like balls over bins. A page takes one round if each salt holds
    fewer of the rows before the last one than were requested from it. Shares that differ by at most one are best.
    """
    for asked in range(wanted, wanted * spread):
        share, ones_more = divmod(asked, spread)
        chances = [1.0] + [0.0] * (wanted - 1)  # by n: the chance of n rows on the salts so far, divided by n!
        for salt in range(spread):
            most = share + (salt < ones_more) - 1
            chances = [
                sum(chances[n - k] * spread**-k / math.factorial(k) for k in range(min(n, most) + 1))
                for n in range(wanted)
            ]
        if chances[wanted - 1] * math.factorial(wanted - 1) >= 0.5:
            return asked / wanted
    raise AssertionError("unreachable")


def run(quick: bool = False) -> HistoryOutcome:
    """Run the benchmark at every N."""
    rounds = 5 if quick else 61
    return HistoryOutcome([_measure(n, rounds) for n in SALTS], rounds)


def _measure(n: int, rounds: int) -> SaltCountResult:
    chance = random.Random(n)
    store = MemoryMessages(before_query=lambda request: time.sleep(DELAY))
    newest = {_name(number): _fill(store, _name(number), n, chance) for number in range(rounds)}
    lookups = FixedLookups(dict.fromkeys(newest, n))
    items: dict[str, list[float]] = {name: [] for name in (ONE, NAIVE, FIRST, NEXT)}
    queries: dict[str, list[int]] = {FIRST: [], NEXT: []}
    with History(lookups, store) as history, ThreadPoolExecutor(CONCURRENCY) as pool:
        history.page(_name(0))  # starts the threads
        list(pool.map(time.sleep, [DELAY] * CONCURRENCY))
        seconds = interleave(_contenders(history, store, pool, newest, n, items, queries), rounds)
    return SaltCountResult(
        n, seconds, items, {name: fmean(most == 1 for most in found) for name, found in queries.items()}
    )


def _contenders(
    history: History,
    store: MemoryMessages,
    pool: ThreadPoolExecutor,
    newest: dict[str, list[str]],
    n: int,
    items: dict[str, list[float]],
    queries: dict[str, list[int]],
) -> dict[str, Callable[[], float]]:
    turn = dict.fromkeys(items, 0)

    def timed(name: str, read: Callable[[str], tuple[Sequence[object], int]], start: int) -> Callable[[], float]:
        def once() -> float:
            conversation_id = _name(turn[name])
            turn[name] += 1
            began = time.perf_counter()
            found, scanned = read(conversation_id)
            seconds = time.perf_counter() - began
            if name != ONE and found != newest[conversation_id][start : start + LIMIT]:
                raise WrongResultError(f"{name} of {conversation_id} returned wrong messages")
            items[name].append(scanned / LIMIT)
            return seconds

        return once

    def one(conversation_id: str) -> tuple[Sequence[object], int]:
        answer = store.query(PartitionQuery(read_set(conversation_id, n)[-1], limit=LIMIT))
        return [], answer.scanned

    def naive(conversation_id: str) -> tuple[Sequence[object], int]:
        requests = [PartitionQuery(key, limit=LIMIT) for key in read_set(conversation_id, n)]
        answers = list(pool.map(store.query, requests))
        rows = sorted((item["at"]["S"] for answer in answers for item in answer.items), reverse=True)
        return rows[:LIMIT], sum(answer.scanned for answer in answers)

    cursors = {
        conversation_id: history.page(conversation_id, ReadOptions(limit=LIMIT)).next_cursor
        for conversation_id in newest
    }

    def page(conversation_id: str, before: str | None = None) -> tuple[Sequence[object], int]:
        name = FIRST if before is None else NEXT
        found = history.page(conversation_id, ReadOptions(limit=LIMIT, before=before))
        queries[name].append(max(shard.queries for shard in found.shards))
        return [message.sort_key for message in found.messages], found.items_read

    return {
        ONE: timed(ONE, one, 0),
        NAIVE: timed(NAIVE, naive, 0),
        FIRST: timed(FIRST, page, 0),
        NEXT: timed(NEXT, lambda conversation_id: page(conversation_id, cursors[conversation_id]), LIMIT),
    }


def _name(number: int) -> str:
    return f"conv_{number}"


def _fill(store: MemoryMessages, conversation_id: str, n: int, chance: random.Random) -> list[str]:
    """Write a conversation, and return its sort keys, newest first."""
    keys = []
    at = datetime(2026, 7, 1, tzinfo=UTC)
    for _ in range(3 * LIMIT + 4 * LIMIT * n // 3):  # more than a page on every salt
        message_id = f"{chance.getrandbits(128):032x}"
        at += timedelta(seconds=chance.expovariate(1.0))
        key = f"{at.isoformat(timespec='milliseconds')}#{message_id}"
        store.put(partition_key(conversation_id, salt_of(message_id, n)), key, {"text": {"S": "x" * 100}})
        keys.append(key)
    return sorted(keys, reverse=True)
