"""A conversation is salted while a reader is away; the reader returns with an old cursor and misses nothing.

Shown with figures: the messages that the reader gets from its cursor on, those of all pages including the base
partition, and those that a reader with a remembered N would have got.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import replace

from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.local.drills.drill import OpenHistory, Step, write_messages
from saltctl.local.drills.timeline import timeline
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry

CONVERSATION = "conv_offline"
RAISES = (4, 16)
BEFORE, EACH, RETRIES = 40, 60, 5
PAGE = ReadOptions(limit=25)


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
            ids: list[str] = []
            write_messages(server, CONVERSATION, ids, BEFORE)
            seen = reader.page(CONVERSATION, PAGE)
            yield Step(
                "a reader reads the newest page and goes offline",
                [message.message_id for message in seen.messages] == ids[::-1][: PAGE.limit] and seen.max_n == 1,
                f"ready in {time.monotonic() - started:.1f} s; {BEFORE} messages, all in the base partition",
            )
            for n in RAISES:
                registry.raise_to(CONVERSATION, n, reason="drill")
                write_messages(server, CONVERSATION, ids, EACH)
                write_messages(server, CONVERSATION, [], RETRIES)  # the first ones again, with the current N
            yield Step(
                f"while it is offline, the conversation is raised to {' and '.join(map(str, RAISES))}",
                True,
                f"{EACH * len(RAISES)} messages are written, and {RETRIES * len(RAISES)} older ones written again "
                "by clients that got no answer the first time",
            )
            yield from _return(reader, replace(PAGE, after=seen.prev_cursor, oldest_first=True), ids)
            environment.redis.kill()
            environment.redis.delete_aof()
            environment.redis.start()
            yield _read_all(reader, "Redis returns with nothing: the reader pages through all of it again", ids[::-1])
        yield timeline(environment, [CONVERSATION])


def _return(reader: History, options: ReadOptions, ids: list[str]) -> Iterator[Step]:
    what = "the reader returns with the cursor that it had"
    yield _read_all(reader, what, ids[BEFORE:], "messages that it missed", options)
    yield _read_all(reader, "and pages through all of it, newest first", ids[::-1])
    base = reader.page(CONVERSATION, ReadOptions(limit=len(ids))).shards[0].items_returned
    yield Step(
        "the base partition has the messages from before the raises",
        base == BEFORE,
        f"{base} messages of {len(ids)}: all that a reader with a remembered N = 1 would have got",
    )


def _read_all(
    reader: History, what: str, expected: list[str], kind: str = "messages", options: ReadOptions = PAGE
) -> Step:
    """Read pages of a fixed size to the end, as a client with a screen of that size requests them."""
    pages = [reader.page(CONVERSATION, options)]
    while (cursor := pages[-1].next_cursor) is not None:
        options = replace(options, after=cursor) if options.oldest_first else replace(options, before=cursor)
        pages.append(reader.page(CONVERSATION, options))
    found = [message.message_id for page in pages for message in page.messages]
    read = sum(page.items_read for page in pages)
    return Step(
        what,
        found == expected,
        f"{len(found)} of {len(expected)} {kind}, in order, each once; "
        f"{len(pages)} pages from {len(pages[-1].shards)} partitions, N from {pages[-1].source}, "
        f"{read / max(len(found), 1):.1f} items read for each one returned",
    )
