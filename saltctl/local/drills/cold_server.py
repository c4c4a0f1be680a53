"""A new server without any local state routes every read and write correctly at once.

Shown with figures: the first writes and reads of a server that has just started, while Redis is verified, while
it is down, and after it restarted without data.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count

from saltctl.history.history import History
from saltctl.history.models import PutResult, ReadOptions
from saltctl.local.drills.drill import Step
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings

CONVERSATIONS = {"conv_quiet": 1, "conv_warm": 4, "conv_hot": 16}
EACH = 20
OpenHistory = Callable[[Settings], History]


def run(*, open_history: OpenHistory = History.open) -> Iterator[Step]:
    """Run the scenario.

    Args:
        open_history: how a new server opens its history. Tests pass one that begins with N = 1, as a server
            with a local counter would, to prove that this drill can fail.
    """
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        settings = environment.settings
        servers = _Servers(settings)
        with Registry.open(settings) as registry:
            servers.write(History.open)
            for conversation_id, n in CONVERSATIONS.items():
                if n > 1:
                    registry.raise_to(conversation_id, n, reason="drill")
            servers.write(History.open)
        yield Step(
            "servers have been running, and two of three conversations were raised",
            True,
            f"ready in {time.monotonic() - started:.1f} s; {servers.acknowledged} messages",
        )
        yield servers.cold_start("a new server starts: its first writes and reads", open_history, "redis")
        environment.redis.kill()
        yield servers.cold_start("Redis is killed, and another new server starts", open_history, "backup")
        environment.redis.delete_aof()
        environment.redis.start()
        yield servers.cold_start("Redis returns with nothing, and a third one starts", open_history, "backup")
        environment.rebuild()
        yield servers.cold_start("Redis is rebuilt, and a fourth one starts", open_history, "redis")


class _Servers:
    """Servers that start one after another, and the messages that they acknowledged."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._numbers = count()
        self._written: dict[str, list[str]] = {conversation_id: [] for conversation_id in CONVERSATIONS}

    @property
    def acknowledged(self) -> int:
        """The number of messages so far."""
        return sum(map(len, self._written.values()))

    def write(self, open_history: OpenHistory) -> list[tuple[str, PutResult]]:
        """Start a server and write messages to every conversation."""
        done = []
        with open_history(self._settings) as server:
            for conversation_id, written in self._written.items():
                for _ in range(EACH):
                    number = next(self._numbers)
                    result = server.put(conversation_id, f"{number:06d}#m{number}", {"text": f"message {number}"})
                    written.append(result.message_id)
                    done.append((conversation_id, result))
        return done

    def cold_start(self, what: str, open_history: OpenHistory, expected: str) -> Step:
        """Start a server; check the routing of its first writes, and that its first reads miss nothing."""
        began = time.monotonic()
        writes = self.write(open_history)
        misrouted = sum(
            result.partition_key
            != partition_key(conversation_id, salt_of(result.message_id, CONVERSATIONS[conversation_id]))
            for conversation_id, result in writes
        )
        sources: set[str] = set()
        missing = 0
        with open_history(self._settings) as server:
            for conversation_id, written in self._written.items():
                page = server.page(conversation_id, ReadOptions(limit=1000))
                sources.add(page.source)
                missing += len(set(written) - {message.message_id for message in page.messages})
        return Step(
            what,
            not misrouted and not missing and sources == {expected},
            f"{len(writes)} writes, {misrouted} misrouted; {self.acknowledged} messages acknowledged by all servers, "
            f"{missing} missing from its reads; N from {', '.join(sorted(sources))}; {time.monotonic() - began:.2f} s",
        )
