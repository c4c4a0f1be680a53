"""``saltctl service``: as a process under signals, its metrics and health, and the files that it prints."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.deployment import acl
from saltctl.local.servers import LocalRedis
from saltctl.metrics import SERVICE
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.exported import exported_names
from tests.support.redis_servers import find_engine


class Running:
    """A service as a process, and its log."""

    def __init__(self, *args: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "saltctl", "service", "run", *args], stderr=subprocess.PIPE, text=True
        )
        self.log: list[dict[str, Any]] = []

    def wait_for(self, event: str) -> dict[str, Any]:
        """The next log line of an event."""
        assert self.process.stderr is not None
        for line in self.process.stderr:
            self.log.append(json.loads(line))
            if self.log[-1]["event"] == event:
                return self.log[-1]
        raise AssertionError(f"no {event} in {self.log}")

    def end(self) -> None:
        """Kill the process if it still runs."""
        self.process.kill()
        self.process.wait()
        if self.process.stderr is not None:
            self.process.stderr.close()


@pytest.fixture
def running(configured: Settings) -> Iterator[Callable[..., Running]]:
    """Starts services, and ends them."""
    started: list[Running] = []

    def start(*args: str) -> Running:
        started.append(Running(*args))
        return started[-1]

    yield start
    for one in started:
        one.end()


def _report(settings: Settings, conversation_id: str, writes: int) -> None:
    HeatStream(settings).append_reports([HeatReport(conversation_id, "app", int(time.time()), writes)])


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_service_runs_until_a_signal(
    running: Callable[..., Running],
    configured: Settings,
    backup: BackupTable,
    tmp_path: Path,
    signum: signal.Signals,
    saltctl: Runner,
) -> None:
    """On an empty Redis it creates its group, rebuilds, raises, serves metrics, touches its health file and exits 0."""
    health = tmp_path / "health"
    one = running("--consumer", "w1", "--metrics-port", "0", "--health-file", str(health))
    port = one.wait_for("metrics_served")["port"]
    one.wait_for("rebuilt")
    _report(configured, "hot\x1b[2J", 2000)
    raised = one.wait_for("raised")
    assert (raised["conversation_id"], raised["after"]) == ("hot\x1b[2J", 4)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        metrics = answer.read().decode()
    labels = f'{{table="{configured.backup_table}"}}'
    for sample in ("saltctl_raises_total{} 1.0", "saltctl_registry_verified{} 1.0", "saltctl_stream_lag{} 0.0"):
        assert sample.replace("{}", labels) in metrics
    assert exported_names(metrics) == {metric.name for metric in SERVICE}
    assert health.exists()
    status = saltctl("service", "status", "--window", "50ms", "-o", "json").json
    assert (status["verdict"], status["alive"], status["verified"]) == ("ok", 1, True)
    assert status["last_raise"]["after"] == 4
    one.process.send_signal(signum)
    one.wait_for("stopped")
    assert one.process.wait(30) == 0
    assert all({"at", "level", "event"} <= set(line) for line in one.log)


def test_a_service_of_another_registry_ends(
    saltctl: Runner, configured: Settings, backup: BackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its rebuilds could never succeed: 78, and the hint names the settings of the table's registry."""
    monkeypatch.setenv("SALTCTL_KEY_PREFIX", "afresh")
    outcome = saltctl("service", "run")
    assert outcome.code == 78
    assert f"export SALTCTL_BUCKETS={configured.buckets} SALTCTL_KEY_PREFIX={configured.key_prefix}" in outcome.err


def test_status_without_aws_answers_in_part(
    saltctl: Runner, configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 4: the verdict is known, and whether Redis is verified is null."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    outcome = saltctl("service", "status", "--window", "1ms", "-o", "json")
    assert (outcome.code, outcome.json["verdict"], outcome.json["verified"]) == (4, "unknown", None)
    assert "AWS cannot be reached" in outcome.error["message"]


@pytest.mark.slow
def test_a_late_part_shows_everywhere(
    running: Callable[..., Running], configured: Settings, backup: BackupTable, tmp_path: Path, saltctl: Runner
) -> None:
    """A fence watcher that cannot do its work: log, health file, metrics, service status, status and doctor."""
    health = tmp_path / "health"
    one = running("--consumer", "w1", "--metrics-port", "0", "--health-file", str(health))
    port = one.wait_for("metrics_served")["port"]
    one.wait_for("rebuilt")
    os.kill(one.process.pid, signal.SIGSTOP)  # a heartbeat would overwrite the record
    state = ServiceState(configured)
    state.note_instance("w1", ["fence_watcher\x1b[2J"], time.time())
    outcome = saltctl("service", "status", "--window", "10ms", "-o", "json")
    assert (outcome.code, outcome.json["verdict"]) == (3, "degraded")
    assert outcome.json["instances"][0]["late"] == ["fence_watcher\x1b[2J"]
    for command in (("status",), ("doctor", "--only", "stream-consumers"), ("service", "status", "--window", "1ms")):
        shown = saltctl(*command).out
        assert "fence_watcher" in shown, command
        assert "\x1b" not in shown
    os.kill(one.process.pid, signal.SIGCONT)
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics") as answer:
        metrics = answer.read().decode()
    for part in ("loop", "fence_watcher", "metrics"):
        assert f'saltctl_part_late{{part="{part}",table="{configured.backup_table}"}} 0.0' in metrics


@pytest.mark.slow
def test_the_health_file_is_touched_by_the_loop(
    running: Callable[..., Running], configured: Settings, tmp_path: Path
) -> None:
    """It is touched again and again while the loop runs, and not by a process whose loop stands still."""
    health = tmp_path / "health"
    one = running("--health-file", str(health))
    one.wait_for("started")
    times: set[int] = set()
    deadline = time.monotonic() + 30
    while len(times) < 3 and time.monotonic() < deadline:
        if health.exists():
            times.add(health.stat().st_mtime_ns)
        time.sleep(0.02)
    assert len(times) == 3
    os.kill(one.process.pid, signal.SIGSTOP)
    stopped = health.stat().st_mtime_ns
    while time.time_ns() - stopped < 1_500_000_000:
        time.sleep(0.02)
    assert health.stat().st_mtime_ns == stopped
    os.kill(one.process.pid, signal.SIGCONT)


def test_a_used_port_is_a_configuration_error(saltctl: Runner, configured: Settings, redis_server: LocalRedis) -> None:
    """Metrics on a taken port are a configuration error before anything is read."""
    outcome = saltctl("service", "run", "--metrics-port", str(redis_server.port))
    assert outcome.code == 78
    assert "--metrics-port" in outcome.err


@pytest.mark.parametrize(
    ("words", "code"),
    [
        (("--metrics-address", "127.0.0.1"), 2),
        (("--consumer", ""), 2),
        (("--health-file", "missing/health"), 78),
    ],
    ids=str,
)
def test_an_option_without_effect_is_refused(
    saltctl: Runner, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, str], code: int
) -> None:
    """At the start, and with the option's name or its file."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1")
    monkeypatch.chdir(tmp_path)
    outcome = saltctl("service", "run", *words)
    assert outcome.code == code
    assert (words[0] if code == 2 else words[1]) in outcome.err


class Roles:
    """A Redis with the emitted users, and settings for each of them."""

    def __init__(self, settings: Settings, server: LocalRedis) -> None:
        import redis

        self.admin: Any = redis.Redis.from_url(server.url)
        for line in acl.users(settings).splitlines():
            _, name, *rules = with_passwords(line).split()
            self.admin.execute_command("ACL", "SETUSER", name, *join_selectors(rules))  # type: ignore[no-untyped-call]  # redis-py does not annotate it
        self.url = f"redis://saltctl-{{0}}:{{0}}@127.0.0.1:{server.port}/0"
        self.settings = settings

    def of(self, role: str) -> Settings:
        """The settings with this role's user."""
        return replace(self.settings, redis_url=self.url.format(role))

    def refuses(self, role: str, *command: str) -> bool:
        """Whether the role may not do this."""
        import redis

        with redis.Redis.from_url(self.url.format(role)) as client:
            try:
                client.execute_command(*command)
            except redis.exceptions.NoPermissionError:
                return True
            except redis.exceptions.ResponseError as exc:
                return "NOPERM" in str(exc) or "not allowed" in str(exc)
        return False


def with_passwords(line: str) -> str:
    """Return an emitted user with the part of its name after ``saltctl-`` as its password."""
    for number, role in enumerate(("app", "service", "readonly", "canary"), 1):
        line = line.replace(f"CHANGE-ME-{number}", role)
    return line


def join_selectors(rules: list[str]) -> list[str]:
    """Rules as ACL SETUSER takes them: a selector in parentheses is one argument."""
    text, found, depth = " ".join(rules), [""], 0
    for character in text:
        depth += {"(": 1, ")": -1}.get(character, 0)
        if character == " " and not depth:
            found.append("")
        else:
            found[-1] += character
    return found


@pytest.fixture(params=["valkey", "redis"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Roles and services on every server there is."""
    return find_engine(request.param)


@pytest.mark.slow
def test_each_role_can_do_its_commands(
    configured: Settings,
    redis_server: LocalRedis,
    rebuild: Rebuilder,
    backup: BackupTable,
    monkeypatch: pytest.MonkeyPatch,
    saltctl: Runner,
) -> None:
    """Application servers look up and report; every command works as the service's user, and looking as a reader's."""
    roles = Roles(configured, redis_server)
    monkeypatch.setenv("SALTCTL_REDIS_URL", roles.of("service").require_redis_url())
    steps: tuple[tuple[tuple[str, ...], int], ...] = (
        (("setup",), 0),
        (("rebuild",), 0),
        (("registry", "set", "conv", "4", "--yes"), 0),
        (("registry", "get", "conv"), 0),
        (("registry", "list", "--source", "redis"), 0),
        (("stream", "status", "--window", "10ms"), 3),
    )
    for command, code in steps:
        assert saltctl(*command).code == code, command
    app = roles.of("app")
    with Registry.open(app) as registry:
        assert (registry.lookup("conv").source, registry.lookup("conv").max_n) == ("redis", 4)
        assert registry.lookup_many(["conv", "b"])["conv"].source == "redis"
    _report(app, "hot", 2000)
    HeatStream(configured).append({"v": "3"})
    more: tuple[tuple[str, ...], ...] = (
        ("stream", "peek"),
        ("stream", "replay", "--dry-run"),
        ("stream", "replay"),
        ("stream", "replay", "--from", "1h"),
        ("stream", "dead", "list"),
        ("stream", "dead", "requeue", "--all"),
        ("stream", "dead", "drop", "--all", "--yes"),
        ("compare", "--repair", "--yes"),
        ("registry", "export"),
        ("service", "emit", "acl"),
    )
    for command in more:
        outcome = saltctl(*command)
        assert outcome.code == 0, (command, outcome.err)
    entry = backup.get("hot")
    assert entry is not None
    assert entry.max_n == 4
    assert saltctl("service", "status", "--window", "10ms", "-o", "json").json["verified"]
    monkeypatch.setenv("SALTCTL_REDIS_URL", roles.of("readonly").require_redis_url())
    looks: tuple[tuple[str, ...], ...] = (
        ("registry", "get", "conv"),
        ("registry", "list", "--source", "redis"),
        ("registry", "export"),
        ("compare",),
        ("rebuild", "--dry-run"),
        ("stream", "status", "--window", "10ms"),
        ("stream", "peek"),
        ("stream", "dead", "list"),
        ("service", "status", "--window", "10ms"),
    )
    for command in looks:
        outcome = saltctl(*command)
        assert outcome.code in (0, 3), (command, outcome.err)
    assert saltctl("rebuild").code == 77


@pytest.mark.slow
def test_a_service_runs_under_its_role(
    running: Callable[..., Running], configured: Settings, redis_server: LocalRedis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From an empty Redis to a raise and a clean end, with the emitted user and nothing more."""
    roles = Roles(configured, redis_server)
    monkeypatch.setenv("SALTCTL_REDIS_URL", roles.of("service").require_redis_url())
    one = running()
    one.wait_for("rebuilt")
    _report(roles.of("app"), "hot", 2000)
    one.wait_for("raised")
    one.process.terminate()
    assert one.wait_for("stopped")
    assert not [line for line in one.log if line["level"] == "error"]


def test_no_role_can_do_more(configured: Settings, redis_server: LocalRedis) -> None:
    """No role may flush, configure or read other keys; application servers may not load scripts or write entries."""
    roles = Roles(configured, redis_server)
    for role in ("app", "service", "readonly"):
        beyond: tuple[tuple[str, ...], ...] = (
            ("FLUSHALL",),
            ("CONFIG", "GET", "*"),
            ("DEBUG", "SLEEP", "0"),
            ("KEYS", "*"),
            ("SET", "salt:r:1", "x"),
            ("HGETALL", "other"),
            ("XADD", "other", "*", "a", "b"),
            ("DEL", "salt:r:1"),
            ("SHUTDOWN",),
            ("ACL", "LIST"),
            ("SCRIPT", "FLUSH"),
        )
        for command in beyond:
            assert roles.refuses(role, *command), (role, command)
    not_for_servers: tuple[tuple[str, ...], ...] = (
        ("SCRIPT", "LOAD", "return 1"),
        ("EVAL", "return 1", "0"),
        ("HSET", "salt:r:1", "a", "1"),
        ("XADD", "salt:r:1", "*", "a", "b"),
        ("XREADGROUP", "GROUP", "saltctl", "x", "STREAMS", "salt:heat", ">"),
        ("XTRIM", "salt:heat", "MAXLEN", "0"),
        ("HGET", "salt:service", "last_raise"),
    )
    for command in not_for_servers:
        assert roles.refuses("app", *command), command
    not_for_looking: tuple[tuple[str, ...], ...] = (
        ("SCRIPT", "LOAD", "return 1"),
        ("HSET", "salt:r:1", "a", "1"),
        ("XADD", "salt:heat", "*", "a", "b"),
        ("XREADGROUP", "GROUP", "saltctl", "x", "STREAMS", "salt:heat", ">"),
        ("XACK", "salt:heat", "saltctl", "1-1"),
        ("XDEL", "salt:dead", "1-1"),
    )
    for command in not_for_looking:
        assert roles.refuses("readonly", *command), command


@pytest.mark.parametrize("after", ["0s", "1h"])
def test_the_service_cools_only_if_a_setting_says_so(
    saltctl: Runner, configured: Settings, monkeypatch: pytest.MonkeyPatch, after: str
) -> None:
    """It is off by default."""
    started = threading.Event()
    monkeypatch.setattr("saltctl.cooling.periodic.PeriodicCooling.run", lambda job: started.set())
    monkeypatch.setattr(
        "saltctl.detection.service.Service.run", lambda service, after_step: started.wait(30 if after == "1h" else 0)
    )
    monkeypatch.setenv("SALTCTL_COOL_AFTER", after)
    assert saltctl("service", "run").code == 0
    assert started.is_set() == (after == "1h")
