"""``saltctl recover``, and how the other commands name a lost backup."""

from __future__ import annotations

from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest

from saltctl.cli.registry.recover import _describe
from saltctl.local.servers import LocalRedis
from saltctl.registry.discover import ScanCost
from saltctl.registry.recovery.recovery_plan import RecoveryPlan, TableState
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
from saltctl.stores.event_log import EventsItem
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow


@pytest.fixture
def lost(saltctl: Runner, configured: Settings, backup: BackupTable, rebuild: Rebuilder) -> BackupTable:
    """A verified registry with one raise, whose table lost its identity; the conversation has no messages yet."""
    MessagesTable(configured).create()
    rebuild()
    assert saltctl("registry", "set", "conv", "8", "--yes").code == 0
    backup.client.delete_item(TableName=backup.name, Key={"conversation_id": {"S": REGISTRY_ITEM_ID}})
    return backup


def test_a_recovery_asks_first(saltctl: Runner, lost: BackupTable) -> None:
    """Without a terminal it needs --yes; the refusal changes nothing, and so does a dry run."""
    refused = saltctl("recover", "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "confirmation_required")
    dry = saltctl("recover", "--dry-run", "-o", "json")
    assert dry.code == 0
    assert (dry.json["table"], dry.json["verified"], dry.json["dry_run"]) == ("unclaimed", True, True)
    assert [dry.json[key] for key in ("entries", "from_backup", "raised")] == [1, 1, 0]
    assert f"table {lost.where} is not the backup of a registry" in dry.err
    assert "Redis holds 1 entry of registry" in dry.err
    assert not lost.registry.exists()


@pytest.mark.parametrize(("table", "loses"), [("missing", True), ("restored", True), ("intact", False)])
def test_what_messages_cannot_show_is_told(table: TableState, loses: bool) -> None:
    """A raise without a message on its salts is lost with the table and Redis; an intact table has it."""
    plan = RecoveryPlan(table, 0, 0, "", False, True, "", False, ScanCost(10, 1000, 1))
    read, silent = (_describe(it, "t", "", resumes=False) for it in (plan, replace(plan, messages=None)))
    assert any("cannot be found" in line for line in read) is loses
    assert not any("cannot be found" in line for line in silent)


def test_a_recovery_is_reported(saltctl: Runner, lost: BackupTable) -> None:
    """The report has the new id, and Redis is verified; a second run finds nothing to do."""
    done = saltctl("recover", "--yes", "-o", "json")
    assert (done.code, done.json["verified"], done.json["from_redis"]) == (0, True, 0)
    assert done.json["registry_id"] == BackupTable(replace(lost.settings, registry_id=None)).registry.id()
    assert done.json["rebuild"]["entries"] == 1
    assert saltctl("registry", "get", "conv", "-o", "json").json[0]["max_n"] == 8
    kinds = [event.kind for event in EventsItem(lost).read().events]
    assert kinds[-4:] == ["backup-lost", "unverified", "verified", "recovered"]
    again = saltctl("recover", "--yes", "-o", "json")
    assert (again.code, again.json["table"], again.json["from_redis"]) == (0, "intact", 0)
    assert again.json["registry_id"] == done.json["registry_id"]


@pytest.mark.parametrize("redis", ["flushed", "unverified"])
@pytest.mark.parametrize("dry_run", ["--dry-run", "--yes"])
def test_a_messages_table_that_is_not_there_is_not_an_empty_one(
    redis: str,
    dry_run: str,
    saltctl: Runner,
    lost: BackupTable,
    redis_server: LocalRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its name or the Region is wrong, or it was lost, too: a registry without its conversations would be verified."""
    with closing(plain_client(redis_server)) as client:
        client.flushall()
        if redis == "unverified":
            client.hset("salt:r:0", "another", 4)
    monkeypatch.setenv("SALTCTL_MESSAGES_TABLE", "mesages")
    refused = saltctl("recover", dry_run, "-o", "json")
    assert (refused.code, refused.out) == (78, "")
    assert "there is no DynamoDB table 'mesages' in Region 'us-east-1'" in refused.error["message"]
    assert "saltctl config show" in refused.error["hint"].splitlines()
    assert not lost.registry.exists()


def test_doctor_and_status_name_the_recovery(saltctl: Runner, lost: BackupTable) -> None:
    """Doctor prints the command, and status shows why the table is not used."""
    checks = {check["name"]: check for check in saltctl("doctor", "-o", "json").json["checks"]}
    assert checks["backup-registry"]["status"] == "fail"
    assert checks["backup-registry"]["fix"].endswith("saltctl recover --dry-run")
    panel = saltctl("status", "-o", "json").json["registry"]
    assert "has no item" in panel["backup_error"]
    screen = " ".join(saltctl("status", "-o", "table").out.split())
    assert f"DEGRADED: table '{lost.name}' has no item '#registry'; " in screen
    assert "answers are right, from Redis, in servers that run already; raises fail" in screen
    assert "next: saltctl recover --dry-run" in screen


@pytest.mark.parametrize("wrong", ["", "zz", "$(id)", "1A7193BC9BCFBB85", "1a7193bc9bcfbb85 "])
def test_an_id_that_is_none_is_refused(saltctl: Runner, lost: BackupTable, wrong: str) -> None:
    """It is not ignored, although no registry has to be named here."""
    outcome = saltctl("recover", "--yes", "--take-over", wrong, "-o", "json")
    assert (outcome.code, "--take-over" in outcome.error["message"]) == (2, True)
    assert not lost.registry.exists()


def test_a_hostile_fence_in_a_hint_is_quoted(saltctl: Runner, lost: BackupTable, redis_server: LocalRedis) -> None:
    """The hint is pasted into a shell, and anyone who can write to Redis chooses the id in a fence."""
    assert saltctl("recover", "--yes").code == 0
    with closing(plain_client(redis_server)) as admin:
        for key in admin.keys("salt:r:*"):
            admin.hset(key, "#fence", f"{lost.settings.layout}:$(reboot):{'0' * 40}")
    refused = saltctl("recover", "--yes", "-o", "json")
    assert refused.code == 78
    assert refused.error["hint"].endswith("--take-over '$(reboot)'")
    assert "refused without --take-over '$(reboot)'" in refused.err


def test_setup_declares_no_new_registry(saltctl: Runner, lost: BackupTable) -> None:
    """With exit 6: its request is valid, and refused."""
    outcome = saltctl("setup", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (6, "registry_existed")
    assert outcome.error["hint"] == "saltctl recover --dry-run"


@pytest.mark.parametrize("command", ["rebuild", "registry set conv 16 --yes", "compare"])
def test_commands_refuse_a_lost_backup(saltctl: Runner, lost: BackupTable, command: str) -> None:
    """With exit 78 and the error's own code, so that a runbook can tell it from a bad setting."""
    outcome = saltctl(*command.split(), "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (78, "backup_lost")
    assert "saltctl recover" in outcome.error["hint"]


def test_a_read_only_look_is_possible(saltctl: Runner, lost: BackupTable) -> None:
    """The on-call engineer wants to see what is there: what Redis holds, and the items of the table."""
    listed: Any = saltctl("registry", "list", "--source", "backup", "-o", "json")
    assert (listed.code, [entry["conversation_id"] for entry in listed.json]) == (0, ["conv"])
