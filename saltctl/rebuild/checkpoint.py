"""Checkpoint of an interrupted rebuild: its content, its proof, and when it is saved.

A checkpoint says up to where the backup was merged into Redis, under which token, and on which primaries. Redis has to
prove that these merges are still there (saltctl/help/protocol.txt: rebuild, step 5). The checkpoint alone decides which
part of the backup is not read again, so one that is damaged or was edited by hand is refused.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from saltctl.errors import CheckpointRefusedError, SaltctlError
from saltctl.rebuild.events import CheckpointNotSaved, CheckpointRejected, RebuildResumed
from saltctl.rebuild.merge_buffer import MergeBuffer, ScanPosition
from saltctl.stores.contracts.entries import Entry, parse_entry
from saltctl.stores.saved_state import decode, encode

if TYPE_CHECKING:
    from saltctl.stores.aws.rebuild_items import CheckpointItem
    from saltctl.stores.redis.rebuild_session import RedisRebuildSession

VERSION = 4
MAX_BYTES = 350_000
"""Largest checkpoint that is saved: an item has at most 400 KB (documented), and each save writes all of it."""
_MAX_INT = 2**63
_MAX_KEY = 2048
"""Bytes of a partition key (documented)."""
_RESTART = "saltctl rebuild --restart"


class ResumeMode(StrEnum):
    """What to do with the checkpoint of an interrupted rebuild."""

    IF_VALID = "if valid"
    """Resume from it; start over, and report why, if it is not valid any more."""
    ALWAYS = "always"
    """Resume from it, or fail."""
    NEVER = "never"
    """Start over."""


@dataclass(frozen=True, slots=True)
class CheckpointScope:
    """The rebuild that a checkpoint belongs to. ``table`` is the identity of the table, not only its name."""

    table: str
    key_prefix: str
    layout: str
    segments: int

    def difference(self, other: CheckpointScope) -> str:
        """Return how this scope differs from that of the current rebuild, or an empty string."""
        if self.table != other.table:
            return "it is of another backup table, or the table was created again"
        if (self.layout, self.key_prefix) != (other.layout, other.key_prefix):
            return f"it is of the layout {self.layout} under {self.key_prefix!r}"
        if self.segments != other.segments:
            return f"it has {self.segments} segments (--segments {self.segments})"
        return ""


@dataclass(frozen=True, slots=True)
class Primary:
    """A Redis process and its data, as they were when they were marked."""

    run_id: str
    replication_id: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress of a rebuild. ``started`` and ``written`` are in seconds since the epoch.

    ``merged`` is the position up to which Redis has every entry; ``restored`` counts as in ``RebuildReport``.
    ``half_done`` are the raises that the rebuild has to complete at its end, with their entries as strings.
    """

    scope: CheckpointScope
    token: str
    primaries: Mapping[str, Primary]
    merged: ScanPosition
    half_done: tuple[tuple[str, str], ...]
    restored: int
    started: float
    written: float
    version: int = VERSION

    @property
    def raises(self) -> list[tuple[str, Entry]]:
        """The raises of ``half_done``."""
        return [(conversation_id, parse_entry(entry) or 1) for conversation_id, entry in self.half_done]

    @property
    def is_plausible(self) -> bool:
        """Whether saltctl can have written these values."""
        segments, merged = self.scope.segments, self.merged
        keys = [last for last in merged.after.values() if last is not None] + [i for i, _ in self.half_done]
        counts = [segments, merged.entries, merged.skipped, self.restored]
        return (
            self.version == VERSION
            and re.fullmatch("[0-9a-f]{32}", self.token) is not None
            and bool(self.primaries)
            and all(re.fullmatch("[0-9a-f]{40}", primary.replication_id) for primary in self.primaries.values())
            and all(0 <= segment < segments for segment in merged.after)
            and all(1 <= len(key) <= _MAX_KEY for key in keys)
            and all(0 <= count < _MAX_INT for count in counts)
            and None not in map(parse_entry, (entry for _, entry in self.half_done))
            and all(0 <= number < 1e18 for number in (merged.consumed_rcu, self.started, self.written))
        )


def load_checkpoint(item: CheckpointItem) -> Checkpoint | None:
    """Read the checkpoint; None if there is none.

    Raises:
        CheckpointRefusedError: it is damaged.
        UnavailableError, AccessDeniedError, ConfigurationError: the backup table cannot be read.
    """
    encoded = item.load()
    try:
        return None if encoded is None else decode(encoded, Checkpoint)
    except (ValueError, RecursionError) as exc:
        problem = f"cannot use the checkpoint in the backup table: it is damaged ({type(exc).__name__})"
        raise CheckpointRefusedError(problem, hint=_RESTART) from exc


Sessions = Mapping[str, "RedisRebuildSession"]
"""The sessions of a rebuild, by primary."""
Server = Callable[[str], Mapping[str, Any]]
"""Returns INFO of a primary."""


def marked_primaries(sessions: Sessions, server: Server) -> dict[str, Primary]:
    """Return the primaries whose buckets are marked."""
    return {name: Primary(_run_id(server, name), session.replication_id) for name, session in sessions.items()}


def lost_marks(token: str, primaries: Mapping[str, Primary], sessions: Sessions, server: Server) -> str:
    """Return why the marks of ``primaries`` are lost; an empty string if every bucket still has its token."""
    if set(primaries) != set(sessions):
        return "the Redis primaries have changed"
    for name, primary in primaries.items():
        if _run_id(server, name) != primary.run_id:
            return f"Redis at {name} was restarted since"
        if reason := sessions[name].check_marks(token, primary.replication_id):
            return f"at {name} {reason}"
    return ""


def _run_id(server: Server, primary: str) -> str:
    return str(server(primary).get("run_id", ""))


@dataclass
class CheckpointManager:
    """Resumes a rebuild from its checkpoint, and saves how far it is.

    Args:
        item: keeps the checkpoint; None saves nothing.
        sessions: the rebuild's sessions, by primary.
        server: returns INFO of a primary.
        token: the token of a rebuild that starts over. A rebuild that resumes keeps the token of its checkpoint,
            because new marks would claim that nothing was lost in between.
        every: seconds between two saves.
    """

    item: CheckpointItem | None
    sessions: Sessions
    server: Server
    token: str
    every: float
    clock: Callable[[], float] = time.monotonic
    now: Callable[[], float] = time.time
    _scope: CheckpointScope | None = field(default=None, init=False)
    _due: float = field(default=0.0, init=False)
    _started: float = field(init=False)
    failed: bool = field(default=False, init=False)
    """Whether a save has failed."""

    def __post_init__(self) -> None:
        """Start now, unless the rebuild resumes."""
        self._started = self.now()

    def resume(
        self, scope: CheckpointScope, mode: ResumeMode, noted_token: str
    ) -> Generator[RebuildResumed | CheckpointRejected, None, Checkpoint | None]:
        """Return the checkpoint to resume from; None if the rebuild starts over, and then delete any that is there.

        ``noted_token`` is the token of the newest rebuild, as the backup names it.

        Raises:
            CheckpointRefusedError: ``mode`` is ALWAYS, and there is no valid checkpoint. A checkpoint stays in place.
        """
        if self.item is None:
            return None
        checkpoint = None
        try:
            found = None if mode is ResumeMode.NEVER else load_checkpoint(self.item)
            if found and (problem := found.scope.difference(scope) or self._lost_marks(found, noted_token)):
                raise CheckpointRefusedError(f"the checkpoint is not valid any more: {problem}", hint=_RESTART)
            if found is None and mode is ResumeMode.ALWAYS:
                raise CheckpointRefusedError("there is no checkpoint of an interrupted rebuild", hint=_RESTART)
            checkpoint = found
        except CheckpointRefusedError as exc:
            if mode is ResumeMode.ALWAYS:
                raise
            yield CheckpointRejected(exc.message)
        if checkpoint is None:
            self.delete()  # the first mark invalidates it
        else:
            self.token, self._started = checkpoint.token, checkpoint.started
            yield RebuildResumed(checkpoint.written, checkpoint.merged.entries)
        self._scope = scope
        self._due = self.clock() + self.every
        return checkpoint

    def _lost_marks(self, checkpoint: Checkpoint, noted_token: str) -> str:
        """Return why its rebuild cannot be resumed; an empty string if every bucket still has its token."""
        if noted_token != checkpoint.token:
            return "another rebuild has begun since"  # raises may have been merged into its primaries alone
        if checkpoint.merged.skipped:
            return "it skipped damaged items, whose buckets must stay unverified"
        return lost_marks(checkpoint.token, checkpoint.primaries, self.sessions, self.server)

    def save_if_due(self, buffer: MergeBuffer, half_done: Sequence[tuple[str, Entry]]) -> Iterator[CheckpointNotSaved]:
        """Save every few seconds. Yields an event the first time that it fails."""
        if self._scope is None or self.clock() < self._due:
            return
        reason = self.save(buffer, half_done)
        self._due = self.clock() + self.every
        if reason and not self.failed:
            self.failed = True
            yield CheckpointNotSaved(reason)

    def save(self, buffer: MergeBuffer, half_done: Sequence[tuple[str, Entry]]) -> str:
        """Save the position up to which Redis has confirmed the merges. Returns why that failed, or an empty string."""
        if self.item is None or self._scope is None or not buffer.merged.after:
            return ""
        try:
            encoded = encode(
                Checkpoint(
                    scope=self._scope,
                    token=self.token,
                    primaries=marked_primaries(self.sessions, self.server),
                    merged=buffer.merged,
                    half_done=tuple((conversation_id, str(entry)) for conversation_id, entry in half_done),
                    restored=buffer.restored,
                    started=self._started,
                    written=self.now(),
                )
            )
            if (size := len(encoded.encode())) > MAX_BYTES:
                return f"its {size:,} bytes do not fit into an item of the backup table"
            self.item.save(encoded)
        except SaltctlError as exc:
            return exc.message
        return ""

    def delete(self) -> None:
        """Delete the checkpoint and save no other: the rebuild is complete, or its marks are lost."""
        self._scope = None
        if self.item is not None:
            with suppress(SaltctlError):  # a later rebuild finds that the token is gone
                self.item.delete()
