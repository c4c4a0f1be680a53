"""Status of the heat stream and of the service: a verdict from two readings and the changes between them."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from saltctl.detection.service import ALIVE_SECONDS
from saltctl.errors import StreamLostError, WrongTypeError
from saltctl.stores.heat.contracts import ConsumerInfo, GroupInfo, StreamInfo, id_order
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import GROUP, HeatStream, no_group
from saltctl.times import iso_utc

Verdict = Literal["ok", "degraded", "lagging", "stalled", "stopped", "unknown"]


@dataclass(frozen=True, slots=True)
class StreamStatus:
    """Result of two readings, ``seconds`` apart.

    ``info`` is the second reading; None if there is no stream. ``group`` is the service's consumer group in it; None
    if there is no group. ``late``: the parts of instances that have not done their work for a while, by instance;
    an instance without a record is left out. ``ahead_s``: seconds by which the newest id is ahead of
    the clock; 0 if it is not.
    """

    key: str
    info: StreamInfo | None
    group: GroupInfo | None
    verdict: Verdict
    oldest_pending_s: float | None
    seconds: float
    late: Mapping[str, Sequence[str]] = field(default_factory=dict)
    ahead_s: float = 0.0

    @property
    def missing(self) -> str:
        """What does not exist: the stream, or the service's consumer group in it; empty if both do."""
        if self.info is None:
            return f"there is no heat stream {self.key!r}"
        return no_group(self.key, GROUP) if self.group is None else ""

    @property
    def late_parts(self) -> list[str]:
        """The late parts of all instances, as ``instance: part, part``."""
        return [f"{name}: {', '.join(parts)}" for name, parts in sorted(self.late.items()) if parts]

    @property
    def alive(self) -> int:
        """The number of instances that are alive."""
        return sum(is_alive(consumer.idle_s) for consumer in self.group.consumers) if self.group else 0

    @property
    def warnings(self) -> list[str]:
        """Sentences about lost heat, and about ids that are ahead of the clock."""
        found = []
        for group in self.info.groups if self.info else ():
            if group.loss:
                period = f"between {entry_time(group.loss.after_id)} and {entry_time(group.loss.before_id) or 'now'}"
                found.append(
                    f"{group.loss.entries} entries were trimmed before group {group.name} had read them: heat {period} "
                    "was lost"
                )
            if group.trimmed_pending:
                count = f"{group.trimmed_pending} entries of group {group.name}"
                found.append(f"{count} were trimmed while they were pending: their heat is lost")
        if self.ahead_s:
            found.append(
                f"the newest id is {self.ahead_s:.0f} s ahead of the clock, and all later ids continue from it: they "
                "are no times, and entries do not stay for heat_retention. It ends if the stream, the key "
                f"{self.key}, is deleted once it is drained; the service creates it again"
            )
        return found

    def service_record(self, **more: object) -> dict[str, Any]:
        """Return the service's status with the keys of the command line's contract. ``more``: further keys."""
        group = self.group
        return {
            "verdict": self.verdict,
            "alive": self.alive,
            "lag": group and group.lag,
            "pending": group and group.pending,
            **more,
            "instances": [
                _consumer_record(consumer) | {"late": self.late.get(consumer.name)}
                for consumer in (group.consumers if group else ())
            ],
        }

    def stream_record(self, dead: int) -> dict[str, Any]:
        """Return the status with the keys of the command line's contract. ``dead``: the number of dead letters."""
        info = self.info
        return {
            "stream": self.key,
            "length": info and info.length,
            "first_id": info and info.first_id,
            "last_id": info and info.last_id,
            "dead": dead,
            "groups": [self._group_record(group) for group in info.groups] if info else [],
            "verdict": self.verdict,
            "window_s": round(self.seconds, 3),
            "ahead_s": round(self.ahead_s),
        }

    def _group_record(self, group: GroupInfo) -> dict[str, Any]:
        loss = group.loss
        return {
            "name": group.name,
            "lag": group.lag,
            "pending": group.pending,
            "oldest_pending_s": self.oldest_pending_s if group.pending else None,
            "last_delivered_id": group.last_delivered_id,
            "trimmed_unread": loss.entries if loss else 0,
            "trimmed_pending": group.trimmed_pending,
            "trimmed_from": entry_time(loss.after_id) if loss else None,
            "trimmed_to": entry_time(loss.before_id) if loss else None,
            "consumers": [_consumer_record(consumer) for consumer in group.consumers],
        }


def _consumer_record(consumer: ConsumerInfo) -> dict[str, Any]:
    return asdict(consumer) | {"alive": is_alive(consumer.idle_s)}


def read_stream_status(stream: HeatStream, window: float, state: ServiceState | None = None) -> StreamStatus:
    """Read the stream twice, ``window`` seconds apart, and judge it, with ``state`` also the instances themselves.

    Raises:
        RedisUnavailableError, AccessDeniedError: the stream cannot be read.
    """
    started = time.monotonic()
    try:
        first = stream.info()
        time.sleep(window)
        second = stream.info()
    except StreamLostError:
        return StreamStatus(stream.key, None, None, "unknown", None, 0.0)
    seconds = max(time.monotonic() - started, 1e-9)
    before, after = first.group(stream.group), second.group(stream.group)
    oldest = stream.pending("-", 1) if after is not None and after.pending else []
    verdict = "unknown" if second.added < first.added else judge(before, after, seconds)
    late: dict[str, list[str]] = {}
    if state is not None and after is not None:
        with suppress(WrongTypeError):  # no record is unknown; it must not hide the rest
            late = state.late_parts([consumer.name for consumer in after.consumers if is_alive(consumer.idle_s)])
    ahead = second.ahead(time.time())
    if verdict == "ok" and (ahead or any(late.values())):
        verdict = "degraded"
    return StreamStatus(stream.key, second, after, verdict, oldest[0][2] if oldest else None, seconds, late, ahead)


def is_alive(idle_s: float) -> bool:
    """Return whether a consumer with this idle time is alive. Instances send a heartbeat every two seconds."""
    return idle_s < ALIVE_SECONDS


def judge(before: GroupInfo | None, after: GroupInfo | None, seconds: float) -> Verdict:
    """Judge two readings of a group, ``seconds`` apart.

    - ``stopped``: no instance is alive.
    - ``stalled``: there is a backlog, and no entry was handled between the readings.
    - ``lagging``: entries are handled, but the backlog does not shrink, or will not be empty within a minute.
    - ``unknown``: there is no group, or the number of unread entries is unknown.
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
    delivered = before.last_delivered_id != after.last_delivered_id
    acknowledged = before.oldest_pending_id != after.oldest_pending_id or after.pending < before.pending
    if not delivered and not acknowledged:
        # Entries that arrived between the readings had no time to be read.
        return "stalled" if backlog_before else "ok"
    if after.lag >= before.lag > 0:
        return "lagging"
    shrink_rate = (before.lag - after.lag) / seconds
    return "lagging" if shrink_rate > 0 and after.lag / shrink_rate > 60 else "ok"


def entry_time(entry_id: str | None) -> str | None:
    """Return the ISO 8601 time at which an entry was added, from its id; None if the id is not a valid time."""
    if entry_id is None:
        return None
    milliseconds = id_order(entry_id)[0]
    try:
        return iso_utc(milliseconds / 1000)
    except (ValueError, OverflowError, OSError):
        return None
