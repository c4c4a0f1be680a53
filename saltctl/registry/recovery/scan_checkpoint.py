"""Checkpoint of a recovery: how far it has read the messages, and what it has found in them.

It is a chain of parts in the backup table. Each part has what was found since the previous part, and then the new
position: both are written at once, so nothing that was found is lost when a later recovery starts there. A part names
the checksum of the previous one. So a part counts only after those that its own process knew, and what an older
recovery left, or one that lost the lease, ends the chain early and does no harm: messages are only read again.

A recovery marks the buckets before it reads Redis, and only then the messages. As long as every bucket has the mark,
Redis lost nothing since, and a later recovery, which reads all of Redis again, need not read these messages again.
"""

from __future__ import annotations

import hashlib
import time
import zlib
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial

from saltctl.errors import CheckpointRefusedError
from saltctl.rebuild.checkpoint import Primary, ResumeMode, Server, Sessions, lost_marks, marked_primaries
from saltctl.rebuild.events import CheckpointRejected
from saltctl.registry.discover import Row, Salts
from saltctl.stores.aws.rebuild_items import ScanCheckpointItems
from saltctl.stores.contracts.messages import Item
from saltctl.stores.retry import retry_while_throttled

VERSION = 1
MAX_ROW_BYTES = 150_000
"""Bytes of what was found in one part, before compression. With the positions of 64 segments, each of which has at most
3 KB, it fits into an item of 400 KB (documented)."""
_ROW_BYTES = 18
_RESTART = "saltctl recover --restart"
_DIGEST_BYTES = 32
_DIFFERENCES = {
    "backup_table": "it is of another backup table, or the table was created again",
    "messages_table": "it is of another messages table, or the table was created again",
    "layout": "it is of the layout {}",
    "key_prefix": "it is of the key prefix {!r}",
    "message_id_from": "it took message ids from {!r}",
    "segments": "it has {0} segments (--segments {0})",
}
"""How each field of a scope differs from that of the current recovery."""


@dataclass(frozen=True, slots=True)
class ScanScope:
    """The scan that a checkpoint belongs to. Tables are named by their Regions and identities."""

    backup_table: str
    messages_table: str
    layout: str
    key_prefix: str
    message_id_from: str
    segments: int

    def difference(self, other: ScanScope) -> str:
        """Return how this scope differs from that of the current recovery, or an empty string."""
        for name, difference in _DIFFERENCES.items():
            if (mine := getattr(self, name)) != getattr(other, name):
                return difference.format(mine)
        return ""


@dataclass(frozen=True, slots=True)
class ScanResumed:
    """The messages up to a checkpoint are not read again. ``written`` is its time, in seconds since the epoch."""

    written: float
    items: int


@dataclass(frozen=True, slots=True)
class Part:
    """One part. ``rows`` are those of :attr:`Salts.unsaved`; the other fields are the position behind them.

    ``previous`` is the checksum of the previous part; empty for the first one. ``token`` marks the buckets.
    """

    scope: ScanScope
    token: str
    primaries: Mapping[str, Primary]
    previous: str
    written: float
    items: int
    consumed_rcu: float
    after: Mapping[int, Item | None]
    rows: Mapping[str, list[Row]]
    version: int = VERSION


def encode(part: Part) -> bytes:
    """Return the part as compressed JSON, after the SHA-256 of that."""
    import msgspec

    content = zlib.compress(msgspec.json.encode(part), 1)
    return hashlib.sha256(content).digest() + content


def decode(encoded: bytes) -> Part:
    """Return the part. Raises ValueError if ``encode`` cannot have returned these bytes."""
    import msgspec

    checksum, content = encoded[:_DIGEST_BYTES], encoded[_DIGEST_BYTES:]
    if hashlib.sha256(content).digest() != checksum:
        raise ValueError("the checksum differs")
    part: Part = msgspec.json.decode(zlib.decompress(content), type=Part)
    if part.version != VERSION or not all(0 <= segment < part.scope.segments for segment in part.after):
        raise ValueError("a value is not one that this saltctl writes")
    return part


Position = tuple[int, float, Mapping[int, Item | None]]
"""How many messages were read, the units that this took, and the last key of each segment."""


@dataclass(eq=False)
class ScanCheckpoint:
    """Resumes the scan of an interrupted recovery, and saves how far it is.

    Args:
        items: keeps the parts.
        scope: of this recovery.
        token: marks the buckets. A recovery that resumes keeps the token of its checkpoint.
        server: returns INFO of a primary.
        every: seconds between two saves.
    """

    items: ScanCheckpointItems
    scope: ScanScope
    token: str
    server: Server
    every: float
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    sleep: Callable[[float], object] = time.sleep
    _primaries: Mapping[str, Primary] = field(default_factory=dict, init=False)
    _parts: int = field(default=0, init=False)
    _previous: str = field(default="", init=False)
    _due: float = field(default=0.0, init=False)
    _saved: Position = field(default=(0, 0.0, {}), init=False)

    def resume_or_mark(
        self, mode: ResumeMode, sessions: Sessions
    ) -> Generator[CheckpointRejected | ScanResumed, None, None]:
        """Check that every bucket still has the mark of the checkpoint; otherwise delete it and mark every bucket.

        Raises:
            CheckpointRefusedError: ``mode`` is ALWAYS, and there is no valid checkpoint. Nothing was changed.
        """
        try:
            first = None if mode is ResumeMode.NEVER else self._valid_first(sessions)
            if first is None and mode is ResumeMode.ALWAYS:
                raise CheckpointRefusedError("there is no checkpoint of an interrupted recovery", hint=_RESTART)
        except CheckpointRefusedError as exc:
            if mode is ResumeMode.ALWAYS:
                raise
            yield CheckpointRejected(exc.message)
            first = None
        if first is not None:
            self.token, self._primaries = first.token, first.primaries
            return
        self.items.delete()
        for session in sessions.values():
            session.mark_buckets(self.token)
        self._primaries = marked_primaries(sessions, self.server)

    def peek(self, sessions: Sessions) -> bool:
        """Return whether a recovery would resume, without a change; :meth:`restore` may follow."""
        with suppress(CheckpointRefusedError):
            if (first := self._valid_first(sessions)) is not None:
                self.token = first.token
                return True
        return False

    def _valid_first(self, sessions: Sessions) -> Part | None:
        first = self._load_first()
        if first and (problem := first.scope.difference(self.scope) or self._lost_marks(first, sessions)):
            raise CheckpointRefusedError(f"the checkpoint is not valid any more: {problem}", hint=_RESTART)
        return first

    def _load_first(self) -> Part | None:
        encoded = self.items.load(0)
        try:
            return None if encoded is None else decode(encoded)
        except (ValueError, RecursionError, zlib.error) as exc:
            problem = f"cannot use the checkpoint in the backup table: it is damaged ({type(exc).__name__})"
            raise CheckpointRefusedError(problem, hint=_RESTART) from exc

    def _lost_marks(self, part: Part, sessions: Sessions) -> str:
        return lost_marks(part.token, part.primaries, sessions, self.server)

    def restore(self, salts: Salts) -> Iterator[ScanResumed]:
        """Add what the parts of the chain hold; yield the position behind it, if there is any."""
        last = None
        while (encoded := self.items.load(self._parts)) is not None:
            try:
                part = decode(encoded)
            except (ValueError, RecursionError, zlib.error):
                break
            if (part.token, part.previous) != (self.token, self._previous):
                break
            for conversation_id, rows in part.rows.items():
                for salt, crc in rows:
                    salts.add_row(conversation_id, salt, crc)
            self._parts, self._previous, last = self._parts + 1, _checksum(encoded), part
        if last is not None:
            salts.items, salts.consumed_rcu, salts.after = last.items, last.consumed_rcu, dict(last.after)
            yield ScanResumed(last.written, last.items)
        self._saved = (salts.items, salts.consumed_rcu, dict(salts.after))
        self._due = self.clock() + self.every

    def save_if_due(self, salts: Salts) -> None:
        """Save every few seconds."""
        if self.clock() >= self._due:
            self.save(salts)

    def save(self, salts: Salts) -> None:
        """Write what was found since the last save, and with its last part the new position.

        One that was interrupted can be repeated: rows that were not written for sure are written again.

        Raises:
            UnavailableError, AccessDeniedError, ConfigurationError: the backup table cannot be written.
        """
        assert salts.unsaved is not None
        rows: dict[str, list[Row]] = {}
        size = 0
        for conversation_id, found in salts.unsaved.items():
            rows[conversation_id] = found
            size += len(conversation_id.encode()) + _ROW_BYTES * (1 + len(found))
            if size >= MAX_ROW_BYTES:
                self._write(rows, self._saved)  # the former position: they are read again if no other part follows
                rows, size = {}, 0
        position = (salts.items, salts.consumed_rcu, dict(salts.after))
        self._write(rows, position)
        self._saved = position
        salts.unsaved.clear()
        self._due = self.clock() + self.every

    def _write(self, rows: Mapping[str, list[Row]], position: Position) -> None:
        items, consumed_rcu, after = position
        part = Part(
            self.scope, self.token, self._primaries, self._previous, self.now(), items, consumed_rcu, after, rows
        )
        encoded = encode(part)
        retry_while_throttled(partial(self.items.save, self._parts, encoded), self.sleep)
        self._parts, self._previous = self._parts + 1, _checksum(encoded)

    def delete(self) -> None:
        """Delete the checkpoint: the recovery is complete."""
        self.items.delete()


def _checksum(encoded: bytes) -> str:
    return encoded[:_DIGEST_BYTES].hex()
