"""How many salts the heat reports of the last minutes need, so that a conversation is not cooled below its traffic."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from saltctl.detection.decision import decide
from saltctl.errors import RefusedError, StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry, StreamInfo, id_order
from saltctl.stores.heat.report import BadReportError, HeatReport, parse
from saltctl.stores.heat.stream import MAX_ENTRIES, HeatStream
from saltctl.stores.heat.window_sums import InMemorySums

RECENT_SECONDS = 600.0
"""How far back reports count."""
_PAGE = 1000
_GIVE_N = "give the N that new messages need, with --to"


def needed_salts(stream: HeatStream, conversation_ids: Iterable[str], settings: Settings, now: float) -> dict[str, int]:
    """Return the largest N that each conversation needed in a window of the last ten minutes; 1 without a report.

    ``now`` is in seconds since the epoch.

    Raises:
        RefusedError: the stream is missing, or may lack reports of that time: what is hot must not look idle.
        RedisUnavailableError, AccessDeniedError: the stream cannot be read.
    """
    needed = dict.fromkeys(conversation_ids, 1)
    try:
        info = stream.info()
        problem = _gap(info, settings, now)
    except StreamLostError as exc:
        problem = exc.message
    if problem:
        raise RefusedError(f"cannot tell how many salts are needed: {problem}", hint=_GIVE_N)
    sums = InMemorySums()
    for report in _reports(stream, needed, now, info.last_id or "0"):
        (total,) = sums.add([report])
        if (decision := decide(report, total, settings)) is not None:
            needed[report.conversation_id] = max(needed[report.conversation_id], decision.n)
    return needed


def _gap(info: StreamInfo, settings: Settings, now: float) -> str:
    """Return why the stream may lack reports of the last minutes; empty if it has all of them.

    The service removes entries once they are older than ``heat_retention``, and servers the oldest of too many.
    """
    if info.ahead(now):
        return "the clock of the heat stream is ahead, so that its entries are removed at once"
    start = now - RECENT_SECONDS
    first = info.newest if info.first_id is None else id_order(info.first_id)[0] / 1000
    if info.added and first <= start:
        return ""
    if info.added == info.length:
        return f"the heat stream has no report from before the last {RECENT_SECONDS / 60:.0f} minutes: it may be new"
    if settings.heat_retention < RECENT_SECONDS or info.length >= MAX_ENTRIES or not info.length:
        return f"the heat stream keeps less than {RECENT_SECONDS / 60:.0f} minutes of reports"
    return ""


def _reports(stream: HeatStream, conversation_ids: Iterable[str], now: float, last: str) -> Iterator[HeatReport]:
    """Yield the valid reports of these conversations, in windows of the last minutes and up to the id ``last``."""
    wanted = {conversation_id.encode() for conversation_id in conversation_ids}
    start = now - RECENT_SECONDS
    first = str(max(int(start * 1000), 0))
    while entries := stream.range(first, last, _PAGE):
        for entry in entries:
            report = _parse(entry, now) if entry.fields and not wanted.isdisjoint(entry.fields) else None
            # A field may have the value of another one.
            if report is not None and report.window >= start and report.conversation_id.encode() in wanted:
                yield report
        first = f"({entries[-1].id}"


def _parse(entry: Entry, now: float) -> HeatReport | None:
    try:
        return parse(entry.fields or [], now)
    except BadReportError:
        return None
