"""Resumes a rebuild from its checkpoint, and saves the checkpoint."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import suppress
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from saltctl.errors import CheckpointRefusedError, SaltctlError
from saltctl.rebuild.checkpoint import RESTART, Checkpoint, CheckpointFile, CheckpointScope, Primary
from saltctl.rebuild.events import CheckpointNotSaved, CheckpointRejected, RebuildResumed
from saltctl.rebuild.merge_buffer import MergeBuffer

if TYPE_CHECKING:
    from saltctl.stores.redis.rebuild_session import RedisRebuildSession


class ResumeMode(StrEnum):
    """What to do with the checkpoint of an interrupted rebuild."""

    IF_VALID = "if valid"
    """Resume from it; start over, and report why, if it is not valid any more."""
    ALWAYS = "always"
    """Resume from it, or fail."""
    NEVER = "never"
    """Start over."""


class CheckpointManager:
    """Resumes a rebuild from its checkpoint, and saves how far it is.

    Args:
        file: keeps the checkpoint; None saves nothing.
        sessions: the rebuild's sessions, by primary.
        server: returns INFO of a primary.
        token: the token of a rebuild that starts over. A rebuild that resumes keeps the token of its checkpoint,
            because new marks would claim that nothing was lost in between.
        every: seconds between two saves.
        clock: returns monotonic seconds.
        now: returns seconds since the epoch.
    """

    def __init__(
        self,
        file: CheckpointFile | None,
        sessions: Mapping[str, RedisRebuildSession],
        server: Callable[[str], Mapping[str, Any]],
        token: str,
        *,
        every: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._file = file
        self._sessions = sessions
        self._server = server
        self._every = every
        self._clock = clock
        self._now = now
        self._scope: CheckpointScope | None = None
        self._due = 0.0
        self._failure_reported = False
        self._started = now()
        self.token = token

    def resume(
        self, scope: CheckpointScope, mode: ResumeMode
    ) -> Generator[RebuildResumed | CheckpointRejected, None, Checkpoint | None]:
        """Return the checkpoint to resume from; None if the rebuild starts over, and then delete any that is there.

        Raises:
            CheckpointRefusedError: ``mode`` is ALWAYS, and there is no valid checkpoint. A checkpoint stays in place.
        """
        if self._file is None:
            return None
        checkpoint = None
        try:
            checkpoint = self._load_valid(self._file, scope, mode)
        except CheckpointRefusedError as exc:
            if mode is ResumeMode.ALWAYS:
                raise
            yield CheckpointRejected(exc.message)
        self._scope = scope
        self._due = self._clock() + self._every
        if checkpoint is None:
            with suppress(OSError):  # the first mark invalidates it
                self._file.remove()
            return None
        self.token, self._started = checkpoint.token, checkpoint.started
        yield RebuildResumed(checkpoint.written, checkpoint.entries)
        return checkpoint

    def _load_valid(self, file: CheckpointFile, scope: CheckpointScope, mode: ResumeMode) -> Checkpoint | None:
        if mode is ResumeMode.NEVER:
            return None
        checkpoint = file.load()
        if checkpoint is None:
            if mode is ResumeMode.ALWAYS:
                raise CheckpointRefusedError("there is no checkpoint of an interrupted rebuild", hint=RESTART)
            return None
        if problem := checkpoint.scope.difference(scope) or self._lost_marks(checkpoint):
            raise CheckpointRefusedError(f"the checkpoint is not valid any more: {problem}", hint=RESTART)
        return checkpoint

    def _lost_marks(self, checkpoint: Checkpoint) -> str:
        """Return why the marks of the checkpoint's rebuild are lost; an empty string if every bucket still has them."""
        if set(checkpoint.primaries) != set(self._sessions):
            return "the Redis primaries have changed"
        for name, primary in checkpoint.primaries.items():
            if self._run_id(name) != primary.run_id:
                return f"Redis at {name} was restarted since"
            if reason := self._sessions[name].check_marks(checkpoint.token, primary.replication_id):
                return f"at {name} {reason}"
        return ""

    def save_if_due(self, buffer: MergeBuffer, half_done: Sequence[tuple[str, int]]) -> Iterator[CheckpointNotSaved]:
        """Save every few seconds. Yields an event the first time that it fails."""
        if self._scope is None or self._clock() < self._due:
            return
        reason = self.save(buffer, half_done)
        self._due = self._clock() + self._every
        if reason and not self._failure_reported:
            self._failure_reported = True
            yield CheckpointNotSaved(reason)

    def save(self, buffer: MergeBuffer, half_done: Sequence[tuple[str, int]]) -> str:
        """Save the position up to which Redis has confirmed the merges. Returns why that failed, or an empty string."""
        merged = buffer.merged
        if self._file is None or self._scope is None or not merged.after:
            return ""
        try:
            self._file.save(
                Checkpoint(
                    scope=self._scope,
                    token=self.token,
                    primaries={n: Primary(self._run_id(n), s.replication_id) for n, s in self._sessions.items()},
                    after=merged.after,
                    half_done=tuple(half_done),
                    entries=merged.entries,
                    restored=buffer.restored,
                    skipped=merged.skipped,
                    consumed_rcu=merged.consumed_rcu,
                    started=self._started,
                    written=self._now(),
                )
            )
        except OSError as exc:
            return exc.strerror or str(exc)
        except SaltctlError as exc:
            return exc.message
        return ""

    def delete(self) -> None:
        """Delete the checkpoint and save no other: the rebuild is complete, or its marks are lost."""
        if self._file is not None and self._scope is not None:
            self._scope = None
            with suppress(OSError):  # a later rebuild finds that the token is gone
                self._file.remove()

    def _run_id(self, primary: str) -> str:
        return str(self._server(primary).get("run_id", ""))
