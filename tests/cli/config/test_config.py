"""``saltctl config`` and the root's options."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Runner


def test_show_masks_secrets(saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The password of a URL is shown in no format."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "rediss://app:hunter2@cache.example:6380/1")
    for form in ("json", "jsonl", "tsv", "table"):
        outcome = saltctl("config", "show", "-o", form)
        assert outcome.code == 0
        assert "hunter2" not in outcome.out + outcome.err
    assert "1,024" not in saltctl("config", "show", "-o", "table").out, "a value can be typed as it is shown"
    rows = {row["name"]: row for row in saltctl("config", "show", "-o", "json").json}
    assert rows["redis_url"]["value"] == "rediss://app:***@cache.example:6380/1"
    assert rows["redis_url"]["origin"] == "environment SALTCTL_REDIS_URL"
    assert rows["backup_table"] == {"name": "backup_table", "value": "saltctl-registry", "origin": "default"}


def test_a_password_in_a_flag_is_refused(saltctl: Runner) -> None:
    """A flag is visible in every process list; the refusal does not repeat the password."""
    outcome = saltctl("--redis-url", "redis://:hunter2@127.0.0.1", "config", "show", "-o", "json")
    assert outcome.code == 2
    assert "hunter2" not in outcome.out + outcome.err


@pytest.mark.parametrize("url", ["redis://:hunter2@[bad", "hunter2", "http://:hunter2@x", "redis://:hunter2@x:port"])
def test_a_malformed_url_does_not_leak(url: str, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """A URL that cannot be used is named by its setting and origin, never quoted."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", url)
    for args in (("config", "show"), ("registry", "get", "x"), ("--verbose", "rebuild")):
        outcome = saltctl(*args, "-o", "json")
        assert outcome.code == 78
        assert "hunter2" not in outcome.out + outcome.err
        assert "redis_url" in outcome.error["message"]


def test_contexts_and_their_overrides(saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context gives values, a flag beats it, and an environment variable that overrides it is warned of."""
    file = tmp_path / "config.toml"
    file.write_text('[contexts.staging]\nbackup_table = "from-context"\n')
    call = ("--config", str(file), "--context", "staging")
    rows = {row["name"]: row for row in saltctl(*call, "config", "show", "-o", "json").json}
    assert rows["backup_table"] == {"name": "backup_table", "value": "from-context", "origin": "context staging"}
    rows = {
        row["name"]: row for row in saltctl(*call, "--backup-table", "flagged", "config", "show", "-o", "json").json
    }
    assert rows["backup_table"] == {"name": "backup_table", "value": "flagged", "origin": "flag --backup-table"}
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", "from-environment")
    assert "the environment overrides context staging: SALTCTL_BACKUP_TABLE" in saltctl(*call, "config", "show").err


def test_path_names_the_file(saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``config path`` prints the path alone, as ``$(…)`` takes it, whether or not the file exists."""
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    alone = saltctl("config", "path")
    assert (alone.code, alone.out) == (0, f"{tmp_path}/saltctl/config.toml\n")
    assert "does not exist" in alone.err
    assert "saltctl config init" in alone.err
    odd = tmp_path / f"a\\b {'long ' * 30}"
    odd.touch()
    assert saltctl("--config", str(odd), "config", "path").out == f"{odd}\n"
    assert saltctl("config", "path", "-o", "json").json == {
        "path": str(tmp_path / "saltctl" / "config.toml"),
        "exists": False,
    }


def test_a_missing_context_names_those_there_are(saltctl: Runner, tmp_path: Path) -> None:
    """A typo in a context's name is exit 78 with the names that exist."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\n[contexts.staging]\n")
    outcome = saltctl("--config", str(file), "--context", "prd", "config", "show", "-o", "json")
    assert outcome.code == 78
    assert "prod, staging" in outcome.error["hint"]
