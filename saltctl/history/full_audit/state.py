"""The state of the audit of all conversations, between its runs: how far it is, and what it has found.

A state that is damaged, or that was edited by hand, is refused: its claims would be worth nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from saltctl.commands import command_line
from saltctl.errors import CheckpointRefusedError
from saltctl.salting import is_conversation_id
from saltctl.stores.audit_item import AuditItem
from saltctl.stores.contracts.messages import Item
from saltctl.stores.saved_state import decode, encode

VERSION = 1
MAX_FINDINGS = 100
"""Findings that are listed; the others of a cycle are counted. With ids of 2,000 bytes they fit into 400 KB."""
MAX_DETAIL = 200
_MAX_INT = 2**63
_LATEST = 1e11
_RESTART = "saltctl history audit --all --restart"

FindingKind = Literal["beyond", "boundary", "lost", "unproven", "damaged", "unread"]
"""beyond, boundary: readers miss messages, as in ``probe.MissedKind``. lost: so they do, and the registry has no entry.
unproven: rows beyond max_n may be messages of other conversations. damaged: what the registry holds cannot be read.
unread: the conversation was not audited, for the reason in ``detail``."""
MISSING: tuple[FindingKind, ...] = ("beyond", "boundary", "lost")
"""The kinds that mean that readers miss messages."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one conversation at a time, in seconds since the epoch.

    ``orphans`` are at least so many messages that readers miss. ``needed_n`` is the N to raise to, 0 if it is unknown.
    """

    conversation_id: str
    kind: FindingKind
    at: float
    orphans: int = 0
    max_n: int = 1
    needed_n: int = 0
    detail: str = ""

    @property
    def command(self) -> str:
        """The command that mends it, or shows more; empty if the id cannot be that of a conversation."""
        if not is_conversation_id(self.conversation_id):
            return ""
        mends = self.kind in (*MISSING, "damaged")
        given = {"--repair": mends, "--yes": mends}
        return command_line("history", "audit", ids=[self.conversation_id], given=given)

    @property
    def is_plausible(self) -> bool:
        """Whether saltctl can have written these values."""
        numbers = (self.orphans, self.max_n, self.needed_n)
        return self.kind in get_args(FindingKind) and 0 <= self.at < _LATEST and all(0 <= n < _MAX_INT for n in numbers)


@dataclass(frozen=True, slots=True)
class SampleState:
    """The round of the sample over the messages table.

    Attributes:
        began: when this round began; None between two rounds.
        position: the keys of the last row that was read; None at the start.
        items: rows that were read in this round.
        candidates: conversations of this round that seem to be salted, and that the registry does not cover.
        unproven: those whose rows do not prove that they are salted.
        complete: when the last complete round began; None before the first one.
    """

    began: float | None = None
    position: Item | None = None
    items: int = 0
    candidates: int = 0
    unproven: int = 0
    complete: float | None = None


@dataclass(frozen=True, slots=True)
class AuditState:
    """The state. Times are in seconds since the epoch.

    Attributes:
        registry_id, messages_table: what was audited. A state of others is not used.
        began: when the cycle in progress began; None between two cycles.
        position: the last conversation that was audited; None at the start of a cycle.
        audited: conversations that were audited in this cycle, or in the last one between two cycles.
        unread: those that could not be audited.
        unlisted: findings beyond the listed ones.
        unlisted_before: those of the last complete cycle.
        proven: every conversation was audited since then, or registered since; None before the first complete cycle.
        completed: when the last cycle ended.
        findings: what stands, at most 100.
    """

    registry_id: str
    messages_table: str
    began: float | None = None
    position: str | None = None
    audited: int = 0
    unread: int = 0
    unlisted: int = 0
    unlisted_before: int = 0
    proven: float | None = None
    completed: float | None = None
    sample: SampleState = field(default_factory=SampleState)
    findings: tuple[Finding, ...] = ()
    version: int = VERSION

    @property
    def found(self) -> int:
        """All findings, those that are not listed included."""
        return len(self.findings) + max(self.unlisted, self.unlisted_before)

    def with_finding(self, conversation_id: str, finding: Finding | None) -> AuditState:
        """Return the state in which a conversation has this finding instead of an earlier one; None has none."""
        others = tuple(one for one in self.findings if one.conversation_id != conversation_id)
        if finding is None:
            return self if len(others) == len(self.findings) else replace(self, findings=others)
        if len(others) >= MAX_FINDINGS:
            return replace(self, findings=others, unlisted=self.unlisted + 1)
        return replace(self, findings=(*others, finding))

    def _times(self) -> Iterator[float | None]:
        yield from (self.began, self.proven, self.completed, self.sample.began, self.sample.complete)

    def _counts(self) -> Iterator[int]:
        yield from (self.audited, self.unread, self.unlisted, self.unlisted_before)
        yield from (self.sample.items, self.sample.candidates, self.sample.unproven)

    @property
    def is_plausible(self) -> bool:
        """Whether saltctl can have written these values."""
        return (
            self.version == VERSION
            and all(time is None or 0 <= time < _LATEST for time in self._times())
            and all(0 <= count < _MAX_INT for count in self._counts())
            and len(self.findings) <= MAX_FINDINGS
            and all(finding.is_plausible for finding in self.findings)
        )


def age(since: float | None, now: float) -> float | None:
    """Return the seconds since a time; None if there is none. Clocks of two hosts may differ: it is never below 0."""
    return None if since is None else round(max(now - since, 0.0), 3)


def load_state(item: AuditItem) -> AuditState | None:
    """Read the state; None if no audit of all conversations was ever begun.

    Raises:
        CheckpointRefusedError: it is damaged.
        UnavailableError, AccessDeniedError, ConfigurationError: the backup table cannot be read.
    """
    encoded = item.load()
    try:
        return None if encoded is None else decode(encoded, AuditState)
    except (ValueError, RecursionError) as exc:
        problem = f"cannot use the state of the audit in the backup table: it is damaged ({type(exc).__name__})"
        raise CheckpointRefusedError(problem, hint=_RESTART) from exc


def forget_finding(item: AuditItem, conversation_id: str) -> None:
    """Remove the finding of a conversation whose readers see everything now. A run in progress does so itself.

    Raises:
        CheckpointRefusedError: the state is damaged.
        UnavailableError, AccessDeniedError, ConfigurationError: the backup table cannot be read or written.
    """
    state = load_state(item)
    if state is None:
        return
    left = state.with_finding(conversation_id, None)
    if left is not state:
        item.replace(encode(state), encode(left))
