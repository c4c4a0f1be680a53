"""A page of 50 messages over N salts, with 5 ms added to each query, compared with one query and a simple fan-out.

The table is in the memory of this process, so the benchmark measures the number of rounds and the cost of the merge,
not an emulator. Message ids are random like UUIDs, so the messages of a page are spread over the salts like balls over
bins. Messages are independent, one second apart on average. Each round reads another conversation: its newest page,
for which only N is known, and the next page by its cursor.

A second table compares newest pages of a conversation that was cooled from 64 salts to 1 with those of one that has the
same new messages and was never salted.
"""

from __future__ import annotations

import math
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from statistics import fmean

from saltctl.history.history import CONCURRENCY, History
from saltctl.history.models import ReadOptions
from saltctl.salting import partition_key, read_set, salt_of
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.testing import MemoryMessages
from tests.benchmarks.measure import interleave, median_ratio
from tests.benchmarks.report import Table, WrongResultError, at_most, times
from tests.support.lookups import FixedLookups

LIMIT = 50
DELAY = 0.005
SALTS = (1, 4, 16, 64)
GOAL_N, GOAL_TIME, GOAL_ITEMS = 16, 1.3, 2.0
ONE, NAIVE, FIRST, NEXT = "one query", "fan-out", "newest page", "next page"
UNSALTED, COOLED, GOAL_COOLED = "unsalted", "cooled from 64 to 1", 1.1


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
class CooledResult:
    """The time of each round, and the read units of a page, by contender."""

    seconds: dict[str, list[float]]
    units: dict[str, float]

    def table(self) -> Table:
        """Return the table to print."""
        rows = []
        for name, units in self.units.items():
            ratio = median_ratio(self.seconds[name], self.seconds[UNSALTED])
            goals = (at_most(ratio, GOAL_COOLED), at_most(units, self.units[UNSALTED])) if name == COOLED else ("", "")
            milliseconds = 1000 * sorted(self.seconds[name])[len(self.seconds[name]) // 2]
            rows.append((name, f"{milliseconds:.1f}", f"{ratio:.2f} x", goals[0], f"{units:.2f}", goals[1]))
        return Table(f"the newest page of {LIMIT}", ("", "ms", "to unsalted", "goal", "read units", "goal"), rows)


@dataclass(frozen=True, slots=True)
class HistoryOutcome:
    """The measurements at all N, and those of a cooled conversation."""

    results: list[SaltCountResult]
    cooled: CooledResult
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
            ),
            self.cooled.table(),
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
    return HistoryOutcome([measure_pages(n, rounds) for n in SALTS], _measure_cooled(rounds), rounds)


def _measure_cooled(rounds: int) -> CooledResult:
    store = MemoryMessages(before_query=lambda request: time.sleep(DELAY))
    lookups = FixedLookups({COOLED: 64})
    _fill(store, COOLED, 64, random.Random(1), began=datetime(2026, 6, 1, tzinfo=UTC))
    newest = [_fill(store, name, 1, random.Random(2)) for name in (COOLED, UNSALTED)]
    lookups.cooled[COOLED] = 1, newest[0][-1]
    units: dict[str, float] = {}
    with History(lookups, store) as history:

        def measure(name: str) -> float:
            began = time.perf_counter()
            page = history.page(name, ReadOptions(limit=LIMIT))
            seconds = time.perf_counter() - began
            if [message.sort_key for message in page.messages] != newest[0][:LIMIT]:
                raise WrongResultError(f"the page of {name} has wrong messages")
            units[name] = sum(shard.consumed_rcu for shard in page.shards)
            return seconds

        seconds = interleave({name: partial(measure, name) for name in (UNSALTED, COOLED)}, rounds)
    return CooledResult(seconds, units)


def measure_pages(n: int, rounds: int) -> SaltCountResult:
    """Read pages over N salts, that many rounds."""
    rng = random.Random(n)
    store = MemoryMessages(before_query=lambda request: time.sleep(DELAY))
    newest = {_name(number): _fill(store, _name(number), n, rng) for number in range(rounds)}
    lookups = FixedLookups(dict.fromkeys(newest, n))
    with History(lookups, store) as history, ThreadPoolExecutor(CONCURRENCY) as pool:
        history.page(_name(0))  # starts the threads
        list(pool.map(time.sleep, [DELAY] * CONCURRENCY))
        contenders = _Contenders(n, history, store, pool, newest)
        seconds = interleave({name: partial(contenders.measure, name) for name in (ONE, NAIVE, FIRST, NEXT)}, rounds)
    one_round = {name: fmean(most == 1 for most in counts) for name, counts in contenders.queries.items()}
    return SaltCountResult(n, seconds, contenders.items, one_round)


class _Contenders:
    """The ways to read a page. Each reads another conversation in each round.

    ``newest`` has the sort keys of every conversation, newest first. ``items`` and ``queries`` collect, by row, the
    items read for each item returned, and the most queries for one partition.
    """

    def __init__(
        self, n: int, history: History, store: MemoryMessages, pool: ThreadPoolExecutor, newest: dict[str, list[str]]
    ) -> None:
        self._n = n
        self._history = history
        self._store = store
        self._pool = pool
        self._newest = newest
        self._cursors = {name: history.page(name, ReadOptions(limit=LIMIT)).next_cursor for name in newest}
        self._readers = {ONE: self._one_query, NAIVE: self._fan_out, FIRST: self._first_page, NEXT: self._next_page}
        self._rounds = dict.fromkeys(self._readers, 0)
        self.items: dict[str, list[float]] = {name: [] for name in self._readers}
        self.queries: dict[str, list[int]] = {FIRST: [], NEXT: []}

    def measure(self, name: str) -> float:
        """Read a page, check its messages, and return the seconds."""
        conversation_id = _name(self._rounds[name])
        self._rounds[name] += 1
        began = time.perf_counter()
        found, scanned = self._readers[name](conversation_id)
        seconds = time.perf_counter() - began
        start = LIMIT if name == NEXT else 0
        if name != ONE and found != self._newest[conversation_id][start : start + LIMIT]:
            raise WrongResultError(f"{name} of {conversation_id} returned wrong messages")
        self.items[name].append(scanned / LIMIT)
        return seconds

    def _one_query(self, conversation_id: str) -> tuple[Sequence[object], int]:
        answer = self._store.query(PartitionQuery(read_set(conversation_id, self._n)[-1], limit=LIMIT))
        return [], answer.scanned

    def _fan_out(self, conversation_id: str) -> tuple[Sequence[object], int]:
        requests = [PartitionQuery(key, limit=LIMIT) for key in read_set(conversation_id, self._n)]
        answers = list(self._pool.map(self._store.query, requests))
        rows = sorted((item["at"]["S"] for answer in answers for item in answer.items), reverse=True)
        return rows[:LIMIT], sum(answer.scanned for answer in answers)

    def _first_page(self, conversation_id: str) -> tuple[Sequence[object], int]:
        return self._page(FIRST, conversation_id, None)

    def _next_page(self, conversation_id: str) -> tuple[Sequence[object], int]:
        return self._page(NEXT, conversation_id, self._cursors[conversation_id])

    def _page(self, name: str, conversation_id: str, before: str | None) -> tuple[Sequence[object], int]:
        page = self._history.page(conversation_id, ReadOptions(limit=LIMIT, before=before))
        self.queries[name].append(max(shard.queries for shard in page.shards))
        return [message.sort_key for message in page.messages], page.items_read


def _name(number: int) -> str:
    return f"conv_{number}"


def _fill(
    store: MemoryMessages,
    conversation_id: str,
    n: int,
    rng: random.Random,
    began: datetime = datetime(2026, 7, 1, tzinfo=UTC),
) -> list[str]:
    """Write a conversation, and return its sort keys, newest first."""
    keys, at = [], began
    for _ in range(3 * LIMIT + 4 * LIMIT * n // 3):  # more than a page on every salt
        message_id = f"{rng.getrandbits(128):032x}"
        at += timedelta(seconds=rng.expovariate(1.0))
        key = f"{at.isoformat(timespec='milliseconds')}#{message_id}"
        store.put(partition_key(conversation_id, salt_of(message_id, n)), key, {"text": {"S": "x" * 100}})
        keys.append(key)
    return sorted(keys, reverse=True)
