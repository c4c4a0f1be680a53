"""The headline: the worst problem decides, lookups first, and the next command mends it."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.health.headline import headline_of

FINE = {"error": None, "hint": None, "exit_code": None}
UNREACHABLE = {"error": "Redis at r:1 cannot be reached", "hint": "check that it runs", "exit_code": 69}
REFUSED = {"error": "Redis at r:1 refused the password", "hint": "saltctl config show", "exit_code": 77}
AWS_DOWN = {"error": "AWS cannot be reached", "hint": "check the network", "exit_code": 69}
LOST = {"error": "there is no table 't'", "hint": "saltctl recover --dry-run", "exit_code": 78}
HEALTHY: dict[str, dict[str, Any]] = {
    "registry": FINE | {"verified": True, "evicting": None},
    "backup": FINE | {"table": "t", "registry_id": "a1"},
    "lookups": FINE | {"source": "redis"},
    "drift": FINE | {"checked": 5, "found": 0, "damaged": 0, "damaged_items": []},
    "service": FINE | {"verdict": "ok", "pending": 0},
    "raises": FINE,
    "throttles": FINE | {"table": "m", "ongoing": False},
    "lease": FINE,
}
DAMAGED = {"damaged": 1, "damaged_items": [{"conversation_id": "a b", "problem": "it has no max_n"}]}
FROM_BACKUP = "answers are right, from the backup"
FROM_REDIS = "answers are right, from Redis"


@pytest.mark.parametrize(
    ("changes", "state", "text", "command"),
    [
        ({}, "OK", "lookups, raises and the service work", ""),
        ({"registry": {"verified": False}}, "DEGRADED", FROM_BACKUP, "saltctl rebuild"),
        (
            {"registry": {"verified": False}, "service": {"pending": None, "verdict": "unknown"}},
            "DEGRADED",
            FROM_BACKUP,
            "saltctl rebuild && saltctl setup",
        ),
        (
            {"registry": UNREACHABLE | {"verified": None}, "service": UNREACHABLE, "drift": UNREACHABLE},
            "DEGRADED",
            FROM_BACKUP,
            "saltctl rebuild --wait-redis 15m",
        ),
        ({"registry": REFUSED | {"verified": None}}, "DEGRADED", FROM_BACKUP, "saltctl config show"),
        ({"backup": LOST, "lookups": LOST, "drift": LOST}, "DEGRADED", f"{FROM_REDIS}; raises fail", LOST["hint"]),
        (
            {"backup": AWS_DOWN | {"registry_id": None}, "lookups": AWS_DOWN},
            "DEGRADED",
            f"{FROM_REDIS}, in servers that run already; raises fail",
            AWS_DOWN["hint"],
        ),
        (
            {"registry": UNREACHABLE | {"verified": None}, "backup": LOST, "lookups": LOST},
            "BROKEN",
            "lookups fail",
            LOST["hint"],
        ),
        ({"registry": {"evicting": "allkeys-lru"}}, "BROKEN", "allkeys-lru", "saltctl doctor --only redis-eviction"),
        (
            {"backup": LOST | {"hint": "export SALTCTL_BUCKETS=1024"}, "registry": {"verified": False}},
            "DEGRADED",
            FROM_BACKUP,
            "export SALTCTL_BUCKETS=1024",
        ),
        ({"lookups": AWS_DOWN}, "BROKEN", "lookups fail", AWS_DOWN["hint"]),
        ({"drift": {"found": 2}}, "BROKEN", "answers may be wrong: 2 of 5", "saltctl compare"),
        # After a flush everything differs, and lookups do not use it.
        ({"drift": {"found": 5}, "registry": {"verified": False}}, "DEGRADED", FROM_BACKUP, "saltctl rebuild"),
        ({"drift": DAMAGED}, "BROKEN", "'a b': it has no max_n", "saltctl history audit 'a b' --repair --yes"),
        ({"throttles": {"ongoing": True}}, "DEGRADED", "DynamoDB throttles table m", "saltctl throttle scan"),
        ({"throttles": AWS_DOWN}, "DEGRADED", "throttling is unknown", AWS_DOWN["hint"]),
        ({"service": {"verdict": "stopped"}}, "DEGRADED", "the service is stopped", "saltctl service run"),
        ({"service": {"verdict": "lagging"}}, "DEGRADED", "the service is lagging", "saltctl help service-down"),
        ({"service": {"pending": None}}, "DEGRADED", "stream not found", "saltctl setup"),
        ({"lease": AWS_DOWN}, "DEGRADED", "lease cannot be read", AWS_DOWN["hint"]),
        # The worst one, even if another one comes first.
        (
            {"drift": DAMAGED, "registry": {"verified": False}},
            "BROKEN",
            "damaged",
            "saltctl history audit 'a b' --repair --yes",
        ),
    ],
)
def test_headlines(changes: dict[str, dict[str, Any]], state: str, text: str, command: str) -> None:
    """Each problem has its state, its sentence and the command that mends it."""
    found = headline_of({name: panel | changes.get(name, {}) for name, panel in HEALTHY.items()})
    assert (found.state, found.next) == (state, command)
    assert text in found.text
