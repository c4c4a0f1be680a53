"""``saltctl conform``: its verdict is its exit code, and what a client prints cannot harm a terminal."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict
from functools import partial
from pathlib import Path
from unittest.mock import patch

import pytest

from saltctl.cli.local.conform import EXAMPLE
from saltctl.conformance.judge import MOST_CHARACTERS, Finding
from saltctl.conformance.trial import CHECKS, Checked
from saltctl.conformance.vectors import vectors_text
from tests.cli.conftest import Runner
from tests.support.redis_servers import eventually

NODE = ("node", str(Path(__file__).parents[2] / "conformance" / "client.mjs"))
RULE_LINES = 300


@pytest.fixture(autouse=True)
def _same_environment() -> Iterator[None]:
    """The local environment gives its process dummy credentials."""
    with patch.dict(os.environ):
        yield


def test_the_vectors_are_printed(saltctl: Runner) -> None:
    """They are the file of the package, as one JSON document."""
    outcome = saltctl("conform", "--vectors")
    assert (outcome.code, outcome.out) == (0, vectors_text())
    assert outcome.json["lookup_script_sha1"]


@pytest.mark.parametrize(
    ("words", "hint"),
    [
        ((), EXAMPLE),
        (("--vectors", "--", "node"), "saltctl conform --vectors"),
        (("--", "no-such-program"), EXAMPLE),
        (("--", os.devnull), EXAMPLE),
        (("--only", "no-such", "--", "true"), f"the checks are {', '.join(CHECKS)}"),
        (("--answer-timeout", "0", "--", "true"), ""),
    ],
)
def test_what_cannot_be_tried(saltctl: Runner, words: tuple[str, ...], hint: str) -> None:
    """A command that is missing or cannot be started is a usage error, before any server is started."""
    outcome = saltctl("conform", "-o", "json", *words)
    assert (outcome.code, outcome.out) == (2, "")
    assert outcome.error["hint"] == hint or not hint


def test_findings_are_rows(saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of TSV and CSV; JSON has each value as it is, and names those that are cut."""
    found = Finding.of("a step", "2.3", asked={"op": "lookup"}, answered="x" * 9000, expected={"max_n": 1})
    checks = [Checked("ids", passed=True), Checked("raises", passed=False, findings=[found, found], more=3)]
    record = {"passed": False, "seed": 1, "seconds": 1.0, "checks": list(map(asdict, checks))}
    monkeypatch.setattr("saltctl.cli.local.conform._try", lambda *_, **__: record)
    outcome = saltctl("conform", "-o", "tsv", "--", "true")
    header, *rows = (line.split("\t") for line in outcome.out.splitlines())
    assert (outcome.code, header) == (3, ["check", "passed", "ran", "rule", "step", "asked", "answered", "expected"])
    assert [row[:5] for row in rows] == [
        ["ids", "true", "true", "", ""],
        *2 * [["raises", "false", "true", "2.3", "a step"]],
    ]
    assert rows[1][5:] == ['{"op": "lookup"}', "x" * MOST_CHARACTERS, '{"max_n": 1}']
    check = saltctl("conform", "-o", "json", "--", "true").json["checks"][1]
    assert check["findings"][0] | {"answered": ""} == {
        **{"step": "a step", "rule": "2.3", "asked": {"op": "lookup"}, "answered": "", "expected": {"max_n": 1}},
        "cut": ["answered"],
    }
    assert check["more"] == 3


@pytest.mark.slow
def test_a_client_in_javascript(saltctl: Runner) -> None:
    """It passes every check. The gate installs Node, or says that it is skipped: see .ci/run."""
    if shutil.which("node") is None:
        assert "SALTCTL_TEST_NODE" not in os.environ
        pytest.skip("there is no node")
    outcome = saltctl("conform", "-o", "json", "--seed", "7", "--", *NODE)
    found = outcome.json
    assert [check["name"] for check in found["checks"]] == list(CHECKS)
    assert [finding for check in found["checks"] for finding in check["findings"]] == []
    assert [check["note"] for check in found["checks"] if check["note"]] == []
    assert (outcome.code, found["passed"], found["seed"]) == (0, True, 7)
    assert len(Path(NODE[1]).read_text(encoding="utf-8").splitlines()) <= RULE_LINES


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("client", ["saltctl.conformance.python_client", "tests.conformance.loop_client"])
def test_the_clients_in_python(saltctl: Runner, monkeypatch: pytest.MonkeyPatch, client: str) -> None:
    """Without and with an event loop, they pass every check, as processes; others here call them in this process."""
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[3]))
    outcome = saltctl("conform", "-o", "json", "--", sys.executable, "-m", client)
    assert outcome.code == 0, outcome.out


@pytest.mark.slow
def test_a_hostile_client(saltctl: Runner) -> None:
    """It is started three times at most; the rule and its last words are shown, without control characters."""
    code = "import sys; input(); sys.stderr.write('\\x1b[31mred\\u202e'); sys.exit(5)"
    names = ("ids", "raises", "writes", "reads")
    options = [word for name in names for word in ("--only", name)]
    outcome = saltctl("conform", *options, "--", sys.executable, "-c", code)
    assert outcome.code == 3
    assert f"FAILED: {', '.join(names)}" in outcome.out
    assert outcome.out.count("rule 9.1 of saltctl help client-protocol") == 3
    assert outcome.out.count("not run: the client ended") == 1
    assert "\\x1b[31mred\\u202e" in "".join(outcome.out.split())
    assert not {"\x1b", "\u202e"} & set(outcome.out)


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_it_with_its_client(signum: signal.Signals, tmp_path: Path) -> None:
    """No process is left, even of a client that ignores signals and has children."""
    pids = tmp_path / "pids"
    code = f"trap '' INT TERM HUP; read line; sleep 60 & echo $$ $! > {pids}.new; mv {pids}.new {pids}; sleep 60"
    command = [sys.executable, "-m", "saltctl", "conform", "--", "sh", "-c", code]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as running:
        eventually(pids.exists, "the client has its first request")
        running.send_signal(signum)
        running.communicate(timeout=30)
    assert running.returncode == 128 + signum
    for pid in map(int, pids.read_text().split()):
        eventually(partial(_has_ended, pid), f"{pid} has ended")


def _has_ended(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (FileNotFoundError, ProcessLookupError):
        return True
