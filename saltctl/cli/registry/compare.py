"""``saltctl compare``."""

from __future__ import annotations

import re
from contextlib import nullcontext
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import compare_sentence, unsealed_note
from saltctl.cli.formats.text import printable
from saltctl.cli.jobs import MAX_DAMAGED_NAMED, damage_hint, drain, estimated_items, track_job
from saltctl.cli.output import Record, columns_of, format_value, note, warn
from saltctl.cli.progress import Step, show_progress
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline, rerun_with
from saltctl.commands import hint_of
from saltctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from saltctl.registry.drift import ComparisonOptions, ComparisonProgress, ComparisonReport, Sample

COLUMNS = columns_of(
    "checked in_sync behind missing unbacked uncommitted repaired verified damaged seconds consumed_rcu sample drift "
    "redis_alone unreadable"
)


def _redis_n(record: Record) -> str:
    return "unreadable" if record["kind"] == "unreadable" else format_value(record["redis_n"])


def _plan(record: Record) -> str:
    """Return what a repair writes, such as ``4 → 64 (backup)``."""
    if record["planned_n"] is None:
        return "left as it is"
    side, kind = record["planned_side"], record["kind"]
    before = format_value(record["write_n"] if kind == "uncommitted" else record["backup_n"])
    before = _redis_n(record) if side == "redis" else before
    if record["detail"] is not None:
        return f"mend it ({side})"
    name = "backup, write_n" if kind == "uncommitted" else side
    return f"{before} → {format_value(record['planned_n'])} ({name})"


_NAMED = 5
"""Damaged items that the warning about all of them names."""
DRIFT_COLUMNS = columns_of("conversation_id kind redis_n backup_n write_n repaired", redis_n=_redis_n)
PLAN_COLUMNS = columns_of("conversation_id kind redis_n backup_n write_n plan", redis_n=_redis_n, plan=_plan)
DETAIL_COLUMNS = columns_of("detail")
"""In both tables, if a conversation differs in more than N."""


def compare(
    context: typer.Context,
    repair: Annotated[bool, typer.Option("--repair", help="Raise the side that has less; else change nothing.")] = (
        False
    ),
    adopt: Annotated[
        bool, typer.Option("--adopt", help="With --repair: write what Redis alone has to the backup, too.")
    ] = False,
    sample: Annotated[
        str | None, typer.Option("--sample", metavar="K/N", help="Only part K of N; N runs cover everything.")
    ] = None,
    segments: option.Segments = 4,
    timeout: option.Timeout = 0.0,
    cron: option.Cron = False,
    metrics_file: option.MetricsFile = None,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Compare Redis with the backup, both ways, and find every conversation on which they disagree.

    behind, missing, unreadable: Redis has less than the backup, no entry, or a value that is no salt count.
    unbacked: Redis has more, so it was written by hand. uncommitted: a raise was interrupted.
    --repair raises the side that has less, and never lowers one; with --dry-run it shows each planned value
    and its side. What Redis alone has stays as it is without --adopt.
    Costs one scan of the backup, and one read unit for each suspected conversation. Exits 3 if drift is left or
    Redis is not verified, 4 if items of the backup are damaged.

    \b
    Examples:
      saltctl compare
      saltctl compare --repair --dry-run
      saltctl compare --sample 1/24 -o json
    """
    from saltctl.registry.drift import ComparisonOptions

    session = session_of(context)
    with track_job("compare", session, cron=cron, metrics_file=metrics_file) as job:
        if adopt and not repair:
            raise UsageError("cannot use --adopt without --repair", hint=rerun_with("--repair"))
        options = ComparisonOptions(segments=segments, sample=parse_sample(sample), adopt=adopt)
        session.settings.require_redis_url()
        planned, repair = repair and dry_run, repair and not dry_run
        if repair:
            session.require_consent("Raise the side that has less?", confirm, yes=yes)
        with deadline(timeout):
            session.backup.check_table()
            session.store.check_owner()
            report = _run(session, options, repair=repair, quiet=cron)
        record = asdict(report) | {"sample": sample, "dry_run": dry_run}
        happened = bool(report.unrepaired or report.repaired or report.damaged or not report.verified)
        more = report.checked - report.in_sync - len(report.drift)
        detailed = DETAIL_COLUMNS if any(drift.detail for drift in report.drift) else ()
        tables = {"drift": (*(PLAN_COLUMNS if planned else DRIFT_COLUMNS), *detailed)}
        sentence = compare_sentence(report)
        job.finish(record, output, happened=happened, columns=COLUMNS, lists=tables, more=more, sentence=sentence)
        if not cron:
            _warn(report, repair=repair, adopt=adopt)
        if report.damaged or report.unrepaired or not report.verified:
            raise typer.Exit(ExitCode.INCOMPLETE if report.damaged else ExitCode.FOUND_SOMETHING)


def parse_sample(text: str | None) -> Sample | None:
    """Parse ``K/N``."""
    from saltctl.registry.drift import Sample

    if text is None:
        return None
    found = re.fullmatch(r"([0-9]{1,7})/([0-9]{1,7})", text)
    if found is None:
        raise UsageError(
            f"cannot use --sample {text!r:.60}: write it as K/N, such as 1/24", hint="saltctl compare --sample 1/24"
        )
    return Sample(int(found[1]), int(found[2]))


def _run(session: Session, options: ComparisonOptions, *, repair: bool, quiet: bool) -> ComparisonReport:
    from saltctl.registry.compare import MAX_BUCKET_SAMPLE_PARTS, Comparison, Event
    from saltctl.registry.drift import ComparisonProgress, ComparisonReport
    from saltctl.stores.contracts.registry import DamagedEntry
    from saltctl.stores.redis.buckets import RedisBucketReader

    reader = RedisBucketReader(session.settings)
    registry = session.registry if repair else None
    job = Comparison(session.settings, reader, session.store, session.backup, options, registry)
    damaged, total = 0, None if quiet else estimated_items(session.backup)
    if total is not None and options.sample is not None and options.sample.parts > MAX_BUCKET_SAMPLE_PARTS:
        total = -(-total // options.sample.parts)  # a larger part reads the whole backup

    def _show_event(event: Event) -> None:
        nonlocal damaged
        match event:
            case ComparisonProgress():
                show(_step_of(event, total))
            case DamagedEntry():
                damaged += 1
                if damaged <= MAX_DAMAGED_NAMED:
                    keep_line(printable(f"damaged: {event.conversation_id!r}: {event.problem}"))

    noting = session.noting_raises("compare --repair") if repair else nullcontext()
    with noting, show_progress("comparing", quiet=quiet) as (show, keep_line):
        return drain(job.run(), ComparisonReport, _show_event)


def _step_of(event: ComparisonProgress, total: int | None) -> Step:
    """Return the step: reading the backup, whose size is an estimate, and then Redis."""
    more = (f"{event.drift:,} differ", f"{event.consumed_rcu:,.1f} RCU")
    if event.all_buckets:
        nouns = ("bucket of Redis", "buckets of Redis")
        return Step("comparing", event.buckets, nouns, event.all_buckets, exact=True, more=more)
    return Step("comparing", event.read, total=total, more=more)


def _warn(report: ComparisonReport, *, repair: bool, adopt: bool) -> None:
    """Print a warning for everything that is left to do, in the order in which it is to be done."""
    from saltctl.registry.drift import NOT_ADOPTED
    from saltctl.stores.contracts.registry import DamagedEntry

    alone, stuck = report.redis_alone if not adopt else 0, 0
    for drift in report.drift:
        unreadable = drift.kind == "unreadable"
        stuck += unreadable and drift.planned_n is None
        if (repair or unreadable) and drift.problem not in (None, NOT_ADOPTED) and not drift.repaired:
            cure = DamagedEntry(drift.conversation_id, "").cure if unreadable else ""
            warn(f"{drift.conversation_id!r} {'was' if repair else 'is'} not repaired: {drift.problem}", cure)
    if not report.verified:
        warn("Redis is not verified: lookups are answered by the backup", "saltctl rebuild")
    if left := report.unrepaired - alone:
        warn(
            f"conversations that differ: {left:,}", "" if repair or left == stuck else "saltctl compare --repair --yes"
        )
    if alone:
        sentence = "lookups return them as long as Redis lives; if they are right, adopt them"
        warn(
            f"conversations that Redis alone has: {alone:,}; the backup has no entry",
            hint_of(sentence, "saltctl compare --repair --adopt --yes"),
        )
    if report.unsealed:
        note(unsealed_note(report.unsealed, report.unsealed_ids, sampled=False).replace("\n", " "))
    if report.damaged:
        first = ", ".join(repr(item.conversation_id) for item in report.damaged_items[:_NAMED])
        count = f"damaged items of the backup, not compared: {report.damaged:,}"
        warn(f"{count}, such as {first}", damage_hint(report.damaged_items, report.damaged))
