"""The parallel scan of the backup table: threads that read, a segment each at a time, and one taker of pages."""

from __future__ import annotations

import queue
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from saltctl.errors import AwsUnavailableError, ThrottledError
from saltctl.stores.aws.client import POOL_SIZE, aws_errors, to_saltctl_error
from saltctl.stores.aws.rate_limiter import RateLimiter
from saltctl.stores.aws.scan_parser import KEY, MalformedPageError, ScanClient, ScanPage
from saltctl.stores.contracts import BackupPage

SIGN_OF_LIFE = 1.0
"""Seconds without a page after which a scan yields an empty one, so that its caller can renew its lease."""
MAX_THREADS = POOL_SIZE
PATIENCE = 600.0
"""Seconds for which one segment waits out throttling. botocore's retry quota runs dry after some ten throttled calls;
a recovery must outlast a table that everybody reads at once."""
_DAMAGED_ANSWERS = 3


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """What to scan and how: the arguments of ``BackupStore.scan``."""

    segments: int
    limit: int | None = None
    only: int | None = None
    after: Mapping[int, str | None] = field(default_factory=dict)
    max_rcu: float | None = None

    @property
    def unfinished(self) -> list[int]:
        """The segments that are to be read."""
        asked = range(self.segments) if self.only is None else (self.only,)
        return [segment for segment in asked if self.after.get(segment, "") is not None]


class SegmentReader:
    """Reads segments, page by page, in the caller's thread. Thread-safe.

    Args:
        table: its name.
        plan: which segments, and at what pace.
        stop: set when the scan is to end.
        sleep: waits, if need be not to the end; by default until ``stop`` is set.
        clock: monotonic seconds.
    """

    def __init__(
        self,
        reader: ScanClient,
        table: str,
        plan: ScanPlan,
        *,
        stop: threading.Event,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._reader = reader
        self._table = table
        self._where = f"{table!r}"
        self._plan = plan
        self._stop = stop
        self._sleep = sleep or stop.wait
        self._clock = clock
        self._limiter = RateLimiter(plan.max_rcu, clock=clock)

    def pages(self, segment: int) -> Iterator[BackupPage]:
        """The pages of one segment, until its end or until the scan is to stop."""
        request: dict[str, Any] = {
            "TableName": self._table,
            "ConsistentRead": True,
            "Segment": segment,
            "TotalSegments": self._plan.segments,
            "ReturnConsumedCapacity": "TOTAL",
            "ProjectionExpression": "#id, max_n, write_n",
            "ExpressionAttributeNames": {"#id": KEY},
        }
        last = self._plan.after.get(segment)
        while not self._stop.is_set():
            if last is not None:
                request["ExclusiveStartKey"] = {KEY: {"S": last}}
            with aws_errors(self._where):
                answer = self._answer(request)
            if answer is None:
                return
            last = answer.last
            yield BackupPage(answer.entries, answer.damaged, answer.consumed_rcu, segment, last, answer.above_cap)
            # An empty page is not the end; only a missing LastEvaluatedKey is.
            if last is None:
                return

    def _answer(self, request: dict[str, Any]) -> ScanPage | None:
        """The answer to a request at the pace that is allowed, throttling waited out; None where it is to stop."""
        from botocore.exceptions import ClientError

        began, attempt, damaged = self._clock(), 0, 0
        while not self._stop.is_set():
            if (permit := self._limiter.request_permit()).wait:
                self._sleep(min(permit.wait, SIGN_OF_LIFE))
                continue
            try:
                answer = self._reader.scan(self._limited(request))
            except MalformedPageError as exc:
                damaged += 1
                self._limiter.settle(permit, permit.reserved, 0)
                if damaged == _DAMAGED_ANSWERS:
                    raise AwsUnavailableError(
                        f"what comes back for table {self._where} is no page of a scan: {exc}",
                        hint="is there a proxy in between? saltctl config show",
                    ) from exc
            except ClientError as exc:
                if not isinstance(to_saltctl_error(exc, self._where), ThrottledError):
                    raise
                self._limiter.slow_down(permit)
                if self._clock() - began > PATIENCE:
                    raise
                self._sleep(random.uniform(0.5, 1) * min(4.0, 0.1 * 2**attempt))
                attempt = min(attempt + 1, 10)
            else:
                read = len(answer.entries) + len(answer.damaged)
                self._limiter.settle(permit, answer.consumed_rcu, read)
                return answer
        return None

    def _limited(self, request: dict[str, Any]) -> dict[str, Any]:
        limits = [limit for limit in (self._plan.limit, self._limiter.page_limit()) if limit is not None]
        return request | {"Limit": min(limits)} if limits else request


def scan_in_parallel(
    segments: SegmentReader, plan: ScanPlan, stop: threading.Event, patience: float
) -> Iterator[BackupPage]:
    """All pages of a plan, as they come; an empty one about every second while none comes.

    One page waits beside the one in use, and each thread has at most one in hand: memory does not grow with the table.
    ``patience``: seconds to wait for threads that are inside a request when the caller stops.
    """
    unfinished = plan.unfinished
    waiting = iter(unfinished)
    taking = threading.Lock()
    threads = min(len(unfinished), MAX_THREADS)
    pages: queue.Queue[BackupPage | Exception | None] = queue.Queue(maxsize=1)

    def put(page: BackupPage | Exception | None) -> None:
        while not stop.is_set():
            try:
                pages.put(page, timeout=0.1)
                return
            except queue.Full:
                continue

    def take() -> int | None:
        with taking:
            return next(waiting, None)

    def work() -> None:
        try:
            while (segment := take()) is not None and not stop.is_set():
                for page in segments.pages(segment):
                    put(page)
            put(None)
        except Exception as exc:  # handed to the caller's thread, which raises it
            put(exc)

    workers = [threading.Thread(target=work, name=f"scan-{number}", daemon=True) for number in range(threads)]
    for worker in workers:
        worker.start()
    try:
        running = threads
        while running:
            try:
                page = pages.get(timeout=SIGN_OF_LIFE)
            except queue.Empty:
                yield BackupPage([], [], 0.0, -1)
                continue
            if isinstance(page, Exception):
                raise page
            if page is None:
                running -= 1
            else:
                yield page
    finally:
        stop.set()
        # One deadline for all of them: whoever is told to end must not wait for each in turn.
        until = time.monotonic() + patience
        for worker in workers:
            worker.join(timeout=max(until - time.monotonic(), 0.0))
