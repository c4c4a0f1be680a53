"""Reads segments of the backup table, page by page, within a rate limit and through throttling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from math import exp, inf
from typing import Any, NamedTuple

from saltctl.errors import AwsUnavailableError, SaltctlError
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.failures.errors import aws_errors, is_throttling, to_saltctl_error
from saltctl.stores.aws.failures.responses import Progress
from saltctl.stores.aws.scan_parser import MalformedPageError, ScanClient, ScanPage
from saltctl.stores.bounded.errors import PROXY_HINT
from saltctl.stores.contracts.registry import BackupPage
from saltctl.stores.parallel_scan import IDLE_SECONDS
from saltctl.stores.retry import backoff_seconds
from saltctl.stores.throttle_notes import throttling_noted

PAGE_ITEMS = 5_000
"""Items in a page, unless its 1 MB ends before, which has up to 12,000. A scan needs several times the memory of a page
for each segment that it reads at the same time."""
LEAST_RCU = 5.0
"""Throttling slows no scan below this rate: the smallest capacity that the console offers for a table."""
RECOVERY = 0.25
"""The share of its rate that a slowed scan regains a second: from the least rate to 1,000 in 24 seconds."""
LARGEST_RCU = 40_000.0
"""A table's quota unless AWS raised it (documented): a scan that may read this much is no longer slowed."""
AVERAGING_SECONDS = 5.0
"""The time constant of the average of recent consumption."""
ITEMS_PER_UNIT = 10.0
"""Assumed items in a read unit of 4 KB before the first page: backup items have about 100 to 400 bytes."""


class Permit(NamedTuple):
    """A permit to send a request if ``wait`` is 0; otherwise the seconds to wait before asking again.

    ``reserved`` are the units that are set aside for the request.
    """

    wait: float
    reserved: float = 0.0


class RateLimiter:
    """Limits the rate of all segments of a scan together. Thread-safe.

    A request reserves the units that the previous one consumed, and settles the difference when its response arrives.
    Requests in progress count, so ``max_rcu`` holds for pages of any size and for any number of segments.

    Args:
        max_rcu: read capacity units a second; None for no limit.
    """

    def __init__(self, max_rcu: float | None, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._max_rate = inf if max_rcu is None else max_rcu
        self._clock = clock
        self._lock = threading.Lock()
        self.rate = self._max_rate
        """The units a second that are allowed now."""
        self._at = clock()
        self._balance = 0.0
        self._expected = 0.0
        self._items_per_unit = ITEMS_PER_UNIT
        self._recent = 0.0
        self._slowed_at = -inf

    def page_limit(self) -> int | None:
        """Return the items to request so that a page costs a quarter of a second's units; None for no limit."""
        return None if self.rate == inf else max(1, int(self.rate * self._items_per_unit / 4))

    def request_permit(self) -> Permit:
        """Reserve units for a request."""
        with self._lock:
            self._refill()
            if self.rate == inf:
                return Permit(0.0)
            if self._balance < 0:
                return Permit(max(-self._balance / self.rate, 0.001))
            self._balance -= self._expected
            return Permit(0.0, self._expected)

    def settle(self, permit: Permit, consumed: float, items: int) -> None:
        """Record the units that a request consumed and the items that it read."""
        with self._lock:
            self._refill()
            self._recent += consumed
            self._balance += permit.reserved - consumed
            if consumed > 0:
                self._expected = consumed
                self._items_per_unit = max(items, 1) / consumed

    def slow_down(self, permit: Permit) -> None:
        """Record that DynamoDB throttled a request: continue at half of the recent rate.

        The rate is halved at most once a second, by whichever segment is throttled first.
        """
        with self._lock:
            self._refill()
            self._balance += permit.reserved
            if self._at - self._slowed_at < 1.0:
                return
            self._slowed_at = self._at
            recent_rate = min(self.rate, self._recent / AVERAGING_SECONDS)
            self.rate = min(self._max_rate, max(LEAST_RCU, recent_rate / 2))
            self._balance = 0.0

    def _refill(self) -> None:
        """Apply the time that has passed: fill the bucket up to one second's units, and recover a slowed rate."""
        now = self._clock()
        passed, self._at = now - self._at, now
        self._recent *= exp(-passed / AVERAGING_SECONDS)
        if self.rate < self._max_rate:
            faster = self.rate * (1 + RECOVERY) ** passed
            self.rate = self._max_rate if faster >= min(self._max_rate, LARGEST_RCU) else faster
        self._balance = 0.0 if self.rate == inf else min(self._balance + passed * self.rate, self.rate)


THROTTLING_TIMEOUT = 600.0
"""Seconds for which a segment retries a throttled request. botocore's retry quota is used up after about ten throttled
calls; a recovery must outlast an outage during which every lookup reads the table."""
_MAX_MALFORMED = 3


@dataclass(frozen=True, slots=True)
class ScanPlan:
    """The arguments of ``BackupStore.scan``."""

    segments: int
    limit: int | None = None
    only: int | None = None
    after: Mapping[int, str | None] = field(default_factory=dict)
    max_rcu: float | None = None

    @property
    def unfinished(self) -> list[int]:
        """The segments that are not read to their end."""
        chosen = range(self.segments) if self.only is None else (self.only,)
        return [segment for segment in chosen if self.after.get(segment, "") is not None]


class SegmentReader:
    """Reads segments, page by page, in the caller's thread. Thread-safe.

    Args:
        plan: the arguments of the scan.
        stop: set when the scan must end.
        missing: returns the error if the table does not exist.
        sleep: waits for at most a number of seconds; by default until ``stop`` is set.
    """

    def __init__(
        self,
        client: ScanClient,
        table: str,
        plan: ScanPlan,
        *,
        stop: threading.Event,
        missing: Callable[[], SaltctlError] | None = None,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._table = table
        self._where = f"{table!r}"
        self._plan = plan
        self._stop = stop
        self._missing = missing
        self._sleep = sleep or stop.wait
        self._clock = clock
        self._limiter = RateLimiter(plan.max_rcu, clock=clock)

    def pages(self, segment: int) -> Iterator[BackupPage]:
        """Yield the pages of one segment, until its end or until the scan stops."""
        request: dict[str, Any] = {
            "TableName": self._table,
            "ConsistentRead": True,
            "Segment": segment,
            "TotalSegments": self._plan.segments,
            "ReturnConsumedCapacity": "TOTAL",
            "ProjectionExpression": "#id, max_n, write_n, cooling",
            "ExpressionAttributeNames": {"#id": KEY},
        }
        last, progress = self._plan.after.get(segment), Progress()
        while not self._stop.is_set():
            if last is not None:
                request["ExclusiveStartKey"] = {KEY: {"S": last}}
            with aws_errors(self._where, self._missing), throttling_noted() as note:
                page = self._read_page(request, note)
                if page is None:
                    return
                progress.check(page.last)
            last = page.last
            yield BackupPage(page.entries, page.damaged, page.consumed_rcu, segment, last, page.above_cap)
            # An empty page is not the end; only a missing LastEvaluatedKey is.
            if last is None:
                return

    def _read_page(self, request: dict[str, Any], note: Callable[[str], None]) -> ScanPage | None:
        """Send a request within the rate limit, and retry it while throttled; None if the scan stops."""
        from botocore.exceptions import ClientError

        began, throttled, malformed = self._clock(), 0, 0
        while not self._stop.is_set():
            if (permit := self._limiter.request_permit()).wait:
                self._sleep(min(permit.wait, IDLE_SECONDS))
                continue
            try:
                page = self._client.scan(self._with_limit(request))
                if page.last is not None and {KEY: {"S": page.last}} == request.get("ExclusiveStartKey"):
                    raise MalformedPageError("it ends where it starts")
            except MalformedPageError as exc:
                malformed += 1
                self._limiter.settle(permit, permit.reserved, 0)
                if malformed == _MAX_MALFORMED:
                    raise AwsUnavailableError(
                        f"the response for table {self._where} is not a page of a scan: {exc}",
                        hint=PROXY_HINT,
                    ) from exc
            except ClientError as exc:
                if not is_throttling(exc):
                    raise
                self._limiter.slow_down(permit)
                if self._clock() - began > THROTTLING_TIMEOUT:
                    raise
                note(to_saltctl_error(exc, self._where).message)
                self._sleep(backoff_seconds(throttled))
                throttled += 1
            else:
                self._limiter.settle(permit, page.consumed_rcu, len(page.entries) + len(page.damaged))
                return page
        return None

    def _with_limit(self, request: dict[str, Any]) -> dict[str, Any]:
        limit, within_rate = self._plan.limit or PAGE_ITEMS, self._limiter.page_limit()
        return request | {"Limit": limit if within_rate is None else min(limit, within_rate)}
