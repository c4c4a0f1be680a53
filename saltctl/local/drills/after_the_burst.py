"""A conversation burst once, and is cooled: its newest page costs what one of an unsalted conversation does.

Shown with figures: the queries and read units of the newest page before and after, and that readers, by Redis and by
the backup, get every message at each step.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta

from saltctl.cooling.cooling import Cooling
from saltctl.history.history import History
from saltctl.history.models import Page, ReadOptions
from saltctl.local.drills.drill import OpenHistory, Step, write_messages
from saltctl.local.drills.timeline import timeline
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry

CONVERSATION, QUIET = "conv_burst", "conv_never_salted"
N = 16
BURST, AFTER = 120, 40
PAGE = ReadOptions(limit=25)
_COOLED_AT = datetime(2026, 7, 1, 8, 10, tzinfo=UTC)
"""The messages of the burst are from the minutes before. The drill moves its own clock, so that nobody waits."""
_MARGIN = 60.0
_LATER = 1200
"""Seconds by which the messages after the cool-down are later than those of the burst."""


def run(*, open_history: OpenHistory = History.open) -> Iterator[Step]:
    """Run the scenario.

    Args:
        open_history: how the reader opens its history. Tests pass one that trusts a wrong boundary, to prove that this
            drill can fail.
    """
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        settings, ids, quiet = environment.settings, list[str](), list[str]()
        with History.open(settings) as server, open_history(settings) as reader, Registry.open(settings) as registry:
            clock = [_COOLED_AT]
            cooling = Cooling(registry, server, margin=_MARGIN, now=lambda: clock[0])
            registry.raise_to(CONVERSATION, N, reason="drill")
            write_messages(server, CONVERSATION, ids, BURST)
            write_messages(server, QUIET, quiet, AFTER)
            before = reader.page(CONVERSATION, PAGE)
            yield Step(
                f"a conversation bursts, is raised to {N}, and calms down",
                len(before.shards) == N + 1,
                f"ready in {time.monotonic() - started:.1f} s; {BURST} messages; its newest page: {_cost(before)}",
            )
            narrowed = cooling.cool(CONVERSATION, 1, reason="drill")
            yield _read_all(reader, f"it is cooled: {narrowed.phase}, new messages use 1 salt", ids)
            clock[0] += timedelta(seconds=cooling.wait)
            sealed = cooling.cool(CONVERSATION, 1, reason="drill")
            write_messages(server, CONVERSATION, ids, AFTER, later=_LATER)
            yield _read_all(reader, f"after the wait it is {sealed.phase} from {sealed.recent_from} on", ids)
            yield _compare(reader, "its newest page costs what that of an unsalted conversation does")
            registry.raise_to(CONVERSATION, 4, reason="drill")
            write_messages(server, CONVERSATION, ids, AFTER, later=_LATER)
            yield _read_all(reader, "it is raised again, to 4", ids)
            environment.redis.kill()
            yield _read_all(reader, "Redis is killed: the backup knows the boundary, too", ids)
            environment.redis.delete_aof()
            environment.redis.start()
            environment.rebuild()
            yield _read_all(reader, "Redis returns with nothing, and is rebuilt", ids)
        yield timeline(environment, [CONVERSATION])


def _cost(page: Page) -> str:
    queries, units = sum(shard.queries for shard in page.shards), sum(shard.consumed_rcu for shard in page.shards)
    return f"queries: {queries}, read units: {units:g}"


def _compare(reader: History, what: str) -> Step:
    cooled, unsalted = reader.page(CONVERSATION, PAGE), reader.page(QUIET, PAGE)
    return Step(what, _cost(cooled) == _cost(unsalted), f"{_cost(cooled)}; unsalted: {_cost(unsalted)}")


def _read_all(reader: History, what: str, ids: list[str]) -> Step:
    """Read the whole history, newest first, and check that it is complete and in order."""
    found = [message.message_id for page in reader.pages(CONVERSATION) for message in page.messages]
    newest = reader.page(CONVERSATION, PAGE)
    detail = f"{len(found)} of {len(ids)} messages, in order, each once; N from {newest.source}"
    return Step(what, found == ids[::-1], f"{detail}; its newest page: {_cost(newest)}")
