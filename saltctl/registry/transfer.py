"""The registry as lines of JSON: out of one environment, into a diff, into another environment.

A line is ``{"conversation_id": …, "max_n": …}``. Lines are sorted by id, whatever they come from, so that two
exports differ in the lines of what differs. An import is a max-merge by the protocol: it raises, never lowers, and
is safe to repeat, which is also how one goes on that was broken off.
"""

from __future__ import annotations

import heapq
import json
import tempfile
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import islice
from typing import IO, BinaryIO, Protocol, TypeVar

from saltctl.errors import RefusedError, SaltctlError, UsageError
from saltctl.registry.registry import RaiseResult
from saltctl.salting import check_conversation_id, check_salt_count
from saltctl.stores.contracts import BackupEntry
from saltctl.stores.retry import retry_while_throttled

SORTED_AT_ONCE = 100_000
"""Entries that are sorted in memory, about 15 MB; more than that are sorted in files of so many and merged."""
LINE_BYTES = 1 << 14
"""A longer line is none of ours: an id has 2,000 bytes, each of them six characters in JSON at most."""
BATCH = 1000
WORKERS = 16
"""Raises at once. A raise is three round trips, so that one after another would be about a hundred a second."""
MAX_NAMED = 1000
"""Raises and bad lines that a report names; all of them are counted."""

Entry = tuple[str, int]
_T = TypeVar("_T")


def in_order(entries: Iterable[Entry], at_once: int = SORTED_AT_ONCE) -> Iterator[Entry]:
    """The entries sorted by id, in flat memory: what is too much for it is sorted through temporary files.

    Nothing is yielded before everything was read, so a source that fails leaves no half of an export.
    """
    source = iter(entries)
    with ExitStack() as files:
        runs: list[Iterator[Entry]] = []
        while chunk := sorted(islice(source, at_once)):
            if not runs and len(chunk) < at_once:
                runs.append(iter(chunk))
                break
            file = files.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(f"{json.dumps(entry)}\n" for entry in chunk)
            file.seek(0)
            runs.append(_run_of(file))
        yield from heapq.merge(*runs)


def _run_of(file: IO[str]) -> Iterator[Entry]:
    for line in file:
        conversation_id, n = json.loads(line)
        yield conversation_id, n


class Registry(Protocol):
    """Where raises go: ``registry.Registry``. Thread-safe."""

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "") -> RaiseResult: ...  # noqa: D102
    def complete(self, conversation_id: str) -> bool: ...  # noqa: D102


class Backup(Protocol):
    """Where it is learned what is held already. Thread-safe."""

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """As ``contracts.BackupStore``."""
        ...


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """``rate``: raises a second, at most; None is as fast as it goes."""

    cap: int
    reason: str = "registry import"
    rate: float | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse a rate that would never end."""
        if self.rate is not None and self.rate < 0.1:
            raise UsageError("the rate must be at least 0.1 raises a second", hint="--rate 100")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be imported, counted from 1, and what is wrong with it."""

    line: int
    problem: str


@dataclass
class ImportReport:
    """What an import did so far. ``raises`` and ``bad_lines`` name the first 1,000; the numbers are whole.

    ``read`` entries were usable; ``raised`` of them increased max_n, or would; ``unchanged`` did not.
    ``skipped`` lines are no entries.
    """

    read: int = 0
    raised: int = 0
    unchanged: int = 0
    skipped: int = 0
    raises: list[dict[str, object]] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)
    seconds: float = 0.0
    dry_run: bool = False


class Import:
    """An import. Iterate over :meth:`run` once; every item is the same report as it grows, the last one whole.

    Args:
        lines: the file, opened in binary.
        registry: raises.
        backup: what is held already is not raised once more.
        clock: monotonic seconds.
        sleep: waits, for the rate and while AWS throttles; by default until the import is ended.
    """

    def __init__(
        self,
        lines: BinaryIO,
        registry: Registry,
        backup: Backup,
        options: ImportOptions,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], object] | None = None,
    ) -> None:
        self._lines = lines
        self._registry = registry
        self._backup = backup
        self._options = options
        self._clock = clock
        self._stop = threading.Event()
        self._pause = sleep or self._stop.wait
        self.report = ImportReport(dry_run=options.dry_run)

    def run(self) -> Iterator[ImportReport]:
        """Do it. A line that is no entry is noted, and the lines after it are imported all the same.

        Raises:
            UnavailableError, AccessDeniedError, ConfigurationError, RaiseIncompleteError: what was raised stays;
                running it again goes through the same lines and raises what is left.
        """
        started = self._clock()
        size = BATCH if self._options.rate is None else max(min(BATCH, int(self._options.rate)), 1)
        entries = self._entries()
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                while batch := dict(_largest(islice(entries, size))):
                    self._merge(batch, pool)
                    self.report.seconds = round(self._clock() - started, 3)
                    yield self.report
                    if self._options.rate and not self._options.dry_run:
                        self._sleep(max(self.report.raised / self._options.rate - (self._clock() - started), 0.0))
            finally:
                self._stop.set()  # whoever ends this does not wait for raises that wait for AWS
        self.report.seconds = round(self._clock() - started, 3)
        yield self.report

    def _sleep(self, seconds: float) -> None:
        self._pause(seconds)
        if self._stop.is_set():
            raise CancelledError

    def _entries(self) -> Iterator[Entry]:
        number = 0
        while line := self._lines.readline(LINE_BYTES):
            number += 1
            try:
                if not line.endswith(b"\n") and len(line) == LINE_BYTES:
                    self._skip_rest_of_line()
                    raise ValueError("it is too long to be an entry")
                if not line.strip():
                    continue
                entry = _parse(line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line, self._options.cap)
            except (ValueError, RefusedError) as exc:
                self.report.skipped += 1
                if len(self.report.bad_lines) < MAX_NAMED:
                    self.report.bad_lines.append(BadLine(number, str(exc)))
                continue
            self.report.read += 1
            yield entry

    def _skip_rest_of_line(self) -> None:
        while (more := self._lines.readline(LINE_BYTES)) and not more.endswith(b"\n"):
            pass

    def _merge(self, batch: dict[str, int], pool: ThreadPoolExecutor) -> None:
        held = retry_while_throttled(partial(self._backup.get_many, list(batch)), self._sleep)
        work = [(i, n, held.get(i)) for i, n in batch.items()]
        # An N of 1 is what a conversation without an entry has.
        behind = [(i, n, e) for i, n, e in work if n > (e.max_n if e else 1)]
        half_done = [i for i, n, e in work if e is not None and n <= e.max_n and e.write_n < e.max_n]
        raised = 0
        if self._options.dry_run:
            raised = len(behind)
            for conversation_id, n, entry in behind:
                self._name(conversation_id, entry.max_n if entry else 1, n)
        else:
            for result in pool.map(self._raise, behind):
                raised += result.changed
                if result.changed:
                    self._name(result.conversation_id, result.before, result.after)
            list(pool.map(self._complete, half_done))
        self.report.raised += raised
        self.report.unchanged = self.report.read - self.report.raised

    def _raise(self, work: tuple[str, int, BackupEntry | None]) -> RaiseResult:
        conversation_id, n, _ = work
        call = partial(self._registry.raise_to, conversation_id, n, reason=self._options.reason)
        return _resumable(partial(retry_while_throttled, call, self._sleep))

    def _complete(self, conversation_id: str) -> bool:
        return _resumable(
            partial(retry_while_throttled, partial(self._registry.complete, conversation_id), self._sleep)
        )

    def _name(self, conversation_id: str, before: int, after: int) -> None:
        if len(self.report.raises) < MAX_NAMED:
            self.report.raises.append({"conversation_id": conversation_id, "before": before, "after": after})


def _largest(entries: Iterable[Entry]) -> Iterator[Entry]:
    """Of several entries for one conversation the last one is kept by a dictionary: make that the largest."""
    return iter(sorted(entries, key=lambda entry: entry[1]))


def _parse(line: bytes, cap: int) -> Entry:
    try:
        record = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("it is no JSON") from None
    if not isinstance(record, dict) or "conversation_id" not in record or "max_n" not in record:
        raise ValueError("it is no object with a conversation_id and a max_n")
    conversation_id, n = record["conversation_id"], record["max_n"]
    if not isinstance(conversation_id, str):
        raise ValueError("its conversation_id is no text")
    if not isinstance(n, int) or isinstance(n, bool):
        raise ValueError("its max_n is no whole number")
    return check_conversation_id(conversation_id), check_salt_count(n, cap)


def _resumable(call: Callable[[], _T]) -> _T:
    try:
        return call()
    except SaltctlError as exc:
        exc.hint = f"what was imported is kept; run the same import again. {exc.hint}"
        raise
