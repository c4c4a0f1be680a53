"""The roles of the processes: each is a loop that runs until it is stopped, and logs its operations."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property, partial
from itertools import count

from saltctl.errors import SaltctlError
from saltctl.history.history import History
from saltctl.history.models import PutResult, ReadOptions
from saltctl.registry.registry import Registry
from saltctl.salting import split_partition_key
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.registry_item import RegistryItem
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry
from tests.checker.backup_loss import InFlight, calm_request
from tests.checker.log import Log
from tests.checker.mutants import ProtocolClasses
from tests.checker.processes import fork, reap
from tests.checker.schedule import Plan

CLOCK_RATE = 20
"""The speed of two clocks here. The lease of a killed rebuild expires after one and a half seconds. The check of the
table's identity is valid for three seconds, not a minute."""
_AT_ONCE, _STAGGER = 5, 0.3
"""Readers of one page at once, and the seconds within which they begin: a page takes as long on a busy machine."""
CALM_PAUSE = 1.0
_CHILDREN = 3
"""Children that a preforker has at the same time."""
_CHILD_SECONDS = 45.0
"""Seconds after which a child is taken for one that waits forever: more than its requests take under faults."""


@dataclass(frozen=True)
class Worker:
    """One process: its settings, its log and its source of random choices.

    ``started`` is the start of the run in monotonic seconds. ``stopped`` returns whether the process has to end.
    """

    plan: Plan
    classes: ProtocolClasses
    settings: Settings
    log: Log
    rng: random.Random
    started: float
    stopped: Callable[[], bool]

    @cached_property
    def backup(self) -> BackupTable:
        """The backup table, with its client, because a process is to start quickly."""
        backup = with_fast_clock(self.classes.backup(self.settings), self.classes.registry_item)
        _ = backup.client
        return backup

    @property
    def in_flight(self) -> InFlight:
        """The puts and raises in progress in all processes of the run."""
        return InFlight(self.log.directory)

    def store(self) -> RedisRegistry:
        """Return the registry in Redis, with new connections."""
        return self.classes.store(self.settings, registry_id=self.backup.registry.id)

    def prepare(self) -> None:
        """Create the client of the backup before a fork, because it is slow."""
        _ = self.backup

    def registry(self) -> Registry:
        """Return a registry with new connections to Redis."""
        return self.classes.registry.over(self.settings, self.store(), self.backup)

    def history(self) -> History:
        """Return the messages, with such a registry."""
        shares = self.plan.shares_reads
        settings = replace(self.settings, hedge_reads=shares, share_reads=shares)
        return self.classes.history.over(settings, self.registry(), self.classes.messages(settings))

    @property
    def calm(self) -> bool:
        """Whether no process is to be killed or paused, and clients pause longer."""
        return calm_request(self.log.directory).exists()

    def pause(self, longest: float) -> bool:
        """Wait up to ``longest`` seconds; return whether to continue."""
        time.sleep(self.rng.uniform(0, longest) + (CALM_PAUSE if self.calm else 0.0))
        return not self.stopped()

    def conversations(self, back: int = 0) -> list[str]:
        """Return the conversations in use now, or ``back`` epochs ago."""
        epoch = max(int((time.monotonic() - self.started) / self.plan.epoch) - back, 0)
        return [f"c{epoch}-{number}" for number in range(self.plan.conversations)]

    def random_conversation(self) -> str:
        """Return one of the conversations in use or, less often, an earlier one."""
        earlier = self.rng.randint(1, 3) if self.rng.random() < 0.15 else 0
        return self.rng.choice(self.conversations(earlier))

    def random_n(self) -> int:
        """Return 2, 4, … up to the cap, with equal probability."""
        return int(2 ** self.rng.randint(1, self.plan.cap.bit_length() - 1))

    def log_error(self, error: SaltctlError) -> None:
        """Log an error, which the promise allows."""
        self.log.note("error", error.code)


def with_fast_clock(backup: BackupTable, registry_item: type[RegistryItem] = RegistryItem) -> BackupTable:
    """Let the clock of the checks of the table's identity run faster; return the table."""
    backup.registry = registry_item(backup, clock=lambda: CLOCK_RATE * time.monotonic())
    return backup


def writer(worker: Worker) -> None:
    """Write messages; retry an unacknowledged write with the same message id."""
    history = worker.history()
    unsure: list[tuple[str, str, str]] = []
    numbers = count()
    while worker.pause(0.06):
        if unsure and worker.rng.random() < 0.4:
            conversation, sort_key, message = unsure.pop(0)
        else:
            conversation, message = worker.rng.choice(worker.conversations()), f"{worker.log.process}-{next(numbers)}"
            sort_key = new_sort_key(message)
        if not write(worker, history, conversation, sort_key, message):
            unsure.append((conversation, sort_key, message))


def write(worker: Worker, history: History, conversation: str, sort_key: str, message: str) -> bool:
    """Write one message, log it, and return whether it was acknowledged."""
    with worker.in_flight.operation():
        number = worker.log.begin("put", conversation, message)
        try:
            written = history.put(conversation, sort_key, {"text": message})
        except SaltctlError as exc:
            worker.log.end(number, acknowledged=False)
            worker.log_error(exc)
            return False
        worker.log.end(number, acknowledged=True, value=needed_n(written))
        return True


def needed_n(written: PutResult) -> int:
    """Return the smallest N whose readers cover the place of a message."""
    salt = split_partition_key(written.partition_key)[1]
    return 1 if salt is None else max(salt + 1, 2)


def new_sort_key(message: str) -> str:
    """Return a sort key of now."""
    return f"{datetime.now(UTC).isoformat(timespec='milliseconds')}#{message}"


def reader(worker: Worker) -> None:
    """Read whole histories page by page, from either end; several readers at once if they share their reads."""
    history = worker.history()
    while worker.pause(0.04):
        conversation = worker.random_conversation()
        if worker.plan.shares_reads:
            _read_at_once(worker, history, conversation)
        else:
            read_all(worker, history, conversation)


def _read_at_once(worker: Worker, history: History, conversation: str) -> None:
    """Read the same pages in several threads. Each begins while the reads of others may be in progress."""
    choices, delays = worker.rng.random(), [_STAGGER * worker.rng.random() ** 2 for _ in range(_AT_ONCE)]

    def read(delay: float) -> None:
        """Read the history as one of them, with the same options."""
        time.sleep(delay)
        read_all(replace(worker, rng=random.Random(choices)), history, conversation)

    with ThreadPoolExecutor(_AT_ONCE) as threads:
        list(threads.map(read, delays))


def read_all(worker: Worker, history: History, conversation: str) -> None:
    """Read a whole history; log it only if it neither failed nor reported that it is incomplete."""
    began = time.monotonic()
    options = ReadOptions(
        limit=worker.rng.choice((5, 30, 200)),
        oldest_first=worker.rng.random() < 0.5,
        allow_partial=worker.rng.random() < 0.3,
    )
    messages: list[str | None] = []
    try:
        cursor: str | None = None
        while True:
            page_began = time.monotonic()
            after, before = (cursor, None) if options.oldest_first else (None, cursor)
            page = history.page(
                conversation,
                ReadOptions(options.limit, before, after, options.oldest_first, allow_partial=options.allow_partial),
            )
            worker.log.observe("lookup", conversation, page_began, [page.max_n, None, page.source])
            if not page.complete:
                worker.log.note("error", "partial page, reported as such")
                return
            messages += [message.message_id for message in page.messages]
            cursor = page.next_cursor
            if cursor is None:
                break
    except SaltctlError as exc:
        worker.log_error(exc)
    else:
        worker.log.observe("read", conversation, began, messages)


def lookup_client(worker: Worker) -> None:
    """Look up conversations, one or several at a time."""
    registry = worker.registry()
    while worker.pause(0.03):
        began = time.monotonic()
        try:
            if worker.rng.random() < 0.5:
                found = [registry.lookup(worker.random_conversation())]
            else:
                found = list(registry.lookup_many(worker.conversations()).values())
        except SaltctlError as exc:
            worker.log_error(exc)
            continue
        for answer in found:
            worker.log.observe("lookup", answer.conversation_id, began, [answer.max_n, answer.write_n, answer.source])


def preforker(worker: Worker) -> None:
    """Use a history from threads, and fork children meanwhile that use the same object, as preforking servers do."""
    history, children, numbers = worker.history(), set[int](), count()
    stop = threading.Event()
    threads = [
        threading.Thread(target=_serve_in_thread, args=(worker, history, f"thread{number}", stop))
        for number in range(3)
    ]
    for thread in threads:
        thread.start()
    while worker.pause(0.3):
        if len(children) < _CHILDREN:
            children.add(fork(worker.log, partial(_serve, worker, history, f"child{next(numbers)}", 6)))
            worker.log.note("fork", "while threads use the clients")
        children -= _ended(children)
    stop.set()
    for thread in threads:
        thread.join()
    deadline = time.monotonic() + _CHILD_SECONDS
    while (children := children - _ended(children)) and time.monotonic() < deadline:
        time.sleep(0.02)
    for pid in children:
        worker.log.note("crash", "a forked child did not end")
        os.kill(pid, signal.SIGKILL)
        reap(pid)


def _ended(children: set[int]) -> set[int]:
    return {pid for pid in children if os.waitpid(pid, os.WNOHANG)[0]}


def _serve_in_thread(worker: Worker, history: History, name: str, stop: threading.Event) -> None:
    try:
        while not stop.is_set():
            _serve(worker, history, f"{name}-{time.monotonic_ns()}", 3)
            stop.wait(CALM_PAUSE if worker.calm else 0.05)
    except Exception as exc:
        worker.log.note("crash", "".join(traceback.format_exception(exc)[-3:]))


def _serve(worker: Worker, history: History, name: str, requests: int) -> None:
    """Write and read, in a thread or a child, with random choices that its name determines."""
    mine = replace(worker, rng=random.Random(f"{worker.plan.seed} {worker.log.process} {name}"))
    for number in range(requests):
        conversation = mine.rng.choice(mine.conversations())
        if mine.rng.random() < 0.4:
            message = f"{worker.log.process}-{name}-{number}"
            write(mine, history, conversation, new_sort_key(message), message)
        else:
            read_all(mine, history, conversation)


def sampler(worker: Worker) -> None:
    """Read items of the backup directly."""
    backup = with_fast_clock(BackupTable(worker.settings))  # not a mutant: it reads the stored values
    while worker.pause(0.06):
        conversation, began = worker.random_conversation(), time.monotonic()
        try:
            entry = backup.get(conversation)
        except SaltctlError as exc:
            worker.log_error(exc)
            continue
        held: tuple[int, int, list[int], bool] = (1, 1, [], False)
        if entry is not None:
            records = [-record.n if record.cooled else record.n for record in entry.raises]
            held = (entry.max_n, entry.write_n, records, entry.cooling is not None)
        worker.log.observe("sample", conversation, began, held)


def reporter(worker: Worker) -> None:
    """Report heat that makes the service raise; send some reports twice."""
    stream = HeatStream(worker.settings)
    while worker.pause(0.4):
        writes = worker.random_n() * worker.settings.wps_per_salt
        report = HeatReport(worker.rng.choice(worker.conversations()), worker.log.process, int(time.time()), writes)
        try:
            stream.append_reports([report] * worker.rng.choice((1, 1, 2)))
        except SaltctlError as exc:
            worker.log_error(exc)
