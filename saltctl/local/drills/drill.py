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


def write_messages(
    server: History, conversation_id: str, ids: list[str], count: int, *, later: int = 0
) -> list[PutResult]:
    """Write the ``count`` messages of a conversation that follow those in ``ids``, and append their ids to it.

    There is one a second. ``later`` seconds are added to their times.
    """
    written = []
    for number in range(len(ids), len(ids) + count):
        minute, second = divmod(number + later, 60)
        sort_key = f"2026-07-01T08:{minute:02d}:{second:02d}.000Z#m{number}"
        written.append(server.put(conversation_id, sort_key, {"text": f"message m{number}"}))
    ids += [result.message_id for result in written]
    return written
