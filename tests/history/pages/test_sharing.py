"""Readers of one page at the same time: which read they share, and what each of them gets."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, HistoryUnavailableError, SaltctlError
from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.history.pages.plan import PartitionRead
from saltctl.history.pages.round import Wakes, wait_for
from saltctl.history.pages.scatter_gather import PageRows
from saltctl.history.pages.sharing import MOST, PATIENCE, PageReads, SharedRead, SharedReads
from saltctl.stores.contracts.messages import Filter, PartitionAnswer, PartitionQuery
from saltctl.testing import MemoryMessages
from tests.support.forked import in_child
from tests.support.inline_pool import ManualClock
from tests.support.lookups import FixedLookups

PATIENT = 30.0


def until(condition: Callable[[], object]) -> None:
    """Wait for a condition."""
    deadline = time.monotonic() + PATIENT
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class CountedReads(SharedReads):
    """Counts the readers who have joined a read."""

    joined = 0

    def join(self, page: PageReads) -> SharedRead:
        """Join a read."""
        joined = super().join(page)
        self.joined += 1
        return joined


@dataclass
class Readers:
    """Readers of one page. Each read waits until the test lets it end; those from ``held`` on end at once.

    The clock stands still, so that no reader loses patience, unless ``passing``: then the waits of readers move it.
    """

    passing: bool = False
    held: int = 100
    clock: ManualClock = field(default_factory=ManualClock)
    outcomes: dict[int, PageRows | BaseException] = field(default_factory=dict)
    """What the reads return or raise, by their number; rows of their own by default."""

    def __post_init__(self) -> None:
        self.shared = CountedReads(self.clock, self._wait)
        self.began: list[threading.Event] = []
        self.pool = ThreadPoolExecutor(20)

    def _wait(self, wakes: Wakes, seconds: float) -> None:
        wait_for(wakes, 0.001)
        if self.passing:
            self.clock.now += seconds

    def _read(self) -> PageRows:
        number, may_end = len(self.began), threading.Event()
        self.began.append(may_end)
        assert number >= self.held or may_end.wait(PATIENT)
        outcome = self.outcomes.get(number, PageRows([], more=False, partitions=[]))
        if isinstance(outcome, BaseException):
            raise outcome
        return outcome

    def read(self, seconds: float = 10.0) -> PageRows:
        """Read the page as one reader, within some seconds."""

        def too_late() -> SaltctlError:
            return AwsUnavailableError("too late")

        return self.shared.read("page", self.clock() + seconds, self._read, too_late)

    def ask(self, seconds: float = 10.0) -> Future[PageRows]:
        """Let a reader ask, and return once it has."""
        joined = self.shared.joined
        future = self.pool.submit(self.read, seconds)
        until(lambda: self.shared.joined > joined)
        return future

    def leader(self, number: int) -> Future[PageRows]:
        """Let a reader ask who leads a read, and return once the read has begun."""
        future = self.ask()
        until(lambda: len(self.began) > number)
        return future

    def end(self, number: int) -> None:
        """Let a read end, once it has begun."""
        until(lambda: len(self.began) > number)
        self.began[number].set()


def test_one_reader_alone_waits_for_nobody() -> None:
    """Its reads begin at once."""
    readers = Readers()
    for number in range(3):
        future = readers.ask()
        readers.end(number)
        assert future.result(PATIENT) is not None
    assert len(readers.began) == 3


def test_readers_share_the_read_that_begins_after_they_asked() -> None:
    """Not the one in progress, which may have passed the place of a message that is new to them."""
    readers = Readers()
    first = readers.leader(0)
    others = [readers.ask() for _ in range(9)]
    assert len(readers.began) == 1
    readers.end(0)
    until(lambda: len(readers.began) == 2)
    late = readers.ask()
    readers.end(1)
    found = {id(other.result(PATIENT)) for other in others}
    assert len(found) == 1
    assert id(first.result(PATIENT)) not in found
    readers.end(2)
    assert id(late.result(PATIENT)) not in found
    assert len(readers.began) == 3


def test_a_read_that_hangs_delays_the_next_one_a_little() -> None:
    """Another one begins beside it, for all who wait; but no third one while both hang."""
    readers = Readers(passing=True)
    readers.leader(0)
    second = readers.leader(1)
    assert readers.clock() == pytest.approx(1000 + PATIENCE)
    third = readers.ask(1_000_000)
    until(lambda: readers.clock() > 1000 + 20 * PATIENCE)
    assert len(readers.began) == MOST == 2
    readers.end(1)
    assert second.result(PATIENT) is not None
    readers.end(2)
    assert third.result(PATIENT) is not None
    readers.end(0)


@pytest.mark.parametrize("error", [KeyboardInterrupt(), GeneratorExit(), ValueError("a defect")])
def test_readers_read_again_if_the_leader_is_interrupted(error: BaseException) -> None:
    """By an exception of a signal handler, or by a defect, which each of them shall meet itself."""
    readers = Readers(held=2, outcomes={1: error})
    readers.leader(0)
    others = [readers.ask() for _ in range(3)]
    readers.end(0)
    readers.end(1)
    failed = []
    for other in others:
        try:
            assert other.result(PATIENT) is not None
        except BaseException as exc:
            failed.append(exc)
    assert failed == [error]
    assert len(readers.began) >= 3


def test_a_read_is_over_with_its_leader() -> None:
    """Also if an exception strikes before it can be ended: it refers to its leader weakly."""
    clock = ManualClock()

    class Dying(PageReads):
        """Reads whose leader dies without a trace."""

        def end(self, *_: object) -> None:
            """End nothing."""

    shared, page = SharedReads(clock), Dying()
    shared._own.get().pages["page"] = page  # noqa: SLF001
    rows = PageRows([], more=False, partitions=[])

    def interrupted() -> PageRows:
        raise KeyboardInterrupt

    for _ in range(3):
        with suppress(KeyboardInterrupt):
            shared.read("page", clock() + 10, interrupted, AssertionError)  # type: ignore[arg-type]
    assert shared.read("page", clock() + 10, lambda: rows, AssertionError) is rows  # type: ignore[arg-type]
    assert [one.over for one in page.in_progress] == [True]


def partial_rows() -> PageRows:
    """Return the rows of a page without one of its partitions."""
    read = PartitionRead("conv#1", 1, 1, True, error=AwsUnavailableError("an outage"))
    return PageRows([], more=False, partitions=[read])


class MainThreadLeads(PageReads):
    """Reads of which the main thread leads the first one."""

    led = False

    def begin(self, *arguments: Any) -> bool:
        """Begin a read."""
        main = threading.current_thread() is threading.main_thread()
        until(lambda: main or self.led)
        begun = super().begin(*arguments)
        self.led = self.led or main
        return begun


@pytest.mark.parametrize("outcome", [AwsUnavailableError("an outage"), partial_rows()], ids=["error", "partial page"])
@pytest.mark.parametrize("in_time", [True, False])
def test_what_a_leader_without_time_read_is_not_shared(outcome: PageRows | AwsUnavailableError, in_time: bool) -> None:
    """Readers who have more time read again. What was read in time is shared, an outage included."""
    readers, page = Readers(held=0), MainThreadLeads()
    readers.shared._own.get().pages["page"] = page  # noqa: SLF001
    patient = readers.ask(100)

    def lead() -> PageRows:
        readers.clock.now += 0 if in_time else 2
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    with suppress(AwsUnavailableError):
        assert readers.shared.read("page", readers.clock() + 1, lead, AssertionError) is outcome  # type: ignore[arg-type]
    if in_time and isinstance(outcome, Exception):
        assert str(patient.exception(PATIENT)) == "an outage"
    else:
        assert (patient.result(PATIENT) is outcome) is in_time
    assert len(readers.began) == (0 if in_time else 1)


def test_a_reader_waits_no_longer_than_its_own_time() -> None:
    """For another reader's read, whatever the time of that reader is."""
    readers = Readers(passing=True)
    readers.leader(0)
    readers.leader(1)
    began = readers.clock()
    impatient = readers.ask(3 * PATIENCE)
    with pytest.raises(AwsUnavailableError, match="too late"):
        impatient.result(PATIENT)
    assert readers.clock() == pytest.approx(began + 3 * PATIENCE)
    readers.end(0)
    readers.end(1)


def test_each_reader_gets_an_error_of_its_own() -> None:
    """With a dictionary and reasons of its own, so that nobody changes what others see."""
    reason = AccessDeniedError("refused", hint="ask")
    error = HistoryUnavailableError("incomplete", partitions={"conv#1": reason}, hint="try again")
    readers = Readers(outcomes={1: error})
    readers.leader(0)
    others = [readers.ask() for _ in range(3)]
    readers.end(0)
    readers.end(1)
    caught = [other.exception(PATIENT) for other in others]
    assert len(readers.began) == 2
    assert len({id(one) for one in caught}) == 3
    assert all(isinstance(one, HistoryUnavailableError) and one.hint == "try again" for one in caught)
    partitions = [one.partitions for one in caught if isinstance(one, HistoryUnavailableError)]
    assert len({id(one) for one in partitions}) == len({id(one["conv#1"]) for one in partitions}) == 3
    assert {str(one["conv#1"]) for one in partitions} == {"refused"}


@pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
def test_a_forked_child_does_not_wait_for_its_parents_threads() -> None:
    """A read in progress at the fork never ends in the child, which has none of the threads."""
    readers = Readers()
    readers.leader(0)
    waiting = readers.ask()

    def child() -> int:
        rows = readers.shared.read("page", readers.clock() + 10, partial_rows, lambda: SaltctlError("late"))
        return len(rows.partitions)

    assert in_child(child) == 1
    readers.end(0)
    readers.end(1)
    assert waiting.result(PATIENT) is not None


# Histories.


class Table(MemoryMessages):
    """A table whose answers, once they are made, wait until the test says so."""

    def __init__(self) -> None:
        super().__init__()
        self.may_answer = threading.Event()
        self.may_answer.set()
        self.answers: list[PartitionQuery] = []

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Answer a query."""
        answer = super().query(request)
        self.answers.append(request)
        assert self.may_answer.wait(PATIENT)
        return answer


@pytest.fixture
def table() -> Table:
    """Return a table with 40 messages of ``hot``, which has 16 salts."""
    made = Table()
    for number in range(40):
        made.put(f"hot#{number % 16}", f"{number:04d}#m{number}", {"tags": {"L": [{"S": "a"}]}})
    return made


HOT = FixedLookups({"hot": 16})
QUERIES = 17


def test_a_hundred_readers_at_once_cost_few_queries(table: Table) -> None:
    """Each gets all messages, and objects of its own."""
    with History(HOT, table, share_reads=True) as history, ThreadPoolExecutor(100) as readers:
        table.may_answer.clear()
        first = readers.submit(history.page, "hot", ReadOptions(limit=10))
        until(lambda: len(table.answers) == QUERIES)
        others = [readers.submit(history.page, "hot", ReadOptions(limit=10)) for _ in range(99)]
        table.may_answer.set()
        pages = [future.result(PATIENT) for future in (first, *others)]
        assert len(table.answers) <= 3 * QUERIES
    expected = [f"m{number}" for number in range(39, 29, -1)]
    assert all([message.message_id for message in page.messages] == expected for page in pages)
    assert len({id(page.messages) for page in pages}) == len({id(page.shards) for page in pages}) == 100
    assert len({id(page.messages[0].attributes["tags"]) for page in pages}) == 100


def test_a_message_that_was_acknowledged_before_is_in_every_page(table: Table) -> None:
    """Also if a read was in progress, whose queries were answered before the message was written."""
    with History(HOT, table, share_reads=True) as history, ThreadPoolExecutor(2) as readers:
        table.may_answer.clear()
        first = readers.submit(history.page, "hot")
        until(lambda: len(table.answers) == QUERIES)
        history.put("hot", "0099#m99", {})
        second = readers.submit(history.page, "hot")
        table.may_answer.set()
        assert first.result(PATIENT).messages[0].message_id == "m39"
        assert second.result(PATIENT).messages[0].message_id == "m99"


@pytest.mark.parametrize(
    "options",
    [ReadOptions(limit=11), ReadOptions(consistent=False), ReadOptions(allow_partial=True), ReadOptions(since="0")],
    ids=repr,
)
def test_other_options_are_another_page(table: Table, options: ReadOptions) -> None:
    """A reader does not wait for the read of another page, nor for one of another conversation."""
    with History(HOT, table, share_reads=True) as history, ThreadPoolExecutor(2) as readers:
        table.may_answer.clear()
        first = readers.submit(history.page, "hot", ReadOptions(limit=10))
        until(lambda: len(table.answers) == QUERIES)
        others = [readers.submit(history.page, "hot", options), readers.submit(history.page, "cold")]
        until(lambda: len(table.answers) >= 2 * QUERIES)
        table.may_answer.set()
        assert all(one.result(PATIENT) for one in (first, *others))


def test_reads_with_a_filter_are_not_shared(table: Table) -> None:
    """Its values are dictionaries, which are no key."""
    options = ReadOptions(filter=Filter("#a = :a", {"#a": "a"}, {":a": {"S": "b"}}))
    with History(HOT, table, share_reads=True) as history:
        assert history.page("hot", options).messages == history.page("hot", replace(options, limit=3)).messages


@pytest.mark.slow
def test_an_alarm_in_the_main_thread_leaves_nobody_waiting(table: Table) -> None:
    """The main thread leads a read in which an alarm strikes; the readers who share it read again."""

    class AlarmError(Exception):
        pass

    def strike(*_: object) -> None:
        raise AlarmError

    before = signal.signal(signal.SIGALRM, strike)
    try:
        with History(HOT, table, share_reads=True) as history, ThreadPoolExecutor(5) as readers:
            table.may_answer.clear()
            others: list[Future[object]] = []

            def ask_then_strike() -> None:
                until(lambda: len(table.answers) >= QUERIES)
                others.extend(readers.submit(history.page, "hot") for _ in range(4))
                signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGALRM)

            helper = threading.Thread(target=ask_then_strike)
            helper.start()
            with pytest.raises(AlarmError):
                history.page("hot")
            helper.join(PATIENT)
            table.may_answer.set()
            assert all(one.result(PATIENT) for one in others)
    finally:
        signal.signal(signal.SIGALRM, before)
