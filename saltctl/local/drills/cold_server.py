"""A new server without any local state routes every read and write correctly at once.

Shown with figures: the first writes and reads of a server that has just started, while Redis is verified, while
it is down, and after it restarted without data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from functools import partial

from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.local.drills.drill import OpenHistory, Step, write_messages
from saltctl.local.drills.timeline import timeline
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of

CONVERSATIONS = {"conv_quiet": 1, "conv_warm": 4, "conv_hot": 16}
EACH = 20


def run(*, open_history: OpenHistory = History.open) -> Iterator[Step]:
    """Run the scenario.

    Args:
        open_history: how a new server opens its history. Tests pass one that begins with N = 1, as a server
            with a local counter would, to prove that this drill can fail.
    """
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        ids: dict[str, list[str]] = {conversation_id: [] for conversation_id in CONVERSATIONS}
        with Registry.open(environment.settings) as registry, History.open(environment.settings) as server:
            for conversation_id, n in CONVERSATIONS.items():
                write_messages(server, conversation_id, ids[conversation_id], EACH)
                if n > 1:
                    registry.raise_to(conversation_id, n, reason="drill")
                write_messages(server, conversation_id, ids[conversation_id], EACH)
        yield Step(
            "servers have been running, and two of three conversations were raised",
            True,
            f"ready in {time.monotonic() - started:.1f} s; {sum(map(len, ids.values()))} messages",
        )
        cold_start = partial(_cold_start, partial(open_history, environment.settings), ids)
        yield cold_start("a new server starts: its first writes and reads", "redis")
        environment.redis.kill()
        yield cold_start("Redis is killed, and another new server starts", "backup")
        environment.redis.delete_aof()
        environment.redis.start()
        yield cold_start("Redis returns with nothing, and a third one starts", "backup")
        environment.rebuild()
        yield cold_start("Redis is rebuilt, and a fourth one starts", "redis")
        yield timeline(environment, CONVERSATIONS)


def _cold_start(start: Callable[[], History], ids: dict[str, list[str]], what: str, source: str) -> Step:
    """Check the routing of a server's first writes, and that the first reads of another one miss nothing."""
    began = time.monotonic()
    misrouted = missing = 0
    with start() as server:
        for conversation_id, n in CONVERSATIONS.items():
            for result in write_messages(server, conversation_id, ids[conversation_id], EACH):
                misrouted += result.partition_key != partition_key(conversation_id, salt_of(result.message_id, n))
    with start() as server:
        pages = [server.page(conversation_id, ReadOptions(limit=1000)) for conversation_id in ids]
    for page in pages:
        missing += len(set(ids[page.conversation_id]) - {message.message_id for message in page.messages})
    sources = {page.source for page in pages}
    return Step(
        what,
        not misrouted and not missing and sources == {source},
        f"{EACH * len(ids)} writes, {misrouted} misrouted; {sum(map(len, ids.values()))} messages acknowledged by all "
        f"servers, {missing} missing from its reads; N from {', '.join(sorted(sources))}; "
        f"{time.monotonic() - began:.2f} s",
    )
