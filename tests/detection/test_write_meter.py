"""The write meter: windows, floor, bounded memory, throttling, and that no write ever pays for an outage."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.detection.events import logger
from saltctl.detection.write_meter import MAX_UNSENT_WINDOWS, WriteMeter
from saltctl.errors import RedisUnavailableError
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.window_sums import InMemorySums
from saltctl.throttling.key_range import throttled_by_key_range


class Clock:
    """Seconds since the epoch, set by the test."""

    def __init__(self) -> None:
        self.now = 1_800_000_000.25

    def __call__(self) -> float:
        """The time."""
        return self.now


class Sink:
    """Keeps sent reports, or refuses them."""

    def __init__(self) -> None:
        self.batches: list[list[HeatReport]] = []
        self.fails = self.loses_answers = False
        self.fault: BaseException | None = None
        self.arrived = threading.Event()

    def append_reports(self, reports: Sequence[HeatReport]) -> None:
        """Keep them."""
        self.arrived.set()
        if self.fails:
            raise RedisUnavailableError("away")
        if self.fault is not None:
            raise self.fault
        self.batches.append(list(reports))
        if self.loses_answers:
            raise RedisUnavailableError("no answer")

    @property
    def counts(self) -> dict[tuple[str, int], int]:
        """Writes by conversation and window."""
        return {(r.conversation_id, r.window): r.writes for batch in self.batches for r in batch}


@pytest.fixture
def clock() -> Clock:
    """The time, in the test's hands."""
    return Clock()


@pytest.fixture
def sink() -> Sink:
    """Receives the reports."""
    return Sink()


@pytest.fixture
def meter(sink: Sink, clock: Clock) -> WriteMeter:
    """A meter without a thread."""
    return WriteMeter(sink, clock=clock, thread=False, server="app-1")


def error(code: str, *, reasons: Any = None, spelling: str = "ThrottlingReasons", inside: bool = False) -> Exception:
    """Return an error as boto3 raises it."""
    from botocore.exceptions import ClientError

    body: dict[str, Any] = {"Error": {"Code": code, "Message": "no"}}
    if reasons is not None:
        (body["Error"] if inside else body)[spelling] = reasons
    return ClientError(body, "PutItem")  # type: ignore[arg-type]


KEY_RANGE = [{"reason": "TableWriteKeyRangeThroughputExceeded", "resource": "arn:table"}]


def test_a_window_is_reported_once_it_is_over(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """Nothing leaves while the window lasts; at its end one batch holds each conversation's count."""
    for _ in range(30):
        meter.record("conv_a")
    meter.record("conv_b", 12.5)
    assert meter.flush() == 0
    clock.now += 1
    assert meter.flush() == 2
    window = 1_800_000_000
    assert sink.batches == [
        [HeatReport("conv_a", meter.server, window, 30), HeatReport("conv_b", meter.server, window, 12)]
    ]
    assert meter.flush() == 0


def test_below_the_floor_nothing_is_reported(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """9 writes in a window stay at home, 10 are reported."""
    for conversation_id, writes in (("cold", 9), ("hot", 10)):
        for _ in range(writes):
            meter.record(conversation_id)
    clock.now += 1
    meter.flush()
    assert [r.conversation_id for r in sink.batches[0]] == ["hot"]


def test_windows_are_kept_apart(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """Counts of two seconds are two reports, even without a flush in between."""
    meter.record("a", 20)
    clock.now += 1
    meter.record("a", 30)
    clock.now += 1
    meter.flush()
    assert sink.counts == {("a", 1_800_000_000): 20, ("a", 1_800_000_001): 30}


@pytest.mark.parametrize("jump", [3600.0, -3600.0, 86400.0 * 365, -1.0])
def test_a_clock_that_jumps_loses_no_count(meter: WriteMeter, sink: Sink, clock: Clock, jump: float) -> None:
    """Forward or back by any amount: the current window ends, and a window at the new time begins."""
    meter.record("a", 20)
    clock.now += jump
    meter.record("a", 30)
    clock.now += 1
    meter.flush()
    assert sink.counts == {("a", 1_800_000_000): 20, ("a", int(1_800_000_000 + jump)): 30}


def test_an_outage_of_redis_delays_reports(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """No report is lost, none raises an exception, and all are sent, oldest first, once Redis answers."""
    sink.fails = True
    for writes in (20, 21, 22):
        meter.record("a", writes)
        clock.now += 1
        assert meter.flush() == 0
    assert (meter.stats.waiting, meter.stats.dropped, meter.stats.sent, meter.stats.last_success) == (3, 0, 0, None)
    assert isinstance(meter.last_failure, RedisUnavailableError)
    sink.fails = False
    meter.record("a", 23)
    clock.now += 1
    assert meter.flush() == 4
    assert list(sink.counts.items()) == [(("a", 1_800_000_000 + number), 20 + number) for number in range(4)]
    assert (meter.stats.waiting, meter.stats.dropped, meter.stats.sent) == (0, 0, 4)
    assert meter.last_failure is None


def test_a_long_outage_uses_no_more_memory(sink: Sink, clock: Clock) -> None:
    """As many reports wait as conversations can be counted; above that the oldest are dropped, and counted."""
    meter = WriteMeter(sink, clock=clock, thread=False, capacity=4)
    sink.fails = True
    for _ in range(5):
        for conversation_id in ("a", "b"):
            meter.record(conversation_id, 20)
        clock.now += 1
        meter.flush()
    assert (meter.stats.waiting, meter.stats.dropped) == (4, 6)
    sink.fails = False
    assert meter.flush() == 4
    assert {window for _, window in sink.counts} == {1_800_000_003, 1_800_000_004}


def test_a_closed_meter_drops_what_it_cannot_send(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """Nobody would send it any more; a meter that is used again sends what it counts then."""
    sink.fails = True
    meter.record("a", 20)
    meter.close()
    assert (meter.stats.waiting, meter.stats.dropped) == (0, 1)
    sink.fails = False
    meter.record("b", 20)
    clock.now += 1
    assert meter.flush() == 1


def test_a_batch_that_was_added_before_it_failed_counts_once(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """The answer to a batch is lost, so it is sent again; an early report of throttling comes before the full count."""
    sink.loses_answers = True
    meter.record("a", 20)
    meter.throttled(error("ThrottlingException", reasons=KEY_RANGE), "a", n=4)
    meter.flush()
    meter.record("a", 30)
    clock.now += 1
    meter.flush()
    sink.loses_answers = False
    meter.record("a", 40)
    clock.now += 1
    meter.flush()
    reports = [report for batch in sink.batches for report in batch]
    assert [report.writes for report in reports] == [20, 20, 20, 50, 40]
    assert InMemorySums().add(reports) == [20, 20, 20, 50, 40]


def test_a_sender_that_hangs_uses_no_more_memory(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """Windows that are not sent are dropped, oldest first, and counted."""
    for _ in range(MAX_UNSENT_WINDOWS + 6):
        meter.record("a", 20)
        clock.now += 1
    meter.flush()
    assert meter.stats.sent == MAX_UNSENT_WINDOWS
    assert meter.stats.windows_lost == 6


@pytest.mark.parametrize("units", [float("nan"), float("inf"), -50, "12", None])
@pytest.mark.parametrize("conversation_id", ["a", "a#3", "", None, 5, b"a", ["a"], "\ud800"])
def test_invalid_records_fail_no_write(
    meter: WriteMeter, sink: Sink, clock: Clock, conversation_id: Any, units: Any
) -> None:
    """Invalid records are left out of the reports; neither the write nor the meter fails."""
    meter.record(conversation_id, units)
    meter.record("good", 20)
    clock.now += 1
    assert meter.flush() == 1
    assert [r.conversation_id for r in sink.batches[0]] == ["good"]


@pytest.mark.slow
@given(st.lists(st.tuples(st.integers(0, 60), st.integers(1, 40)), max_size=400))
def test_counts_are_never_too_high_and_within_the_documented_bound(writes: list[tuple[int, int]]) -> None:
    """With 16 counters for 61 conversations every count is within 2 · W / capacity below the truth."""
    sink, clock = Sink(), Clock()
    meter = WriteMeter(sink, clock=clock, thread=False, capacity=16, floor=1)
    truth: Counter[str] = Counter()
    for number, units in writes:
        meter.record(f"c{number}", units)
        truth[f"c{number}"] += units
    clock.now += 1
    meter.flush()
    bound = 2 * truth.total() / 16
    reported = {r.conversation_id: r.writes for batch in sink.batches for r in batch}
    for conversation_id, true in truth.items():
        assert true - bound <= reported.get(conversation_id, 0) <= true


@pytest.mark.slow
def test_a_hot_conversation_is_reported_among_many(sink: Sink, clock: Clock) -> None:
    """200,000 conversations in one window over 1,000 counters: the hot one is reported nearly in full."""
    meter = WriteMeter(sink, clock=clock, thread=False, capacity=1000)
    for number in range(200_000):
        meter.record(f"c{number}")
        if number % 20 == 0:
            meter.record("hot")
    clock.now += 1
    meter.flush()
    (report,) = [r for r in sink.batches[0] if r.conversation_id == "hot"]
    assert 10_000 - 2 * 210_000 / 1000 <= report.writes <= 10_000
    assert meter.stats.overflows > 0


def test_threads_lose_no_count(sink: Sink, clock: Clock) -> None:
    """Eight threads record at once, and every write is counted."""
    meter = WriteMeter(sink, clock=clock, thread=False)

    def work() -> None:
        for _ in range(5000):
            meter.record("a")

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    clock.now += 1
    meter.flush()
    assert sink.batches[0][0].writes == 40_000


@pytest.mark.slow
def test_the_thread_sends_without_being_asked(sink: Sink) -> None:
    """With the real clock a window's reports leave soon after its end, and close() sends the last one."""
    with WriteMeter(sink) as meter:
        meter.record("a", 20)
        assert sink.arrived.wait(10)
        meter.record("b", 20)
    assert {r.conversation_id for batch in sink.batches for r in batch} == {"a", "b"}
    assert "saltctl-meter" not in {thread.name for thread in threading.enumerate()}


def test_each_meter_has_a_unique_name(sink: Sink) -> None:
    """Counts of one name are not added up, so two meters never share one."""
    assert WriteMeter(sink).server != WriteMeter(sink).server


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_counts_under_another_name(sink: Sink) -> None:
    """Pre-forking servers: the child starts empty, with a name and a lock of its own."""

    class StoppingClock(Clock):
        """Stops the second call of another thread, which is made while the meter's lock is held."""

        def __init__(self) -> None:
            super().__init__()
            self.calls = 0
            self.stopped, self.resume = threading.Event(), threading.Event()

        def __call__(self) -> float:
            """Return the time."""
            if threading.current_thread() is not threading.main_thread():
                self.calls += 1
                if self.calls == 2:
                    self.stopped.set()
                    self.resume.wait(30)
            return super().__call__()

    clock = StoppingClock()
    meter = WriteMeter(sink, clock=clock, thread=False)
    meter.record("parents", 50)
    clock.now += 1
    holder = threading.Thread(target=meter.record, args=("parents",))
    holder.start()
    assert clock.stopped.wait(30)
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(30)  # ends a child that waits for a lock for ever
        meter.record("childs", 20)
        clock.now += 1
        meter.flush()
        output = f"{meter.server} {[r.conversation_id for batch in sink.batches for r in batch]}"
        os.write(write_end, output.encode())
        os._exit(0)
    clock.resume.set()
    holder.join()
    os.waitpid(child, 0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        name, _, reported = answer.read().partition(" ")
    assert reported == "['childs']"
    assert name != meter.server


@pytest.mark.parametrize("spelling", ["ThrottlingReasons", "throttlingReasons"])
@pytest.mark.parametrize("inside", [False, True])
@pytest.mark.parametrize("reason", ["TableWriteKeyRangeThroughputExceeded", "TableReadKeyRangeThroughputExceeded"])
def test_a_throttled_key_range_is_recognised(spelling: str, inside: bool, reason: str) -> None:
    """In both spellings of the list, even with reasons that salting does not help."""
    reasons = [{"reason": "TableWriteAccountLimitExceeded"}, {"reason": reason, "resource": "arn"}]
    assert throttled_by_key_range(error("ThrottlingException", reasons=reasons, spelling=spelling, inside=inside))


@pytest.mark.parametrize(
    "other",
    [
        error("ProvisionedThroughputExceededException"),
        error("ThrottlingException", reasons=[]),
        error("ThrottlingException", reasons=[{"reason": "IndexWriteKeyRangeThroughputExceeded"}]),
        error("ThrottlingException", reasons=[{"reason": "TableWriteProvisionedThroughputExceeded"}]),
        error("RequestLimitExceeded", reasons=[{"reason": "TableWriteAccountLimitExceeded"}]),
        error("RequestLimitExceeded", reasons=[{"reason": "TableWriteMaxOnDemandThroughputExceeded"}]),
        error("ThrottlingException", reasons="TableWriteKeyRangeThroughputExceeded"),
        error("ThrottlingException", reasons=7),
        ValueError("no"),
        None,
    ],
)
def test_other_errors_report_nothing(meter: WriteMeter, other: object) -> None:
    """An index, a table's or an account's limit, or no throttling at all: N would not help, nothing is sent."""
    assert not throttled_by_key_range(other)
    assert not meter.throttled(other, "a", n=4)
    assert meter.flush() == 0


def test_throttling_is_reported_at_once(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """Before the window is over, with the count so far and the N that was not enough."""
    meter.record("a", 7)
    assert meter.throttled(error("ThrottlingException", reasons=KEY_RANGE), "a", n=4)
    assert meter.flush() == 1
    assert sink.batches == [[HeatReport("a", meter.server, 1_800_000_000, 7, 4)]]


@pytest.mark.parametrize("n", [float("nan"), float("inf"), -1, 0, True, "4", None], ids=repr)
def test_a_wrong_number_of_salts_counts_as_one(meter: WriteMeter, sink: Sink, n: Any) -> None:
    """A handler of exceptions must not raise another one, and the heat is reported all the same."""
    assert meter.throttled(error("ThrottlingException", reasons=KEY_RANGE), "a", n=n)
    assert meter.flush() == 1
    assert sink.batches[0][0].throttled_n == 1


def test_a_storm_of_throttling_is_one_report(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """Thousands of throttled writes of one conversation in one window send one report, the highest N."""
    for number in range(5000):
        assert meter.throttled(error("ThrottlingException", reasons=KEY_RANGE), "a", n=2 + 2 * (number % 2))
    assert meter.flush() == 1
    assert sink.batches[0][0].throttled_n == 4


def test_throttling_wakes_the_thread(sink: Sink) -> None:
    """With its thread the meter does not wait for the end of the window."""
    with WriteMeter(sink) as meter:
        meter.throttled(error("ThrottlingException", reasons=KEY_RANGE), "a", n=1)
        assert sink.arrived.wait(10)


def test_a_sink_that_fails_in_any_way_stops_nothing(meter: WriteMeter, sink: Sink, clock: Clock) -> None:
    """An unforeseen exception is counted and logged with its type; the next window is sent."""
    records: list[str] = []
    handler = logging.Handler()
    handler.emit = lambda record: records.append(record.getMessage())  # type: ignore[method-assign]
    logger.addHandler(handler)
    sink.fault = TypeError("a defect")
    try:
        for _ in range(2):
            for _ in range(20):
                meter.record("a")
            clock.now += 1
            assert meter.flush() == 0
    finally:
        logger.removeHandler(handler)
    stats = meter.stats
    assert (stats.dropped, stats.failures, stats.last_success) == (2, 2, None)
    assert isinstance(meter.last_failure, TypeError)
    assert records == ["heat reports cannot be sent: TypeError: a defect"]
    sink.fault = None
    for _ in range(20):
        meter.record("a")
    clock.now += 1
    assert meter.flush() == 1
    assert meter.stats.last_success == clock.now
    assert meter.last_failure is None


@pytest.mark.slow
def test_the_thread_survives_any_exception(sink: Sink) -> None:
    """Reports of later windows arrive."""
    sink.fault = KeyError("a defect")
    with WriteMeter(sink, floor=1) as meter:
        deadline = time.monotonic() + 30
        while not sink.batches and time.monotonic() < deadline:
            meter.record("a")
            if sink.arrived.is_set():
                sink.fault = None
            time.sleep(0.01)
    assert sink.batches
    assert (meter.stats.failures, meter.stats.dropped) == (1, 1)
