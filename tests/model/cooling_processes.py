"""The processes of the model of cooling: the real code of cool-downs, over stubs of time and of the messages table."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from saltctl.cooling import boundary
from saltctl.cooling.cooling import Cooling
from saltctl.salting import partition_key
from saltctl.stores.contracts.messages import PartitionAnswer, PartitionQuery, TableKeys
from tests.model.replay import CONVERSATION, Answers, Call, Code, ModelBackup, Process, Stores

CLOCK, NEWEST = Call("world", ("clock",)), Call("world", ("newest",))
"""The calls that ask for the hour, and for the newest rows of the messages table."""
BEFORE, SCHEDULED = "2025-12-31T23:30:00Z", "2026-01-02T00:00:00Z"
"""The sort keys of the messages that are there at first, and of scheduled ones."""
_START = datetime(2026, 1, 1, tzinfo=UTC)
_ROW_BITS, _ALL_ROW_BITS = 4, 20
"""The bits of one sort key: 1 + the largest salt with an acknowledged message, or 0. Who reads it finds those below."""


class CoolingBackup(ModelBackup):
    """The backup, of a registry whose clients all know cooled entries."""

    def allow_cooling(self) -> bool:
        """Return that nothing changed."""
        return False


@dataclass(frozen=True)
class CoolingCode(Code):
    """The classes that processes run: the real ones, or subclasses of them as mutations."""

    backup: type[ModelBackup] = CoolingBackup
    cooling: type[Cooling] = Cooling
    margin: float = 3600.0


class Rows:
    """The messages table: in each state the largest salt of each sort key."""

    def __init__(self, hours: int) -> None:
        of_hours = (f"2026-01-01T{hour:02}:30:00Z" for hour in range(hours + 1))
        self.sort_keys = [BEFORE, *of_hours, SCHEDULED]
        assert len(self.sort_keys) * _ROW_BITS <= _ALL_ROW_BITS

    def with_row(self, rows: int, sort_key: int, salt: int) -> int:
        """Return the rows with another one."""
        at = sort_key * _ROW_BITS
        held = rows >> at & 15
        return rows + (max(held, salt + 1) - held << at)

    def salts(self, rows: int) -> Iterator[tuple[str, int]]:
        """Yield (sort key, largest salt)."""
        for number, sort_key in enumerate(self.sort_keys):
            if held := rows >> number * _ROW_BITS & 15:
                yield sort_key, held - 1

    def newest(self, rows: int) -> tuple[tuple[str, str], ...]:
        """Return the newest sort key of each partition that has one."""
        found = {CONVERSATION: self.sort_keys[0]}
        for sort_key, salt in self.salts(rows):
            found[partition_key(CONVERSATION, salt)] = sort_key
        return tuple(found.items())


class StubMessages:
    """The messages table, whose newest rows are recorded answers, all of one moment."""

    keys = TableKeys("conversation_id", "sort_key", "S")

    def __init__(self, answers: Answers) -> None:
        self._answers = answers
        self._newest: Mapping[str, str] | None = None

    def query(self, request: PartitionQuery) -> PartitionAnswer:
        """Return the newest row of a partition."""
        assert (request.descending, request.limit, request.consistent) == (True, 1, True)
        if self._newest is None:
            self._newest = dict(self._answers.ask(NEWEST))
        found = self._newest.get(request.partition_key)
        return PartitionAnswer([{"sort_key": {"S": found}}] if found else [], 1, 1.0, None)


class StubHistory:
    """A history that shows the form of the sort keys."""

    def __init__(self, answers: Answers) -> None:
        self.store = StubMessages(answers)

    def page(self, *_: object) -> Any:
        """Return the first message."""
        return SimpleNamespace(messages=[SimpleNamespace(sort_key=BEFORE)], next_cursor=None)


class SerialPool:
    """Instead of a thread pool."""

    def __init__(self, workers: int) -> None:
        pass

    def __enter__(self) -> SerialPool:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Do nothing."""

    def map(self, work: Callable[[str], Any], items: Sequence[str]) -> Iterator[Any]:
        """Do the work."""
        return map(work, items)


def cool_process(code: CoolingCode, n: int) -> Process:
    """Return a process that takes the conversation one phase further towards N."""

    def body(stores: Stores) -> None:
        answers = stores.answers

        def now() -> datetime:
            return _START + timedelta(hours=answers.ask(CLOCK))

        history: Any = StubHistory(answers)
        cooling = code.cooling(stores.registry, history, wait=3600.0, margin=code.margin, now=now)
        with patch.object(boundary, "ThreadPoolExecutor", SerialPool):
            cooling.cool(CONVERSATION, n)

    return Process(f"cool to {n}", body)


def complete_process() -> Process:
    """Return a process that completes a raise, as ``saltctl compare --repair`` does."""

    def body(stores: Stores) -> None:
        stores.registry.complete(CONVERSATION)

    return Process("complete", body)


_OLDER_MERGE = """#!lua
local now = redis.call('HGET', KEYS[1], ARGV[2])
now = now and string.match(now, '^%d+$')
if (tonumber(now) or 0) < tonumber(ARGV[3]) then redis.call('HSET', KEYS[1], ARGV[2], ARGV[3]) end
return 1
"""
"""Step 2 of a raise in clients that know no cooled entries: such a string is not a number, and counts as missing."""


def older_raise_process(n: int) -> Process:
    """Return a process that raises to N as such a client does, until it dies before its last step.

    It is refused if the conversation was cooled before it asks, and does its second step within the wait.
    """

    def body(stores: Stores) -> None:
        store, backup, values = stores.store, stores.backup, {":n": {"N": str(n)}}
        condition = "attribute_not_exists(conversation_id) OR max_n < :n"
        backup.update_item(CONVERSATION, "SET max_n = :n", condition, values)
        held = backup.get(CONVERSATION)
        if held is None or held.cooling is None:
            key = store.key_of(CONVERSATION)
            store._others.ask_of(key, [("EVAL", _OLDER_MERGE, 1, key, store.layout, CONVERSATION, n)])  # noqa: SLF001

    return Process(f"older client: raise to {n}", body)
