"""What the heat stream and the service look like, judged by two looks and what changed between them."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from saltctl.detection.service import ALIVE_SECONDS
from saltctl.errors import StreamLostError
from saltctl.stores.heat.stream import GroupInfo, StreamInfo, id_order
from saltctl.times import iso_utc

Verdict = Literal["ok", "lagging", "stalled", "stopped", "unknown"]
CATCH_UP_SECONDS = 60.0
"""A backlog that shrinks is fine where at this pace it is gone within this time."""


class StatusStream(Protocol):
    """What is looked at: ``HeatStream``."""

    key: str
    group: str

    def info(self) -> StreamInfo:
        """The stream now; StreamLostError where there is none."""
        ...

    def pending(self, first: str, count: int, *, consumer: str | None = None) -> list[tuple[str, str, float]]:
        """(id, consumer, seconds since delivery)."""
        ...


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """Two looks at the stream, ``seconds`` apart; ``info`` is the second, None where there is no stream."""

    key: str
    info: StreamInfo | None
    verdict: Verdict
    oldest_pending_s: float | None
    lag_before: int | None
    seconds: float


def read_stream_status(
    stream: StatusStream,
    window: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> StreamStatus:
    """Look twice and judge.

    Args:
        stream: the heat stream.
        window: seconds between the two looks.
        clock: monotonic seconds.
        sleep: waits.

    Raises:
        RedisUnavailableError, AccessDeniedError: it cannot be looked at.
    """
    started = clock()
    try:
        first = stream.info()
        sleep(window)
        second = stream.info()
    except StreamLostError:
        return StreamStatus(stream.key, None, "unknown", None, None, 0.0)
    seconds = max(clock() - started, 1e-9)
    before, after = first.group(stream.group), second.group(stream.group)
    oldest = stream.pending("-", 1) if after is not None and after.pending else []
    return StreamStatus(
        stream.key,
        second,
        judge(before, after, seconds),
        oldest[0][2] if oldest else None,
        None if before is None else before.lag,
        seconds,
    )


def is_alive(idle_s: float) -> bool:
    """Whether a consumer that has been silent for so long lives. Instances sign in every two seconds."""
    return idle_s < ALIVE_SECONDS


def judge(before: GroupInfo | None, after: GroupInfo | None, seconds: float) -> Verdict:
    """``stopped``: nobody alive reads. ``stalled``: there is work, and none of it was done between the looks.

    ``lagging``: work is done, and the backlog does not shrink, or not fast enough. ``unknown``: there is no
    group, or nobody can say how much is unread.
    """
    if before is None or after is None:
        return "unknown"
    if not any(is_alive(consumer.idle_s) for consumer in after.consumers):
        return "stopped"
    if before.lag is None or after.lag is None:
        return "unknown"
    backlog_before, backlog = before.lag + before.pending, after.lag + after.pending
    if backlog == 0:
        return "ok"
    moved = before.last_delivered_id != after.last_delivered_id
    worked = before.oldest_pending_id != after.oldest_pending_id or after.pending < before.pending
    if not moved and not worked:
        # What arrived between the looks had no time to be read.
        return "stalled" if backlog_before else "ok"
    if after.lag == 0:
        return "ok"
    if after.lag >= before.lag > 0:
        return "lagging"
    shrinking = (before.lag - after.lag) / seconds
    return "lagging" if shrinking > 0 and after.lag / shrinking > CATCH_UP_SECONDS else "ok"


def entry_time(entry_id: str | None) -> str | None:
    """When an entry was added, from its id; None where the id is no such time."""
    if entry_id is None:
        return None
    milliseconds = id_order(entry_id)[0]
    try:
        return iso_utc(milliseconds / 1000)
    except (ValueError, OverflowError, OSError):
        return None


def as_record(status: StreamStatus, dead: int) -> dict[str, Any]:
    """The status with the keys of the command line's contract."""
    info = status.info
    groups = () if info is None else info.groups
    return {
        "stream": status.key,
        "length": None if info is None else info.length,
        "first_id": None if info is None else info.first_id,
        "last_id": None if info is None else info.last_id,
        "dead": dead,
        "groups": [_group_record(group, status) for group in groups],
        "verdict": status.verdict,
        "window_s": round(status.seconds, 3),
    }


def _group_record(group: GroupInfo, status: StreamStatus) -> dict[str, Any]:
    loss = group.loss
    return {
        "name": group.name,
        "lag": group.lag,
        "pending": group.pending,
        "oldest_pending_s": status.oldest_pending_s if group.pending else None,
        "last_delivered_id": group.last_delivered_id,
        "trimmed_unread": 0 if loss is None else loss.entries,
        "trimmed_from": None if loss is None else entry_time(loss.after_id),
        "trimmed_to": None if loss is None else entry_time(loss.before_id),
        "consumers": [
            {"name": c.name, "pending": c.pending, "idle_s": c.idle_s, "alive": is_alive(c.idle_s)}
            for c in group.consumers
        ],
    }
