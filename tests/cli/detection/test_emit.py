"""``service emit``: what each kind prints, one role a file, and options that have no effect are refused."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

import pytest

from saltctl.cli.detection.emit import running_executable
from tests.cli.conftest import Runner

ROLES = ("saltctl-app", "saltctl-service", "saltctl-readonly", "saltctl-canary")


@pytest.mark.parametrize("kind", ["systemd", "kubernetes", "alerts", "iam", "acl"])
def test_no_kind_prints_a_secret(kind: str, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file is complete without a Redis URL, and never has its password. With -o json it is the key text."""
    for url in (None, "rediss://user:hunter2@cache:6379/0"):
        if url is None:
            monkeypatch.delenv("SALTCTL_REDIS_URL", raising=False)
        else:
            monkeypatch.setenv("SALTCTL_REDIS_URL", url)
        printed = saltctl("service", "emit", kind)
        assert printed.code == 0, printed.err
        assert "hunter2" not in printed.out
        assert ("SALTCTL_REDIS_URL into /etc/saltctl/service.env" in printed.err) is (kind == "systemd")
        assert saltctl("service", "emit", kind, "-o", "json").json == {"kind": kind, "text": printed.out}


def test_the_commands_of_alerts_lead_to_their_registry(
    saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each alert's command and page are those of the context that the rules were printed for."""
    file = tmp_path / "config.toml"
    file.write_text('[contexts.prod]\nredis_url = "redis://cache"\nbackup_table = "prod-registry"\n')
    monkeypatch.setenv("SALTCTL_CONFIG", str(file))
    text = saltctl("--context", "prod", "service", "emit", "alerts").out
    assert 'command: "saltctl --context prod compare --repair --dry-run"' in text
    assert text.count("runbook: saltctl --context prod help ") == text.count("- alert: ")
    assert 'saltctl_stream_lag{table="prod-registry"}' in text


def test_the_unit_runs_this_saltctl(saltctl: Runner) -> None:
    """Systemd takes an absolute path alone; the one of another machine is an option."""
    (line,) = [line for line in saltctl("service", "emit", "systemd").out.splitlines() if line.startswith("ExecStart=")]
    assert Path(shlex.split(line.removeprefix("ExecStart="))[0]).is_file()
    assert line.removeprefix("ExecStart=").startswith("/")
    canary = saltctl("service", "emit", "systemd", "--role", "saltctl-canary", "--executable", "/opt/saltctl")
    assert "\nExecStart=/opt/saltctl canary --every=1m " in canary.out
    assert "write SALTCTL_REDIS_URL into /etc/saltctl/canary.env" in canary.err
    other = saltctl("service", "emit", "systemd", "--executable", "/opt/saltctl/bin/saltctl")
    assert "\nExecStart=/opt/saltctl/bin/saltctl service run " in other.out
    assert "ProtectHome" not in other.err
    assert "ProtectHome" in saltctl("service", "emit", "systemd", "--executable", "/home/me/bin/saltctl").err
    refused = saltctl("service", "emit", "systemd", "--executable", "bin/saltctl", "-o", "json")
    assert (refused.code, refused.error["code"], refused.out) == (2, "usage", "")


def test_the_executable_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The script that was started, also by a relative path; else the one beside python; else the module."""
    bin_, other = tmp_path / "bin", tmp_path / "other"
    for folder in (bin_, other):
        folder.mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "executable", str(bin_ / "python3"))
    monkeypatch.setattr(sys, "argv", ["other/saltctl"])
    assert running_executable() == [str(bin_ / "python3"), "-m", "saltctl"]
    (bin_ / "saltctl").touch()
    assert running_executable() == [str(bin_ / "saltctl")]
    (other / "saltctl").touch()
    assert running_executable() == [str(other / "saltctl")]


def test_a_role_is_a_file_of_its_own(saltctl: Runner) -> None:
    """The policy as ``aws iam create-policy`` takes it, and the line of an ACL file."""
    policies = saltctl("service", "emit", "iam").json
    assert list(policies) == [*ROLES, "saltctl-audit", "saltctl-alarms"]
    for role, policy in policies.items():
        assert json.loads(saltctl("service", "emit", "iam", "--role", role).out) == policy
    lines = [saltctl("service", "emit", "acl", "--role", role).out for role in ROLES]
    assert "".join(lines) == saltctl("service", "emit", "acl").out


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("kubernetes --role saltctl-app", "--role has no effect on kubernetes"),
        ("systemd --role saltctl-app", "saltctl-app has no unit"),
        ("iam --executable /usr/bin/saltctl", "--executable has no effect on iam"),
        ("systemd --image saltctl", "--image has no effect on systemd"),
        ("acl --role saltctl-alarms", "saltctl-alarms needs no Redis user"),
        ("iam --role app", "saltctl-app"),
        ("iam -o tsv", "tsv"),
        ("kubernetes --image ?", "is not the name of a container image"),
    ],
)
def test_an_option_without_effect_is_refused(words: str, told: str, saltctl: Runner) -> None:
    """It was meant for another file. The error says what would work."""
    refused = saltctl("service", "emit", *words.split())
    assert (refused.code, refused.out) == (2, "")
    assert told in refused.err


def test_the_image_is_an_option(saltctl: Runner) -> None:
    """Without it there is a placeholder."""
    assert "registry.example/" in saltctl("service", "emit", "kubernetes").out
    text = saltctl("service", "emit", "kubernetes", "--image", "ghcr.io/chat/saltctl:1.2").out
    assert text.count('image: "ghcr.io/chat/saltctl:1.2"') == text.count("image: ") == 6
