"""The sentences that results begin with: the outcome is the first word, and nothing is called done that is not."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest

from saltctl.cli.formats import sentences
from saltctl.cooling.cooling import BEGUN_ANEW, HIGHER
from saltctl.detection.replay import ReplayReport
from saltctl.history.audit import Audit
from saltctl.local.environment import LocalEnvironment
from saltctl.rebuild.events import RebuildReport
from saltctl.registry.drift import ComparisonReport
from saltctl.registry.transfer import ImportReport
from tests.cli.conftest import Runner


def _rebuild(**changes: Any) -> RebuildReport:
    values: dict[str, Any] = {
        "entries": 13,
        "restored": 13,
        "unchanged": 0,
        "skipped": 0,
        "seconds": 0.123,
        "entries_per_second": 100.0,
        "consumed_rcu": 4.0,
        "segments": 4,
        "primaries": 1,
        "verified": True,
        "resumed": False,
        "dry_run": False,
    }
    return RebuildReport(**values | changes)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Verified: 13 entries, 13 restored, in 0.1 s"),
        ({"verified": False, "skipped": 1}, "Not verified: 13 entries, 13 restored, 1 skipped, in 0.1 s"),
        ({"dry_run": True}, "Dry run: 13 entries, 13 to restore, in 0.1 s; nothing was changed"),
        ({"verified_before": True, "seconds": 0.0}, "Redis was verified already: nothing to do"),
    ],
)
def test_rebuild(changes: dict[str, Any], sentence: str) -> None:
    """Only a verified Redis is called verified."""
    assert sentences.rebuild_sentence(_rebuild(**changes)) == sentence


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"in_sync": 3, "verified": True}, "In sync: 3 entries, in 0.0 s"),
        ({"in_sync": 3}, "Unknown: 3 entries agree, in 0.0 s; but Redis is not verified"),
        ({"missing": 2, "verified": True}, "Drift: 2 of 3 entries differ, in 0.0 s"),
        ({"missing": 2, "repaired": 1, "verified": True}, "Drift: 1 of 3 entries differ, 1 more repaired, in 0.0 s"),
        ({"missing": 2, "repaired": 2, "verified": True}, "Repaired: 2 of 3 entries, in 0.0 s"),
        ({"damaged": 1, "verified": True}, "In sync: 3 entries, in 0.0 s; 1 damaged item not compared"),
    ],
)
def test_compare(changes: dict[str, Any], sentence: str) -> None:
    """Neither drift, damage nor an unverified Redis is left out."""
    assert sentences.compare_sentence(ComparisonReport(checked=3, **changes)) == sentence


RECOVERED = {"entries": 5, "raised": 2, "verified": True, "seconds": 1.0, "dry_run": False, "skipped": 0}


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "Recovered: 5 entries, 2 of them raised; Redis is verified; in 1.0 s"),
        ({"verified": False, "skipped": 1}, "Recovered: 5 entries, 2 of them raised, 1 skipped; Redis is not verified"),
        ({"dry_run": True, "verified": False}, "Dry run: 5 entries so far; Redis is not verified; nothing was changed"),
    ],
)
def test_recover(changes: dict[str, Any], sentence: str) -> None:
    """Skipped entries are counted."""
    assert sentences.recover_sentence(RECOVERED | changes).startswith(sentence)
    if "dry_run" in changes:
        unread = sentences.recover_sentence(RECOVERED | changes, reads_messages=True)
        assert unread.startswith("Dry run: 5 entries so far, before the messages are read; ")


@pytest.mark.parametrize(
    ("actions", "dry_run", "sentence"),
    [
        ([("table t", "exists")], False, "Nothing to do: everything exists"),
        ([("table t", "created"), ("registry", "exists")], False, "Created: table t"),
        ([("table t", "create")], True, "Dry run: would create: table t"),
    ],
)
def test_setup(actions: list[tuple[str, str]], dry_run: bool, sentence: str) -> None:
    """What exists is not named."""
    records = [{"resource": resource, "action": action, "detail": ""} for resource, action in actions]
    assert sentences.setup_sentence(records, dry_run=dry_run) == sentence


@pytest.mark.parametrize(
    ("before", "after", "committed", "dry_run", "sentence"),
    [
        (1, 4, True, False, "Raised: c from 1 to 4 salts"),
        (4, 4, True, False, "Nothing to do: c at 4 salts"),
        (1, 4, False, True, "Dry run: would raise c from 1 to 4 salts"),
        (4, 4, False, True, "Dry run: would complete c at 4 salts"),
    ],
)
def test_raise(before: int, after: int, committed: bool, dry_run: bool, sentence: str) -> None:
    """A dry run says that nothing was raised yet."""
    record = {"conversation_id": "c", "before": before, "after": after, "changed": before != after}
    assert sentences.raise_sentence(record | {"committed": committed, "dry_run": dry_run}) == sentence


def test_import() -> None:
    """Lines that were not imported are counted."""
    report = ImportReport(read=9, raised=4, skipped=2, failed=1)
    assert sentences.import_sentence(report) == "Imported: 9 entries, 4 raised, 2 skipped, 1 failed"
    report.dry_run = True
    assert sentences.import_sentence(report).startswith("Dry run: 9 entries, 4 would be raised")


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"drained": True}, "Drained: 60 entries read, 1 conversation raised"),
        ({"dead": 2}, "Not drained: 60 entries read, 1 conversation raised, 2 dead letters"),
        ({"dry_run": True, "drained": True}, "Dry run: 60 entries read, 1 conversation would be raised"),
    ],
)
def test_replay(changes: dict[str, Any], sentence: str) -> None:
    """Only a backlog that was read to its end is called drained."""
    assert sentences.replay_sentence(ReplayReport(read=60, raised=1, **changes)) == sentence


@pytest.mark.parametrize(
    ("orphaned", "repaired", "sentence"),
    [
        (0, False, "Complete: readers see every message of c"),
        (3, False, "Incomplete: readers miss 3 messages of c"),
        (3, True, "Repaired: c was raised to 8 salts; readers see 3 messages more"),
    ],
)
def test_audit(orphaned: int, repaired: bool, sentence: str) -> None:
    """What readers miss is counted."""
    found = Audit("c", 4, [], orphaned, 8, 0, None, [], 0, orphaned == 0, 1.0, 0.1)
    assert sentences.audit_sentence(found, repaired=repaired) == sentence


COOLED: dict[str, Any] = {
    "conversation_id": "c",
    "write_n": 1,
    "recent_n": 2,
    "max_n": 64,
    "problem": None,
    "ready_at": None,
    "reason": "",
}
COOLED |= {"phase": None, "changed": False, "dry_run": False, "recent_from": None}
NARROWED = {"phase": "narrowed", "ready_at": "2026-11-27T08:10:00.500Z"}
SEALED = {"phase": "sealed", "recent_from": "k 1"}
SEAL_IT = "narrowed c: new messages use 1 salt; seal it from 08:10:01 UTC on:"


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({}, "nothing to do: c has 1 salt"),
        ({"reason": HIGHER}, f"{HIGHER}: nothing to do: c has 1 salt"),
        (NARROWED | {"reason": BEGUN_ANEW, "changed": True}, f"{BEGUN_ANEW}: {SEAL_IT}"),
        ({"problem": "it is damaged"}, "not cooled: c: it is damaged"),
        (NARROWED | {"changed": True}, "narrowed c: new messages use 1 salt; seal it from 08:10:01 UTC on:"),
        (
            NARROWED | {"ready_at": "2026-11-28T00:00:00Z"},
            "already narrowed c: new messages use 1 salt; seal it from 2026-11-28 00:00:00 UTC on:",
        ),
        (NARROWED | {"changed": True, "dry_run": True}, "would narrow c: new messages use 1 salt"),
        (SEALED | {"changed": True}, "sealed c: from 'k 1' on readers ask 2 salts, not 64"),
        (
            SEALED | {"changed": True, "dry_run": True, "recent_from": Decimal("1E+3")},
            "would seal c: from 1000 on readers ask 2 salts, not 64",
        ),
        (SEALED, "already sealed c: from 'k 1' on readers ask 2 salts, not 64"),
    ],
)
def test_cooling(changes: dict[str, Any], sentence: str) -> None:
    """The time is that from which on the command seals, so it is rounded up."""
    now = datetime(2026, 11, 27, 8, tzinfo=UTC)
    assert sentences.cooling_sentence(COOLED | changes, now) == sentence


@pytest.mark.slow
def test_results_begin_with_their_sentence(saltctl: Runner, scratch: LocalEnvironment) -> None:
    """On a terminal and in a pipe; JSON has the figures alone. Nothing to do prints no figures."""
    for command, sentence in (
        ("setup", "Nothing to do: "),
        ("rebuild", "Verified: "),
        ("compare", "In sync: "),
        ("recover --dry-run", "Dry run: "),
        ("stream replay --dry-run", "Dry run: "),
        ("history audit conv_hot_03", "Complete: "),
        ("stream status", "stopped: 0 instances alive, "),
        ("service status", "stopped: 0 instances alive, "),
        ("registry set conv_hot_12 16 --dry-run", "Nothing to do: conv_hot_12 at 16 salts"),
    ):
        assert saltctl(*command.split()).out.startswith(sentence), command
        assert saltctl(*command.split(), "-o", "json").out.startswith("{"), command
    assert saltctl("rebuild", "--if-needed").out == "Redis was verified already: nothing to do\n"


@pytest.mark.slow
def test_partitions_of_a_history_are_shown_if_wanted(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """``--stats`` adds a table of them, and stays in the command that continues."""
    plain = saltctl("history", "read", "conv_hot_01", "--limit", "2")
    assert "queries" not in plain.out
    assert "2 messages of conv_hot_01" in plain.out
    wanted = saltctl("history", "read", "conv_hot_01", "--limit", "2", "--stats")
    assert "queries" in wanted.out
    assert "conv_hot_01#1" in wanted.out
    assert "--stats" in wanted.err
    assert "--stats" not in plain.err
