"""A conversation is salted while a reader is away; the reader returns with an old cursor and misses nothing.

Shown with figures: the messages that the reader gets from its cursor on, those of all pages including the base
partition, and those that a reader with a remembered N would have got.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count

from saltctl.history.history import History
from saltctl.history.models import Page, ReadOptions
from saltctl.local.drills.drill import Step
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry
from saltctl.settings import Settings

CONVERSATION = "conv_offline"
RAISES = (4, 16)
BEFORE, EACH, RETRIES = 40, 60, 5
PAGE = 25

OpenHistory = Callable[[Settings], History]


def run(*, open_history: OpenHistory = History.open) -> Iterator[Step]:
    """Run the scenario.

    Args:
        open_history: how the reader opens its history. Tests pass one that remembers N, to prove that this
            drill can fail.
    """
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        settings = environment.settings
        with History.open(settings) as server, open_history(settings) as reader, Registry.open(settings) as registry:
            written = _Writer(server)
            written.add(BEFORE)
            seen = reader.page(CONVERSATION, ReadOptions(limit=PAGE))
            yield Step(
                "a reader reads the newest page and goes offline",
                _ids(seen) == written.newest_first()[:PAGE] and seen.max_n == 1,
                f"ready in {time.monotonic() - started:.1f} s; {BEFORE} messages, all in the base partition",
            )
            for n in RAISES:
                registry.raise_to(CONVERSATION, n, reason="drill")
                written.add(EACH)
                written.retry(RETRIES)
            yield Step(
                f"while it is offline, the conversation is raised to {' and '.join(map(str, RAISES))}",
                True,
                f"{EACH * len(RAISES)} messages are written, and {RETRIES * len(RAISES)} older ones written again "
                "by clients that got no answer the first time",
            )
            yield from _read_from_cursor(reader, seen, written)
            environment.redis.kill()
            environment.redis.delete_aof()
            environment.redis.start()
            yield _read_all(reader, written, "Redis returns with nothing: the reader pages through all of it again")


def _read_from_cursor(reader: History, seen: Page, written: _Writer) -> Iterator[Step]:
    missed = written.newest_first()[: EACH * len(RAISES)]
    options = ReadOptions(after=seen.prev_cursor, oldest_first=True)
    pages = list(_pages(reader, options))
    found = [message for page in pages for message in _ids(page)]
    yield Step(
        "the reader returns with the cursor that it had",
        found == missed[::-1],
        f"{len(found)} of {len(missed)} messages that it missed, in order, each once; {_figures(pages)}",
    )
    yield _read_all(reader, written, "and pages through all of it, newest first")
    base = reader.page(CONVERSATION, ReadOptions(limit=len(written))).shards[0].items_returned
    yield Step(
        "the base partition has the messages from before the raises",
        base == BEFORE,
        f"{base} messages of {len(written)}: all that a reader with a remembered N = 1 would have got",
    )


def _read_all(reader: History, written: _Writer, what: str) -> Step:
    pages = list(_pages(reader, ReadOptions()))
    found = [message for page in pages for message in _ids(page)]
    expected = written.newest_first()
    return Step(
        what,
        found == expected,
        f"{len(found)} of {len(expected)} messages, in order, each once; {_figures(pages)}",
    )


def _pages(reader: History, options: ReadOptions) -> Iterator[Page]:
    """Yield pages of a fixed size, as a client with a screen of that size requests them."""
    before, after = options.before, options.after
    while True:
        page = reader.page(
            CONVERSATION, ReadOptions(limit=PAGE, before=before, after=after, oldest_first=options.oldest_first)
        )
        yield page
        if page.next_cursor is None:
            return
        if options.oldest_first:
            after = page.next_cursor
        else:
            before = page.next_cursor


def _ids(page: Page) -> list[str]:
    return [str(message.message_id) for message in page.messages]


def _figures(pages: list[Page]) -> str:
    read = sum(page.items_read for page in pages)
    returned = sum(len(page.messages) for page in pages)
    return (
        f"{len(pages)} pages from {len(pages[-1].shards)} partitions, N from {pages[-1].source}, "
        f"{read / max(returned, 1):.1f} items read for each one returned"
    )


class _Writer:
    """The messages that one server has written, in order."""

    def __init__(self, server: History) -> None:
        self._server = server
        self._numbers = count()
        self._sort_keys: list[str] = []

    def __len__(self) -> int:
        return len(self._sort_keys)

    def add(self, messages: int) -> None:
        """Write new messages."""
        for _ in range(messages):
            number = next(self._numbers)
            sort_key = f"2026-07-01T08:{number // 60:02d}:{number % 60:02d}.000Z#m{number}"
            self._put(sort_key)
            self._sort_keys.append(sort_key)

    def retry(self, messages: int) -> None:
        """Write the first messages again, with the current N."""
        for sort_key in self._sort_keys[:messages]:
            self._put(sort_key)

    def _put(self, sort_key: str) -> None:
        self._server.put(CONVERSATION, sort_key, {"text": f"message {sort_key.partition('#')[2]}"})

    def newest_first(self) -> list[str]:
        """Return the ids of all messages."""
        return [sort_key.partition("#")[2] for sort_key in reversed(self._sort_keys)]
