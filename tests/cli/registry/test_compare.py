"""``saltctl compare``: its report, its repair and its exit codes, on real servers."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import pytest

from saltctl.cli.registry.compare import PLAN_COLUMNS
from saltctl.local.servers import LocalRedis
from saltctl.registry.drift import Drift
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.redis_servers import plain_client

AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def drifted(
    configured: Settings, registry: Registry, rebuild: Rebuilder, backup: BackupTable, redis_server: LocalRedis
) -> Settings:
    """Ten conversations, four of which drifted, one in each way, and one that Redis alone has."""
    for number in range(10):
        registry.raise_to(f"conv_{number}", 4)
    rebuild()

    def by_hand(conversation_id: str, n: int | None) -> None:
        key = f"salt:r:{bucket_of(conversation_id, configured.buckets)}"
        client: Any = plain_client(redis_server)
        if n is None:
            client.hdel(key, conversation_id)
        else:
            client.hset(key, conversation_id, n)
        client.close()

    by_hand("conv_0", 2)
    by_hand("conv_1", None)
    by_hand("conv_2", 16)
    by_hand("stranger", 8)
    backup.raise_max_n("conv_3", Raise(8, AT, "x", ""))
    registry.complete("conv_3")
    backup.client.update_item(
        TableName=configured.backup_table,
        Key={KEY: {"S": "conv_3"}},
        UpdateExpression="SET write_n = :n",
        ExpressionAttributeValues={":n": {"N": "4"}},
    )
    return configured


@pytest.mark.slow
def test_no_drift(saltctl: Runner, configured: Settings, registry: Registry, rebuild: Rebuilder) -> None:
    """Without drift the exit code is 0, and every count agrees."""
    registry.raise_to("conv", 4)
    rebuild()
    outcome = saltctl("compare", "-o", "json")
    assert outcome.code == 0
    assert outcome.err == ""
    found = outcome.json
    assert (found["checked"], found["in_sync"], found["drift"], found["verified"]) == (1, 1, [], True)


@pytest.mark.slow
def test_drift_is_listed_and_repaired(
    saltctl: Runner, drifted: Settings, registry: Registry, backup: BackupTable
) -> None:
    """Drift is exit 3 until it is repaired; the repair raises, and lookups return it."""
    outcome = saltctl("compare", "-o", "json")
    assert outcome.code == 3
    found = outcome.json
    assert {drift["conversation_id"]: drift["kind"] for drift in found["drift"]} == {
        "conv_0": "behind",
        "conv_1": "missing",
        "conv_2": "unbacked",
        "stranger": "unbacked",
        "conv_3": "uncommitted",
    }
    assert (found["checked"], found["in_sync"], found["repaired"]) == (11, 6, 0)
    assert "saltctl compare --repair --yes" in outcome.err
    refused = saltctl("compare", "--repair", "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "confirmation_required")
    repaired = saltctl("compare", "--repair", "--yes", "-o", "json")
    assert (repaired.code, repaired.json["repaired"], repaired.json["redis_alone"]) == (3, 4, 1)
    assert backup.get("stranger") is None
    assert "conversations that Redis alone has: 1" in repaired.err
    assert "\nsaltctl compare --repair --adopt --yes\n" in repaired.told
    adopted = saltctl("compare", "--repair", "--adopt", "--yes", "-o", "json")
    assert (adopted.code, adopted.json["repaired"], adopted.err) == (0, 1, "")
    assert saltctl("compare").code == 0
    found_n = {
        i: lookup.max_n for i, lookup in registry.lookup_many(["conv_0", "conv_1", "conv_2", "stranger"]).items()
    }
    assert found_n == {"conv_0": 4, "conv_1": 4, "conv_2": 16, "stranger": 8}


@pytest.mark.slow
def test_a_dry_run_is_one_that_was_asked_for(saltctl: Runner, drifted: Settings) -> None:
    """Without --repair nothing is changed either, but that is no dry run of a change."""
    for args, dry_run in (((), False), (("--dry-run",), True), (("--repair", "--yes"), False)):
        assert saltctl("compare", *args, "-o", "json").json["dry_run"] is dry_run


@pytest.mark.slow
def test_a_dry_run_of_a_repair_changes_nothing(saltctl: Runner, drifted: Settings, store: RedisRegistry) -> None:
    """``--repair --dry-run`` asks for no confirmation, finds the same drift, and does not repair it."""
    outcome = saltctl("compare", "--repair", "--dry-run", "-o", "json")
    assert (outcome.code, outcome.json["repaired"], outcome.json["dry_run"]) == (3, 0, True)
    assert store.read_unverified(["conv_1", "conv_0"]) == {"conv_1": None, "conv_0": 2}


def test_a_plan_that_changes_no_number_says_so() -> None:
    """What Redis lacks of a cooled conversation is in the column ``detail``."""
    drift = Drift("c", 64, 64, "behind", 1, planned_n=64, planned_side="redis", detail="Redis lacks it")
    assert PLAN_COLUMNS[-1].cell(asdict(drift)) == "mend it (redis)"


PLANS = {
    "conv_0": (4, "redis", "2 → 4 (redis)"),
    "conv_1": (4, "redis", "— → 4 (redis)"),
    "conv_2": (16, "backup", "4 → 16 (backup)"),
    "conv_3": (8, "backup", "4 → 8 (backup, write_n)"),
    "stranger": (None, None, "left as it is"),
}


@pytest.mark.slow
@pytest.mark.parametrize("adopt", [False, True])
def test_a_dry_run_shows_each_planned_value_and_its_side(saltctl: Runner, drifted: Settings, adopt: bool) -> None:
    """What Redis alone has is planned with --adopt only; the repair then does what was planned."""
    plans = PLANS | ({"stranger": (8, "backup", "— → 8 (backup)")} if adopt else {})
    args = ("compare", "--repair", *(["--adopt"] if adopt else []))
    shown = saltctl(*args, "--dry-run", "-o", "table")
    assert shown.code == 3
    lines = {line.split()[0]: line for line in shown.out.splitlines() if line.strip()}
    for conversation_id, (_, _, text) in plans.items():
        assert lines[conversation_id].rstrip().endswith(text)
    planned = saltctl(*args, "--dry-run", "-o", "json").json
    assert {d["conversation_id"]: (d["planned_n"], d["planned_side"]) for d in planned["drift"]} == {
        conversation_id: plan[:2] for conversation_id, plan in plans.items()
    }
    assert (planned["repaired"], planned["unbacked"], planned["redis_alone"]) == (0, 2, 1)
    assert saltctl(*args, "--yes").code == (0 if adopt else 3)
    left = saltctl("compare", "-o", "json").json["drift"]
    assert [drift["conversation_id"] for drift in left] == ([] if adopt else ["stranger"])


@pytest.mark.slow
def test_a_value_above_the_cap_is_never_planned(saltctl: Runner, drifted: Settings, redis_server: LocalRedis) -> None:
    """A raise to it would be refused: the dry run shows that, and the repair says why."""
    client: Any = plain_client(redis_server)
    client.hset(f"salt:r:{bucket_of('stranger', drifted.buckets)}", "stranger", 4096)
    client.close()
    planned = saltctl("compare", "--repair", "--adopt", "--dry-run", "-o", "json").json["drift"]
    (stranger,) = [drift for drift in planned if drift["conversation_id"] == "stranger"]
    assert (stranger["planned_n"], "above the cap of 256" in stranger["problem"]) == (None, True)
    repaired = saltctl("compare", "--repair", "--adopt", "--yes")
    assert (repaired.code, "'stranger' was not repaired" in repaired.err) == (3, True)


def test_adopt_needs_repair(saltctl: Runner) -> None:
    """The hint is the same command with it."""
    outcome = saltctl("compare", "--adopt", "-o", "json")
    assert (outcome.code, outcome.error["hint"]) == (2, "saltctl compare --adopt -o json --repair")


@pytest.mark.slow
def test_the_table_lists_drift(saltctl: Runner, drifted: Settings) -> None:
    """The table has a line for each drift."""
    outcome = saltctl("compare", "-o", "table")
    assert "stranger" in outcome.out
    assert "uncommitted" in outcome.out


@pytest.mark.slow
def test_samples(saltctl: Runner, drifted: Settings) -> None:
    """Two halves together find the same as the whole."""
    halves = [saltctl("compare", "--sample", f"{k}/2", "-o", "json").json for k in (1, 2)]
    assert sum(half["checked"] for half in halves) == 11
    assert sum(len(half["drift"]) for half in halves) == 5


@pytest.mark.slow
@pytest.mark.parametrize("sample", ["0/4", "5/4", "1", "1/0", "a/b", "-1/4"])
def test_invalid_samples_are_refused(sample: str, saltctl: Runner, configured: Settings) -> None:
    """They are a usage error."""
    assert saltctl("compare", f"--sample={sample}").code == 2


@pytest.mark.slow
def test_damaged_items_are_listed_and_exit_4(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """A damaged item is listed, printed safely, and the rest is compared."""
    for conversation_id, item in (("text\x1b[31m", {"max_n": {"S": "4"}}), ("none", {})):
        backup.client.put_item(TableName=configured.backup_table, Item={KEY: {"S": conversation_id}, **item})
    outcome = saltctl("compare", "-o", "json")
    assert (outcome.code, outcome.json["damaged"]) == (4, 2)
    assert {item["conversation_id"] for item in outcome.json["damaged_items"]} == {"text\x1b[31m", "none"}
    assert "\nsaltctl history audit none --repair --yes\n" in outcome.told
    assert "text\\x1b[31m" in outcome.told
    assert "\x1b" not in outcome.err


@pytest.mark.slow
def test_an_unverified_redis_is_a_warning(saltctl: Runner, configured: Settings, registry: Registry) -> None:
    """A Redis that agrees and is not verified proves nothing: exit 3, with the command that verifies it."""
    registry.raise_to("conv", 4)
    outcome = saltctl("compare", "-o", "json")
    assert (outcome.code, outcome.json["verified"]) == (3, False)
    assert "saltctl rebuild" in outcome.err


@pytest.mark.slow
def test_redis_is_down(saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """A comparison without Redis is exit 69."""
    redis_server.kill()
    outcome = saltctl("compare", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (69, "redis_unavailable")


@pytest.mark.slow
def test_another_layout_is_refused(
    saltctl: Runner, configured: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With another bucket count everything would seem to be missing: refused, and the right count is in the hint."""
    registry.raise_to("conv", 4)
    monkeypatch.setenv("SALTCTL_BUCKETS", "128")
    outcome = saltctl("compare", "-o", "json")
    assert outcome.code == 78
    assert "SALTCTL_BUCKETS=64" in outcome.error["hint"]


@pytest.mark.slow
def test_a_redis_of_another_registry_is_not_compared(
    saltctl: Runner, configured: Settings, rebuild: Rebuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it holds is no drift of this one. The dry run of a rebuild is refused as the rebuild is."""
    rebuild()
    other = BackupTable(replace(configured, backup_table=f"{configured.backup_table}-other", registry_id=None))
    other.create()
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", other.name)
    monkeypatch.delenv("SALTCTL_REGISTRY_ID", raising=False)
    for words in (("compare",), ("compare", "--repair", "--yes"), ("rebuild", "--dry-run"), ("rebuild",)):
        outcome = saltctl(*words, "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (78, "configuration"), words
        assert "holds another registry" in outcome.error["message"]
