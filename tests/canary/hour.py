"""An hour of production in small: ``python3 -m tests.canary.hour --minutes 60``.

On a local environment run ``local load``, the service, the canary in its loop, and the jobs of the README's crontab
with the full audit. Redis is killed every few minutes, each second time without its data. Meanwhile faults are
planted which the tools must report: messages beyond max_n, a conversation that the registry has lost, and lost entries
of the canary's own conversations. At the end every report is compared with what happened.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from saltctl.canary.conversations import BOUND, RESERVED
from saltctl.errors import ExitCode, SaltctlError
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import free_port
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.times import iso_utc

SALTCTL = (sys.executable, "-m", "saltctl")
JOBS: Mapping[str, tuple[str, ...]] = {
    "rebuild": ("rebuild", "--if-needed", "--timeout", "10m", "-o", "json"),
    "setup": ("setup", "--stream", "-o", "json"),
    "replay": ("stream", "replay", "--max-events", "100000", "--timeout", "50s", "-o", "json"),
    "compare": ("compare", "-o", "json"),
    "audit": ("history", "audit", "--all", "--max-rcu", "200", "--for", "40s", "-o", "json"),
}
"""The jobs of cron, which run once a minute with --metrics-file. Without --cron, so that all of them report."""
SALTED, LOST = "conv_hot_01", "conv_without_entry"
AFTERMATH = 10.0
"""Seconds after an outage in which a report may still be about it: a request began before its end."""


class Span(NamedTuple):
    """What happened from ``began`` to ``ended``, in seconds since the epoch."""

    what: str
    began: float
    ended: float

    def touches(self, report: Report) -> bool:
        """Return whether it overlaps a report, or its aftermath does."""
        return self.began <= report.ended and report.began <= self.ended + AFTERMATH


class Report(NamedTuple):
    """What a tool reported: the exit code, and the JSON document, which is empty if it printed an error instead."""

    tool: str
    began: float
    ended: float
    code: int
    document: Mapping[str, Any]
    error: str = ""


@dataclass
class Hour:
    """The environment, everything that happened, and everything that was reported."""

    environment: LocalEnvironment
    seconds: float
    rng: random.Random
    directory: Path
    happened: list[Span] = field(default_factory=list)
    reports: list[Report] = field(default_factory=list)
    over: threading.Event = field(default_factory=threading.Event)
    killing: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        self.began = time.time()
        self.registry = Registry.open(self.environment.settings)
        self.messages = MessagesTable(self.environment.settings)

    def spans(self, what: str) -> list[Span]:
        """Return what happened of one kind."""
        return [span for span in self.happened if span.what == what]

    def say(self, line: str) -> None:
        """Print a line with the minute of the run."""
        sys.stdout.write(f"{(time.time() - self.began) / 60:5.1f} min  {line}\n")
        sys.stdout.flush()

    def start(self, name: str, *arguments: str, **options: Any) -> subprocess.Popen[str]:
        """Start a command that runs until the end; what it prints is in a file."""
        with (self.directory / f"{name}.log").open("ab") as log:
            options = {"stdout": log, "stderr": log, "text": True, **options}
            return subprocess.Popen([*SALTCTL, *arguments], env=self.environment.variables(), **options)

    def run(self, tool: str, *arguments: str) -> Report:
        """Run a command to its end, and keep its report."""
        began = time.time()
        done = subprocess.run(
            [*SALTCTL, *arguments], env=self.environment.variables(), capture_output=True, text=True, check=False
        )
        document = json.loads(done.stdout) if done.stdout.strip() else {}
        report = Report(tool, began, time.time(), done.returncode, document, done.stderr[-500:])
        self.reports.append(report)
        return report

    # What is done to it.

    def kill_redis(self) -> None:
        """Kill Redis every two to five minutes, each second time without its data."""
        kills = 0
        while not self.over.wait(self.rng.uniform(120, 300)):
            kills += 1
            self._restart_redis(empty=kills % 2 == 0)

    def _restart_redis(self, *, empty: bool) -> None:
        """Kill Redis and start it again, one thread at a time, and wait until it answers lookups."""
        redis, began = self.environment.redis, time.time()
        with self.killing:
            redis.kill()
            time.sleep(self.rng.uniform(1, 8))
            if empty:
                redis.delete_aof()
            redis.start()
            self._wait_for_redis()
        self.happened.append(Span("outage", began, time.time()))
        self.say(f"Redis was killed{' and lost its data' if empty else ''}: {time.time() - began:.0f} s")

    def _wait_for_redis(self) -> None:
        """Wait until lookups are answered by Redis again."""
        while not self.over.is_set():
            with suppress(SaltctlError):
                if all(found.source == "redis" for found in self.registry.lookup_many(RESERVED).values()):
                    return
            time.sleep(0.2)

    def plant(self) -> None:
        """Plant what audit and canary must find, and repair it later."""
        if self.over.wait(self.seconds * 0.2):
            return
        began = time.time()
        n = self.registry.lookup(SALTED).max_n
        for conversation_id, needed in ((SALTED, 2 * n), (LOST, 4)):
            self._put_on_salts(conversation_id, needed)
        self.say(f"{SALTED} has messages beyond its max_n of {n}; {LOST} has no entry")
        if self.over.wait(self.seconds * 0.3):
            return
        self._repair(SALTED, LOST)
        self.happened.append(Span("planted", began, time.time()))
        if self.over.wait(self.seconds * 0.2):
            return
        self._lose_entries_of_the_canary()

    def _repair(self, *conversation_ids: str) -> None:
        for conversation_id in conversation_ids:
            repaired = self.run("repair", "history", "audit", conversation_id, "--repair", "--yes", "-o", "json")
            self.say(f"repair of {conversation_id}: exit code {repaired.code}")
            if repaired.code == ExitCode.REFUSED and conversation_id in RESERVED:  # too few messages prove it
                self.run("repair", "registry", "set", conversation_id, str(BOUND), "--yes", "-o", "json")

    def _put_on_salts(self, conversation_id: str, needed: int) -> None:
        """Write messages as if the conversation had been raised to ``needed``."""
        for number in range(8 * needed):
            message_id = f"planted-{conversation_id}-{number}"
            key = partition_key(conversation_id, salt_of(message_id, needed))
            row = {"message_id": {"S": message_id}, "text": {"S": "planted"}}
            self.messages.put(key, f"{iso_utc(time.time())}#{message_id}", row)

    def _lose_entries_of_the_canary(self) -> None:
        """Delete the entries of the canary's conversations from the backup, and kill Redis with its data."""
        began, settings = time.time(), self.environment.settings
        client = create_client(settings, "dynamodb")
        for conversation_id in RESERVED:
            client.delete_item(TableName=settings.backup_table, Key={"conversation_id": {"S": conversation_id}})
        self._restart_redis(empty=True)
        self.say("the canary's conversations lost their entries in the backup and in Redis")
        self.over.wait(self.seconds * 0.1)
        self._repair(*RESERVED)
        self.happened.append(Span("entries lost", began, time.time()))

    def watch_aws(self) -> None:
        """Record when AWS took half of the timeout to answer, as an emulator does while its machine stands still."""
        slow = self.environment.settings.aws_timeout / 2
        client = create_client(replace(self.environment.settings, aws_timeout=60.0), "dynamodb")
        while not self.over.wait(0.2):
            began = time.time()
            client.describe_table(TableName=self.environment.settings.messages_table)
            if (took := time.time() - began) >= slow:
                self.happened.append(Span("slow AWS", began, time.time()))
                self.say(f"AWS answered after {took:.1f} s")

    # What runs on it.

    def watch_canary(self) -> None:
        """Collect the reports of the canary's loop."""
        arguments = ("canary", "--every", "20s", "-o", "jsonl", "--metrics-file", str(self.directory / "canary.prom"))
        process = self.start("canary", *arguments, stdout=subprocess.PIPE)
        assert process.stdout is not None

        def end() -> None:
            """End the loop at the end of the hour."""
            self.over.wait()
            process.terminate()

        threading.Thread(target=end, daemon=True).start()
        for line in process.stdout:
            document, ended = json.loads(line), time.time()
            code = {True: 0, False: 3, None: 4}[document["ok"]]
            self.reports.append(Report("canary", ended - document["seconds"], ended, code, document))
        self.reports.append(Report("canary's loop", self.began, time.time(), process.wait(), {}))

    def run_jobs(self) -> None:
        """Run the jobs of cron and ``status`` every minute."""
        while not self.over.wait(max(60 - time.time() % 60, 1.0)):
            for tool, arguments in JOBS.items():
                self.run(tool, *arguments, "--metrics-file", str(self.directory / f"{tool}.prom"))
            self.run("status", "status", "-o", "json")


def judge(hour: Hour) -> Iterator[str]:
    """Yield every report that was not true."""
    outages, slow, planted, lost = (hour.spans(w) for w in ("outage", "slow AWS", "planted", "entries lost"))
    for report in hour.reports:
        calm = not any(span.touches(report) for span in outages + slow)
        broken = any(span.touches(report) for span in lost)
        described = f"{report.tool} at {(report.ended - hour.began) / 60:.1f} min: {report.code} {report.error}"
        match report.tool:
            case "canary":
                if report.code == 3 and not broken:
                    yield f"{described}: nothing was wrong: {_failed(report)}"
                if report.code == 4 and calm:
                    yield f"{described}: nothing kept it from judging: {_failed(report)}"
            case "audit":
                named = {found["conversation_id"] for found in report.document.get("findings", ())}
                if unplanted := named - {SALTED, LOST, *RESERVED}:
                    yield f"{described}: {unplanted} have no orphans"
                if report.code not in (0, 3) and calm:
                    yield f"{described}: nothing kept it from its work"
            case "rebuild" | "setup" | "replay" | "compare" | "repair":
                if report.code and calm and not broken:
                    yield f"{described}: nothing was wrong"
    yield from _unreported(hour, planted, lost)
    if not outages:
        yield "Redis was never killed"


def _unreported(hour: Hour, planted: Sequence[Span], lost: Sequence[Span]) -> Iterator[str]:
    """Yield what nobody reported."""
    audits = [report for report in hour.reports if report.tool == "audit"]
    for span in planted:
        for conversation_id in (SALTED, LOST):
            finding = [a for a in audits if span.began < a.began < span.ended and _names(a, conversation_id)]
            if not finding:
                yield f"no audit found {conversation_id}"
            if audits and _names(audits[-1], conversation_id):
                yield f"the last audit still names {conversation_id}, which was repaired"
    for span in lost:
        if not any(report.tool == "canary" and report.code == 3 and span.touches(report) for report in hour.reports):
            yield "no canary noticed that its entries were lost"


def _names(report: Report, conversation_id: str) -> bool:
    return any(found["conversation_id"] == conversation_id for found in report.document.get("findings", ()))


def _failed(report: Report) -> str:
    return "; ".join(f"{check['name']}: {check['detail']}" for check in report.document["checks"] if not check["ok"])


def _summary(hour: Hour) -> Iterator[str]:
    """Yield a line for each tool: its reports by exit code."""
    codes = Counter((report.tool, report.code) for report in hour.reports)
    for tool in dict(codes):
        yield f"{tool[0]}: {codes[tool]} with exit code {tool[1]}"
    rounds = sorted(report.ended - report.began for report in hour.reports if report.tool == "canary")
    if rounds:
        yield f"a round of the canary: median {rounds[len(rounds) // 2]:.1f} s, longest {rounds[-1]:.1f} s"


def main() -> int:
    """Run, print the timeline, and return 1 if a report was not true."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--directory", type=Path, required=True, help="for logs and metrics files")
    options = parser.parse_args()
    options.directory.mkdir(parents=True, exist_ok=True)
    seconds = options.minutes * 60
    with LocalEnvironment() as environment, ExitStack() as stack:
        environment.seed()
        hour = Hour(environment, seconds, random.Random(options.seed), options.directory)
        port = str(free_port())
        hour.say(f"the service's metrics: http://127.0.0.1:{port}/metrics, those of jobs: {options.directory}/*.prom")
        service = hour.start("service", "service", "run", "--metrics-port", port)
        stack.callback(service.wait)
        stack.callback(service.terminate)
        load = hour.start("load", "local", "load", "--rate", "1000", "--servers", "4", "--duration", f"{seconds:.0f}s")
        stack.callback(load.wait)
        tasks = (hour.kill_redis, hour.plant, hour.watch_aws, hour.watch_canary, hour.run_jobs)
        threads = [threading.Thread(target=task) for task in tasks]
        for thread in threads:
            thread.start()
        time.sleep(seconds)
        hour.over.set()
        for thread in threads:
            thread.join()
    with (options.directory / "reports.jsonl").open("w") as file:
        file.writelines(json.dumps(report._asdict()) + "\n" for report in hour.reports)
    untrue = list(judge(hour))
    for line in (*_summary(hour), *(untrue or ["every report was true"])):
        sys.stdout.write(f"{line}\n")
    return bool(untrue)


if __name__ == "__main__":
    sys.exit(main())
