"""What the rebuild benchmark compares, each run in a process of its own, so that none inherits memory or imports.

``python -m tests.benchmarks.contenders NAME COUNT BUCKETS REDIS_URL ENDPOINT`` prints a line of JSON: the items it
handled, the seconds from the first request to the last answer, and the peak of its memory in bytes. What a
program does once before that, importing and making clients, is outside the clock for all of them.
"""

from __future__ import annotations

import http.client
import json
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from saltctl.rebuild.events import RebuildReport
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.scan_parser import PageParser
from saltctl.stores.redis.registry import RedisRegistry

PIPELINE = 1000
"""Commands that the careful script sends at once."""
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Finished:
    """What a contender did."""

    items: int
    seconds: float
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Items a second."""
        return self.items / self.seconds


@dataclass(frozen=True, slots=True)
class Job:
    """What a contender is given: at most ``count`` items are asked of it, and pages are never cut."""

    count: int
    buckets: int
    redis_url: str
    endpoint: str

    @property
    def settings(self) -> Settings:
        """Settings for saltctl's own contenders, everything else by default."""
        return Settings(
            redis_url=self.redis_url, buckets=self.buckets, aws_region=REGION, aws_endpoint_url=self.endpoint
        )


Work = Callable[[], int]
"""The part inside the clock; returns how many items it handled."""


def rebuild(job: Job) -> Work:
    """Saltctl's rebuild, whole: lease, tokens, scan, merge, fences, lookup script."""
    settings = job.settings
    store, backup = RedisRegistry(settings), BackupTable(settings)
    _ = backup.client
    run = Rebuild(settings, store, backup).run

    def work() -> int:
        report = None
        for event in run():
            report = event
        assert isinstance(report, RebuildReport)
        assert report.verified
        return report.entries

    return work


def scan(job: Job) -> Work:
    """Saltctl's scan of the backup alone: what a rebuild drains."""
    backup = BackupTable(job.settings)
    _ = backup.client
    return lambda: sum(len(page.entries) for page in backup.scan(RebuildOptions().segments))


def careful(job: Job) -> Work:
    """The script of somebody who took care: the client's Scan, projected, and one HSET an item in pipelines."""
    import redis

    pages = _client_pages(job)
    client = redis.Redis.from_url(job.redis_url)

    def work() -> int:
        handled = 0
        for page in pages():
            for start in range(0, len(page), PIPELINE):
                pipeline = client.pipeline(transaction=False)
                for item in page[start : start + PIPELINE]:
                    conversation = item[KEY]["S"]
                    bucket = bucket_of(conversation, job.buckets)
                    pipeline.hset(f"salt:r:{bucket}", conversation, item["max_n"]["N"])
                pipeline.execute()
            handled += len(page)
            if handled >= job.count:
                break
        return handled

    return work


def naive(job: Job) -> Work:
    """The script that is written first: the resource's Scan, and one SET an item."""
    import redis

    pages = _resource_pages(job)
    client = redis.Redis.from_url(job.redis_url)

    def work() -> int:
        handled = 0
        for page in pages():
            for item in page:
                client.set(f"salt:{item[KEY]}", int(item["max_n"]))
                handled += 1
                if handled >= job.count:
                    return handled
        return handled

    return work


def drain_client(job: Job) -> Work:
    """The Scan of the boto3 client alone."""
    pages = _client_pages(job)
    return lambda: sum(len(page) for page in pages())


def drain_resource(job: Job) -> Work:
    """The Scan of the boto3 resource alone."""
    pages = _resource_pages(job)
    return lambda: sum(len(page) for page in pages())


def floor(job: Job) -> Work:
    """The least that draining costs: one connection, the pages as they come, and the fastest parser there is."""
    parse = PageParser(Settings.max_n_cap).parse
    connection = http.client.HTTPConnection(urlsplit(job.endpoint).netloc)
    request: dict[str, Any] = {"TableName": "backup"}
    headers = {"X-Amz-Target": "DynamoDB_20120810.Scan"}

    def work() -> int:
        handled = 0
        while True:
            connection.request("POST", "/", json.dumps(request), headers)
            page = parse(connection.getresponse().read())
            handled += len(page.entries)
            if page.last is None:
                return handled
            request["ExclusiveStartKey"] = {KEY: {"S": page.last}}

    return work


def _client_pages(job: Job) -> Callable[[], Iterator[list[Any]]]:
    import boto3

    dynamodb = boto3.client("dynamodb", region_name=REGION, endpoint_url=job.endpoint)
    paginator = dynamodb.get_paginator("scan")
    wanted: Any = {
        "TableName": "backup",
        "ConsistentRead": True,
        "ProjectionExpression": "#id, max_n",
        "ExpressionAttributeNames": {"#id": KEY},
    }
    return lambda: (page["Items"] for page in paginator.paginate(**wanted))


def _resource_pages(job: Job) -> Callable[[], Iterator[list[Any]]]:
    import boto3

    table = boto3.resource("dynamodb", region_name=REGION, endpoint_url=job.endpoint).Table("backup")

    def pages() -> Iterator[list[Any]]:
        answer = table.scan()
        yield answer["Items"]
        while "LastEvaluatedKey" in answer:
            answer = table.scan(ExclusiveStartKey=answer["LastEvaluatedKey"])
            yield answer["Items"]

    return pages


CONTENDERS: dict[str, Callable[[Job], Work]] = {
    made.__name__: made for made in (rebuild, scan, careful, naive, drain_client, drain_resource, floor)
}


def peak_bytes() -> int:
    """The largest resident size that this process had."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage, which on Linux counts what the parent had when it forked.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Run one contender."""
    name, count, buckets, redis_url, endpoint = sys.argv[1:]
    work = CONTENDERS[name](Job(int(count), int(buckets), redis_url, endpoint))
    started = time.perf_counter()
    items = work()
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps(asdict(Finished(items, seconds, peak_bytes()))) + "\n")


if __name__ == "__main__":
    main()
