"""Hints: each line is a sentence, or a command that exists, with the root options in force."""

from __future__ import annotations

import ast
import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from saltctl.cli.app import COMMANDS, build
from saltctl.cli.hints import OBEYING, hint_lines, in_force, root_options
from saltctl.cli.main import run
from saltctl.cli.output import note, warn
from saltctl.commands import commands_in, hint_of, is_command, with_root_options
from tests.cli.tree import LEAVES
from tests.support.aws_cli import AWS_COMMAND, check_aws_command

PACKAGE = Path(__file__).parents[2] / "saltctl"
OF_THE_AWS_CLI_ALONE = ("configure list", "configure list-profiles", "configure sso", "sso login", "dynamodb wait")
"""Commands that are not operations of a service: botocore has no model of them."""
CALLS = ("hint_of", "dict.fromkeys")
VALUE = "4"
"""In place of a value that is put into a hint."""


def text_of(node: ast.AST) -> Iterator[str]:
    """Yield the texts that an expression can be, with VALUE in place of what is put in."""
    match node:
        case ast.Constant(value=str() as text):
            yield text
        case ast.JoinedStr():
            yield "".join(str(v.value) if isinstance(v, ast.Constant) else VALUE for v in node.values)
        case ast.BinOp(op=ast.Add()):
            for left in text_of(node.left):
                for right in text_of(node.right):
                    yield left + right
        case ast.Call() if ast.unparse(node.func) not in CALLS:
            return
        case ast.IfExp() | ast.BoolOp() | ast.Dict() | ast.Call() | ast.Tuple():
            for each in ast.iter_child_nodes(node):
                yield from text_of(each)


def hints() -> Iterator[tuple[str, str]]:
    """Yield each hint in the source, with its place: arguments and variables whose name speaks of hints or warnings."""
    for file in sorted(PACKAGE.rglob("*.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            values: list[ast.AST] = []
            if isinstance(node, ast.keyword) and "hint" in (node.arg or ""):
                values = [node.value]
            elif isinstance(node, ast.Assign | ast.AnnAssign) and node.value is not None:
                names = [node.target] if isinstance(node, ast.AnnAssign) else node.targets
                spoken = " ".join(map(ast.unparse, names)).lower()
                values = [node.value] if "hint" in spoken or spoken in NAMED else []
            elif isinstance(node, ast.Call) and ast.unparse(node.func) == "warn" and len(node.args) > 1:
                values = [node.args[1]]
            for value in values:
                for text in text_of(value):
                    yield f"{file.relative_to(PACKAGE)}:{value.lineno}", text  # type: ignore[attr-defined]


NAMED = {"_recover", "_restart", "_login", "_doctor", "no_home", "new_or_lost", "restore", "if_lost", "_key_files"}
NAMED |= {"wait_command", "(every, wait_command)"}
"""Constants and variables that are hints, in lower case."""
LINES = sorted({(place, line) for place, text in hints() for line in text.splitlines() if line})


def test_the_walk_finds_hints() -> None:
    """Commands and sentences, in all parts of the package."""
    assert len(LINES) > 150
    assert len([line for _, line in LINES if is_command(line)]) > 50
    assert {place.split("/")[0] for place, _ in LINES} >= {"cli", "stores", "rebuild", "registry", "detection"}


@pytest.mark.parametrize(("place", "line"), LINES)
def test_a_line_of_a_hint_is_a_command_or_a_sentence(place: str, line: str) -> None:
    """A command is complete and exists; a sentence begins with no command, and ends with none."""
    if is_command(line):
        check_command(line)
        return
    assert not re.match(r"-|saltctl\b|redis-cli\b|aws ", line), f"{place}: {line!r} looks like a command, and is none"
    assert not re.search(r"[:;,(] ?(saltctl|redis-cli|aws) [a-z]", line), f"{place}: {line!r} hides a command"
    assert "try: " not in line


def check_command(line: str) -> None:
    """Assert that each command of a line exists, with options that exist, and the arguments that it needs."""
    assert "…" not in line
    for command in line.split(" && "):
        words = shlex.split(command.split(" > ")[0].replace(f"--take-over {VALUE}", "--take-over 0123456789abcdef"))
        if words[0] == "saltctl":
            check_saltctl(words[1:])
        elif words[0] == "aws" and not command.removeprefix("aws ").startswith(OF_THE_AWS_CLI_ALONE):
            assert AWS_COMMAND.search(command)
            check_aws_command(command)


def check_saltctl(words: list[str]) -> None:
    """Assert that a saltctl command exists, and takes these words."""
    root = build()
    while words and words[0].startswith("--"):  # the root's options
        assert any(words[0] in param.opts for param in root.params), words
        words = words[2:]
    name = next((" ".join(words[:size]) for size in (3, 2, 1) if " ".join(words[:size]) in LEAVES), None)
    assert name is not None, words
    given = words[len(name.split()) :]
    if "--help" in given:
        return
    command = LEAVES[name]
    assert command.make_context(name, given, resilient_parsing=False) is not None  # type: ignore[attr-defined]


def test_options_go_into_every_command_once() -> None:
    """A quoted id, a word that is no command, and a command that has its options already stay as they are."""
    options, names = ["--context", "prod eu"], COMMANDS.keys()
    text = "saltctl rebuild && saltctl setup; saltctl needs 'saltctl rebuild'; `saltctl status`, group's saltctl doctor"
    once = with_root_options(text, options, names)
    at = "saltctl --context 'prod eu'"
    assert once == (f"{at} rebuild && {at} setup; saltctl needs 'saltctl rebuild'; `{at} status`, group's {at} doctor")
    assert with_root_options(once, options, names) == once
    assert with_root_options(text, [], names) == text


def test_lines_of_a_hint() -> None:
    """``try:`` stands before commands alone."""
    ping = 'REDISCLI_AUTH="$(cat f)" redis-cli -p 1 PING'
    hint = hint_of("nothing is lost", "", "wait\nsaltctl rebuild", "saltctl rebuild", ping)
    assert list(hint_lines(hint)) == [
        "  nothing is lost",
        "  wait",
        "  try: saltctl rebuild",
        f"  try: {ping}",
    ]
    assert commands_in(hint) == ["saltctl rebuild", ping]


def test_local_commands_use_no_context() -> None:
    """They set their own servers; all others obey the options of the root."""
    assert {"local", "drill", "conform", "completion"} == COMMANDS.keys() - OBEYING
    token = root_options.set(["--context", "prod"])
    try:
        assert in_force("saltctl local shell, saltctl status") == "saltctl local shell, saltctl --context prod status"
    finally:
        root_options.reset(token)


def test_notes_and_warnings_have_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    """And the next command in the same process none of them."""
    token = root_options.set(["--config", "/etc/my file.toml"])
    try:
        note("more: saltctl history read conv")
        warn("not verified", "saltctl rebuild")
    finally:
        root_options.reset(token)
    assert capsys.readouterr().err == (
        "more: saltctl --config '/etc/my file.toml' history read conv\n"
        "warning: not verified\n  try: saltctl --config '/etc/my file.toml' rebuild\n"
    )


def test_errors_have_the_options_of_their_command(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of each command anew."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\nredis_url = 'redis://127.0.0.1:1/0'\n")
    monkeypatch.delenv("SALTCTL_REDIS_URL", raising=False)
    given = ["--config", str(file), "--context", "prod"]
    assert run([*given, "stream", "status"]) == 69
    error = capsys.readouterr().err
    shown = f"saltctl --context prod --config {file}"
    assert f"  try: {shown} doctor --only redis\n  try: {shown} rebuild --wait-redis 15m\n" in error
    assert run(["registry", "gte"]) == 2
    assert "--context" not in capsys.readouterr().err


def test_commands_of_the_aws_cli_lead_to_the_account_in_force(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They have what the context sets, and after it the next command in the same process nothing."""
    file = tmp_path / "config.toml"
    file.write_text("[contexts.prod]\nredis_url = 'redis://127.0.0.1:1/0'\naws_region = 'eu-west-1'\n")
    monkeypatch.delenv("AWS_REGION", raising=False)
    monkeypatch.delenv("AWS_DEFAULT_REGION", raising=False)
    create = ["throttle", "alarms", "create", "--sns", "nonsense"]
    assert run(["--config", str(file), "--context", "prod", *create]) == 2
    assert capsys.readouterr().err.endswith("\n  try: aws --region eu-west-1 sns list-topics\n")
    assert run(create) == 2
    assert capsys.readouterr().err.endswith("\n  try: aws sns list-topics\n")


def test_a_url_with_a_password_is_in_no_hint(capsys: pytest.CaptureFixture[str]) -> None:
    """It is refused, and a note that follows does not show it."""
    assert run(["--redis-url", "redis://user:geheim@127.0.0.1:1", "doctor"]) == 2
    note("saltctl rebuild")
    assert "geheim" not in capsys.readouterr().err
