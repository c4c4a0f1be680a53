"""``saltctl status``: one screen of all parts, each of which may be down."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from saltctl.cli.health.status import draw, sparkline
from saltctl.health.status import PANELS
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import Runner
from tests.support import Rebuilder


def _panels(seen: Mapping[str, Any]) -> dict[str, Any]:
    return {name: seen[name] for name in PANELS}


@pytest.mark.slow
def test_all_panels(saltctl: Runner, configured: Settings, registry: Registry, redis_server: LocalRedis) -> None:
    """Verified since the rebuild, the number of entries, and the latest raise with its reason from the backup."""
    registry.raise_to("conv", 4, reason="launch day")
    assert saltctl("setup", "--messages").code == 0
    assert saltctl("rebuild").code == 0
    state = ServiceState(configured)
    state.note_raise("conv", 1, 4, "2026-07-01T08:00:00.000Z", "worker")
    state.close()
    seen = saltctl("status", "-o", "json").json
    assert {name: panel["error"] for name, panel in _panels(seen).items()} == dict.fromkeys(PANELS)
    assert seen["lookups"]["source"] == "redis"
    assert (seen["state"], seen["next"]) == ("DEGRADED", "saltctl service run")
    assert (seen["registry"]["verified"], seen["registry"]["entries"]) == (True, 1)
    assert seen["registry"]["since"] is not None
    assert (seen["drift"]["checked"], seen["drift"]["found"]) == (1, 0)
    assert [(last["conversation_id"], last["reason"]) for last in seen["raises"]["last"]] == [("conv", "launch day")]
    assert seen["lease"]["held"] is False
    # After a restart it is not verified any more.
    redis_server.kill()
    redis_server.start()
    now = saltctl("status", "-o", "json").json
    registry_now = now["registry"]
    assert now["state"] == "DEGRADED"
    assert now["headline"].startswith("Redis is not verified; ")
    assert "; answers are right, from the backup" in now["headline"]
    assert (now["next"], now["lookups"]["source"]) == ("saltctl rebuild", "backup")
    assert (registry_now["verified"], registry_now["since"], registry_now["entries"]) == (False, None, 1)
    assert now["drift"]["found"] is None
    assert "not compared: Redis is not verified" in saltctl("status").out
    assert saltctl("doctor", "--only", "drift", "-o", "json").json["checks"][0]["status"] == "skip"


@pytest.mark.slow
def test_a_few_buckets_are_not_verified(saltctl: Runner, configured: Settings, backup: BackupTable) -> None:
    """Headline and rows say that Redis answers for all other buckets. The damaged item was mended since the rebuild."""
    damaged = {"conversation_id": {"S": "conv"}, "max_n": {"S": "text"}}
    backup.client.put_item(TableName=backup.name, Item=damaged)
    assert saltctl("rebuild").code == 4
    backup.client.put_item(TableName=backup.name, Item=damaged | {"max_n": {"N": "4"}, "write_n": {"N": "4"}})
    seen, count = saltctl("status", "-o", "json").json, f"1 of {configured.buckets} buckets"
    assert seen["headline"].startswith(f"{count} of Redis are not verified; ")
    assert "answers are right, from Redis and the backup" in seen["headline"]
    assert (seen["next"], seen["lookups"]["unverified_buckets"]) == ("saltctl rebuild && saltctl setup", 1)
    screen = saltctl("status").out
    assert f"{count} from the backup" in screen
    assert f"{count} not verified" in screen


@pytest.mark.slow
def test_the_owner_of_redis_is_another_table(
    saltctl: Runner, configured: Settings, backup: BackupTable, rebuild: Rebuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From another Region the next command sets the right one. A recovery there took Redis: it names the take-over."""
    rebuild()
    state, here, away = ServiceState(configured), backup.registry.region, "sa-east-1"
    state.note_verified([], 0.0, backup.name, here)
    monkeypatch.setenv("AWS_REGION", away)
    wrong = saltctl("status", "-o", "json").json
    assert wrong["headline"].startswith(f"Redis was verified from '{backup.name}' in {here}, not from here; ")
    assert wrong["next"] == f"export AWS_REGION={here}"
    theirs = "0123456789abcdef"
    with closing(RedisRegistry(configured, registry_id=lambda: theirs)) as store:
        for session in store.sessions():
            session.mark_buckets("t", replace_registry=True)
            session.set_fence("t", set())
    state.note_verified([], 0.0, backup.name, away)
    state.close()
    monkeypatch.setenv("AWS_REGION", here)
    right = saltctl("status", "-o", "json").json
    assert right["headline"].startswith(f"Redis holds another registry, verified from '{backup.name}' in {away}; ")
    assert right["next"] == f"saltctl recover --take-over {theirs} --dry-run"
    assert saltctl(*right["next"].split()[1:]).code == 0
    assert saltctl("recover", "--dry-run").code == 78


@pytest.mark.slow
def test_redis_is_down(saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Panels that need Redis show the error, all keys, and no password; the other panels are shown."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://:s3cr3t@127.0.0.1:1/0")
    outcome = saltctl("status", "-o", "json")
    seen = outcome.json
    assert outcome.code == 0
    assert {name for name in ("registry", "drift", "service", "raises") if seen[name]["error"]} == {
        "registry",
        "drift",
        "service",
        "raises",
    }
    assert seen["registry"]["verified"] is None
    assert (seen["lease"]["held"], seen["lease"]["error"], seen["throttles"]["error"]) == (False, None, None)
    assert seen["next"] == "saltctl rebuild --wait-redis 15m"
    table = saltctl("status", "-o", "table").out
    assert table.count("127.0.0.1:1 cannot be reached") == 1, "the same cause once"
    assert table.count("see registry") == 3
    assert "s3cr3t" not in table + outcome.out


@pytest.mark.slow
def test_aws_is_down(saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without AWS the registry and the service are shown, and why the backup cannot be read."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    seen = saltctl("status", "-o", "json").json
    failed = {name for name, panel in _panels(seen).items() if panel["error"]}
    assert failed == {"backup", "lookups", "drift", "throttles", "audit", "lease"}
    assert seen["registry"]["verified"] is not None
    assert "AWS cannot be reached" in seen["registry"]["backup_error"]
    table = saltctl("status", "-o", "table").out
    assert table.count("AWS cannot be reached for") == 1, "the same cause once"


@pytest.mark.slow
@pytest.mark.parametrize("width", ["60", "80", "120"])
def test_the_verdict_stays_on_the_screen(
    width: str, saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The first line names context, protection, Redis and tables; then the headline. 24 lines hold all of it."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\nprotected = true\n")
    monkeypatch.setenv("COLUMNS", width)
    lines = saltctl("--config", str(file), "--context", "prod", "status", "-o", "table").out.splitlines()
    text = " ".join(" ".join(lines).split())
    assert text.startswith("prod, protected; redis://")
    assert f"tables {seeded.settings.backup_table}, {seeded.settings.messages_table} " in text
    assert next(at for at, line in enumerate(lines) if line.startswith(("OK: ", "DEGRADED: "))) <= 2
    assert len(lines) <= 22


@pytest.mark.slow
def test_throttling_that_ended_is_told_as_ended(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """The seeded burst ended some 25 minutes ago: that is no reason to be degraded."""
    throttles = saltctl("status", "-o", "json").json["throttles"]
    assert throttles["total"] > 0
    assert throttles["ongoing"] is False
    assert re.search(r"ended \d+m ago", saltctl("status", "-o", "table").out)


@pytest.mark.parametrize("form", ["json", "tsv"])
def test_watching_needs_a_terminal_or_lines(saltctl: Runner, seeded: LocalEnvironment, form: str) -> None:
    """--watch with a format of one document exits 2, and the error names -o jsonl."""
    outcome = saltctl("status", "--watch", "1s", "-o", form)
    assert (outcome.code, outcome.out) == (2, "")
    assert "jsonl" in outcome.err


@pytest.mark.slow
def test_watching_ends_with_q(seeded: LocalEnvironment) -> None:
    """On a terminal the screen is redrawn; q exits 0 and restores the terminal."""
    leader, follower = pty.openpty()
    variables = dict(os.environ) | {"TERM": "xterm", "COLUMNS": "80", "LINES": "24"}
    child = subprocess.Popen(
        [sys.executable, "-m", "saltctl", "status", "--watch", "500ms"],
        env=variables,
        stdin=follower,
        stdout=follower,
        stderr=subprocess.PIPE,
    )
    os.close(follower)
    seen = b""
    deadline = time.monotonic() + 60
    while seen.count(b"verified") < 2:
        assert time.monotonic() < deadline, seen
        if select.select([leader], [], [], 1.0)[0]:
            seen += os.read(leader, 65536)
    os.write(leader, b"q")
    while child.poll() is None:
        assert time.monotonic() < deadline
        if select.select([leader], [], [], 0.1)[0]:
            try:
                seen += os.read(leader, 65536)
            except OSError:  # the child has exited
                break
    assert child.wait(timeout=30) == 0
    os.close(leader)
    assert child.stderr is not None
    child.stderr.close()
    assert b"\x1b[?1049h" in seen
    assert b"\x1b[?1049l" in seen


@pytest.mark.slow
def test_watch_prints_json_lines(seeded: LocalEnvironment) -> None:
    """``-o jsonl`` prints a document in each line until it is terminated."""
    child = subprocess.Popen(
        [sys.executable, "-m", "saltctl", "status", "--watch", "500ms", "-o", "jsonl"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert child.stdout is not None
    lines = [json.loads(child.stdout.readline()) for _ in range(2)]
    child.terminate()
    assert child.wait(timeout=30) == 143
    child.stdout.close()
    assert lines[0]["at"] < lines[1]["at"]


@pytest.mark.parametrize("width", [40, 60, 80])
def test_watching_breaks_no_word(width: int) -> None:
    """An id or a name that is too long to stand beside its panel is on a line of its own, as without --watch."""
    name = "messages-of-a-very-long-name-indeed"
    panels = {panel: {"error": f"there is no DynamoDB table {name} in Region {panel}"} for panel in PANELS}
    head = {"state": "BROKEN", "headline": f"no {name}", "next": f"saltctl setup {name}", "at": "2026-07-01T08:00:00Z"}
    lines = [line.plain for line in draw(head | panels, f"prod, protected; tables {name}", width)]
    assert max(map(len, lines)) <= width
    assert [line for line in lines if line != line.rstrip()] == []
    assert " ".join(lines).count(name) == 3 + len(PANELS)


def test_sparkline() -> None:
    """Only a zero has the lowest bar, and the largest value has the highest."""
    assert sparkline([0, 1, 1000]) == "▁▂█"
    assert sparkline([0, 0]) == "▁▁"
    assert sparkline([]) == ""
