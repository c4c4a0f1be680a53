"""`saltctl doctor` on healthy and broken environments: pasting the printed fix repairs each fault."""

from __future__ import annotations

import io
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest

from saltctl.cli.main import run
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.registry import Raise
from saltctl.testing import local_environment
from tests.support.redis_servers import eventually

pytestmark = pytest.mark.slow

TOOLS = {
    # Replacements for the tools that fixes use, for machines without them.
    "redis-cli": """
import sys, redis
_, h, host, p, port, *words = sys.argv
assert (h, p) == ("-h", "-p"), sys.argv
print(redis.Redis(host=host, port=int(port)).execute_command(*words))
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
    """Start a seeded environment."""
    with local_environment(seed=True) as local:
        yield local


@pytest.fixture(scope="module")
def tools(environment: LocalEnvironment, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a directory with replacements for those of TOOLS that are not installed or do not start."""
    directory = tmp_path_factory.mktemp("bin")
    for name, text in TOOLS.items():
        real = shutil.which(name)
        if (
            real is None
            or subprocess.run(
                [real, "--version"], env=environment.variables(), capture_output=True, check=False
            ).returncode
        ):
            (directory / name).write_text(f"#!{sys.executable}\n{text}")
            (directory / name).chmod(0o755)
    return directory


@pytest.fixture
def variables(environment: LocalEnvironment, tools: Path) -> dict[str, str]:
    """Return the variables of a shell, with redis-cli and aws in its path: the real ones if they are installed."""
    found = environment.variables() | {"COLUMNS": "80"}
    path = [str(Path(sys.executable).parent), str(tools), found.get("PATH", os.defpath)]
    return found | {"PATH": os.pathsep.join(path)}


def shell(command: str, variables: dict[str, str]) -> subprocess.CompletedProcess[str]:
    """FixCommands a command into a shell."""
    return subprocess.run(["/bin/sh", "-c", command], env=variables, capture_output=True, text=True, check=False)


def saltctl(variables: dict[str, str], *words: str) -> tuple[int, str, str]:
    """Run saltctl in this process, since a new one takes longer than a check; return its exit code and output."""
    out, err = io.StringIO(), io.StringIO()
    with patch.dict(os.environ, variables, clear=True), redirect_stdout(out), redirect_stderr(err):
        code = run(list(words))
    return code, out.getvalue(), err.getvalue()


def check_result(name: str, variables: dict[str, str]) -> dict[str, Any]:
    """Run one check."""
    code, out, _ = saltctl(variables, "doctor", "--only", name, "-o", "json")
    return only_check(code, out)


def check_result_after(command: str, name: str, variables: dict[str, str]) -> dict[str, Any]:
    """Run a command in a shell, and then one check with the variables that the shell has then."""
    show = "import json, os; print(json.dumps(dict(os.environ)))"
    done = shell(f"{command} && {shlex.quote(sys.executable)} -c {shlex.quote(show)}", variables)
    assert done.returncode == 0, done.stderr
    return check_result(name, json.loads(done.stdout.splitlines()[-1]))


def only_check(code: int, out: str) -> dict[str, Any]:
    """Return the only check of a document, after testing the exit code."""
    (check,) = json.loads(out)["checks"]
    assert isinstance(check, dict)
    assert code == (3 if check["status"] == "fail" else 0)
    return check


@contextmanager
def service(variables: dict[str, str]) -> Iterator[None]:
    """Run an instance of the service, and end it by SIGTERM."""
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
    while (broken := [name for name in names if check_result(name, variables)["status"] != "ok"]) != []:
        assert time.monotonic() < deadline, f"still not ok: {broken}"
        time.sleep(0.1)


def test_a_healthy_environment(variables: dict[str, str]) -> None:
    """With a service that has processed its backlog every check is ok, but for the audit, which is optional."""
    assert saltctl(variables, "stream", "dead", "drop", "--all", "--yes")[0] == 0
    with service(variables):
        eventually_ok(["stream-consumers", "stream-lag"], variables)
        deadline = time.monotonic() + 60
        while not check_result("stream-lag", variables)["detail"].startswith("0 unread, 0 pending"):
            assert time.monotonic() < deadline  # entries that arrive while a busy machine runs it look stalled
            time.sleep(0.1)
        code, out, _ = saltctl(variables, "doctor", "-o", "json")
    found = json.loads(out)
    assert [(check["name"], check["status"]) for check in found["checks"] if check["status"] != "ok"] == [
        ("audit", "skip")
    ]
    assert (code, found["ok"]) == (0, True)
    assert all(check["fix"] is None for check in found["checks"])


Fault = Callable[[LocalEnvironment, Any, BackupTable], object]


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


def _interrupt_a_raise(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    backup.raise_max_n("conv_hot_07", Raise(64, "2026-07-01T08:00:00.000Z", "local", ""))


def _drop_messages(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    backup.client.delete_table(TableName=local.settings.messages_table)


def _report(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    redis.xadd("salt:heat", {"no": "report"})


def _write_where_readers_do_not_look(local: LocalEnvironment, redis: Any, backup: BackupTable) -> None:
    with Registry.open(local.settings) as registry:
        registry.raise_to("conv_cooled", 8)
        held = backup.get("conv_cooled")
        assert held is not None
        narrowed = held.narrowed(Raise(1, "2026-01-01T00:00:00.000Z", "me", "", cooled=True))
        assert backup.replace(held, narrowed)
        assert backup.replace(narrowed, narrowed.sealed("2026-01-01T00:00:00.000Z"))
        registry.complete("conv_cooled")
    MessagesTable(local.settings).put("conv_cooled#3", "2026-01-01T00:00:01.000Z#m", {})


FAULTS: dict[str, tuple[str, Fault]] = {
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
    "boundaries": ("fail", _write_where_readers_do_not_look),
    "drift uncommitted": ("warn", _interrupt_a_raise),
    "stream-group": ("fail", lambda _, redis, __: redis.xgroup_destroy("salt:heat", "saltctl")),
    "stream-lag": ("fail", _report),
    "messages-table": ("fail", _drop_messages),
}


@pytest.mark.parametrize("name", FAULTS)
def test_the_printed_fix_repairs_the_fault(name: str, environment: LocalEnvironment, variables: dict[str, str]) -> None:
    """Doctor reports the fault, its fix runs in a shell, and doctor reports ok."""
    import redis

    (status, break_environment), name = FAULTS[name], name.split(maxsplit=1)[0]
    admin = redis.Redis.from_url(environment.redis.url)
    try:
        break_environment(environment, admin, BackupTable(environment.settings))
    finally:
        admin.close()
    found = check_result(name, variables)
    assert found["status"] == status, found
    pasted = shell(found["fix"], variables)
    assert pasted.returncode == 0, pasted.stderr
    assert check_result(name, variables)["status"] == "ok", (found["fix"], pasted.stdout, pasted.stderr)


def test_the_fixes_of_an_overwritten_bucket(environment: LocalEnvironment, variables: dict[str, str]) -> None:
    """Doctor names the key; its fixes, one after the other, delete it and rebuild. Every reader names the key, too."""
    import redis

    key = "salt:r:7"
    with redis.Redis.from_url(environment.redis.url) as admin:
        admin.set(key, "of another program")
    for words in (("compare",), ("rebuild",), ("recover", "--dry-run")):
        assert key in saltctl(variables, *words)[2]
    found = check_result("redis-verified", variables)
    assert (found["status"], key in found["detail"]) == ("fail", True)
    assert json.loads(saltctl(variables, "status", "-o", "json")[1])["registry"]["verified"] is False
    found = check_result_after(found["fix"], "redis-verified", variables)
    assert found["fix"] == "saltctl rebuild"
    assert check_result_after(found["fix"], "redis-verified", variables)["status"] == "ok"


def test_a_redis_of_another_registry(environment: LocalEnvironment, variables: dict[str, str]) -> None:
    """Doctor names both registries, and no rebuild as the fix, which would be refused."""
    other = BackupTable(replace(environment.settings, backup_table="of-another-registry"))
    other.create_table()
    other.registry.create()
    table, ours = other.registry.id(), BackupTable(environment.settings).registry.id()
    saltctl(variables, "rebuild")
    found = check_result("redis-verified", variables | {"SALTCTL_BACKUP_TABLE": other.name})
    assert found["status"] == "fail"
    assert f"holds registry {ours}, and the backup table is that of registry {table}" in found["detail"]
    assert found["fix"] == "saltctl config show"


def test_a_missing_table_of_a_verified_redis(environment: LocalEnvironment, variables: dict[str, str]) -> None:
    """It is to be created if neither Redis nor messages know of a registry; else its name is wrong, or it was lost."""
    import redis

    messages = MessagesTable(environment.settings)
    messages.put("conv_salted#1", "2026-01-01T00:00:01.000Z#m", {})
    saltctl(variables, "rebuild")
    wrong = variables | {"SALTCTL_BACKUP_TABLE": "no-such-table"}
    for other in (wrong, variables | {"AWS_REGION": "eu-north-1"}):
        found = check_result("backup-table", other)
        assert found["fix"] == "saltctl config show && saltctl recover --dry-run"
    assert "in Region 'eu-north-1' (AWS_REGION)" in found["detail"]
    with redis.Redis.from_url(environment.redis.url) as admin:
        admin.flushall()
    assert check_result("backup-table", wrong)["fix"] == "saltctl recover --dry-run"
    messages.client.delete_table(TableName=messages.name)
    saltctl(variables, "setup", "--messages")
    assert check_result("backup-table", wrong)["fix"] == "saltctl setup"
    saltctl(variables, "rebuild")


def test_the_fix_of_a_wrong_layout(variables: dict[str, str]) -> None:
    """If the client has another bucket count than the table, the fix exports the right one."""
    broken = variables | {"SALTCTL_BUCKETS": "2048"}
    found = check_result("backup-layout", broken)
    assert found["status"] == "fail"
    assert check_result_after(found["fix"], "backup-layout", broken)["status"] == "ok"


def test_the_fix_of_a_readable_password_file(variables: dict[str, str], tmp_path: Path) -> None:
    """A password file that others may read is a warning, and the fix quotes its name."""
    file = tmp_path / "it's a password"
    file.write_text("secret")
    file.chmod(0o644)
    broken = variables | {"SALTCTL_REDIS_PASSWORD_FILE": str(file)}
    found = check_result("settings", broken)
    assert (found["status"], "0644" in found["detail"]) == ("warn", True)
    assert check_result_after(found["fix"], "settings", broken)["status"] == "ok"


@contextmanager
def replicated(directory: Path, replicas: int) -> Iterator[list[LocalRedis]]:
    """Start a primary and replicas that follow it."""
    import redis

    options = {"repl-diskless-sync-delay": "0", "shutdown-timeout": "0"}
    servers = [LocalRedis(directory / str(number), options=options) for number in range(1 + replicas)]
    try:
        for server in servers:
            server.start()
        for server in servers[1:]:
            with redis.Redis.from_url(server.url) as replica:
                replica.replicaof("127.0.0.1", str(servers[0].port))
                eventually(lambda: replica.info("replication")["master_link_status"] == "up", "it is in sync")
        yield servers
    finally:
        for server in servers:
            server.kill()


@pytest.fixture
def pair(tmp_path: Path) -> Iterator[list[LocalRedis]]:
    """Start a primary and a replica that follows it."""
    with replicated(tmp_path, 1) as servers:
        yield servers


@pytest.fixture
def trio(tmp_path: Path) -> Iterator[list[LocalRedis]]:
    """Start a primary and two replicas that follow it."""
    with replicated(tmp_path, 2) as servers:
        yield servers


def test_the_fix_of_missing_min_replicas(variables: dict[str, str], pair: list[LocalRedis]) -> None:
    """A primary with a replica and without min-replicas-to-write is a warning; the fix sets it."""
    broken = variables | {"SALTCTL_REDIS_URL": pair[0].url}
    found = check_result("redis-min-replicas", broken)
    assert (found["status"], "min-replicas-to-write" in found["detail"]) == ("warn", True)
    assert shell(found["fix"], broken).returncode == 0
    assert check_result("redis-min-replicas", broken)["status"] == "ok"


def test_a_primary_must_ask_for_both_of_its_replicas(variables: dict[str, str], trio: list[LocalRedis]) -> None:
    """If it asks for one of two, it keeps one while the other is promoted. After the fix it refuses then."""
    import redis

    broken = variables | {"SALTCTL_REDIS_URL": trio[0].url}
    with redis.Redis.from_url(trio[0].url) as primary, redis.Redis.from_url(trio[1].url) as promoted:
        primary.config_set("min-replicas-to-write", 1, "min-replicas-max-lag", 3)
        found = check_result("redis-min-replicas", broken)
        assert found["status"] == "warn"
        assert "2 replicas and min-replicas-to-write 1" in found["detail"]
        assert shell(found["fix"], broken).returncode == 0
        assert check_result("redis-min-replicas", broken)["status"] == "ok"
        assert primary.set("a", 1)
        promoted.replicaof("NO", "ONE")

        def refuses() -> bool:
            try:
                primary.set("a", 2)
            except redis.ResponseError as exc:
                return "NOREPLICAS" in str(exc)
            return False

        eventually(refuses, "the old primary refuses")
        found = check_result("redis-min-replicas", broken)
        assert (found["status"], "1 good replica" in found["detail"]) == ("fail", True)


def test_the_fix_of_a_configured_replica(variables: dict[str, str], pair: list[LocalRedis]) -> None:
    """If the client is configured with a replica, the fix names its primary."""
    broken = variables | {"SALTCTL_REDIS_URL": pair[1].url}
    found = check_result("redis-role", broken)
    assert found["status"] == "fail"
    assert check_result_after(found["fix"], "redis-role", broken)["status"] == "ok"


def test_all_servers_are_down(variables: dict[str, str]) -> None:
    """If no server answers, each outage is reported once, the other checks are skipped, and no password is shown."""
    down = variables | {
        "SALTCTL_REDIS_URL": "redis://:s3cr3t@127.0.0.1:1/0",
        "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
    }
    code, out, err = saltctl(down, "doctor", "-o", "json")
    checks = json.loads(out)["checks"]
    assert code == 3
    assert [check["name"] for check in checks if check["status"] == "fail"] == [
        "redis-reachable",
        "backup-table",
        "messages-table",
    ]
    assert "s3cr3t" not in out + err
    assert all(check["detail"].startswith("see ") for check in checks if check["status"] == "skip")
