"""The headline: the worst problem decides, lookups first, and the next command mends it."""

from __future__ import annotations

from textwrap import wrap
from typing import Any

import pytest

from saltctl.health.headline import headline_of

FINE = {"error": None, "hint": None, "exit_code": None}
UNREACHABLE = {
    "error": "Redis at r:1 cannot be reached: Connection refused",
    "hint": "check that it runs",
    "exit_code": 69,
}
HUNG = {"error": "no answer within 5 s", "hint": None, "exit_code": 69}
REFUSED = {"error": "Redis at r:1 refuses these credentials: x", "hint": "saltctl config show", "exit_code": 77}
AWS_DOWN = {
    "error": "AWS cannot be reached for 't' (Error at http://r:1/)",
    "hint": "check the network",
    "exit_code": 69,
}
LOADING = {"error": "Redis at r:1 refuses: it loads its data (LOADING)", "hint": "wait", "exit_code": 69}
LOST = {"error": "there is no table 't'", "hint": "saltctl recover --dry-run", "exit_code": 78}
LONG = LOST | {"error": f"there is no table '{'t' * 200}' in Region 'r'"}
HEALTHY: dict[str, dict[str, Any]] = {
    "registry": FINE | {"verified": True, "evicting": None, "other_registry": None, "verified_from": None},
    "backup": FINE | {"table": "t", "registry_id": "a1", "recovery_began": False},
    "lookups": FINE | {"source": "redis", "buckets": 64, "unverified_buckets": 0},
    "drift": FINE | {"checked": 5, "found": 0, "interrupted": 0, "damaged": 0, "damaged_items": []},
    "service": FINE | {"verdict": "ok", "pending": 0},
    "raises": FINE,
    "throttles": FINE | {"table": "m", "ongoing": False},
    "audit": FINE | {"found": 0, "missed": 0, "findings": []},
    "lease": FINE,
}
AUDITED = [{"conversation_id": "a b", "kind": "lost", "needed_n": 8, "command": "saltctl history audit 'a b' --repair"}]
DAMAGED = {"damaged": 1, "damaged_items": [{"conversation_id": "a b", "problem": "it has no max_n"}]}
DAMAGED_ITEM = "the backup has damaged items: 1 in a sample, such as 'a b': it has no max_n"
NOT_RAISED = "hot conversations are not raised"
FROM_BACKUP = "answers are right, from the backup"
FROM_REDIS = "answers are right, from Redis"


@pytest.mark.parametrize(
    ("changes", "state", "text", "command"),
    [
        (
            {"audit": {"found": 3, "missed": 2, "findings": AUDITED}, "lease": AWS_DOWN},
            "BROKEN",
            "readers miss messages of 2 conversations, such as 'a b'; lease cannot be read: AWS cannot be reached",
            "saltctl history audit 'a b' --repair",
        ),
        (
            {"audit": {"found": 1, "missed": 0, "findings": AUDITED}},
            "OK",
            "lookups, raises and the service work, nothing is throttled",
            "",
        ),
        ({}, "OK", "lookups, raises and the service work, nothing is throttled", ""),
        (
            {"registry": {"verified": False}},
            "DEGRADED",
            f"Redis is not verified; {FROM_BACKUP}",
            "saltctl rebuild",
        ),
        (
            {"registry": {"verified": False}, "service": {"pending": None, "verdict": "unknown"}},
            "DEGRADED",
            f"Redis is not verified; stream not found; {FROM_BACKUP}; {NOT_RAISED}",
            "saltctl rebuild && saltctl setup",
        ),
        # The causes differ, and so do the headlines. What follows from the same cause is not told again.
        (
            {"registry": UNREACHABLE | {"verified": None}, "service": UNREACHABLE, "drift": UNREACHABLE},
            "DEGRADED",
            f"Redis cannot be reached; {FROM_BACKUP}",
            "saltctl rebuild --wait-redis 15m",
        ),
        (
            {"registry": HUNG | {"verified": None}, "service": HUNG, "drift": UNREACHABLE, "raises": HUNG},
            "DEGRADED",
            f"Redis does not answer; {FROM_BACKUP}",
            "saltctl rebuild --wait-redis 15m",
        ),
        (
            {"registry": LOADING | {"verified": None}, "service": LOADING},
            "DEGRADED",
            f"Redis refuses: it loads its data; {FROM_BACKUP}",
            "saltctl rebuild --wait-redis 15m",
        ),
        (
            {"registry": REFUSED | {"verified": None}, "service": REFUSED},
            "DEGRADED",
            f"Redis refuses these credentials; {FROM_BACKUP}",
            "saltctl config show",
        ),
        (
            {"backup": LOST, "lookups": LOST, "drift": LOST, "throttles": LOST | {"error": "there is no table 'm'"}},
            "DEGRADED",
            f"there is no table 't'; {FROM_REDIS}; raises fail",
            LOST["hint"],
        ),
        (
            {"backup": AWS_DOWN | {"registry_id": None}, "lookups": AWS_DOWN, "throttles": AWS_DOWN},
            "DEGRADED",
            f"AWS cannot be reached; {FROM_REDIS}, in servers that run already; raises fail",
            AWS_DOWN["hint"],
        ),
        (
            {"registry": UNREACHABLE | {"verified": None}, "backup": LOST, "lookups": LOST},
            "BROKEN",
            "Redis cannot be reached and there is no table 't'; lookups fail; first mend Redis, which a recovery needs",
            "saltctl rebuild --wait-redis 15m",
        ),
        (
            {"registry": {"evicting": "allkeys-lru"}},
            "BROKEN",
            "entries are lost if the memory is full: maxmemory-policy is allkeys-lru",
            "saltctl doctor --only redis-eviction",
        ),
        (
            {"backup": LOST | {"hint": "export SALTCTL_BUCKETS=1024"}, "registry": {"verified": False}},
            "DEGRADED",
            f"Redis is not verified and there is no table 't'; {FROM_BACKUP}",
            "export SALTCTL_BUCKETS=1024",
        ),
        ({"lookups": AWS_DOWN}, "BROKEN", "AWS cannot be reached; lookups fail", AWS_DOWN["hint"]),
        (
            {"drift": {"found": 2, "interrupted": 2}},
            "DEGRADED",
            "raises of 2 of 5 conversations of a sample are incomplete; answers are right",
            "saltctl compare",
        ),
        (
            {"drift": {"found": 2, "interrupted": 1}},
            "BROKEN",
            "answers may be wrong: 2 of 5 conversations of a sample differ in Redis and the backup",
            "saltctl compare",
        ),
        (
            {"drift": {"found": 2}},
            "BROKEN",
            "answers may be wrong: 2 of 5 conversations of a sample differ in Redis and the backup",
            "saltctl compare",
        ),
        # After a flush everything differs, and lookups do not use it.
        (
            {"drift": {"found": 5}, "registry": {"verified": False}},
            "DEGRADED",
            f"Redis is not verified; {FROM_BACKUP}",
            "saltctl rebuild",
        ),
        # A damaged item kept its bucket from being verified, and was mended since.
        (
            {"registry": {"verified": False}, "lookups": {"unverified_buckets": 1}},
            "DEGRADED",
            "1 of 64 buckets of Redis are not verified; answers are right, from Redis and the backup",
            "saltctl rebuild",
        ),
        (
            {"registry": {"verified": False, "other_registry": "ab", "verified_from": "'t' in r", "hint": "recover"}},
            "DEGRADED",
            f"Redis holds another registry, verified from 't' in r; {FROM_BACKUP}",
            "recover",
        ),
        (
            {"registry": {"verified_from": "'t' in r", "hint": "export AWS_REGION=r"}, "backup": LOST, "lookups": LOST},
            "BROKEN",
            "Redis was verified from 't' in r, not from here; lookups fail with these settings",
            "export AWS_REGION=r",
        ),
        (
            {"registry": {"verified": False}, "backup": LOST | {"recovery_began": True}, "lookups": LOST},
            "BROKEN",
            "Redis is not verified and there is no table 't'; a recovery was interrupted; lookups fail",
            LOST["hint"],
        ),
        ({"drift": DAMAGED}, "BROKEN", DAMAGED_ITEM, "saltctl history audit 'a b' --repair --yes"),
        (
            {"throttles": {"ongoing": True}, "service": {"verdict": "stopped"}},
            "DEGRADED",
            f"DynamoDB throttles table m; the service is stopped; answers are right; {NOT_RAISED}",
            "saltctl throttle scan",
        ),
        (
            {"throttles": AWS_DOWN},
            "DEGRADED",
            "throttling is unknown: AWS cannot be reached; answers are right",
            AWS_DOWN["hint"],
        ),
        (
            {"service": {"verdict": "stopped"}},
            "DEGRADED",
            f"the service is stopped; answers are right; {NOT_RAISED}",
            "saltctl service run",
        ),
        (
            {"service": {"verdict": "lagging"}},
            "DEGRADED",
            f"the service is lagging; answers are right; {NOT_RAISED} in time",
            "saltctl help service-down",
        ),
        (
            {"service": {"pending": None}},
            "DEGRADED",
            f"stream not found; answers are right; {NOT_RAISED}",
            "saltctl setup",
        ),
        (
            {"lease": AWS_DOWN},
            "DEGRADED",
            "lease cannot be read: AWS cannot be reached; answers are right",
            AWS_DOWN["hint"],
        ),
        # The worst one, even if another one comes first.
        (
            {"drift": DAMAGED, "registry": {"verified": False}},
            "BROKEN",
            f"{DAMAGED_ITEM}; Redis is not verified",
            "saltctl history audit 'a b' --repair --yes",
        ),
        # What does not fit is left out; the worst cause never is.
        (
            {"backup": LONG, "lookups": LONG, "drift": LONG, "throttles": {"ongoing": True}},
            "DEGRADED",
            f"there is no table '{'t' * 80}…; {FROM_REDIS}; raises fail",
            LOST["hint"],
        ),
    ],
)
def test_headlines(changes: dict[str, dict[str, Any]], state: str, text: str, command: str) -> None:
    """Each problem has its state, its sentence and the command that mends it."""
    found = headline_of({name: panel | changes.get(name, {}) for name, panel in HEALTHY.items()})
    assert (found.state, found.next) == (state, command)
    assert found.text == text
    assert len(wrap(str(found), 80)) <= 2
