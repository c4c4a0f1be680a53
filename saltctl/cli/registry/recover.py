"""``saltctl recover``."""

from __future__ import annotations

import shlex
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from saltctl.cli import option
from saltctl.cli.formats.sentences import recover_sentence
from saltctl.cli.formats.text import counted, printable, scan_cost
from saltctl.cli.hints import hint_lines
from saltctl.cli.jobs import MAX_DAMAGED_NAMED, damage_hint, drain, resume_hint
from saltctl.cli.output import OutputFormat, columns_of, note, print_result, warn
from saltctl.cli.progress import PrintLine, Show, Step, keep_warning, show_progress
from saltctl.cli.rebuild.view import step_of
from saltctl.cli.session import Session, session_of
from saltctl.cli.signals import deadline, rerun_without
from saltctl.errors import ExitCode, SaltctlError
from saltctl.times import iso_utc
from saltctl.values import parse_registry_id

if TYPE_CHECKING:
    from saltctl.rebuild.options import RebuildOptions
    from saltctl.registry.recovery.recover import Recovery
    from saltctl.registry.recovery.recovery_plan import RecoveryPlan, RecoveryReport
    from saltctl.stores.heat.service_state import Verification

Choice = Literal["refuse", "raise", "skip"]
Unproven = Annotated[
    Choice,
    typer.Option("--unproven", help="Conversations whose messages do not prove that they are salted."),
]


def _registry_id(text: str) -> str:
    """Check the id of a registry."""
    try:
        return parse_registry_id(text)
    except ValueError as exc:
        raise typer.BadParameter(f"{text!r:.60} {exc}") from None


TakeOver = Annotated[
    str | None,
    typer.Option(
        "--take-over",
        metavar="ID",
        parser=_registry_id,
        help="Take Redis over from this other registry.",
        show_default=False,
    ),
]

COLUMNS = columns_of(
    "entries from_backup from_redis from_messages raised verified consumed_rcu seconds dry_run "
    "table registry_id skipped consumed_wcu"
)
_STEPS = {"from Redis": "adding from Redis", "from the messages": "adding from the messages"}
_TABLES = {
    "missing": "does not exist: it will be created",
    "unclaimed": "is not the backup of a registry: it will become that of this one",
    "restored": "was restored, copied or edited: raises may be missing in it",
    "intact": "is the one that the registry was created in: nothing shows that it was lost",
}


def recover(
    context: typer.Context,
    segments: option.Segments = 4,
    max_rcu: option.MaxRcu = None,
    lock_wait: option.LockWait = 0.0,
    resume: option.Resume = False,
    restart: option.Restart = False,
    unproven: Unproven = "refuse",
    take_over: TakeOver = None,
    timeout: option.Timeout = 0.0,
    dry_run: option.DryRun = False,
    yes: option.Yes = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Recover the registry after its backup table was deleted, restored or replaced.

    Makes the union of the backup table, of Redis and of the messages, never lowering an N, creates the table if
    it is missing, makes it the backup of the registry, and rebuilds Redis. The messages table is read in full,
    unless Redis was verified from the lost table and still is; --dry-run prints the cost, and changes nothing.
    Safe to interrupt and to run again: messages that were read are not read again, if Redis proves that it lost
    nothing since. Conversations with too few messages to prove that they are salted stop
    it, unless --unproven says what to do.

    \b
    Examples:
      saltctl recover --dry-run
      saltctl recover --max-rcu 500 --yes
    """
    from saltctl.rebuild.options import RebuildOptions
    from saltctl.registry.recovery.recovery_plan import RecoveryReport

    session = session_of(context)
    session.settings.require_redis_url()
    options = RebuildOptions(segments=segments, max_rcu=max_rcu, lock_wait=lock_wait, dry_run=dry_run)
    if (mode := option.resume_mode(resume=resume, restart=restart)) is not None:
        options = replace(options, resume=mode)
    job = _job(session, options, unproven=unproven, take_over=take_over or "")
    kept = partial(session.backup.scan_checkpoint.load, 0)
    with deadline(timeout), resume_hint(kept, quiet=dry_run):
        plan = job.plan()
        resumes = not restart and plan.table != "missing" and kept() is not None
        for line in _describe(plan, session.backup.where, job.take_over, resumes=resumes):
            note(printable(line))
        if not dry_run:
            plan.check(job.take_over)
            session.require_consent(f"Make table {session.backup.where} the backup of this Redis?", confirm, yes=yes)
        with show_progress("recovering") as (show, keep):
            report = drain(job.run(plan), RecoveryReport, _EventPrinter(show, keep, dry_run))
    if not dry_run:
        raised = counted(report.from_redis + report.from_messages, "conversation")
        counts = f"{report.from_redis:,} from Redis, {report.from_messages:,} from messages"
        session.event_log.note("recovered", f"the backup table: {raised} added or raised, {counts}")
        session.event_log.flush()
    _print(report, output, job.take_over, unproven)


def _job(session: Session, options: RebuildOptions, **choices: Any) -> Recovery:
    from saltctl.history.models import message_id_of
    from saltctl.rebuild.rebuild import Rebuild
    from saltctl.registry.recovery.recover import Recovery
    from saltctl.stores.aws.messages_table import MessagesTable

    messages, attribute = MessagesTable(session.settings, client=session.backup.client), session.history.id_attribute
    return Recovery(
        session.settings,
        session.store,
        session.backup,
        messages,
        lambda item: message_id_of(item, messages.keys, attribute),
        options,
        new_rebuild=partial(Rebuild, notes=session.service_state, log=session.event_log),
        log=session.event_log,
        verification=partial(_verification, session),
        **choices,
    )


def _verification(session: Session) -> Verification | None:
    """Return the latest rebuild that is recorded; None if that cannot be read: the record is for people."""
    with suppress(SaltctlError):
        return session.service_state.verification()
    return None


@dataclass
class _EventPrinter:
    """Prints progress, damaged items, and the first conversations that are not proved to be salted."""

    show: Show
    keep_line: PrintLine
    dry_run: bool = False
    named: int = 0
    total: int | None = None

    def __call__(self, event: object) -> None:
        from saltctl.rebuild.events import CheckpointRejected, RebuildProgress, StartDelayed
        from saltctl.registry.discover import Discovered
        from saltctl.registry.recovery.recovery_plan import RecoveryProgress
        from saltctl.registry.recovery.scan_checkpoint import ScanResumed
        from saltctl.stores.contracts.registry import DamagedEntry

        match event:
            case RecoveryProgress():
                self.total = event.total
                nouns = ("message", "messages") if event.step == "reading the messages" else ("entry", "entries")
                self.show(Step(_STEPS.get(event.step, event.step), event.done, nouns, event.total))
            case RebuildProgress():
                self.show(step_of(event, "rebuilding", self.total))
            case StartDelayed():
                self.show(printable(f"waiting: {event.reason}"))
            case CheckpointRejected():
                self.keep_line(printable(f"reading all messages again: {event.reason}"))
            case ScanResumed():
                at = iso_utc(event.written, "seconds")
                resuming = "it would resume" if self.dry_run else "resuming"
                self.keep_line(f"{resuming} from the checkpoint of {at}, after {counted(event.items, 'message')}")
            case DamagedEntry():
                keep_warning(self.keep_line, f"skipped {event.conversation_id!r}: {event.problem}")
            case Discovered():
                self.named += 1
                if self.named <= MAX_DAMAGED_NAMED:
                    problem = f"N {event.needed_n}: {event.problem}"
                    keep_warning(self.keep_line, f"unproven: {event.conversation_id!r}, {problem}")


def _print(report: RecoveryReport, output: OutputFormat | None, take_over: str, unproven: Choice) -> None:
    """Print the report; exit with 4 if entries cannot be used. A dry run of what will be refused fails as that does."""
    rebuilt = report.rebuild
    found = asdict(report)
    found["raised"] = report.from_redis + report.from_messages
    found |= {"table": report.plan.table, "verified": rebuilt.verified if rebuilt else report.plan.redis_verified}
    # The keys of the contract first, in its order.
    record: dict[str, Any] = {column.key: found[column.key] for column in COLUMNS} | found
    print_result(
        record,
        output,
        columns=COLUMNS,
        sentence=recover_sentence(
            record, reads_messages=report.plan.messages is not None and not report.from_messages + report.unproven
        ),
    )
    if report.dry_run:
        report.plan.check(take_over)
        report.check_unproven(unproven)
    if report.uncooled:
        number = counted(report.uncooled, "conversation")
        note(f"cool-downs taken back: {number}; raises after them may be lost, so newest pages ask all salts again")
    if report.skipped:
        items = rebuilt.damaged_items if rebuilt else []
        hint = damage_hint(items, len(items), "saltctl rebuild") if items else "saltctl registry discover"
        warn(f"entries that cannot be used: {report.skipped:,}", hint)
        raise typer.Exit(ExitCode.INCOMPLETE)
    if report.dry_run:
        note("\n".join(["no message was read; to recover:", *hint_lines(rerun_without("--dry-run"))]))


def _describe(plan: RecoveryPlan, table: str, take_over: str, *, resumes: bool) -> list[str]:
    """Describe what was found, and what a recovery costs."""
    entries = counted(plan.redis_entries, "entry", "entries")
    owner = f"of registry {plan.redis_registry}" if plan.redis_registry else "without a fence"
    writes = f"they will be merged, for at most {counted(plan.redis_entries, 'write capacity unit')}"
    merged = writes if plan.use_redis else "they belong to another registry and are not used"
    state = "verified" if plan.redis_verified else "not verified"
    lines = [f"table {table} {_TABLES[plan.table]}", f"Redis holds {entries} {owner}, {state}: {merged}"]
    if plan.conflict and take_over != plan.redis_registry:
        lines.append(f"{plan.conflict}: refused without --take-over {shlex.quote(plan.redis_registry)}")
    if plan.messages is not None:
        cost = plan.messages
        left = ", without those before the checkpoint, if Redis has lost nothing since" if resumes else ""
        lines.append(f"the messages will be read{left}: {scan_cost(cost.items, cost.bytes, cost.rcu)}")
        if plan.table != "intact":
            lines.append(
                "a raise that only the lost table had, without a message on its salts, cannot be found; "
                "that hides no message: repeat the raise"
            )
    return lines
