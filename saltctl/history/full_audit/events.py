"""Options, events and the report of an audit of all conversations."""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.errors import UsageError
from saltctl.history.full_audit.state import Finding
from saltctl.values import check_number, check_whole

SAMPLE_ITEMS = 10_000


@dataclass(frozen=True, slots=True)
class FullAuditOptions:
    """Options of a run.

    Attributes:
        cap: the largest N that a raise can set; up to it, salts may have messages.
        max_rcu: read capacity units a second; None is no limit.
        budget: seconds after which the run ends, after the conversation that it is at; None runs to the cycle's end.
        sample_items: about how many rows of the messages table the run looks at for lost entries; 0 is none.
        restart: begin a new cycle, and replace a state that cannot be used.
        page: conversations that one request for the registry reads.
    """

    cap: int
    max_rcu: float | None = None
    budget: float | None = None
    sample_items: int = SAMPLE_ITEMS
    restart: bool = False
    page: int = 200

    def __post_init__(self) -> None:
        """Raise UsageError if a value is not allowed."""
        check_whole("sample_items", self.sample_items, 0, 10**12)
        if self.max_rcu is not None:
            check_number("max_rcu", self.max_rcu, 1, hint="such as --max-rcu 50")
        if self.budget is not None and not self.budget > 0:
            raise UsageError("the time of a run must be above 0", hint="such as --for 50s")


@dataclass(frozen=True, slots=True)
class FullAuditProgress:
    """Counts so far: conversations of this run and cycle, rows of the sample, and what stands."""

    doing: str
    audited: int
    cycle_audited: int
    sample_items: int
    found: int
    consumed_rcu: float


@dataclass(frozen=True, slots=True)
class AuditRestarted:
    """The state of earlier runs is not used, for this reason: the audit begins anew."""

    reason: str


@dataclass(frozen=True, slots=True)
class FullAudit:
    """The report of a run, with the keys of the command's JSON.

    ``audited`` and ``probes`` count this run: conversations, and partitions that were asked. ``orphans``, ``found``,
    ``lost`` and ``findings`` are all that stands, ``lost`` the conversations without an entry. ``cycle_complete``: this
    run completed a cycle; ``cycle_began_at`` is ISO 8601 UTC, and ``cycle_audited`` and ``unread`` count its
    conversations. ``oldest_age_s``: every conversation was audited within these seconds, or is newer in the registry;
    None before the first complete cycle. ``sample_age_s`` is that of the rows of the messages table; ``sample_items``
    were read in this run, and the rows of ``sample_unproven`` conversations of the round do not prove that they are on
    salts.
    """

    audited: int
    probes: int
    orphans: int
    found: int
    lost: int
    findings: list[Finding]
    cycle_complete: bool
    cycle_began_at: str | None
    cycle_audited: int
    unread: int
    oldest_age_s: float | None
    sample_items: int
    sample_unproven: int
    sample_age_s: float | None
    consumed_rcu: float
    seconds: float
    restarted: bool = False
