"""Hostile input that somebody took trouble over: refused with its documented exit code, and never a defect."""

from __future__ import annotations

import json
import stat
from base64 import urlsafe_b64encode
from pathlib import Path

import pytest

from saltctl.cli.detection.logs import JsonLines, handle_events
from saltctl.cli.detection.service import touch_health_file
from saltctl.errors import InvalidCursorError
from saltctl.history import cursor
from tests.cli.conftest import Runner

BINDING = cursor._binding("conv")
DEEP = "[" * 2900


def forged(payload: str) -> str:
    """A cursor whose digest is right: it is no secret, so anybody can make one."""
    data = payload.encode()
    return urlsafe_b64encode(cursor._digest(data) + data).decode().rstrip("=")


@pytest.mark.parametrize("key", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_a_cursor_at_no_number_is_refused(key: str) -> None:
    """DynamoDB has no such numbers, and comparing with them fails or lies."""
    with pytest.raises(InvalidCursorError, match="no cursor"):
        cursor.decode(forged(json.dumps([1, BINDING, "N", key, 0, 1])), "conv", "N")


@pytest.mark.parametrize("payload", [DEEP, json.dumps([1, BINDING, "S", "\ud800", 0, 1])], ids=["deep", "surrogate"])
def test_a_cursor_that_json_chokes_on_is_refused(payload: str) -> None:
    """Lists in lists in lists, and half of a surrogate pair, which no request could carry."""
    with pytest.raises(InvalidCursorError, match="no cursor"):
        cursor.decode(forged(payload), "conv", "S")


@pytest.mark.parametrize(
    "line",
    [
        "x = " + "[" * 20_000,
        "x = " + "9" * 5_000,
        "heat_max_age = 1" + "0" * 400,
        'redis_password_file = "\\u0000"',
        'redis_password_file = "~no-such-user-here/secret"',
    ],
    ids=["deep", "digits", "overflow", "nul", "nobody"],
)
def test_a_hostile_settings_file_is_a_matter_of_configuration(line: str, saltctl: Runner, tmp_path: Path) -> None:
    """Exit 78, and one line that says what is wrong."""
    file = tmp_path / "config.toml"
    file.write_text(f'default_context = "a"\n[contexts.a]\n{line}\n')
    outcome = saltctl("--config", str(file), "config", "show", "-o", "json")
    assert outcome.code == 78, outcome.err
    assert outcome.error["code"] == "configuration"
    assert len(outcome.err.splitlines()) == 1


def test_the_health_file_follows_no_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Where a link stands in its place, what it leads to is neither made nor touched, and the log says why."""
    target, link = tmp_path / "target", tmp_path / "health"
    link.symlink_to(target)
    with handle_events(JsonLines()):
        touch_health_file(link)
    assert not target.exists()
    assert json.loads(capsys.readouterr().err)["event"] == "health_file_failed"


def test_the_health_file_is_the_owners_and_touched_each_time(tmp_path: Path) -> None:
    """Nobody else can read it, and its time is that of the latest round."""
    import os

    file = tmp_path / "health"
    touch_health_file(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    os.utime(file, (0, 0))
    touch_health_file(file)
    assert file.stat().st_mtime > 0
