"""Options of a rebuild."""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.rebuild.checkpoint import ResumeMode
from saltctl.rebuild.lease import HEARTBEAT_SECONDS
from saltctl.values import LONGEST, check_number, check_whole


@dataclass(frozen=True, slots=True)
class RebuildOptions:
    """Options of a rebuild. Durations are in seconds; a wait of 0 means not to wait.

    ``max_rcu`` limits the read capacity units a second; None does not limit them. ``if_needed`` does nothing if every
    primary is verified already. ``replace_registry`` takes Redis over from another registry. ``batch`` is the
    number of entries that are merged at once, and determines the memory that is needed.
    A rebuild that dies loses at most ``checkpoint_every`` seconds of work. ``max_half_done`` half-done raises are kept
    in memory, and in each checkpoint, until the end. More are completed as soon as they are merged, as a raise itself
    would do, so that both stay small even if every raise of the last hour is half done.
    """

    segments: int = 4
    wait_redis: float = 0.0
    lock_wait: float = 0.0
    dry_run: bool = False
    if_needed: bool = False
    replace_registry: bool = False
    page_limit: int | None = None
    max_rcu: float | None = None
    resume: ResumeMode = ResumeMode.IF_VALID
    batch: int = 8_192
    max_half_done: int = 2_000
    checkpoint_every: float = 2.0
    heartbeat_every: float = HEARTBEAT_SECONDS
    progress_every: float = 0.2

    def __post_init__(self) -> None:
        """Refuse numbers that DynamoDB would refuse, or that cannot be meant; raises UsageError."""
        check_whole("segments", self.segments, 1, 1_000_000, hint="such as --segments 4")
        if self.max_rcu is not None:
            check_number("max_rcu", self.max_rcu, 1, hint="such as --max-rcu 500")
        if self.page_limit is not None:
            check_whole("page_limit", self.page_limit, 1)
        check_whole("batch", self.batch, 1)
        check_whole("max_half_done", self.max_half_done, 0)
        for name in ("wait_redis", "lock_wait", "checkpoint_every", "heartbeat_every", "progress_every"):
            check_number(name, getattr(self, name), 0, LONGEST)
