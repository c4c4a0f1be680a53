"""The newest page of 50 messages if one query in a hundred takes 100 ms instead of 5, and of 100 readers at once.

Queries go over HTTP to a separate process that delays its answers, by a seed (see slow_queries). One client is that of
boto3, which needs about a millisecond of processor time for a query. The 65 queries of a page then take most of
the time of a slow one, so the other client sends the same requests on plain sockets.

Each contender has a server of its own with the same seed, and they read in turn. The times are those of one reader. The
second table has readers that ask for the same page at the same moment, with ``share_reads``, over plain sockets.

What is in memory before the first page is frozen (``gc.freeze``), as a server does that forks its workers. A full
collection of it takes 17 ms, in which no thread runs: it is met by 2 % of the pages, so p99 would measure it.
"""

from __future__ import annotations

import gc
import json
import math
import os
import socket
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass
from functools import partial
from typing import Any
from unittest.mock import patch
from urllib.parse import urlsplit

from saltctl.history.history import History
from saltctl.history.models import Page, ReadOptions
from saltctl.local.servers import dummy_credentials
from saltctl.settings import Settings
from saltctl.stores.aws.messages_table import MessagesTable
from tests.benchmarks.measure import interleave
from tests.benchmarks.report import Table, WrongResultError, at_most, times
from tests.benchmarks.slow_queries import CONVERSATION, SLOW, SLOW_SHARE, USUAL, SlowQueries, make_rows
from tests.support.lookups import FixedLookups

N, LIMIT, SEED = 64, 50, 7
READERS = 100
GOAL_P99, GOAL_EXTRA, GOAL_QUERIES = 2.0, 0.03, 3.0
NEWEST = sorted((key for rows in make_rows(N).values() for key, _ in rows), reverse=True)[:LIMIT]
"""The sort keys of the right page."""
BOTO3, PLAIN = "boto3", "plain sockets"


class PlainClient:
    """Sends the requests of a table without botocore, on one connection of each thread."""

    def __init__(self, url: str) -> None:
        self._address = urlsplit(url).hostname, urlsplit(url).port
        self._of_thread = threading.local()
        self._opened: list[Any] = []

    def close(self) -> None:
        """Close all connections."""
        for each in self._opened:
            each.close()

    def query(self, **request: Any) -> dict[str, Any]:
        """Send a Query."""
        return self._send("Query", request)

    def describe_table(self, **request: Any) -> dict[str, Any]:
        """Send a DescribeTable."""
        return self._send("DescribeTable", request)

    def _send(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if (stream := getattr(self._of_thread, "stream", None)) is None:
            connection = socket.create_connection(self._address)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            stream = self._of_thread.stream = connection.makefile("rwb")
            self._opened += [stream, connection]
        body = json.dumps(request).encode()
        head = f"POST / HTTP/1.1\r\nX-Amz-Target: DynamoDB_20120810.{operation}\r\nContent-Length: {len(body)}\r\n\r\n"
        stream.write(head.encode() + body)
        stream.flush()
        length = 0
        while (line := stream.readline()) != b"\r\n":
            name, _, value = line.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        answer: dict[str, Any] = json.loads(stream.read(length))
        return answer


@dataclass(frozen=True, slots=True)
class TailResult:
    """The seconds of each page, and the queries that the server received, by contender."""

    seconds: list[float]
    queries: int

    def percentile(self, share: float) -> float:
        """Return the milliseconds within which this share of the pages took."""
        ordered = sorted(self.seconds)
        return 1000 * ordered[min(math.ceil(share * len(ordered)), len(ordered)) - 1]


@dataclass(frozen=True, slots=True)
class TailOutcome:
    """The pages of each contender, by client and hedging, and the queries of readers at once."""

    pages: dict[tuple[str, bool], TailResult]
    rounds: int
    queries_at_once: list[int]

    def tables(self) -> list[Table]:
        """Return the tables to print."""
        rows = []
        for (client, hedged), result in self.pages.items():
            p50, p99 = result.percentile(0.5), result.percentile(0.99)
            extra = result.queries / self.pages[client, False].queries - 1
            goals = (at_most(p99 / p50, GOAL_P99), at_most(extra, GOAL_EXTRA)) if hedged else ("", "")
            name = f"{client}{', hedged' if hedged else ''}"
            rows.append((name, f"{p50:.1f}", f"{p99:.1f}", f"{p99 / p50:.2f} x", goals[0], f"{extra:.1%}", goals[1]))
        at_once = [count / (N + 1) for count in self.queries_at_once]
        slow = f"{SLOW_SHARE:.0%} of the queries {1000 * SLOW:.0f} ms, others {1000 * USUAL:.0f}"
        return [
            Table(
                f"the newest page of {LIMIT}, N = {N}, {slow}, {times(self.rounds, 'page')}",
                ("", "p50 ms", "p99 ms", "p99/p50", "goal", "extra", "goal"),
                rows,
                ("Objects from before the first page are frozen: a full garbage collection stops all threads.",),
            ),
            Table(
                f"{READERS} readers at once, N = {N}, {times(len(at_once), 'round')}",
                ("", "median", "most", "goal"),
                [
                    (
                        f"queries / {N + 1}",
                        f"{sorted(at_once)[len(at_once) // 2]:.1f}",
                        f"{max(at_once):.1f}",
                        at_most(max(at_once), GOAL_QUERIES),
                    )
                ],
                (f"A page is {N + 1} queries, and a few of a second round. Without share_reads it is {READERS}.",),
            ),
        ]


def run(quick: bool = False) -> TailOutcome:
    """Run the benchmark."""
    rounds = 2 if quick else 400
    clients = (PLAIN,) if quick else (PLAIN, BOTO3)
    return TailOutcome(_read_pages(clients, rounds), rounds, _read_at_once(1 if quick else 20))


def _open(
    stack: ExitStack, client: str, *, hedge_reads: bool = False, share_reads: bool = False
) -> tuple[History, SlowQueries]:
    """Open a history over a server of its own."""
    server = stack.enter_context(SlowQueries(N, SEED))
    settings = Settings(
        aws_endpoint_url=server.url, aws_region="eu-central-1", hedge_reads=hedge_reads, share_reads=share_reads
    )
    plain = stack.enter_context(closing(PlainClient(server.url))) if client == PLAIN else None
    table = MessagesTable(settings, client=plain)
    if plain is None:
        stack.callback(table.client.close)
    history = stack.enter_context(History.over(settings, FixedLookups({CONVERSATION: N}), table))
    for _ in range(5):  # connects, and starts the threads
        _page(history)
    return history, server


def _page(history: History) -> Page:
    page = history.page(CONVERSATION, ReadOptions(limit=LIMIT))
    if [message.sort_key for message in page.messages] != NEWEST:
        raise WrongResultError("the page has wrong messages")
    return page


def _read_pages(clients: Sequence[str], rounds: int) -> dict[tuple[str, bool], TailResult]:
    with ExitStack() as stack:
        stack.enter_context(patch.dict(os.environ, dummy_credentials()))
        opened = {
            (client, hedged): _open(stack, client, hedge_reads=hedged) for client in clients for hedged in (False, True)
        }
        stack.callback(gc.unfreeze)
        gc.collect()
        gc.freeze()
        before = {name: server.queries() for name, (_, server) in opened.items()}
        timed = {str(name): partial(_time, history) for name, (history, _) in opened.items()}
        seconds = interleave(timed, rounds)
        return {
            name: TailResult(seconds[str(name)], server.queries() - before[name])
            for name, (_, server) in opened.items()
        }


def _time(history: History) -> float:
    began = time.perf_counter()
    _page(history)
    return time.perf_counter() - began


def _read_at_once(rounds: int) -> list[int]:
    """Return the queries of each round in which readers ask at the same moment."""
    counts = []
    with ExitStack() as stack:
        history, server = _open(stack, PLAIN, share_reads=True)
        readers = stack.enter_context(ThreadPoolExecutor(READERS))
        for _ in range(rounds):
            barrier, before = threading.Barrier(READERS), server.queries()

            def read(barrier: threading.Barrier = barrier) -> None:
                """Read once all are there."""
                barrier.wait()
                _page(history)

            for done in [readers.submit(read) for _ in range(READERS)]:
                done.result()
            counts.append(server.queries() - before)
    return counts
