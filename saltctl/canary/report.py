"""The report of one round of the canary."""

from __future__ import annotations

from dataclasses import dataclass

CHECK_NAMES: tuple[str, ...] = (
    "lookup",
    "write",
    "read",
    "shared-read",
    "find",
    "unfinished-raise",
    "raise",
    "cool",
    "late-merge",
    "foreign-client",
    "fork",
)
"""Names of all checks, in the order of every report."""
NO_TIME = "no time was left for it"
"""How the detail begins of a check that the round had no time for."""


@dataclass(frozen=True, slots=True)
class Check:
    """The result of one check. ``ok`` is None if it could not be judged: ``detail`` says why: an outage, or no time.

    ``skipped``: that is no outage, since there was nothing to judge in this round.
    """

    name: str
    ok: bool | None
    detail: str
    skipped: bool = False


@dataclass(frozen=True, slots=True)
class CanaryReport:
    """The results of a round, in the order of :data:`CHECK_NAMES`, and its duration in seconds."""

    checks: list[Check]
    seconds: float

    @property
    def ok(self) -> bool | None:
        """False if any check failed, None if none could be judged, else True."""
        results = [check.ok for check in self.checks]
        if False in results:
            return False
        return True if True in results else None
