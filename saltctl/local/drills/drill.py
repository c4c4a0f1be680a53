"""A drill and its steps, and the messages that servers write in drills."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saltctl.history.history import History
from saltctl.history.models import PutResult
from saltctl.settings import Settings

OpenHistory = Callable[[Settings], History]


@dataclass(frozen=True, slots=True)
class Step:
    """One action or check, whether it went as promised, and the figures."""

    what: str
    ok: bool
    detail: str = ""


@dataclass(frozen=True, slots=True)
class Drill:
    """A scenario: its name on the command line, one line about it, and the function that yields its steps."""

    name: str
    about: str
    run: Callable[[], Iterator[Step]]


def write_messages(server: History, conversation_id: str, ids: list[str], count: int) -> list[PutResult]:
    """Write the ``count`` messages of a conversation that follow those in ``ids``, and append their ids to it."""
    written = []
    for number in range(len(ids), len(ids) + count):
        sort_key = f"2026-07-01T08:{number // 60:02d}:{number % 60:02d}.000Z#m{number}"
        written.append(server.put(conversation_id, sort_key, {"text": f"message m{number}"}))
    ids += [result.message_id for result in written]
    return written
