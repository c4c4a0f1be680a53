"""Export and import: the registry as lines of JSON, to compare environments and to copy between them.

A line is ``{"conversation_id": …, "max_n": …}``. That of a cooled conversation has ``write_n``, ``recent_n`` and
``recent_from``, too; an import ignores them, because a boundary is true only of the messages that it was found in.

An export is sorted by id whatever its source, so a diff of two exports shows the entries that differ. An import is a
max-merge by the protocol: it raises, never lowers, and can be repeated, which is also how an interrupted import is
resumed.
"""

from __future__ import annotations

import heapq
import json
import tempfile
import threading
import time
from collections.abc import Callable, Collection, Generator, Iterable, Iterator
from concurrent.futures import CancelledError, ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import KW_ONLY, dataclass, field
from functools import partial
from itertools import islice
from operator import itemgetter
from typing import Protocol, TypeVar

from saltctl.commands import hint_of
from saltctl.errors import RefusedError, SaltctlError
from saltctl.registry.drift import half_done
from saltctl.registry.export.query import MAX_N
from saltctl.registry.failures import is_outage, read_undamaged
from saltctl.registry.registry import Registry
from saltctl.salting import check_conversation_id, check_salt_count
from saltctl.stores.contracts import raise_reasons
from saltctl.stores.contracts.entries import Entry, parse_entry
from saltctl.stores.contracts.registry import BackupEntry, BackupStore
from saltctl.stores.retry import retry_while_throttled
from saltctl.values import check_number, check_whole

MAX_SORTED_IN_MEMORY = 100_000
"""Entries that are sorted in memory, about 15 MB. More entries are sorted in files of this many and merged."""
MAX_LINE_BYTES = 1 << 14
"""An export has no longer line: an id has at most 2,000 bytes, each of them at most six characters in JSON."""
BATCH_SIZE = 1000
WORKERS = 16
"""Raises in parallel. A raise costs three round trips, so one worker would do about a hundred a second."""
MAX_LISTED = 1000
"""Raises and bad lines that a report lists. All of them are counted."""

Line = tuple[str, int]
"""The id and the max_n of a line."""
_T = TypeVar("_T")


def sort_entries(
    entries: Iterable[tuple[str, Entry]], max_in_memory: int = MAX_SORTED_IN_MEMORY
) -> Iterator[tuple[str, Entry]]:
    """Sort entries by id in bounded memory, through temporary files if there are too many.

    Reads every entry before the first one is yielded, so a source that fails leaves no partial export.
    """
    source = iter(entries)
    with ExitStack() as files:
        sorted_parts: list[Iterator[tuple[str, Entry]]] = []
        while part := sorted(islice(source, max_in_memory), key=itemgetter(0)):
            if not sorted_parts and len(part) < max_in_memory:
                sorted_parts.append(iter(part))
                break
            file = files.enter_context(tempfile.TemporaryFile("w+", encoding="ascii"))
            file.writelines(f"{json.dumps((conversation_id, str(entry)))}\n" for conversation_id, entry in part)
            file.seek(0)
            sorted_parts.append((conversation_id, parse_entry(n) or 1) for conversation_id, n in map(json.loads, file))
        yield from heapq.merge(*sorted_parts, key=itemgetter(0))


@dataclass(frozen=True, slots=True)
class ImportOptions:
    """How to import. ``cap``: the largest N of an entry. ``rate``: raises a second at most; None is no limit."""

    cap: int
    reason: str = raise_reasons.IMPORTED
    rate: float | None = None
    dry_run: bool = False

    def __post_init__(self) -> None:
        """Refuse a rate at which an import would never end, and a cap that is none; raises UsageError."""
        check_whole("cap", self.cap, 1)
        if self.rate is not None:
            check_number("rate", self.rate, 0.1, hint="such as --rate 100")


@dataclass(frozen=True, slots=True)
class BadLine:
    """A line that cannot be imported: its number, from 1, and the reason."""

    line: int
    problem: str


@dataclass
class ImportReport:
    """The result of an import, or its counts so far. ``raises``, ``bad_lines`` and ``failures`` list the first 1,000.

    ``read`` entries are valid; ``raised`` of them increased max_n, or would in a dry run; ``unchanged`` did not, and
    ``failed`` could not: the item or bucket of the conversation is damaged. Of the unchanged ones, ``completed`` are
    raises that had not reached Redis or the commit. ``skipped`` lines are not valid entries.
    """

    read: int = 0
    raised: int = 0
    unchanged: int = 0
    completed: int = 0
    skipped: int = 0
    raises: list[dict[str, object]] = field(default_factory=list)
    bad_lines: list[BadLine] = field(default_factory=list)
    seconds: float = 0.0
    dry_run: bool = False
    failed: int = 0
    failures: list[dict[str, str]] = field(default_factory=list)


class Lines(Protocol):
    """Lines of bytes, such as a file that was opened in binary mode."""

    def readline(self, limit: int, /) -> bytes:
        """Return the next line, of at most ``limit`` bytes; nothing at the end."""
        raise NotImplementedError


def json_record(line: bytes) -> object:
    """Return the value of a line of JSON; raises ValueError if it is not JSON."""
    try:
        return json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("the line is not JSON") from None


@dataclass(eq=False)
class Import:
    """An import. Iterate over :meth:`run` once.

    Args:
        lines: the lines of an export.
        registry: raises the entries.
        backup: read first, so that entries that it holds already are not raised again, if Redis holds them, too.
        parse: returns the record of a line, or raises ValueError. The default reads JSON.
        sleep: waits to keep the rate, and while AWS throttles. The default returns early if the import is closed.
    """

    lines: Lines
    registry: Registry
    backup: BackupStore
    options: ImportOptions
    _: KW_ONLY
    parse: Callable[[bytes], object] = json_record
    clock: Callable[[], float] = time.monotonic
    sleep: Callable[[float], object] | None = None
    report: ImportReport = field(default_factory=ImportReport, init=False)
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)

    def __post_init__(self) -> None:
        """Mark the report of a dry run."""
        self.report.dry_run = self.options.dry_run

    def run(self) -> Generator[ImportReport, None, None]:
        """Import; yield :attr:`report` after each batch, and at the end. A line that is not valid is skipped.

        Raises:
            UnavailableError, AccessDeniedError, ConfigurationError, RaiseIncompleteError: raises made so far are
                kept; another run of the same import makes the others.
        """
        started = self.clock()
        size = BATCH_SIZE if self.options.rate is None else max(min(BATCH_SIZE, int(self.options.rate)), 1)
        entries = self._read_entries()
        with ThreadPoolExecutor(WORKERS) as pool:
            try:
                # By id, the largest N comes last and stays.
                while batch := dict(sorted(islice(entries, size), key=itemgetter(1))):
                    self._merge(batch, pool)
                    self.report.seconds = round(self.clock() - started, 3)
                    yield self.report
                    if self.options.rate and not self.options.dry_run:
                        self._sleep(max(self.report.raised / self.options.rate - (self.clock() - started), 0.0))
            finally:
                self._stop.set()  # ends the workers that wait for AWS
        self.report.seconds = round(self.clock() - started, 3)
        yield self.report

    def _sleep(self, seconds: float) -> None:
        (self.sleep or self._stop.wait)(seconds)
        if self._stop.is_set():
            raise CancelledError

    def _read_entries(self) -> Iterator[Line]:
        """Read the valid entries, and count the other lines as skipped."""
        number = 0
        while line := self.lines.readline(MAX_LINE_BYTES):
            number += 1
            try:
                if not line.endswith(b"\n") and len(line) == MAX_LINE_BYTES:
                    while (more := self.lines.readline(MAX_LINE_BYTES)) and not more.endswith(b"\n"):
                        pass  # skip the rest of the line
                    raise ValueError("the line is too long to be an entry")
                if not line.strip():
                    continue
                text = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
                entry = _entry_of(self.parse(text), self.options.cap)
            except (ValueError, RefusedError) as exc:
                self.report.skipped += 1
                if len(self.report.bad_lines) < MAX_LISTED:
                    self.report.bad_lines.append(BadLine(number, str(exc)))
                continue
            self.report.read += 1
            yield entry

    def _merge(self, batch: dict[str, int], pool: ThreadPoolExecutor) -> None:
        """Raise the entries that the backup has less of, and complete raises that were interrupted."""
        held = self._read_backup(batch)
        # An N of 1 means the same as no entry.
        before = {i: entry.max_n if (entry := held.get(i)) else 1 for i in batch}
        behind = [(i, n) for i, n in batch.items() if n > before[i]]
        incomplete = half_done(self.registry.store, [entry for i, entry in held.items() if batch[i] <= entry.max_n])
        if self.options.dry_run:
            self._count_raises((i, before[i], n) for i, n in behind)
            self.report.completed += len(incomplete)
        else:
            raise_to = partial(self.registry.raise_to, reason=self.options.reason)
            done = list(pool.map(lambda entry: self._try(entry[0], partial(raise_to, *entry)), behind))
            self._count_raises((r.conversation_id, r.before, r.after) for r in done if r is not None and r.changed)
            completed = pool.map(lambda i: self._try(i, partial(self.registry.complete, i)), incomplete)
            self.report.completed += sum(done is not None for done in completed)
        self.report.unchanged = self.report.read - self.report.raised - self.report.failed

    def _read_backup(self, batch: dict[str, int]) -> dict[str, BackupEntry]:
        """Return the entries of the backup. Conversations whose items are damaged are taken out of the batch."""
        held, damaged = read_undamaged(self.backup, list(batch), self._retry)
        for conversation_id, problem in damaged.items():
            del batch[conversation_id]
            self._count_failure(conversation_id, problem)
        return held

    def _try(self, conversation_id: str, call: Callable[[], _T]) -> _T | None:
        """Call, and return the result; None if the call failed for this conversation alone, which is counted."""
        try:
            return self._retry(call)
        except SaltctlError as exc:
            if is_outage(exc):
                raise
            self._count_failure(conversation_id, exc.message)
            return None

    def _count_failure(self, conversation_id: str, problem: str) -> None:
        with self._lock:
            self.report.failed += 1
            if len(self.report.failures) < MAX_LISTED:
                self.report.failures.append({"conversation_id": conversation_id, "problem": problem})

    def _retry(self, call: Callable[[], _T]) -> _T:
        try:
            return retry_while_throttled(call, self._sleep)
        except SaltctlError as exc:
            raise exc.with_hint(hint_of("what was imported is kept: run the same import again", exc.hint)) from exc

    def _count_raises(self, raises: Iterable[tuple[str, int, int]]) -> None:
        for conversation_id, before, after in raises:
            self.report.raised += 1
            if len(self.report.raises) < MAX_LISTED:
                self.report.raises.append({"conversation_id": conversation_id, "before": before, "after": after})


def is_entry(keys: Collection[str]) -> bool:
    """Return whether a record with these keys is an entry; some writers of JSON leave out a max_n that is NULL."""
    return "conversation_id" in keys and ("max_n" in keys or "highest_salt" in keys)


def _entry_of(record: object, cap: int) -> Line:
    """Return the entry that a record has; raises ValueError or RefusedError if it has none."""
    if not isinstance(record, dict) or not is_entry(record.keys()):
        raise ValueError("the line is not an object with a conversation_id and a max_n")
    conversation_id, n = record["conversation_id"], record.get("max_n")
    if not isinstance(conversation_id, str):
        raise ValueError("conversation_id is not a string")
    highest = record.get("highest_salt", -1)
    if type(highest) is not int:
        raise ValueError("highest_salt is not a whole number")
    if n in (None, "") and highest >= MAX_N:
        raise ValueError(f"conversation {conversation_id!r} has salts up to {highest}, beyond what a raise can cover")
    if type(n) is not int:
        raise ValueError("max_n is not a whole number")
    if highest >= n:
        raise ValueError(f"max_n {n} does not cover the highest_salt {highest}")
    return check_conversation_id(conversation_id), check_salt_count(n, cap)
