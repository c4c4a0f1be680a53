"""Discover the registry from an export of the messages table, by the rules of a scan of it.

One thread fetches and verifies the next data file, another one reads the verified file by DuckDB. What a file shows is
kept in the database; so an interrupted run reads only the files that are not done. A damaged file does not end the run:
it is named, and the run fails at the end, since what it has found may be too little.
"""

from __future__ import annotations

import json
import re
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from itertools import groupby
from operator import attrgetter
from pathlib import Path
from typing import Any

from saltctl.errors import ConfigurationError, IncompleteError
from saltctl.registry.discover import Discovery, Salts, Seen, judge
from saltctl.registry.export.manifest import DataFile, Manifest
from saltctl.registry.export.verification import DamagedFileError, find_damage, verify
from saltctl.salting import SaltEvidence, is_conversation_id
from saltctl.stores.contracts.messages import Item, KeysPage, TableKeys
from saltctl.stores.contracts.registry import BackupStore
from saltctl.stores.export.database import DoneFile, ExportDatabase, FoundRow, Row, UnreadableFileError
from saltctl.stores.export.files import ExportFiles, UnusableFileError

MAX_CONVERSATIONS = 20_000
"""Conversations of one file that are collected in memory, about 20 MB, before they are written to the database."""
_PROGRESS_SECONDS = 0.2
_NUMBER = re.compile(r"[+-]?[0-9]{0,200}\.?[0-9]{1,200}(?:[eE][+-]?[0-9]{1,3})?")


@dataclass(frozen=True, slots=True)
class ExportProgress:
    """Items that were read so far, of how many, and the same of files."""

    items: int
    total: int
    files: int
    all_files: int


@dataclass(frozen=True, slots=True)
class ExportResumed:
    """These files, with so many items, were read by an earlier run."""

    files: int
    items: int


@dataclass(frozen=True, slots=True)
class DamagedFile:
    """A data file that cannot be used."""

    name: str
    problem: str


Event = ExportProgress | ExportResumed | DamagedFile | Discovery


@dataclass(eq=False)
class ExportDiscovery:
    """A discovery from an export. Iterate over :meth:`run` once.

    Args:
        files: of the export.
        manifest: which of them hold items.
        database: keeps what was found; its scope is :func:`scope_of`.
        keys: of the messages table.
        message_id: returns the message id of a row, which has its keys and the ``attribute``.
        attribute: has the message id; None if the sort key has it.
    """

    files: ExportFiles
    manifest: Manifest
    database: ExportDatabase
    keys: TableKeys
    message_id: Callable[[Item], str | None]
    attribute: str | None = None
    clock: Callable[[], float] = time.monotonic
    _stop: threading.Event = field(default_factory=threading.Event, init=False)
    _items: int = field(default=0, init=False)
    _files: int = field(default=0, init=False)

    def run(self, backup: BackupStore, *, cap: int, any_salting: bool) -> Generator[Event, None, None]:
        """Read the files that are not done, compare with the backup, and yield events and finally the discovery.

        Changes nothing but the database.

        Raises:
            IncompleteError: files are damaged; each one was an event.
            UnavailableError, AccessDeniedError, ConfigurationError: the export or the backup cannot be read.
        """
        started, done = self.clock(), self.database.done()
        self._files, self._items = len(done), sum(file.items for file in done.values())
        if done:
            yield ExportResumed(self._files, self._items)
        damaged = 0
        with closing(self._read([file for file in self.manifest.files if file.name not in done])) as events:
            for event in events:
                damaged += isinstance(event, DamagedFile)
                yield event
        if damaged:
            raise IncompleteError(
                f"damaged files of the export: {damaged:,} of {len(self.manifest.files):,}; without them the N of a "
                "conversation may be too low, so nothing was discovered"
            )
        candidates = sum(map(is_conversation_id, self.database.conversation_ids()))
        found = judge(self._seen(), candidates, backup, cap=cap, any_salting=any_salting)
        seconds, done = round(self.clock() - started, 3), self.database.done()
        foreign_keys = (file.foreign_key for file in done.values() if file.foreign_key is not None)
        foreign_rows = sum(file.foreign_rows for file in done.values())
        yield Discovery(self.manifest.items, found, 0.0, seconds, foreign_rows, next(foreign_keys, None))

    # Reading the files.

    def _read(self, todo: Sequence[DataFile]) -> Generator[ExportProgress | DamagedFile, None, None]:
        with ThreadPoolExecutor(1) as fetcher, ThreadPoolExecutor(1) as loader:
            try:
                yield from self._read_by(fetcher, loader, todo)
            except BaseException:  # the pools wait for their threads
                self._stop.set()
                self.database.interrupt()
                raise

    def _read_by(
        self, fetcher: ThreadPoolExecutor, loader: ThreadPoolExecutor, todo: Sequence[DataFile]
    ) -> Generator[ExportProgress | DamagedFile, None, None]:
        ahead: deque[tuple[DataFile, Future[Path]]] = deque()
        waiting = deque(todo)
        while waiting or ahead:
            while waiting and len(ahead) < 2:  # one is loaded while the next one is fetched
                file = waiting.popleft()
                ahead.append((file, fetcher.submit(self._fetch, file)))
            file, fetched = ahead.popleft()
            yield from self._progress(fetched)
            try:
                loaded = loader.submit(self._load, file, fetched.result())
                yield from self._progress(loaded)
                loaded.result()
            except (DamagedFileError, UnusableFileError) as exc:
                yield DamagedFile(file.name, str(exc))

    def _progress(self, future: Future[Any]) -> Iterator[ExportProgress]:
        while True:
            wait((future,), _PROGRESS_SECONDS)
            yield ExportProgress(self._items, self.manifest.items, self._files, len(self.manifest.files))
            if future.done():
                return

    def _fetch(self, file: DataFile) -> Path:
        """Verify a file, and return it, or a temporary copy if it is no local one."""
        path, chunks = self.files.path(file.name), self._until_stopped(self.files.chunks(file.name))
        if path is not None:
            verify(file, chunks)
            return path
        copy = self.database.directory / Path(file.name).name
        try:
            verify(file, _copied(chunks, copy))
        except BaseException:
            copy.unlink(missing_ok=True)
            raise
        return copy

    def _until_stopped(self, chunks: Iterator[bytes]) -> Iterator[bytes]:
        while not self._stop.is_set():
            if (chunk := next(chunks, None)) is None:
                return
            yield chunk
        raise CancelledError

    def _load(self, file: DataFile, path: Path) -> None:
        """Read a verified file into the database."""
        before = self._items
        try:
            if file.items:
                self._load_items(file, path)
            else:
                with self.database.replacing(file.name):
                    self.database.finish(DoneFile(file.name, 0, 0, None))
        except UnreadableFileError as exc:
            raise DamagedFileError(self._damage(path, str(exc))) from None
        finally:
            if path != self.files.path(file.name):
                with suppress(OSError):
                    path.unlink()
        self._files, self._items = self._files + 1, before + file.items

    def _load_items(self, file: DataFile, path: Path) -> None:
        found = Salts(self.keys.partition_key, self.message_id, defaultdict(list))
        with self.database.replacing(file.name):
            for rows in self.database.read_items(path, self._pointers()):
                if any(row[0] is None for row in rows):
                    raise DamagedFileError(self._damage(path, "an item has no partition key"))
                found.add(KeysPage([self._item(row) for row in rows], 0.0))
                if len(found.highest) >= MAX_CONVERSATIONS:
                    self._keep(file, found)
            self._keep(file, found)
            self.database.finish(DoneFile(file.name, file.items, found.foreign_rows, found.foreign_key))

    def _keep(self, file: DataFile, found: Salts) -> None:
        """Write what was found to the database, and forget it."""
        assert found.unsaved is not None
        rows = [
            FoundRow(i, str(salt), seen.rows, seen.misplaced, seen.without_id, found.unsaved.get(i, []))
            for i, salt in found.highest.items()
            for seen in [found.evidence[i]]
        ]
        self.database.add(file.name, rows)
        for kept in (found.highest, found.evidence, found.unsaved):
            kept.clear()

    def _damage(self, path: Path, otherwise: str) -> str:
        """Return which line of a verified file is not an item; ``otherwise`` if each of them seems to be one."""
        with path.open("rb") as stream:
            chunks = self._until_stopped(iter(lambda: stream.read(1 << 20), b""))
            return find_damage(chunks, self.keys.partition_key) or otherwise

    def _pointers(self) -> list[str]:
        key, attribute = self.keys.sort_key, self.attribute or self.keys.sort_key
        names = [(self.keys.partition_key, "S"), (key, "S"), (key, "N"), (attribute, "S"), (attribute, "N")]
        return [f"/Item/{name.replace('~', '~0').replace('/', '~1')}/{kind}" for name, kind in names]

    def _item(self, row: Row) -> Item:
        """Return a row of the database as DynamoDB returns it."""
        key, *values = row
        item: dict[str, dict[str, str]] = {self.keys.partition_key: {"S": key or ""}}
        names = (self.keys.sort_key, self.attribute or self.keys.sort_key)
        for name, string, number in zip(names, values[::2], values[1::2], strict=True):
            if number is not None:
                if _NUMBER.fullmatch(number) is None:
                    raise DamagedFileError(f"it has {number!r:.60} as a number")
                item[name] = {"N": number}
            elif string is not None:
                item[name] = {"S": string}
        return item

    # What the files show.

    def _seen(self) -> Iterator[Seen]:
        """Yield what all files show of each salted conversation, sorted by id."""
        for conversation_id, rows in groupby(self.database.found(), key=attrgetter("conversation_id")):
            highest, total, misplaced, without_id, evidence = 0, 0, 0, 0, SaltEvidence()
            for row in rows:
                highest = max(highest, int(row.highest))
                total, misplaced, without_id = total + row.total, misplaced + row.misplaced, without_id + row.without_id
                for salt, crc in row.proofs:
                    evidence.add_crc(salt, crc)
            evidence.rows, evidence.misplaced, evidence.without_id = total, misplaced, without_id
            yield Seen(conversation_id, highest, evidence)


def scope_of(manifest: Manifest, keys: TableKeys, attribute: str | None) -> str:
    """Return what a database is of: the export, and where message ids are in it."""
    return json.dumps([2, manifest.identity, keys.partition_key, keys.sort_key, attribute])


def _copied(chunks: Iterator[bytes], path: Path) -> Iterator[bytes]:
    """Yield chunks, each of which is in the file before the next one is read."""
    with _disk_errors(path):
        stream = path.open("wb")
    with stream:
        for chunk in chunks:
            with _disk_errors(path):
                stream.write(chunk)
                stream.flush()
            yield chunk


@contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        problem = f"cannot write {str(path)!r}: {exc.strerror}"
        raise ConfigurationError(problem, hint="make space on the disk, and run it again") from exc
