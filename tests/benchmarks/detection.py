"""Detection: time to count a write, memory of the meter, reports per second, and time until a salted write."""

from __future__ import annotations

import gc
import multiprocessing
import threading
import time
import tracemalloc
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, cast

from saltctl.detection.detector import Detector
from saltctl.detection.events import Counters
from saltctl.detection.read_order import BATCH_ENTRIES
from saltctl.detection.service import Service
from saltctl.detection.write_meter import WriteMeter
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import RaiseResult, Registry
from saltctl.settings import Settings
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import MAX_REPORTS, HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import WindowSums
from tests.benchmarks.measure import interleave, median_ratio
from tests.benchmarks.report import Table, WrongResultError, at_least, at_most, times
from tests.benchmarks.servers import redis_server

RECORD_GOAL = 5.0
REPORTS_GOAL, TWO_GOAL = 100_000.0, 1.6
INCREMENT, RECORD = "dict increment", "WriteMeter.record"
CALLS = 20_000
INSTANCES = (1, 2, 4)


class _NoSink:
    """A sink that discards reports."""

    def append_reports(self, reports: Sequence[HeatReport]) -> None:
        """Discard them."""


class _NeverRaises:
    """A registry that fails on a raise: this load contains no hot conversation."""

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Fail."""
        raise WrongResultError("reports that are not hot caused a raise")


@dataclass
class DetectionResult:
    """Seconds per call by contender, peak bytes by conversations, reports per second by instances, and waits.

    ``rate_of_single``: reports per second of one instance if no two share an entry. ``busy_processes``: how much work
    two busy processes do on this machine, against one.
    """

    seconds: dict[str, list[float]] = field(default_factory=dict)
    peaks: dict[int, int] = field(default_factory=dict)
    rates: dict[int, float] = field(default_factory=dict)
    rate_of_single: float = 0.0
    busy_processes: float = 0.0
    to_salted: list[float] = field(default_factory=list)
    reports: int = 0

    def tables(self) -> list[Table]:
        """Return a table for each measurement."""
        ratio = median_ratio(self.seconds[RECORD], self.seconds[INCREMENT])
        cost = [
            (name, f"{median(figures) * 1e9:.0f}", f"{median_ratio(figures, self.seconds[INCREMENT]):.2f}")
            for name, figures in self.seconds.items()
        ]
        cost[-1] = (*cost[-1][:2], f"{cost[-1][2]}  {at_most(ratio, RECORD_GOAL)}")
        memory = [(f"{count:,} in one second", f"{peak / 2**20:.1f}") for count, peak in self.peaks.items()]
        one = self.rates[1]
        goals = {1: at_least(one, REPORTS_GOAL), 2: at_least(self.rates[2] / one, TWO_GOAL)}
        rates = [
            (times(count, "instance"), f"{rate:,.0f}", f"{rate / one:.2f}", goals.get(count, ""))
            for count, rate in self.rates.items()
        ]
        rates.append(("1 instance, one report an entry", f"{self.rate_of_single:,.0f}", "", ""))
        notes = [
            f"{self.reports:,} reports, {MAX_REPORTS} an entry",
            f"two busy processes do {self.busy_processes:.2f} x the work of one on this machine",
        ]
        waits = [("median", f"{median(self.to_salted):.2f}"), ("slowest", f"{max(self.to_salted):.2f}")]
        rounds = times(len(self.seconds[RECORD]), "round")
        return [
            Table("counting one write", ("", "ns", "ratio"), cost, [f"{rounds} of {CALLS:,} calls"]),
            Table("memory of the meter", ("conversations", "peak MiB"), memory),
            Table("heat reports handled", ("", "reports/s", "ratio", "goal"), rates, notes),
            Table(
                "first hot write to the first salted one", ("", "seconds"), waits,
                ["a window lasts one second, and is reported after its end"],
            ),
        ]  # fmt: skip


def run(*, quick: bool = False) -> DetectionResult:
    """Run the benchmark."""
    result = DetectionResult()
    result.seconds = interleave({INCREMENT: _increment, RECORD: _record_call()}, 3 if quick else 41)
    for count in (5_000, 10_000) if quick else (100_000, 1_000_000):
        result.peaks[count] = _peak(count)
    result.reports = 2_000 if quick else 1_000_000
    for instances in INSTANCES[:2] if quick else INSTANCES:
        result.rates[instances] = _rate(instances, _reports(result.reports))
    result.rate_of_single = _rate(1, sorted(_reports(result.reports // 5), key=_by_conversation))
    result.busy_processes = _busy_processes()
    result.to_salted = _to_salted(1 if quick else 5)
    return result


def _increment() -> float:
    counts: dict[str, int] = {}
    started = time.perf_counter()
    for _ in range(CALLS):
        counts["conv_abc123"] = counts.get("conv_abc123", 0) + 1
    return (time.perf_counter() - started) / CALLS


def _record_call() -> Callable[[], float]:
    meter = WriteMeter(_NoSink(), thread=False)

    def record() -> float:
        call = meter.record
        started = time.perf_counter()
        for _ in range(CALLS):
            call("conv_abc123")
        return (time.perf_counter() - started) / CALLS

    return record


def _peak(conversations: int) -> int:
    """Return the peak of the meter's allocations for a number of conversations in one window."""
    meter = WriteMeter(_NoSink(), thread=False, clock=lambda: 1_800_000_000.5)
    tracemalloc.start()
    for number in range(conversations):
        meter.record(f"conv_{number:08d}")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    return peak


def _reports(count: int) -> list[HeatReport]:
    """Return reports of 20 servers, each of which reports 2,000 conversations in a window."""
    window = int(time.time())
    return [HeatReport(f"conv_{i % 2000}", f"app-{i // 2000 % 20}", window + i // 40_000, 30) for i in range(count)]


def _by_conversation(report: HeatReport) -> tuple[int, str, str]:
    """Return the order in which no two reports of a server follow each other, and so none share an entry."""
    return report.window, report.conversation_id, report.server


def _busy_processes() -> float:
    """Return how much work two busy processes do in the time in which one does 1: 2 if each has a processor."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(2) as pool:
        pool.map(_loop, [1, 1])
        alone, both = (
            median([max(pool.map(_loop, [10_000_000] * processes, chunksize=1)) for _ in range(5)])
            for processes in (1, 2)
        )
    return 2 * alone / both


def _loop(times: int) -> float:
    started = time.perf_counter()
    for _ in range(times):
        pass
    return time.perf_counter() - started


def _rate(instances: int, reports: Sequence[HeatReport]) -> float:
    with redis_server() as server:
        # The time to fill the stream is not measured, so its timeout is long.
        settings = Settings(redis_url=server.url, lookup_timeout=30.0)
        stream = HeatStream(settings)
        stream.create_group()
        stream.append_reports(reports)
        context = multiprocessing.get_context("spawn")
        ready, handled = context.Barrier(instances + 1), context.Queue()
        workers = [context.Process(target=_drain, args=(server.url, f"c{n}", ready, handled)) for n in range(instances)]
        for worker in workers:
            worker.start()
        ready.wait()
        done = [handled.get(timeout=300) for _ in workers]
        seconds: float = max(took for _, took in done)
        for worker in workers:
            worker.join()
        group = stream.info().group(stream.group)
        if sum(count for count, _ in done) != stream.info().added or group is None or group.pending or group.lag:
            raise WrongResultError("not every entry was handled once and acknowledged")
        return len(reports) / seconds


def _drain(url: str, consumer: str, ready: Any, handled: Any) -> None:
    settings = Settings(redis_url=url)
    stream = HeatStream(settings)
    registry = cast("Registry", _NeverRaises())
    detector = Detector(WindowSums(settings), registry, DeadLetters(settings), settings)
    stream.send_heartbeat(consumer)
    gc.collect()
    gc.freeze()  # as ``saltctl service run`` does
    ready.wait()
    started = time.perf_counter()
    while entries := stream.read_new(consumer, BATCH_ENTRIES):
        detector.handle(entries, stream)
    handled.put((detector.counters.acknowledged, time.perf_counter() - started))


def _to_salted(rounds: int) -> list[float]:
    """Return the seconds from the first write of a hot conversation to the first lookup with more salts to write."""
    with LocalEnvironment() as environment:
        environment.rebuild()
        settings = environment.settings
        stop = threading.Event()
        with Registry.open(settings) as registry, WriteMeter.open(settings) as meter:
            counters = Counters()
            detector = Detector(WindowSums(settings), registry, DeadLetters(settings), settings, counters=counters)
            service = Service(HeatStream(settings), detector, consumer="c", settings=settings, stop=stop)
            loop = threading.Thread(target=service.run)
            loop.start()
            try:
                return [_wait_for_salts(registry, meter, f"conv_bench_{number}") for number in range(rounds)]
            finally:
                stop.set()
                loop.join()


def _wait_for_salts(registry: Registry, meter: WriteMeter, conversation_id: str) -> float:
    started = time.perf_counter()
    while time.perf_counter() - started < 60:
        for _ in range(30):
            meter.record(conversation_id)
        if registry.lookup(conversation_id).write_n > 1:
            return time.perf_counter() - started
        time.sleep(0.01)
    raise WrongResultError("a hot conversation was not raised within 60 seconds")
