"""Nothing that was not understood becomes a value: options, settings, the configuration file, the terminal's size."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from saltctl.cli.option import MAX_REASON, number
from saltctl.errors import ConfigurationError
from saltctl.registry import registry
from saltctl.settings import SPECS, Settings, load_settings
from tests.cli.conftest import Runner
from tests.cli.guide.test_usage import PARAMETERS, arguments_of

BLANK = ["", "   ", "a\0b", "9" * 5000]
"""What no text can be: of a variable that is not set, of a binary file, or of a whole file."""
NO_NUMBERS = ["nan", "inf", "-1", "1e400", "0x10", "1_000", "\uff11\uff12", "true", "yes please", "[1, 2]", "5 apples"]
NO_FLAGS = [*BLANK, "true", "false", "1", "yes please"]
TEXTS = {
    *("--reason", "--prefix", "--since-key", "--until-key", "--sort-key", "--consumer", "--metrics-address"),
    *("--table", "--metrics-file", "--health-file", "--file", "--bundle"),
}
"""Options that take any text or name. Others take a number, a duration, a time, a choice, or a form of their own."""
REFUSED = {"--confirm": 6, "--before": 6, "--after": 6}
"""Exit codes of options that are understood and refused: another context, and what is no cursor."""
OPTIONS = [(name, param) for name, param in PARAMETERS if param.param_type_name == "option"]
OPTION_IDS = [f"{name} {param.opts[0]}" for name, param in OPTIONS]


@pytest.fixture
def nowhere(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Settings of servers that no test may ask: a value is refused before."""
    monkeypatch.chdir(tmp_path)
    for name in ("SALTCTL_REDIS_URL", "AWS_ENDPOINT_URL"):
        monkeypatch.setenv(name, "redis://127.0.0.1:1" if name.startswith("S") else "http://127.0.0.1:1")


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize(("name", "param"), OPTIONS, ids=OPTION_IDS)
def test_an_option_refuses_what_cannot_be_meant(saltctl: Runner, name: str, param: Any) -> None:
    """Exit 2 in one line of JSON, with the option's name, and no server is asked."""
    option = param.opts[0]
    values = NO_FLAGS if param.is_flag else BLANK if option in TEXTS else [*BLANK, *NO_NUMBERS]
    more = ["--sns", "arn:aws:sns:us-east-1:123456789012:x"] if "alarms create" in name and option != "--sns" else []
    output = [] if "output" in option or "local" in name or name == "service run" else ["-o", "json"]
    for value in values:
        outcome = saltctl(*name.split(), f"{option}={value}", *more, *output, *arguments_of(name))
        assert (outcome.out, int(outcome.code)) == ("", REFUSED.get(option, 2)), (value, outcome)
        assert "Traceback" not in outcome.err
        assert len(outcome.err) < 1500, "a long value is not repeated"
        message = json.loads(outcome.err)["error"]["message"] if output and outcome.err[0] == "{" else outcome.err
        assert "validation" not in message
        assert "Value error" not in message


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("option", ["--context", "--config", "--redis-url", "--backup-table", "--key-prefix"])
@pytest.mark.parametrize("value", BLANK)
def test_a_root_option_refuses_it_too(saltctl: Runner, option: str, value: str) -> None:
    """``--context "$UNSET"`` does not lead to the default context. Flags that are settings exit as settings do."""
    outcome = saltctl(option, value, "config", "show", "-o", "json")
    assert outcome.out == ""
    assert outcome.code in ((2,) if option in ("--context", "--config") else (2, 78))


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("value", BLANK)
def test_an_argument_refuses_it_too(saltctl: Runner, value: str) -> None:
    """A message, a file and a drill cannot be blank; an empty or too long conversation id is refused (6)."""
    for words in (("history", "find", "c", value), ("registry", "import", value), ("drill", value), ("help", value)):
        assert saltctl(*words).code == 2
    if value in ("", BLANK[-1]):
        for words in (("registry", "get", value), ("history", "read", value), ("registry", "set", value, "4")):
            assert saltctl(*words).code == 6


@pytest.mark.usefixtures("nowhere")
@pytest.mark.parametrize("text", ["1e3", "500", "500.", "0.5", ".5"])
def test_numbers_that_are_meant(text: str) -> None:
    """The usual ways to write one."""
    assert number("--x", "", 0.1, 10**9, whole=False).parser(text) == float(text)


def test_the_longest_reason_is_that_of_the_registry() -> None:
    """The option knows it without importing the registry."""
    assert registry.MAX_REASON == MAX_REASON


def test_another_context_is_not_confirmed(saltctl: Runner, tmp_path: Path) -> None:
    """``--confirm prod`` where prod is not in use is refused, in a dry run, too: the servers are not those of prod."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\nprotected = true\n[contexts.staging]\nredis_url = 'redis://127.0.0.1:1'\n")
    for root, used in (((), "no context"), (("--context", "staging"), "'staging'")):
        outcome = saltctl("--config", str(file), *root, "setup", "--dry-run", "--confirm", "prod", "-o", "json")
        assert outcome.code == 6
        assert f"cannot confirm the context 'prod': {'the context in use is ' if root else ''}{used}" in (
            outcome.error["message"].removesuffix(" is in use")
        )


KEPT = {
    "redis_password_file": NO_NUMBERS,
    "aws_profile": NO_NUMBERS,
    "actor": NO_NUMBERS,
    "backup_table": ["nan", "inf", "-1", "1e400", "0x10", "1_000", "true"],
    "messages_table": ["nan", "inf", "-1", "1e400", "0x10", "1_000", "true"],
    "key_prefix": ["nan", "inf", "-1", "1e400", "0x10", "1_000", "true"],
    "redis_iam_cache": ["nan", "inf", "true"],
    "aws_region": ["nan", "inf", "1e400", "0x10", "true"],
    "hedge_reads": ["true"],
    "share_reads": ["true"],
}
"""What are names of files, profiles, tables and people: these may be called so."""
LONG = {"redis_password_file", "aws_profile", "actor"}
"""Texts without a longest length: the file or profile of that name does not exist."""


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_variable_refuses_what_cannot_be_meant(spec: Any, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit 78 with its name. An empty variable is not set: that is documented."""
    for variable in spec.environment:
        for value in [v for v in ("   ", "9" * 5000, *NO_NUMBERS) if v not in KEPT.get(spec.name, ())]:
            if spec.name in LONG and len(value) == 5000:
                continue
            monkeypatch.setenv(variable, value)
            outcome = saltctl("config", "show", "-o", "json")
            assert (outcome.out, int(outcome.code)) == ("", 78), (variable, value)
            assert variable in outcome.error["message"]
            assert len(outcome.err) < 1500
        monkeypatch.setenv(variable, "")
        assert load_settings(environ={variable: ""}) == Settings(actor=load_settings(environ={}).actor)
        monkeypatch.delenv(variable)


TOML = [
    "true",
    "1.5",
    "nan",
    "inf",
    "-1",
    "[1, 2]",
    "{a = 1}",
    "2026-01-31",
    "''",
    "'   '",
    "'a b'",
    "'5 apples'",
    "'\uff11'",
]
_SECONDS = ("heat_max_age", "heat_retention", "breaker_seconds", "cool_wait", "cool_after", "cool_margin")
MEANT = {spec.name: ["1.5"] for spec in SPECS if spec.name.endswith("_timeout") or spec.name in _SECONDS}
MEANT |= {name: ["true"] for name in ("hedge_reads", "share_reads")}
MEANT |= {name: ["'a b'", "'5 apples'", "'\uff11'"] for name in ("redis_password_file", "aws_profile", "actor")}


@pytest.mark.parametrize("spec", SPECS, ids=lambda spec: spec.name)
def test_a_key_of_the_file_refuses_what_cannot_be_meant(spec: Any, tmp_path: Path) -> None:
    """Another type of TOML, an empty or blank string, and whatever its variable refuses."""
    file = tmp_path / "config.toml"
    for value in [v for v in TOML if v not in MEANT.get(spec.name, ())]:
        file.write_text(f"default_context = 'a'\n[contexts.a]\n{spec.name} = {value}\n")
        with pytest.raises(ConfigurationError, match=rf"{spec.name} \(context a\)"):
            load_settings(config=file, environ={})


@pytest.mark.parametrize("value", ["1", "'true'", "'yes please'", "[]", "1.0", "''"])
def test_protected_and_the_default_context_have_one_type(value: str, tmp_path: Path) -> None:
    """A context that is protected by mistake or not at all would be worse than none."""
    file = tmp_path / "config.toml"
    for text in (
        f"[contexts.a]\nprotected = {value}\n",
        f"default_context = {value}\n[contexts.a]\n",
        f"contexts = {value}",
    ):
        file.write_text(text)
        with pytest.raises(ConfigurationError):
            load_settings(config=file, environ={}, context="a" if "protected" in text else None)


@pytest.mark.parametrize("value", ["1", "yes please", "nan", "tru"])
def test_a_switch_of_the_aws_is_true_or_false(value: str, saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Botocore takes any other value for false."""
    monkeypatch.setenv("AWS_IGNORE_CONFIGURED_ENDPOINT_URLS", value)
    outcome = saltctl("config", "show", "-o", "json")
    assert outcome.code == 78
    assert "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS must be true or false" in outcome.error["message"]


@pytest.mark.parametrize("variable", ["SALTCTL_CONTEXT", "SALTCTL_CONFIG"])
@pytest.mark.parametrize("value", ["   ", "nan", "yes please", "9" * 5000])
def test_a_context_or_file_that_does_not_exist(
    saltctl: Runner, variable: str, value: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit 78, and not the default."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv(variable, value)
    assert saltctl("config", "show").code == 78


@pytest.mark.parametrize("variable", ["COLUMNS", "LINES", "NO_COLOR", "TERM"])
def test_a_terminal_that_cannot_be_is_ignored(saltctl: Runner, variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A table is printed as without the variable: its size matters less than the incident."""
    monkeypatch.delenv(variable, raising=False)
    expected = saltctl("config", "show", "-o", "table").out
    for value in ("   ", "9" * 5000, "0", "-5", "nan", "1_00", "\uff14\uff10", "120 columns", "99999999999"):
        monkeypatch.setenv(variable, value)
        outcome = saltctl("config", "show", "-o", "table")
        assert (outcome.code, outcome.out) == (0, expected), value
        assert os.environ.get(variable) in ((None,) if variable in ("COLUMNS", "LINES") else (value,))
