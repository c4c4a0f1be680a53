"""``saltctl history audit --all``."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

import typer

from saltctl.cli.formats.sentences import full_audit_sentence
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.hints import in_force
from saltctl.cli.jobs import Job, drain, estimated_items
from saltctl.cli.output import OutputFormat, columns_of, format_value, note, warn
from saltctl.cli.progress import Step, show_progress
from saltctl.cli.session import Session
from saltctl.errors import ExitCode
from saltctl.times import iso_utc

if TYPE_CHECKING:
    from saltctl.history.full_audit.events import FullAudit, FullAuditProgress
    from saltctl.history.full_audit.full_audit import Event, FullAuditor

_NAMED = 20
"""Findings that warnings name; the list has up to 100."""
COLUMNS = columns_of(
    "audited found orphans lost unread cycle_complete cycle_audited cycle_began_at oldest_age_s sample_items "
    "sample_unproven sample_age_s probes consumed_rcu seconds findings",
    orphans="messages that readers miss",
    lost="lost entries",
    unread="not audited",
    probes="partitions asked",
)
FINDING_COLUMNS = columns_of(
    "conversation_id kind orphans max_n needed_n at detail", detail=lambda found: format_value(found["detail"] or None)
)


@dataclass(frozen=True)
class AllOptions:
    """The options of ``--all``; 0 and None are the defaults."""

    max_rcu: float | None
    budget: float
    sample_items: int | None
    restart: bool


def audit_all(session: Session, job: Job, options: AllOptions, output: OutputFormat | None) -> None:
    """Run the audit, print its report, and exit with 3 if anything that was found stands."""
    report = _run(session, _auditor(session, options), quiet=job.cron)
    findings = [
        asdict(found) | {"at": iso_utc(found.at), "command": in_force(found.command)} for found in report.findings
    ]
    job.finish(
        asdict(report) | {"findings": findings},
        output,
        happened=report.found > 0 or report.restarted,
        columns=COLUMNS,
        lists={"findings": FINDING_COLUMNS},
        more=report.found - len(report.findings),
        sentence=full_audit_sentence(report),
    )
    if not job.cron:
        _warn(report)
    if report.found:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _auditor(session: Session, options: AllOptions) -> FullAuditor:
    from saltctl.history.full_audit.events import SAMPLE_ITEMS, FullAuditOptions
    from saltctl.history.full_audit.full_audit import FullAuditor
    from saltctl.registry.mending import find_damage
    from saltctl.stores.audit_item import AuditItem

    settings, backup = session.settings, session.backup
    settings.require_redis_url()
    return FullAuditor(
        session.history,
        backup,
        AuditItem(backup),
        lambda conversation: find_damage(session.store, backup, conversation),
        FullAuditOptions(
            cap=settings.max_n_cap,
            max_rcu=options.max_rcu,
            budget=options.budget or None,
            sample_items=SAMPLE_ITEMS if options.sample_items is None else options.sample_items,
            restart=options.restart,
        ),
        settings.messages_table,
    )


def _run(session: Session, auditor: FullAuditor, *, quiet: bool) -> FullAudit:
    from saltctl.history.full_audit.events import AuditRestarted, FullAudit, FullAuditProgress

    total = None if quiet else estimated_items(session.backup)

    def show_event(event: Event) -> None:
        match event:
            case AuditRestarted():
                warn(f"{printable(event.reason)}; the audit begins anew")
            case FullAuditProgress():
                show(_step_of(event, total))

    with show_progress("auditing", quiet=quiet) as (show, _):
        return drain(auditor.run(), FullAudit, show_event)


def _step_of(event: FullAuditProgress, total: int | None) -> Step:
    more = (f"{event.found:,} found", f"{event.consumed_rcu:,.1f} RCU")
    if event.doing == "sampling":
        return Step(event.doing, event.sample_items, ("message", "messages"), more=more)
    return Step(event.doing, event.cycle_audited, ("conversation", "conversations"), total, more=more)


def _warn(report: FullAudit) -> None:
    """Print a warning for each of the first findings, with the command that mends it."""
    for found in report.findings[:_NAMED]:
        name = repr(found.conversation_id)
        match found.kind:
            case "unread":
                problem = f"{name} was not audited: {found.detail}"
            case "unproven":
                problem = f"rows beyond max_n of {name} may belong to other conversations: {found.detail}"
            case "damaged":
                problem = f"{name} is damaged: {found.detail}"
            case _:
                least = counted(found.orphans, "message")
                problem = f"readers miss at least {least} of {name}, which needs an N of {found.needed_n:,}"
        warn(problem, found.command)
    if report.found > _NAMED:
        note(f"conversations with findings that are not named here: {report.found - _NAMED:,}")
