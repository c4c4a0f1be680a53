"""What the processes do: each role is a loop that goes on until it is told to stop, and writes down what it saw."""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from itertools import count

from saltctl.errors import SaltctlError
from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from tests.checker.log import Log
from tests.checker.mutants import Parts
from tests.checker.schedule import Plan


@dataclass(frozen=True)
class Me:
    """One process: its name, its connections, its choices, and where it writes.

    ``started`` is the moment at which the run began, in monotonic seconds; ``stopped`` says when to end.
    """

    plan: Plan
    parts: Parts
    settings: Settings
    log: Log
    rng: random.Random
    started: float
    stopped: Callable[[], bool]

    @cached_property
    def backup(self) -> BackupTable:
        """The backup, its client made and never used: a forked child has connections of its own."""
        backup = self.parts.backup(self.settings)
        _ = backup.client
        return backup

    def registry(self) -> Registry:
        """A registry over new connections to Redis."""
        return self.parts.registry.over(self.settings, self.parts.store(self.settings), self.backup)

    def history(self) -> History:
        """The messages, by way of such a registry."""
        return History.over(self.settings, self.registry(), MessagesTable(self.settings))

    def going(self, pause: float) -> bool:
        """Wait up to ``pause`` seconds; whether to go on."""
        time.sleep(self.rng.uniform(0, pause))
        return not self.stopped()

    def conversations(self, back: int = 0) -> list[str]:
        """Those that are in use now, or were some epochs ago."""
        epoch = max(int((time.monotonic() - self.started) / self.plan.epoch) - back, 0)
        return [f"c{epoch}-{number}" for number in range(self.plan.conversations)]

    def any_conversation(self) -> str:
        """One of those in use, and now and then an earlier one."""
        earlier = self.rng.randint(1, 3) if self.rng.random() < 0.15 else 0
        return self.rng.choice(self.conversations(earlier))

    def any_n(self) -> int:
        """2, 4, … up to the cap, each as likely."""
        return int(2 ** self.rng.randint(1, self.plan.cap.bit_length() - 1))

    def failed(self, error: SaltctlError) -> None:
        """An error is allowed by the promise; what it was is counted."""
        self.log.note("error", error.code)


def writer(me: Me) -> None:
    """Writes messages; what may have been written is written again, with the same id."""
    history = me.history()
    unsure: list[tuple[str, str, str]] = []
    numbers = count()
    while me.going(0.06):
        if unsure and me.rng.random() < 0.4:
            conversation, sort_key, message = unsure.pop(0)
        else:
            conversation, message = me.rng.choice(me.conversations()), f"{me.log.who}-{next(numbers)}"
            sort_key = f"{datetime.now(UTC).isoformat(timespec='milliseconds')}#{message}"
        number = me.log.begin("put", conversation, message)
        try:
            history.put(conversation, sort_key, {"text": message})
        except SaltctlError as exc:
            me.log.end(number, acknowledged=False)
            me.failed(exc)
            unsure.append((conversation, sort_key, message))
        else:
            me.log.end(number, acknowledged=True)


def reader(me: Me) -> None:
    """Reads whole histories, page by page, from either end."""
    history = me.history()
    while me.going(0.04):
        read_all(me, history, me.any_conversation())


def read_all(me: Me, history: History, conversation: str) -> None:
    """One complete read; what fails, or says that it is incomplete, is none."""
    began = time.monotonic()
    options = ReadOptions(
        limit=me.rng.choice((5, 30, 200)), oldest_first=me.rng.random() < 0.5, allow_partial=me.rng.random() < 0.3
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
            me.log.saw("lookup", conversation, page_began, [page.max_n, None, page.source])
            if not page.complete:
                me.log.note("error", "partial page, and it said so")
                return
            messages += [message.message_id for message in page.messages]
            cursor = page.next_cursor
            if cursor is None:
                break
    except SaltctlError as exc:
        me.failed(exc)
    else:
        me.log.saw("read", conversation, began, messages)


def looker(me: Me) -> None:
    """Looks conversations up, one or several at a time."""
    registry = me.registry()
    while me.going(0.03):
        began = time.monotonic()
        try:
            if me.rng.random() < 0.5:
                found = [registry.lookup(me.any_conversation())]
            else:
                found = list(registry.lookup_many(me.conversations()).values())
        except SaltctlError as exc:
            me.failed(exc)
            continue
        for one in found:
            me.log.saw("lookup", one.conversation_id, began, [one.max_n, one.write_n, one.source])


def sampler(me: Me) -> None:
    """Reads items of the backup as they are."""
    backup = BackupTable(me.settings)  # of no mutant: what it sees is what is there
    while me.going(0.06):
        conversation, began = me.any_conversation(), time.monotonic()
        try:
            entry = backup.get(conversation)
        except SaltctlError as exc:
            me.failed(exc)
            continue
        held = (entry.max_n, entry.write_n, [made.n for made in entry.raises]) if entry else (1, 1, [])
        me.log.saw("sample", conversation, began, held)


def reporter(me: Me) -> None:
    """Reports heat that asks the service for raises; some of it twice."""
    stream = HeatStream(me.settings)
    while me.going(0.4):
        writes = me.any_n() * me.settings.wps_per_salt
        report = HeatReport(me.rng.choice(me.conversations()), me.log.who, int(time.time()), writes)
        try:
            stream.append_reports([report] * me.rng.choice((1, 1, 2)))
        except SaltctlError as exc:
            me.failed(exc)
