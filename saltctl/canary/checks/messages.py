"""Messages are written, read and found, by Redis and by the backup."""

from __future__ import annotations

import threading
from collections.abc import Callable

from saltctl.canary.checks.outcomes import Unjudged
from saltctl.canary.checks.substitutes import HeldMessages
from saltctl.canary.round import Round

_JOINS = 0.3
"""Seconds after which a second reader has asked for the page that a first one still reads."""


def write(on: Round) -> str:
    """Write by both clients, and each message a second time by the other one, as a retry does."""
    conversation = on.use(on.steady)
    for client, other in (on.clients, on.clients[::-1]):
        row = on.row(conversation)
        client.put(conversation, row)
        other.put(conversation, row)
        on.written.append((conversation, row))
    return f"{len(on.written)} messages in {conversation}, each twice"


def read(on: Round) -> str:
    """Read the whole history by both clients, from both ends."""
    conversation = on.use(on.steady)
    counts = [
        len(client.read(conversation, limit=limit, oldest_first=limit < 50))
        for client in on.clients
        for limit in (500, 40)
    ]
    return f"{max(counts)} messages of {conversation}, {on.sources()}, from both ends"


def shared_read(on: Round) -> str:
    """Write a message while a reader has passed its place and another one asks for the same page."""
    conversation = on.use(on.steady)
    found = on.by_redis.history.lookup(conversation)
    held = HeldMessages(on.servers.messages, held=len(found.read_set()))
    client = on.by_redis.sharing(held)
    joins = min(_JOINS, on.servers.settings.page_timeout / 4)  # the first reader must not run out of time
    readers = [_Reader(lambda: client.read(conversation)) for _ in range(2)]
    try:
        readers[0].start()
        held.wait(joins)
        on.by_redis.put(conversation, on.row(conversation))
        readers[1].start()
        readers[1].join(joins)
    finally:
        held.release()
        for reader in readers:
            reader.finish()
        client.close()
    for reader in readers:
        reader.check()
    hedging = on.by_backup.sharing(hedge_reads=True)
    try:
        hedging.read(conversation)
    finally:
        hedging.close()
    return f"two readers of {conversation} at once, and a message written between them"


def find(on: Round) -> str:
    """Find the messages of this round by their ids, and by their sort keys, too."""
    if not on.written:
        raise Unjudged("no message was written in this round")
    for number, client in enumerate(on.clients):
        for conversation, row in on.written:
            client.find(conversation, row, by_sort_key=bool(number))
    return f"{len(on.written)} messages, by id and by sort key"


class _Reader(threading.Thread):
    """A reader in a thread, whose error is raised by :meth:`check`."""

    def __init__(self, work: Callable[[], object]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._error: Exception | None = None

    def run(self) -> None:
        """Read."""
        try:
            self._work()
        except Exception as exc:
            self._error = exc

    def finish(self) -> None:
        """Wait for the end, if it was started."""
        if self.ident is not None:
            self.join()

    def check(self) -> None:
        """Raise the error, if there was one."""
        if self._error is not None:
            raise self._error
