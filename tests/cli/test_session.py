"""Prompts and the session: without a terminal nothing waits for an answer."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from saltctl.cli.session import Session
from saltctl.cli.signals import arguments, rerun_with
from saltctl.errors import ConfirmationRequiredError, UsageError
from saltctl.local.environment import LocalEnvironment
from tests.cli.conftest import Runner
from tests.cli.terminal import run_on_a_terminal

QUESTION = "Raise conv from 1 to 4?"


@pytest.fixture
def protected(tmp_path: Path) -> Session:
    """A session of a protected context."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\nprotected = true\n")
    return Session(context="prod", config=file)


def test_an_irreversible_change_needs_yes() -> None:
    """Without a terminal an irreversible change is refused without ``--yes``, and the message names the option."""
    with pytest.raises(ConfirmationRequiredError, match=r"conv from 1 to 4\? This cannot be undone. Pass --yes"):
        Session().require_consent(QUESTION, None, yes=False)
    Session().require_consent(QUESTION, None, yes=True)
    Session().require_consent(QUESTION, None)


@pytest.mark.parametrize("confirm", [None, "", "staging", "PROD"])
def test_a_protected_context_needs_its_name(protected: Session, confirm: str | None) -> None:
    """``--yes`` is not enough for a protected context, and its exact name has to be given."""
    with pytest.raises(ConfirmationRequiredError) as raised:
        protected.require_consent(QUESTION, confirm)
    assert raised.value.hint.endswith(" --confirm prod")


@pytest.mark.parametrize(
    ("given", "asked", "pasted"),
    [
        (["registry", "set", "conv", "4"], ("--confirm", "prod"), "saltctl registry set conv 4 --confirm prod"),
        (["registry", "set", "--", "-c", "4"], ("--yes",), "saltctl registry set --yes -- -c 4"),
    ],
)
def test_the_hint_is_the_same_command_with_the_option(given: list[str], asked: tuple[str, ...], pasted: str) -> None:
    """It can be pasted as it stands, even if an id begins with a dash."""
    token = arguments.set(given)
    try:
        assert rerun_with(*asked) == pasted
    finally:
        arguments.reset(token)


def test_the_name_confirms_a_protected_context(protected: Session) -> None:
    """``--confirm`` with the context's name is enough."""
    protected.require_consent(QUESTION, "prod", yes=False)


def test_without_a_terminal_the_default_is_yes() -> None:
    """A question with a default is not asked without a terminal."""
    assert Session().ask_default_yes("Continue?")


def test_a_password_in_a_flag_is_refused() -> None:
    """Process lists show flags; the error does not repeat the password."""
    with pytest.raises(UsageError) as raised:
        _ = Session({"redis_url": "redis://:hunter2@127.0.0.1"}).settings
    assert "hunter2" not in raised.value.message + raised.value.hint


def test_root_options_lead_to_the_same_servers() -> None:
    """Commands in hints repeat the root's options that were given."""
    session = Session({"redis_url": None, "backup_table": "t"}, "prod", Path("/etc/saltctl.toml"))
    assert session.root_options == ["--context", "prod", "--config", "/etc/saltctl.toml", "--backup-table", "t"]


@pytest.mark.slow
def test_a_context_is_named_on_a_terminal(
    saltctl: Runner, seeded: LocalEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Once, above the result; in a pipe only the data is printed. A password is masked."""
    url = seeded.settings.require_redis_url()
    monkeypatch.delenv("SALTCTL_REDIS_URL")
    file = tmp_path / "config.toml"
    file.write_text(f'[contexts.prod]\nprotected = true\nredis_url = "{url}"\n')
    words = ("--config", str(file), "--context", "prod", "registry", "list", "--limit", "1")
    _, shown = run_on_a_terminal(*words)
    tables = f"tables {seeded.settings.backup_table}, {seeded.settings.messages_table}"
    words_shown = " ".join(shown.split())  # the place may take two lines
    assert re.findall(r"prod, protected; redis://\S+; (tables \S+, \S+)", words_shown) == [tables]
    assert words_shown.count("prod, protected") == 1
    assert (seeded.redis.password or "no password") not in shown
    piped = saltctl(*words)
    assert "protected" not in piped.out + piped.err
