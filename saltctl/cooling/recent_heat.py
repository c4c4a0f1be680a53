"""How many salts the heat reports of a time need, so that a conversation is not cooled below its traffic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from math import inf

from saltctl.detection.decision import decide
from saltctl.errors import RefusedError, StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry, StreamInfo, id_order
from saltctl.stores.heat.report import BadReportError, HeatReport, parse
from saltctl.stores.heat.stream import MAX_ENTRIES, HeatStream
from saltctl.stores.heat.window_sums import InMemorySums
from saltctl.times import iso_utc

RECENT_SECONDS = 600.0
"""How far back reports count."""
_PAGE = 1000
_GIVE_N = "give the N that new messages need, with --to"
_GIVE_LESS = "wait, give --idle a shorter time, or name the conversations and their N"


def needed_salts(
    stream: HeatStream,
    conversation_ids: Iterable[str],
    settings: Settings,
    now: float,
    *,
    seconds: float = RECENT_SECONDS,
    longest_silence: float = inf,
) -> dict[str, int]:
    """Return the largest N that each conversation needed in a window of the last ``seconds``; 1 without a report.

    ``now`` is in seconds since the epoch. Reports may be lost if none of any conversation arrived for longer than
    ``longest_silence``.

    Raises:
        RefusedError: the stream is missing, or may lack reports of that time: what is hot must not look idle.
        RedisUnavailableError, AccessDeniedError: the stream cannot be read.
    """
    needed = dict.fromkeys(conversation_ids, 1)
    try:
        info = stream.info()
        problem = _gap(info, settings, now, seconds)
    except StreamLostError as exc:
        problem = exc.message
    hint = _GIVE_N if longest_silence == inf else _GIVE_LESS
    if problem:
        raise RefusedError(f"cannot tell how many salts are needed: {problem}", hint=hint)
    sums, start = InMemorySums(), now - seconds
    arrived, silence = start, (0.0, start)
    for entry in _entries(stream, start, info.last_id or "0"):
        at = id_order(entry.id)[0] / 1000
        silence, arrived = max(silence, (at - arrived, arrived)), at
        reports = [r for r in _parse(entry, now) if r.window >= start and r.conversation_id in needed]
        for report, total in zip(reports, sums.add(reports), strict=True):
            if (decision := decide(report, total, settings)) is not None:
                needed[report.conversation_id] = max(needed[report.conversation_id], decision.n)
    longest, since = max(silence, (now - arrived, arrived))
    if longest > longest_silence:
        problem = f"no heat report arrived for {longest / 60:.0f} minutes from {iso_utc(since, 'seconds')} on"
        raise RefusedError(f"cannot tell how many salts are needed: {problem}", hint=hint)
    return needed


def _gap(info: StreamInfo, settings: Settings, now: float, seconds: float) -> str:
    """Return why the stream may lack reports of the last ``seconds``; empty if it has all of them.

    The service removes entries once they are older than ``heat_retention``, and servers the oldest of too many.
    """
    if info.ahead(now):
        return "the clock of the heat stream is ahead, so that its entries are removed at once"
    start, minutes = now - seconds, f"{seconds:g} s" if seconds < 120 else f"{seconds / 60:.0f} minutes"
    first = info.newest if info.first_id is None else id_order(info.first_id)[0] / 1000
    if info.added and first <= start:
        return ""
    if info.added == info.length:
        return f"the heat stream has no report from before the last {minutes}: it may be new"
    if settings.heat_retention < seconds or info.length >= MAX_ENTRIES or not info.length:
        return f"the heat stream keeps less than {minutes} of reports (SALTCTL_HEAT_RETENTION)"
    return ""


def _entries(stream: HeatStream, start: float, last: str) -> Iterator[Entry]:
    """Yield the entries that arrived from a time on, up to the id ``last``."""
    first = str(max(int(start * 1000), 0))
    while entries := stream.range(first, last, _PAGE):
        yield from entries
        first = f"({entries[-1].id}"


def _parse(entry: Entry, now: float) -> list[HeatReport]:
    try:
        return parse(entry.fields or [], now)
    except BadReportError:
        return []
