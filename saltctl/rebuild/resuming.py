"""Taking up a rebuild that ended before its time, and writing down how far this one is.

Marking once more would claim that nothing was lost since then, which nobody knows: a rebuild that is taken up again
keeps the token, and the replication ids, of the one that marked.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping
from contextlib import suppress
from enum import StrEnum
from typing import Any

from saltctl.errors import CheckpointRefusedError, SaltctlError
from saltctl.rebuild.checkpoint import Bound, Checkpoint, CheckpointStore, Primary
from saltctl.rebuild.events import CheckpointNotSaved, CheckpointRejected, RebuildResumed
from saltctl.rebuild.merge_buffer import Filling
from saltctl.stores.contracts import RebuildSession

_ANEW = "saltctl rebuild --restart"


class ResumeMode(StrEnum):
    """What to do with the checkpoint of a rebuild that ended before its time."""

    IF_VALID = "if valid"
    """Go on from it; begin anew, and say why, where it does not hold any more."""
    ALWAYS = "always"
    """Go on from it, or fail."""
    NEVER = "never"
    """Begin anew."""


class CheckpointKeeper:
    """The checkpoint of one rebuild.

    Args:
        kept: where it is.
        sessions: the rebuild's, by primary; filled in by the time that they are needed.
        server: INFO of a primary.
        every: seconds from one writing to the next.
        clock: monotonic seconds.
        now: seconds since the epoch.
    """

    def __init__(
        self,
        kept: CheckpointStore,
        sessions: Mapping[str, RebuildSession],
        server: Callable[[str], Mapping[str, Any]],
        *,
        every: float,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], float] = time.time,
    ) -> None:
        self._kept = kept
        self._sessions = sessions
        self._server = server
        self._every = every
        self._clock = clock
        self._now = now
        self._bound: Bound | None = None
        """None where nothing is to be written: not yet, or not any more."""
        self._next = 0.0
        self._told = False

    def take_up(
        self, bound: Bound, resume: ResumeMode
    ) -> Generator[RebuildResumed | CheckpointRejected, None, Checkpoint | None]:
        """The checkpoint to go on from; None where this rebuild begins anew, and then there is none any more.

        Raises:
            CheckpointRefusedError: it was to be gone on from, and does not hold; it stays where it is.
        """
        checkpoint = None
        try:
            checkpoint = self._that_holds(bound, resume)
        except CheckpointRefusedError as exc:
            if resume is ResumeMode.ALWAYS:
                raise
            yield CheckpointRejected(exc.message)
        self._bound = bound
        self._next = self._clock() + self._every
        if checkpoint is None:
            with suppress(OSError):  # whatever is there is void with the first mark
                self._kept.remove()
        else:
            yield RebuildResumed(checkpoint.written, checkpoint.entries)
        return checkpoint

    def _that_holds(self, bound: Bound, resume: ResumeMode) -> Checkpoint | None:
        """The checkpoint where it holds; raises CheckpointRefusedError, with the reason, where it does not."""
        if resume is ResumeMode.NEVER:
            return None
        checkpoint = self._kept.load()
        if checkpoint is None:
            if resume is ResumeMode.ALWAYS:
                raise CheckpointRefusedError("there is no checkpoint of a broken rebuild", hint=_ANEW)
            return None
        problem = _other_binding(checkpoint.bound, bound)
        if not problem and set(checkpoint.primaries) != set(self._sessions):
            problem = "the Redis primaries are others now"
        for name, primary in checkpoint.primaries.items():
            if problem:
                break
            if self._run_id(name) != primary.run_id:
                problem = f"Redis at {name} was restarted since"
            elif why := self._sessions[name].check_marks(checkpoint.token, primary.replication_id):
                problem = f"at {name} {why}"
        if problem:
            raise CheckpointRefusedError(f"the checkpoint does not hold any more: {problem}", hint=_ANEW)
        return checkpoint

    def save_if_due(
        self, token: str, began: float, filling: Filling, half_done: list[tuple[str, int]]
    ) -> Iterator[CheckpointNotSaved]:
        """Write it where that is due, and say so the first time that it fails."""
        if self._clock() < self._next:
            return
        why = self.save(token, began, filling, half_done)
        self._next = self._clock() + self._every
        if why and not self._told:
            self._told = True
            yield CheckpointNotSaved(why)

    def save(self, token: str, began: float, filling: Filling, half_done: list[tuple[str, int]]) -> str:
        """Write down what is in Redis for sure; why that could not be done, or an empty text."""
        merged = filling.merged
        if self._bound is None or not merged.after:
            return ""
        try:
            self._kept.save(
                Checkpoint(
                    bound=self._bound,
                    token=token,
                    primaries={
                        name: Primary(self._run_id(name), session.replication_id)
                        for name, session in self._sessions.items()
                    },
                    after=merged.after,
                    half_done=tuple(half_done),
                    entries=merged.entries,
                    restored=filling.restored,
                    skipped=merged.skipped,
                    consumed_rcu=merged.consumed_rcu,
                    began=began,
                    written=self._now(),
                )
            )
        except OSError as exc:
            return exc.strerror or str(exc)
        except SaltctlError as exc:
            return exc.message
        return ""

    def forget(self) -> None:
        """It has served its purpose, or cannot serve it any more."""
        if self._bound is not None:
            self._bound = None
            with suppress(OSError):  # whoever takes it up finds that its token is gone
                self._kept.remove()

    def _run_id(self, primary: str) -> str:
        return str(self._server(primary).get("run_id", ""))


def _other_binding(theirs: Bound, ours: Bound) -> str:
    """What a checkpoint is bound to and this rebuild is not, or an empty text."""
    if theirs.table != ours.table:
        return "it is of another backup table, or of one that was made anew"
    if (theirs.layout, theirs.key_prefix) != (ours.layout, ours.key_prefix):
        return f"it is of the layout {theirs.layout} under {theirs.key_prefix!r}"
    if theirs.segments != ours.segments:
        return f"it has {theirs.segments} segments (--segments {theirs.segments})"
    return ""
