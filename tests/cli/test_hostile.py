"""Crafted hostile input: refused with its documented exit code, and never an internal error."""

from __future__ import annotations

import json
import stat
from base64 import urlsafe_b64decode, urlsafe_b64encode
from decimal import Decimal
from hashlib import sha256
from pathlib import Path

import pytest

from saltctl.cli.detection.monitoring import JsonLines, handle_events
from saltctl.cli.detection.service import touch_health_file
from saltctl.errors import InvalidCursorError
from saltctl.history.pages import cursor
from tests.cli.conftest import Runner

DEEP = "[" * 2900


def forge(payload: bytes) -> str:
    """Return a cursor with a correct digest: the digest is not secret, so anyone can forge one."""
    digest = sha256(b"saltctl cursor\0" + payload).digest()[:8]
    return urlsafe_b64encode(digest + payload).decode().rstrip("=")


def forge_sort_key(key: str, kind: str) -> str:
    """Return a cursor of "conv" in which the sort key is replaced."""
    sort_key = "k" if kind == "S" else Decimal(1)
    genuine = cursor.encode(cursor.Cursor(cursor.Position(sort_key, 0), 1), "conv")
    payload = urlsafe_b64decode(genuine + "=" * (-len(genuine) % 4))[8:]
    assert forge(payload) == genuine
    parts = json.loads(payload)
    parts[parts.index(kind) + 1] = key
    return forge(json.dumps(parts, separators=(",", ":")).encode())


@pytest.mark.parametrize("key", ["NaN", "sNaN", "Infinity", "-Infinity"])
def test_a_cursor_that_is_not_at_a_number_is_refused(key: str) -> None:
    """DynamoDB has no such numbers, and comparisons with them fail or are wrong."""
    assert cursor.decode(forge_sort_key("2", "N"), "conv", "N").position.sort_key == 2
    with pytest.raises(InvalidCursorError, match="damaged"):
        cursor.decode(forge_sort_key(key, "N"), "conv", "N")


@pytest.mark.parametrize("text", [forge(DEEP.encode()), forge_sort_key("\ud800", "S")], ids=["deep", "surrogate"])
def test_a_cursor_with_invalid_json_is_refused(text: str) -> None:
    """Deeply nested lists, and half of a surrogate pair, which no request can carry."""
    assert cursor.decode(forge_sort_key("x", "S"), "conv", "S").position.sort_key == "x"
    with pytest.raises(InvalidCursorError, match="damaged"):
        cursor.decode(text, "conv", "S")


@pytest.mark.parametrize(
    "line",
    [
        "x = " + "[" * 20_000,
        "x = " + "9" * 5_000,
        "heat_max_age = 1" + "0" * 400,
        'redis_password_file = "\\u0000"',
        'redis_password_file = "~no-such-user-here/secret"',
    ],
    ids=["deep", "digits", "overflow", "nul", "no such user"],
)
def test_a_hostile_settings_file_is_a_configuration_error(line: str, saltctl: Runner, tmp_path: Path) -> None:
    """Exit 78, and one line with the error."""
    file = tmp_path / "config.toml"
    file.write_text(f'default_context = "a"\n[contexts.a]\n{line}\n')
    outcome = saltctl("--config", str(file), "config", "show", "-o", "json")
    assert outcome.code == 78, outcome.err
    assert outcome.error["code"] == "configuration"
    assert len(outcome.err.splitlines()) == 1


def test_the_health_file_follows_no_link(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The target of a link is neither created nor touched, and the log has an event."""
    target, link = tmp_path / "target", tmp_path / "health"
    link.symlink_to(target)
    with handle_events(JsonLines()):
        touch_health_file(link)
    assert not target.exists()
    assert json.loads(capsys.readouterr().err)["event"] == "health_file_failed"


def test_the_health_file_is_no_special_file(
    tmp_path: Path, saltctl: Runner, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe is refused before the service starts, and is not touched if it appears later."""
    import os

    pipe = tmp_path / "health"
    os.mkfifo(pipe)
    os.utime(pipe, (0, 0))
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1")
    outcome = saltctl("service", "run", "--health-file", str(pipe))
    assert (outcome.code, "regular file" in outcome.err) == (78, True)
    reader = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with handle_events(JsonLines()):
        touch_health_file(pipe)
    os.close(reader)
    assert pipe.stat().st_mtime == 0
    assert json.loads(capsys.readouterr().err)["event"] == "health_file_failed"


def test_the_health_file_is_the_owners_and_touched_each_time(tmp_path: Path) -> None:
    """Only its owner can read it, and its time is that of the latest round."""
    import os

    file = tmp_path / "health"
    touch_health_file(file)
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    os.utime(file, (0, 0))
    touch_health_file(file)
    assert file.stat().st_mtime > 0
