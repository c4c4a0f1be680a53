"""`saltctl doctor` on a healthy environment, and on broken ones: the printed fix, pasted, mends each."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from saltctl.cli.main import run
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalRedis
from saltctl.salting import bucket_of
from saltctl.stores.aws.backup_table import BackupTable

SHIMS = {
    # What the fixes use of the two tools, for machines that have them not.
    "redis-cli": """
import os, sys, redis
args = sys.argv[1:]
assert args[0] == "-u", args
print(redis.Redis.from_url(args[1]).execute_command(*args[2:]))
""",
    "aws": """
import sys, boto3
service, action, *rest = sys.argv[1:]
request, name = {}, None
for word in rest:
    if word.startswith("--"):
        name = "".join(part.capitalize() for part in word[2:].split("-"))
        request[name] = True
    else:
        request[name] = word
if "DeletionProtectionEnabled" not in request and action == "update-continuous-backups":
    request = {**request, "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}
getattr(boto3.client(service), action.replace("-", "_"))(**request)
""",
}


@pytest.fixture(scope="module")
def environment() -> Iterator[LocalEnvironment]:
    """A seeded environment, whose backlog and dead letters were dealt with."""
    before = dict(os.environ)
    with LocalEnvironment() as local:
        local.seed()
        os.environ.clear()
        os.environ.update(before)
        yield local


@pytest.fixture
def variables(environment: LocalEnvironment, tmp_path: Path) -> dict[str, str]:
    """The environment of whoever types; real redis-cli and aws where there are any."""
    tools = tmp_path / "bin"
    tools.mkdir()
    found = environment.variables() | {"COLUMNS": "80"}
    path = [str(Path(sys.executable).parent), str(tools), found.get("PATH", os.defpath)]
    for name, text in SHIMS.items():
        real = shutil.which(name)
        if real is None or subprocess.run([real, "--version"], env=found, capture_output=True, check=False).returncode:
            (tools / name).write_text(f"#!{sys.executable}\n{text}")
            (tools / name).chmod(0o755)
    return found | {"PATH": os.pathsep.join(path)}


def shell(command: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """FixCommands a command into a shell."""
    return subprocess.run(["/bin/sh", "-c", command], env=variables, capture_output=True, text=True, check=False)


def examined(name: str, variables: dict[str, str]) -> dict[str, Any]:
    """What doctor finds of one check, in this process: a new one costs more than all that is tested here."""
    out = io.StringIO()
    with patch.dict(os.environ, variables), redirect_stdout(out):
        code = run(["doctor", "--only", name, "-o", "json"])
    return only_check(code, out.getvalue())


def examined_after(command: str, name: str, variables: dict[str, str]) -> dict[str, Any]:
    """What doctor finds of one check after a command in the same shell."""
    done = shell(f"{command} && saltctl doctor --only {name} -o json", variables)
    return only_check(done.returncode, done.stdout)


def only_check(code: int, out: str) -> dict[str, Any]:
    """The one check in a document, whose exit code has to be right."""
    (check,) = json.loads(out)["checks"]
    assert isinstance(check, dict)
    assert code == (3 if check["status"] == "fail" else 0)
    return check


@contextmanager
def service(variables: dict[str, str]) -> Iterator[None]:
    """An instance of the service, ended by SIGTERM."""
    child = subprocess.Popen(
        [sys.executable, "-m", "saltctl", "service", "run"], env=variables, stderr=subprocess.DEVNULL
    )
    try:
        yield
    finally:
        child.send_signal(signal.SIGTERM)
        child.wait(timeout=30)


def eventually_ok(names: list[str], variables: dict[str, str]) -> None:
    """Wait until all of these checks are ok."""
    deadline = time.monotonic() + 60
    while (broken := [name for name in names if examined(name, variables)["status"] != "ok"]) != []:
        assert time.monotonic() < deadline, f"never well: {broken}"


def test_a_healthy_environment_is_well(variables: dict[str, str]) -> None:
    """With a service that has done its work every check is ok, and doctor exits 0."""
    assert shell("saltctl stream dead drop --all --yes", variables).returncode == 0
    with service(variables):
        eventually_ok(["stream-consumers", "stream-lag"], variables)
        done = shell("saltctl doctor -o json", variables)
    found = json.loads(done.stdout)
    assert [check for check in found["checks"] if check["status"] != "ok"] == []
    assert (done.returncode, found["ok"]) == (0, True)
    assert all(check["fix"] is None for check in found["checks"])


Break = Callable[[LocalEnvironment, Any, BackupTable], object]


def _fill_memory(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    redis.config_set("maxmemory", int(redis.info("memory")["used_memory"] * 1.2))


def _unprotect(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    backup.client.update_table(TableName=local.settings.backup_table, DeletionProtectionEnabled=False)


def _no_recovery(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    backup.client.update_continuous_backups(
        TableName=local.settings.backup_table, PointInTimeRecoverySpecification={"PointInTimeRecoveryEnabled": False}
    )


def _provision(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    backup.client.update_table(
        TableName=local.settings.backup_table,
        BillingMode="PROVISIONED",
        ProvisionedThroughput={"ReadCapacityUnits": 5, "WriteCapacityUnits": 5},
    )


def _die_with_the_lease(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    assert backup.lease.acquire("dead", time.time() - 600, host="app-17", pid=4242, expiry=30) is None


def _lose_an_entry(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    conversation_id = "conv_hot_07"
    assert redis.hdel(f"salt:r:{bucket_of(conversation_id, local.settings.buckets)}", conversation_id) == 1


def _drop_messages(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    backup.client.delete_table(TableName=local.settings.messages_table)


def _report(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    redis.xadd("salt:heat", {"no": "report"})


FAULTS: dict[str, tuple[str, Break]] = {
    "redis-eviction": ("fail", lambda _, redis, __: redis.config_set("maxmemory-policy", "allkeys-lru")),
    "redis-aof": ("warn", lambda _, redis, __: redis.config_set("appendonly", "no")),
    "redis-fsync": ("warn", lambda _, redis, __: redis.config_set("appendfsync", "no")),
    "redis-memory": ("warn", _fill_memory),
    "redis-verified": ("fail", lambda _, redis, __: redis.script_flush()),
    "backup-protection": ("warn", _unprotect),
    "backup-recovery": ("warn", _no_recovery),
    "backup-billing": ("warn", _provision),
    "lease": ("warn", _die_with_the_lease),
    "drift": ("fail", _lose_an_entry),
    "stream-group": ("fail", lambda _, redis, __: redis.xgroup_destroy("salt:heat", "saltctl")),
    "stream-lag": ("fail", _report),
    "messages-table": ("fail", _drop_messages),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_printed_fix_mends_the_fault(name: str, environment: LocalEnvironment, variables: dict[str, str]) -> None:
    """Doctor finds the fault; its fix, pasted into a shell, mends it; doctor finds that, too."""
    import redis

    status, break_it = FAULTS[name]
    admin = redis.Redis.from_url(environment.redis.url)
    try:
        break_it(environment, admin, BackupTable(environment.settings))
    finally:
        admin.close()
    found = examined(name, variables)
    assert found["status"] == status, found
    pasted = shell(found["fix"], variables)
    assert pasted.returncode == 0, pasted.stderr
    assert examined(name, variables)["status"] == "ok", (found["fix"], pasted.stdout, pasted.stderr)


def test_another_layout_is_mended_by_a_variable(variables: dict[str, str]) -> None:
    """A client that is set to other buckets than the table is told which to export."""
    broken = variables | {"SALTCTL_BUCKETS": "2048"}
    found = examined("backup-layout", broken)
    assert found["status"] == "fail"
    assert examined_after(found["fix"], "backup-layout", broken)["status"] == "ok"


def test_a_readable_password_is_mended_by_chmod(variables: dict[str, str], tmp_path: Path) -> None:
    """A password file that others may read is a warning, whatever its name."""
    file = tmp_path / "it's a password"
    file.write_text("secret")
    file.chmod(0o644)
    broken = variables | {"SALTCTL_REDIS_PASSWORD_FILE": str(file)}
    found = examined("settings", broken)
    assert (found["status"], "0644" in found["detail"]) == ("warn", True)
    assert examined_after(found["fix"], "settings", broken)["status"] == "ok"


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[tuple[LocalRedis, LocalRedis]]:
    """A primary and its replica, linked."""
    import redis

    options = {"repl-diskless-sync-delay": "0", "shutdown-timeout": "0"}
    servers = LocalRedis(tmp_path / "a", options=options), LocalRedis(tmp_path / "b", options=options)
    for server in servers:
        server.start()
    with redis.Redis.from_url(servers[1].url) as replica:
        replica.replicaof("127.0.0.1", str(servers[0].port))
        deadline = time.monotonic() + 30
        while replica.info("replication")["master_link_status"] != "up":
            assert time.monotonic() < deadline
            time.sleep(0.02)
    yield servers
    for server in servers:
        server.kill()


def test_a_primary_with_replicas_wants_min_replicas(
    variables: dict[str, str], pair: tuple[LocalRedis, LocalRedis]
) -> None:
    """The known limit: the setting is named, and pasting it mends the warning."""
    broken = variables | {"SALTCTL_REDIS_URL": pair[0].url}
    found = examined("redis-min-replicas", broken)
    assert (found["status"], "min-replicas-to-write" in found["detail"]) == ("warn", True)
    assert shell(found["fix"], broken).returncode == 0
    assert examined("redis-min-replicas", broken)["status"] == "ok"


def test_a_replica_is_told_from_its_primary(variables: dict[str, str], pair: tuple[LocalRedis, LocalRedis]) -> None:
    """Whoever names a replica is told where its primary is."""
    broken = variables | {"SALTCTL_REDIS_URL": pair[1].url}
    found = examined("redis-role", broken)
    assert found["status"] == "fail"
    assert examined_after(found["fix"], "redis-role", broken)["status"] == "ok"


def test_with_everything_down_it_ends_soon_and_says_why(variables: dict[str, str]) -> None:
    """Nothing answers: each outage is told once, the rest is skipped for it, and no password is shown."""
    down = variables | {
        "SALTCTL_REDIS_URL": "redis://:s3cr3t@127.0.0.1:1/0",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    done = shell("saltctl doctor -o json", down)
    checks = json.loads(done.stdout)["checks"]
    assert done.returncode == 3
    assert [check["name"] for check in checks if check["status"] == "fail"] == [
        "redis-reachable",
        "backup-table",
        "messages-table",
    ]
    assert "s3cr3t" not in done.stdout + done.stderr
    assert all(check["detail"].startswith("see ") for check in checks if check["status"] == "skip")
