"""The check of the audit of all conversations: what it found, and how old its proof is."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.errors import CheckpointRefusedError
from saltctl.health import status
from saltctl.health.checks.audit import audit
from saltctl.history.full_audit.state import AuditState, Finding, SampleState
from tests.health.fakes import FakeFacts

NOW = 2_000_000.0
DAY = 86400.0
MISSES = Finding("c 1", "lost", NOW, 40, 1, 8)
UNREAD = Finding("c2", "unread", NOW, detail="access is denied")
UNPROVEN = Finding("-c3", "unproven", NOW, 1, 4, 16, "too few")
HOUR_AGO: dict[str, Any] = {"proven": NOW - 3600}


def _facts(state: AuditState | None) -> Any:
    facts: Any = FakeFacts({})
    facts.full_audit, facts.now = state, lambda: NOW
    return facts


@pytest.mark.parametrize(
    ("state", "verdict", "detail", "fix"),
    [
        (None, "skip", "never run: saltctl history audit --all", ""),
        ({"began": NOW, "audited": 5}, "ok", "conversations 5; the first cycle is not complete", ""),
        ({"began": NOW - 9 * DAY}, "warn", "no cycle was completed in 9 days", "saltctl history audit --all"),
        (HOUR_AGO, "ok", "within 1.0 h", ""),
        ({"proven": NOW - 8 * DAY}, "warn", "the oldest audit is 8 days old", "saltctl history audit --all"),
        (
            HOUR_AGO | {"findings": (UNREAD, MISSES)},
            "fail",
            "readers miss messages: conversations 1, such as 'c 1' (lost)",
            "saltctl history audit 'c 1' --repair --yes",
        ),
        (HOUR_AGO | {"findings": (UNREAD,)}, "warn", "'c2': access is denied", "saltctl history audit c2"),
        (HOUR_AGO | {"findings": (UNPROVEN,)}, "warn", "too few", "saltctl history audit -- -c3"),
    ],
)
def test_findings_come_before_age(state: dict[str, Any] | None, verdict: str, detail: str, fix: str) -> None:
    """Messages that readers miss are a failure, all else is a warning."""
    found = audit(_facts(None if state is None else AuditState("r", "m", **state)))
    assert (found.status, found.fix) == (verdict, fix)
    assert detail in found.detail


def test_the_panel_has_the_worst_findings_first() -> None:
    """Before the first audit all of it is null."""
    assert set(status.audit(_facts(None)).values()) == {None}
    sample = SampleState(complete=NOW - 60)
    state = AuditState("r", "m", findings=(UNREAD, MISSES), unread=1, sample=sample, **HOUR_AGO)
    panel = status.audit(_facts(state))
    assert [one["conversation_id"] for one in panel["findings"]] == ["c 1", "c2"]
    assert panel["findings"][0]["command"] == "saltctl history audit 'c 1' --repair --yes"
    assert (panel["found"], panel["missed"], panel["orphans"], panel["unread"]) == (2, 1, 40, 1)
    assert (panel["oldest_age_s"], panel["sample_age_s"]) == (3600.0, 60.0)
    assert panel.keys() == set(status.AUDIT_KEYS)


def test_a_state_that_is_damaged_is_replaced_by_a_restart() -> None:
    """It is neither a proof nor a finding."""

    class Damaged(FakeFacts):
        @property
        def full_audit(self) -> AuditState | None:  # type: ignore[override]
            raise CheckpointRefusedError("it is damaged")

    found = audit(Damaged({}))
    assert (found.status, found.detail) == ("warn", "it is damaged")
    assert found.fix == "saltctl history audit --all --restart"
