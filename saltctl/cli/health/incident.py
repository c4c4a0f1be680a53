"""``saltctl incident``."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.output import columns_of, note, print_result, print_table, resolve_format, warn
from saltctl.cli.session import Session, session_of
from saltctl.errors import IncompleteError, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from saltctl.incident.timeline import Incident

COLUMNS = columns_of("at kind conversation_id detail")
VIEW_COLUMNS = columns_of(
    "at kind conversation_id detail",
    at=lambda event: event["at"][:19].replace("T", " "),
    detail=lambda event: event["detail"] or "",
)


def incident(
    context: typer.Context,
    since: option.RangeStart = "2h",
    until: option.RangeEnd = None,
    bundle: Annotated[
        Path | None,
        typer.Option(
            "--bundle",
            metavar="FILE",
            parser=option.parse_file,
            help="Write the timeline, status, doctor and settings to a new file, as JSON.",
        ),
    ] = None,
    with_ids: Annotated[
        bool, typer.Option("--with-ids", help="Keep conversation ids in the bundle; otherwise they are hashed.")
    ] = False,
    output: option.Output = None,
) -> None:
    """Show one timeline of throttling, heat, raises, the fence and the service, with the times to detect and to cure.

    They are those of the first throttling of the range, or without any of the first time that Redis was found
    unverified or the backup table lost; losses sums up all of them. detected_s: from its first throttled minute to the
    first raise of a conversation that was hot, which is no repair; detected: whether there was one. Both are null for a
    loss, which is noted when it is found. cured_s: to the end of the last throttled minute before
    ten quiet ones, or from the event unverified to the next verified, or from backup-lost to recovered. null is
    unknown, or not over. CloudWatch counts by the minute, so both may be a minute too long.

    The backup keeps the newest 200 events; Redis loses heat. It says since when each source has data. Exits 4 if
    one of them cannot be read; events is then null if none is known. A bundle has no passwords and, unless --with-ids,
    no conversation ids; the names of hosts, users and tables stay.

    \b
    Examples:
      saltctl incident
      saltctl incident --since 3h --until 1h -o json
      saltctl incident --since 2h --bundle incident.json
    """
    from saltctl.cli.health.bundle import require_new, write_bundle

    if with_ids and bundle is None:
        raise UsageError("--with-ids is about the bundle", hint="saltctl incident --bundle incident.json --with-ids")
    session = session_of(context)
    session.settings.require_redis_url()
    if bundle is not None:
        require_new(bundle)
    found = _read(session, since, until)
    record = found.as_record()
    if resolve_format(output, listing=False) in ("table", "json"):
        print_result(record, output, columns=(), human_view=partial(_draw, record=record))
    else:
        print_result(record["events"] or [], output, columns=COLUMNS, empty="no events are known")
    if bundle is not None:
        write_bundle(bundle, session, record, with_ids=with_ids)
        note(f"written: {bundle}, {'with conversation ids' if with_ids else 'with hashes instead of conversation ids'}")
    failed = [source for source in found.sources if source.error is not None]
    for source in failed[1:]:
        warn(f"{source.name} is missing: {source.error and source.error.message}")
    if failed and (first := failed[0].error) is not None:
        raise IncompleteError(f"the timeline lacks {failed[0].name}: {first.message}", hint=first.hint)


def _read(session: Session, since: str, until: str | None) -> Incident:
    from saltctl.incident.sources import IncidentReader
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
    from saltctl.throttling.analysis import time_range

    now = datetime.now(UTC)
    start = option.parse_time_option("--since", since, now) or now
    end = option.parse_time_option("--until", until, now) or now
    try:
        over = time_range(start.timestamp(), end.timestamp(), None, now.timestamp())
    except UsageError as exc:
        raise UsageError(exc.message, hint="saltctl incident --since 3h --until 1h") from None
    settings, state = session.settings, session.service_state
    reader = IncidentReader(settings, CloudWatchMetrics(settings), session.heat_stream, state, session.backup)
    return reader.read(start.timestamp(), end.timestamp(), over)


def sentence(record: Mapping[str, Any]) -> str:
    """Return what happened, in one sentence: the number of events, and a clause for each kind of loss."""
    events, unknown = record["events"], [source["name"] for source in record["sources"] if source["error"] is not None]
    count = "Events unknown" if events is None else counted(len(events), "event") if events else "No events"
    missing = f", without {' and '.join(unknown)}: unknown" if unknown and events else ""
    clauses = [_clause(record, loss) for loss in record["losses"]]
    return "; ".join([f"{count} since {record['since'][:19]}Z{missing}", *clauses])


def _clause(record: Mapping[str, Any], loss: Mapping[str, Any]) -> str:
    """Sum up what was lost: how often, the longest, and whether it is over."""
    if loss["kind"] == "throttling":
        return _throttling(record, loss)
    subject, lost, cured, again = _WORDS[loss["kind"]]
    times = f" {loss['count']:,} times" if loss["count"] > 1 else ""
    parts = [f"{subject} was found {lost}{times}"]
    if loss["longest_s"] is not None:
        parts[0] += f", and {cured} {'at most ' if times else ''}{_lasting(loss['longest_s'])} later"
        parts += [] if loss["over"] else [f"the last time it was not {again}"]
    else:
        parts[0] += f", and was not {again}"
    return "; ".join([*parts, "when it was lost is unknown"])


_WORDS = {
    "unverified": ("Redis", "unverified", "verified", "verified again"),
    "backup-lost": ("the backup table", "lost", "recovered", "recovered"),
}


def _throttling(record: Mapping[str, Any], loss: Mapping[str, Any]) -> str:
    longest = None if loss["longest_s"] is None else _lasting(loss["longest_s"])
    unended, unknown = "has not ended for certain", "detection is unknown"
    found = "was not detected by a raise"
    if record["detected"]:
        found = f"was detected after {_lasting(record['detected_s'])}"
    if loss["count"] > 1:
        last = "" if loss["over"] else f"; the last {unended}"
        first = f"{unknown} for the first" if record["detected"] is None else f"the first {found}"
        return f"throttling began {loss['count']:,} times, and lasted up to {longest}{last}; {first}"
    ended = f"ended after {longest}" if loss["over"] else unended
    return f"throttling {ended}; its {unknown}" if record["detected"] is None else f"throttling {found}, and {ended}"


def _lasting(seconds: float) -> str:
    for size, unit in ((3600, "h"), (60, "min")):
        if seconds >= size:
            return f"{seconds / size:.1f} {unit}".replace(".0 ", " ")
    return f"{seconds:.1f} s".replace(".0 ", " ")


def _draw(screen: Console, record: Mapping[str, Any]) -> None:
    from rich.text import Text

    from saltctl.cli.formats.tables import print_beside

    print_beside(screen, Text(), Text(printable(sentence(record)), style="bold"), 0)
    if record["events"]:
        print_table(record["events"], VIEW_COLUMNS, screen)
    since = [f"{source['name']} {_since(source)}" for source in record["sources"]]
    print_beside(screen, Text(), Text(printable(f"data exists since: {'; '.join(since)}")), 0)


def _since(source: Mapping[str, Any]) -> str:
    if source["error"] is not None:
        return "unknown"
    return f"{source['since'][:19]}Z" if source["since"] else "never: no data, which does not mean that all was well"
