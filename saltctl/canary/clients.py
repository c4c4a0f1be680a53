"""The clients of the canary: they write, read and raise as an application server does, and record what they see."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import datetime
from math import inf
from typing import Any, NamedTuple

from saltctl.canary.classes import Classes
from saltctl.canary.new_rows import NewRow, shown_key
from saltctl.canary.operations import LookupAnswer, Operations, Put, RaiseAttempt, Read
from saltctl.cooling.cooling import Cooling, CoolingResult
from saltctl.errors import SaltctlError
from saltctl.history.history import History
from saltctl.history.models import FindOptions, ReadOptions
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.salting import split_partition_key
from saltctl.settings import Settings

REASON = "saltctl canary"
"""The reason of all raises and cool-downs of the canary, which the backup records."""


class NotFound(NamedTuple):
    """A search for a message that found nothing, although the message was acknowledged before."""

    process: str
    conversation: str
    message: str


@dataclass
class Recorder:
    """The operations of one round. Threads may record at once.

    ``check`` is the name of the check in progress: it is the first part of the process of each operation.
    """

    operations: Operations = field(default_factory=Operations)
    not_found: list[NotFound] = field(default_factory=list)
    check: str = ""
    clock: Callable[[], float] = time.monotonic

    def process(self, client: str) -> str:
        """Return the process of an operation of this client."""
        return f"{self.check} by {client}"


@dataclass
class RecordedLookups:
    """A registry that records its lookups."""

    registry: Registry
    recorder: Recorder
    name: str

    def lookup(self, conversation_id: str) -> Lookup:
        """Look up, and record the answer."""
        began = self.recorder.clock()
        found = self.registry.lookup(conversation_id)
        process = self.recorder.process(self.name)
        answer = LookupAnswer(
            process, conversation_id, began, self.recorder.clock(), found.max_n, found.write_n, found.source
        )
        self.recorder.operations.lookups.append(answer)
        return found


@dataclass
class Client:
    """A registry and a history, and the record of what they did. Thread-safe.

    Args:
        name: of its operations.
        registry: looks up and raises.
        messages: the messages table.
        settings: of the history.
    """

    name: str
    classes: Classes
    registry: Registry
    messages: Any
    settings: Settings
    recorder: Recorder = field(default_factory=Recorder)

    def __post_init__(self) -> None:
        self.lookups = RecordedLookups(self.registry, self.recorder, self.name)
        self.history: History = self.classes.history.over(self.settings, self.lookups, self.messages)

    def close(self) -> None:
        """End the threads of the history; the stores stay open."""
        self.history.close()

    def sharing(self, messages: Any | None = None, *, hedge_reads: bool = False) -> Client:
        """Return a client with the same registry whose readers share reads, perhaps over another messages table."""
        settings = replace(self.settings, share_reads=True, hedge_reads=hedge_reads)
        return replace(self, messages=messages or self.messages, settings=settings)

    def put(self, conversation: str, row: NewRow) -> str:
        """Write a message, and return its name, as the judge has it. Raises as ``History.put``."""
        clock, name = self.recorder.clock, shown_key(row.sort_key)
        began, process = clock(), self.recorder.process(self.name)
        try:
            written = self.history.put(conversation, row.sort_key, row.attributes)
        except SaltctlError:
            self.recorder.operations.puts.append(Put(process, conversation, began, inf, name, acknowledged=False))
            raise
        salt = split_partition_key(written.partition_key)[1]
        needed_n = 1 if salt is None else max(salt + 1, 2)
        self.recorder.operations.puts.append(Put(process, conversation, began, clock(), name, True, needed_n))
        return name

    def read(self, conversation: str, *, limit: int = 500, oldest_first: bool = False) -> list[str]:
        """Read the whole history, page by page; return the names of its messages. Raises as ``History.page``."""
        began, process = self.recorder.clock(), self.recorder.process(self.name)
        names: list[str] = []
        cursor: str | None = None
        while True:
            before, after = (None, cursor) if oldest_first else (cursor, None)
            page = self.history.page(conversation, ReadOptions(limit, before, after, oldest_first))
            names += [shown_key(message.sort_key) for message in page.messages]
            if (cursor := page.next_cursor) is None:
                break
        read = Read(process, conversation, began, self.recorder.clock(), tuple(names))
        self.recorder.operations.reads.append(read)
        return names

    def find(self, conversation: str, row: NewRow, *, by_sort_key: bool = False) -> None:
        """Search for a message that was acknowledged, and record if it is not found. Raises as ``History.find``."""
        process = self.recorder.process(self.name)
        options = FindOptions(sort_key=row.sort_key) if by_sort_key else None
        found = self.history.find(conversation, row.message_id, options)
        if found.message is None:
            self.recorder.not_found.append(NotFound(process, conversation, shown_key(row.sort_key)))

    def raise_to(self, conversation: str, n: int, registry: Registry | None = None) -> None:
        """Raise, by another registry if one is given, and record it. Raises as ``Registry.raise_to``."""
        began, process = self.recorder.clock(), self.recorder.process(self.name)
        raises = self.recorder.operations.raises
        try:
            result = (registry or self.registry).raise_to(conversation, n, reason=REASON)
        except Exception:  # its outcome is not known
            raises.append(RaiseAttempt(process, conversation, began, inf, n, n, acknowledged=False))
            raise
        after = max(result.after, n)
        raises.append(RaiseAttempt(process, conversation, began, self.recorder.clock(), n, after, acknowledged=True))

    def cool(self, conversation: str, now: Callable[[], datetime]) -> CoolingResult:
        """Take a cool-down to N 1 one phase further. Raises as ``Cooling.cool``."""
        cooling: Cooling = self.classes.cooling.over(self.settings, self.registry, self.history, now=now)
        return cooling.cool(conversation, 1, reason=REASON)
