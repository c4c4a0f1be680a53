"""The output contract of every command: formats, keys, help, errors. commands.py lists the commands."""

from __future__ import annotations

import csv
import json
import re
import shlex
from pathlib import Path

import pytest

from saltctl.local.environment import LocalEnvironment
from saltctl.metrics import FIGURES, unnamed_figures
from tests.cli.commands import COMMANDS, Contract
from tests.cli.conftest import Runner
from tests.cli.tree import LEAVES, examples_of

WITH_DATA = [c for c in COMMANDS if c.returns_data and not c.slow]
ids = [f"{c.name} {' '.join(c.args)}".strip() for c in WITH_DATA]


@pytest.fixture
def config_file(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """The variable that names a file with a context for ``config use-context``, and none for ``config init``."""
    file = tmp_path / "config.toml"
    if "use-context" in request.node.name:
        file.write_text("[contexts.staging]\n")
    return {"SALTCTL_CONFIG": str(file)} if re.search("use-context|config init", request.node.name) else {}


@pytest.fixture
def few_salts(
    seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch, config_file: dict[str, str]
) -> LocalEnvironment:
    """The seeded environment, with a cap that lets an audit query 32 partitions instead of 256."""
    for name, value in {"SALTCTL_MAX_N_CAP": "32", **config_file}.items():
        monkeypatch.setenv(name, value)
    return seeded


def test_every_command_is_listed_in_the_contract() -> None:
    """A command without a contract cannot be added by accident."""
    assert set(LEAVES) == {c.name for c in COMMANDS}, "add it to tests/cli/commands.py"


@pytest.mark.parametrize("contract", WITH_DATA, ids=ids)
def test_json_is_one_document_with_every_key(contract: Contract, saltctl: Runner, few_salts: LocalEnvironment) -> None:
    """``-o json`` prints one document; each promised key is there, in order, null if unknown."""
    outcome = saltctl(*contract.name.split(), *contract.args, "-o", "json")
    assert outcome.code == contract.code, outcome.err
    document = outcome.json
    assert isinstance(document, list) is contract.listed
    records = document if contract.listed else [document]
    assert records, "the call in commands.py must show at least one record"
    for record in records:
        assert [key for key in record if key in contract.keys] == list(contract.keys)
        for job in (name for name in FIGURES if name == contract.name):
            if job != "history audit" or "--all" in contract.args:
                assert unnamed_figures(job, record) == [], "name the new numbers of the report in metrics.py"
        for key, inner in contract.nested.items():
            assert all(set(inner) <= set(item) for item in record[key])


@pytest.mark.parametrize("contract", WITH_DATA, ids=ids)
def test_jsonl_is_a_record_a_line(contract: Contract, saltctl: Runner, few_salts: LocalEnvironment) -> None:
    """``-o jsonl`` prints the same records, one a line; so are the lines on stderr."""
    outcome = saltctl(*contract.name.split(), *contract.args, "-o", "jsonl")
    records = [json.loads(line) for line in outcome.out.splitlines()]
    assert records
    for line in outcome.err.splitlines():
        assert isinstance(json.loads(line), dict)
    keys = contract.keys if contract.line_keys is None else contract.line_keys
    assert all(set(keys) <= set(record) for record in records)


@pytest.mark.parametrize("contract", WITH_DATA, ids=ids)
@pytest.mark.parametrize("form", ["tsv", "csv"])
def test_rows_have_every_column(contract: Contract, form: str, saltctl: Runner, few_salts: LocalEnvironment) -> None:
    """``-o tsv`` and ``-o csv`` print a header, and as many fields in every line."""
    outcome = saltctl(*contract.name.split(), *contract.args, "-o", form)
    lines = outcome.out.split("\n")
    assert lines.pop() == ""
    header, *rows = csv.reader(lines) if form == "csv" else [line.split("\t") for line in lines]
    assert rows
    assert {len(row) for row in rows} == {len(header)}
    columns = contract.keys if contract.columns is None else contract.columns
    assert {*header} >= {key for key in columns if key != "salted"}


@pytest.mark.parametrize("contract", WITH_DATA, ids=ids)
def test_the_default_in_a_pipe(contract: Contract, saltctl: Runner, few_salts: LocalEnvironment) -> None:
    """TSV of a command that lists records; of all others the text of a terminal, without colour."""
    lists = contract.listed or contract.rows
    outcome = saltctl(*contract.name.split(), *contract.args)
    same = saltctl(*contract.name.split(), *contract.args, "-o", "tsv" if lists else "table")
    assert outcome.code == contract.code, outcome.err
    assert ("\t" in outcome.out) is lists
    assert "\x1b" not in outcome.out
    # The second run finds what the first one has changed: its sentence differs, and the labels below it do not.
    labels, expected = (
        [re.sub(r"[\d.,:T-]+", "0", re.split(r"  |\t", line)[0]) for line in out.split("\n")[1:]]
        for out in (outcome.out, same.out)
    )
    assert labels == expected


@pytest.mark.slow
@pytest.mark.parametrize("contract", WITH_DATA, ids=ids)
@pytest.mark.parametrize(
    "columns",
    ["40", "80", *(pytest.param(c, marks=[pytest.mark.long, pytest.mark.exhaustive]) for c in ("60", "120"))],
)
def test_tables_fit_the_terminal(
    contract: Contract, columns: str, saltctl: Runner, few_salts: LocalEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``-o table`` obeys COLUMNS and cuts nothing off. What may be pasted, and one word, are never broken."""
    monkeypatch.setenv("COLUMNS", columns)
    outcome = saltctl(*contract.name.split(), *contract.args, "-o", "table")
    assert outcome.out.strip()
    wide = [line for line in outcome.out.splitlines() if len(line) > int(columns)]
    assert not [line for line in wide if len(line.split()) > 1 and not line.startswith("  saltctl ")]
    assert "…" not in outcome.out
    assert '{"' not in outcome.out, "people are shown no JSON"
    assert not [line for line in outcome.out.splitlines() if line != line.rstrip()], "no line ends with blanks"


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_help_says_what_for_and_shows_examples(name: str, saltctl: Runner) -> None:
    """``--help`` begins with the purpose of the command and ends with examples of this command."""
    outcome = saltctl(*name.split(), "--help")
    assert outcome.code == 0
    about = outcome.out.split("\n\n")[1].strip()
    assert about[0].isupper()
    assert about.rstrip().endswith(".")
    assert examples_of(name), f"{name} shows no example"
    assert all(example.startswith(f"saltctl {name}") for example in examples_of(name))


RUNNABLE = [
    pytest.param(example, marks=[pytest.mark.slow] if "--window" in example else [])
    for name in sorted(LEAVES)
    for example in examples_of(name)
    if not name.startswith(("local", "drill", "conform"))
    if name != "service run"  # it ends by a signal: tests/cli/detection/test_service.py
]
FINDS_SOMETHING = ("saltctl stream status", "saltctl service status", "saltctl throttle scan", "saltctl doctor")
BUT_NOT = "saltctl doctor --only redis,lease"
"""In the environment of the examples no service runs, and there was throttling: these commands find it (exit 3)."""


@pytest.mark.slow
@pytest.mark.parametrize("example", RUNNABLE)
def test_examples_work_when_pasted(
    example: str,
    saltctl: Runner,
    scratch: LocalEnvironment,
    config_file: dict[str, str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every example in a help text runs as it is in the local environment, next to an exported registry."""
    (tmp_path / "registry.jsonl").write_text('{"conversation_id": "conv_0300", "max_n": 2}\n')
    (tmp_path / "raises.tsv").write_text("conv_0301\t2\tlaunch day\n")
    monkeypatch.chdir(tmp_path)
    for name, value in config_file.items():
        monkeypatch.setenv(name, value)
    outcome = saltctl(*shlex.split(example.replace("--for 50s", "--for 1s"))[1:])  # it waits for its rate
    # Nothing is known to be idle where Redis was verified a moment ago.
    found = 6 if "--idle" in example else 3 if example.startswith(FINDS_SOMETHING) and example != BUT_NOT else 0
    assert outcome.code == found, outcome.err
    assert outcome.out


@pytest.mark.parametrize("name", sorted(LEAVES))
def test_usage_errors_are_json_too(name: str, saltctl: Runner) -> None:
    """An unknown option is exit 2, and with ``-o json`` one JSON line on stderr."""
    outcome = saltctl(*name.split(), "-o", "json", "--no-such-option")
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.error["code"] == "usage"
    assert outcome.error["exit_code"] == 2
    assert outcome.error["hint"].startswith("saltctl")


CONNECTED = [
    ("registry", "get", "x"),
    ("registry", "set", "x", "4", "--yes"),
    ("registry", "list"),
    ("rebuild",),
    ("compare",),
    ("setup",),
    ("history", "read", "x"),
    ("history", "find", "x", "m"),
    ("history", "audit", "x"),
    ("registry", "discover"),
]


@pytest.mark.parametrize("args", CONNECTED, ids=" ".join)
def test_without_configuration_the_hint_names_local_shell(args: tuple[str, ...], saltctl: Runner) -> None:
    """On a fresh machine every command that needs a server exits 78 and names `saltctl local shell`."""
    outcome = saltctl(*args, "-o", "json")
    assert outcome.code == 78
    assert outcome.error["code"] == "configuration"
    assert "saltctl local shell" in outcome.error["hint"]
