"""Judges one conversation: what was found of it, or why it could not be audited."""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass, field

from saltctl.errors import (
    BackupLostError,
    DamagedEntryError,
    DeadlineExceededError,
    InvalidConversationIdError,
    OtherRegistryError,
    SaltctlError,
    UnavailableError,
)
from saltctl.history.full_audit.probe import Missed, Probe
from saltctl.history.full_audit.state import MAX_DETAIL, Finding, FindingKind
from saltctl.registry.lookups import Lookup
from saltctl.registry.mending import Damage

MAX_FAILURES = 3
"""Conversations in a row that cannot be audited, after which it is an outage and not theirs."""
NOT_OF_ONE = (BackupLostError, OtherRegistryError, DeadlineExceededError)
"""Errors that no conversation causes."""


@dataclass(eq=False)
class Judge:
    """Judges conversations, and tells failures of one from those that every conversation meets.

    Args:
        probe: looks for messages that readers miss.
        find_damage: returns what the registry holds of a conversation and cannot be read; None if nothing.
        now: seconds since the epoch.
    """

    probe: Probe
    find_damage: Callable[[str], Damage | None]
    now: Callable[[], float]
    failures: int = field(default=0, init=False)
    """Conversations in a row, up to the last one, that could not be audited."""
    failure: SaltctlError | None = field(default=None, init=False)
    """The error of the last of them."""

    def judge(self, conversation_id: str, *, damaged: bool = False) -> Generator[None, None, Finding | None]:
        """Return what is wrong with a conversation of the registry; None if readers see all of it.

        ``damaged``: a scan has shown that its item in the backup is.

        Raises:
            SaltctlError: it is not this conversation's.
        """
        try:
            finding = yield from self._judge(conversation_id, self.find_damage(conversation_id) if damaged else None)
        except NOT_OF_ONE:
            raise
        except InvalidConversationIdError as exc:
            finding = self._finding(conversation_id, "damaged", detail=exc.message)
        except SaltctlError as exc:
            self.failures += 1
            self.failure = exc
            if self.failures >= MAX_FAILURES:
                raise
            return self._finding(conversation_id, "unread", detail=exc.message)
        self.failures, self.failure = 0, None
        return finding

    def _judge(self, conversation_id: str, damage: Damage | None) -> Generator[None, None, Finding | None]:
        if damage is None:
            try:
                missed = yield from self.probe.run(conversation_id)
            except DamagedEntryError:
                damage = self.find_damage(conversation_id)
                if damage is None:  # it was mended meanwhile, or is damaged in another way: not audited
                    raise
            else:
                return None if missed is None else self.finding_of(conversation_id, missed)
        missed = yield from self.probe.run(conversation_id, at_least=damage.at_least)
        return self._finding(conversation_id, "damaged", missed, at_least=damage.at_least, detail=damage.problem)

    def finding_of(self, conversation_id: str, missed: Missed, *, lost: bool = False) -> Finding:
        """Return the finding that readers miss messages; ``lost``: the registry has no entry."""
        if missed.unproven:
            return self._finding(conversation_id, "unproven", missed, detail=missed.unproven)
        return self._finding(conversation_id, "lost" if lost else missed.kind, missed)

    def _finding(
        self,
        conversation_id: str,
        kind: FindingKind,
        missed: Missed | None = None,
        *,
        at_least: int = 1,
        detail: str = "",
    ) -> Finding:
        return Finding(
            conversation_id,
            kind,
            round(self.now(), 3),
            orphans=missed.orphans if missed else 0,
            max_n=missed.max_n if missed else at_least,
            needed_n=missed.needed_n if missed else 0,
            detail=detail[:MAX_DETAIL],
        )

    def is_cured(self, finding: Finding, lookup: Callable[[str], Lookup]) -> bool:
        """Return whether the registry now covers what was found, as far as a lookup shows it.

        Raises UnavailableError: nothing can be read at the moment.
        """
        if finding.kind in ("unread", "unproven"):
            return False
        try:
            if finding.kind == "damaged" and self.find_damage(finding.conversation_id) is not None:
                return False
            return lookup(finding.conversation_id).recent_n >= max(finding.needed_n, 1)
        except UnavailableError:
            raise
        except SaltctlError:
            return False
