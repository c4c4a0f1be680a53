"""The contenders of the rebuild benchmark. Each run is a separate process, so that none inherits memory or imports.

``python -m tests.benchmarks.contenders NAME COUNT BUCKETS REDIS_URL ENDPOINT`` prints a line of JSON: the items it
handled, the seconds from the first request to the last response, and its peak memory in bytes. The time for imports
and for creating clients is not measured, for any contender.
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
from tests.benchmarks.entries import REGISTRY_ID

PIPELINE = 1000
"""The number of commands in a pipeline of the careful script."""
REGION = "us-east-1"


@dataclass(frozen=True, slots=True)
class Finished:
    """The result of a contender."""

    items: int
    seconds: float
    peak_bytes: int

    @property
    def rate(self) -> float:
        """Items per second."""
        return self.items / self.seconds


@dataclass(frozen=True, slots=True)
class Job:
    """The task of a contender: to handle the items up to ``count``, in whole pages."""

    count: int
    buckets: int
    redis_url: str
    endpoint: str

    @property
    def settings(self) -> Settings:
        """Settings for saltctl's contenders; the rest are defaults."""
        return Settings(
            redis_url=self.redis_url,
            buckets=self.buckets,
            registry_id=REGISTRY_ID,
            aws_region=REGION,
            aws_endpoint_url=self.endpoint,
        )


Work = Callable[[], int]
"""The measured part of a contender; returns the number of items it handled."""


def rebuild(job: Job) -> Work:
    """Prepare saltctl's complete rebuild: lease, tokens, scan, merge, fences, lookup script."""
    settings = job.settings
    store, backup = RedisRegistry(settings), BackupTable(settings)
    backup.registry.create()
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
    """Prepare saltctl's scan of the backup without the rest of a rebuild."""
    backup = BackupTable(job.settings)
    _ = backup.client
    return lambda: sum(len(page.entries) for page in backup.scan(RebuildOptions().segments))


def careful(job: Job) -> Work:
    """Prepare a careful script: the client's Scan with a projection, and an HSET for each item in pipelines."""
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
    """Prepare a simple script: the resource's Scan, and a SET for each item."""
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
    """Prepare the Scan of the boto3 client without writes."""
    pages = _client_pages(job)
    return lambda: sum(len(page) for page in pages())


def drain_resource(job: Job) -> Work:
    """Prepare the Scan of the boto3 resource without writes."""
    pages = _resource_pages(job)
    return lambda: sum(len(page) for page in pages())


def floor(job: Job) -> Work:
    """Prepare the fastest possible scan: one connection, and the fastest parser for its pages."""
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
    prepare.__name__: prepare for prepare in (rebuild, scan, careful, naive, drain_client, drain_resource, floor)
}


def peak_bytes() -> int:
    """Return the largest resident size of this process so far."""
    status = Path("/proc/self/status")
    if status.exists():
        # Not getrusage: on Linux it includes the size of the parent at the fork.
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) * 1024
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> None:
    """Run one contender and print its result."""
    name, count, buckets, redis_url, endpoint = sys.argv[1:]
    work = CONTENDERS[name](Job(int(count), int(buckets), redis_url, endpoint))
    started = time.perf_counter()
    items = work()
    seconds = time.perf_counter() - started
    sys.stdout.write(json.dumps(asdict(Finished(items, seconds, peak_bytes()))) + "\n")


if __name__ == "__main__":
    main()
