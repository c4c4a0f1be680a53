"""Reads segments of the backup table, page by page, within a rate limit and through throttling."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from saltctl.errors import AwsUnavailableError
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.client import aws_errors, is_throttling
from saltctl.stores.aws.parallel_scan import IDLE_SECONDS
from saltctl.stores.aws.rate_limiter import RateLimiter
from saltctl.stores.aws.scan_parser import MalformedPageError, ScanClient, ScanPage
from saltctl.stores.contracts.registry import BackupPage
from saltctl.stores.retry import backoff_seconds

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
        sleep: waits for at most a number of seconds; by default until ``stop`` is set.
    """

    def __init__(
        self,
        client: ScanClient,
        table: str,
        plan: ScanPlan,
        *,
        stop: threading.Event,
        sleep: Callable[[float], object] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self._table = table
        self._where = f"{table!r}"
        self._plan = plan
        self._stop = stop
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
            "ProjectionExpression": "#id, max_n, write_n",
            "ExpressionAttributeNames": {"#id": KEY},
        }
        last = self._plan.after.get(segment)
        while not self._stop.is_set():
            if last is not None:
                request["ExclusiveStartKey"] = {KEY: {"S": last}}
            with aws_errors(self._where):
                page = self._read_page(request)
            if page is None:
                return
            last = page.last
            yield BackupPage(page.entries, page.damaged, page.consumed_rcu, segment, last, page.above_cap)
            # An empty page is not the end; only a missing LastEvaluatedKey is.
            if last is None:
                return

    def _read_page(self, request: dict[str, Any]) -> ScanPage | None:
        """Send a request within the rate limit, and retry it while throttled; None if the scan stops."""
        from botocore.exceptions import ClientError

        began, throttled, malformed = self._clock(), 0, 0
        while not self._stop.is_set():
            if (permit := self._limiter.request_permit()).wait:
                self._sleep(min(permit.wait, IDLE_SECONDS))
                continue
            try:
                page = self._client.scan(self._with_limit(request))
            except MalformedPageError as exc:
                malformed += 1
                self._limiter.settle(permit, permit.reserved, 0)
                if malformed == _MAX_MALFORMED:
                    raise AwsUnavailableError(
                        f"the response for table {self._where} is not a page of a scan: {exc}",
                        hint="is there a proxy in between? saltctl config show",
                    ) from exc
            except ClientError as exc:
                if not is_throttling(exc):
                    raise
                self._limiter.slow_down(permit)
                if self._clock() - began > THROTTLING_TIMEOUT:
                    raise
                self._sleep(backoff_seconds(throttled))
                throttled += 1
            else:
                self._limiter.settle(permit, page.consumed_rcu, len(page.entries) + len(page.damaged))
                return page
        return None

    def _with_limit(self, request: dict[str, Any]) -> dict[str, Any]:
        limits = [limit for limit in (self._plan.limit, self._limiter.page_limit()) if limit is not None]
        return request | {"Limit": min(limits)} if limits else request
