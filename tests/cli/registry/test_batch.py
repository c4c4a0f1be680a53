"""``saltctl registry set --file``: every line is understood before anything changes, and what is left is named."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from saltctl.cli.formats.delimited import tsv_field
from saltctl.cli.registry.batch import MAX_LINES, Wanted, read_wanted
from saltctl.errors import AwsUnavailableError, RefusedError, SaltctlError, UsageError, WrongTypeError
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import Runner
from tests.support import Rebuilder

KEYS = ["conversation_id", "before", "after", "changed", "committed", "dry_run", "problem"]


def read(content: bytes) -> list[Wanted]:
    """Read a file with this content; the default reason is ``why``."""
    return read_wanted(io.BytesIO(content), "f", 256, "why")


@pytest.mark.parametrize(
    "content",
    [
        b"a b\t4\tlaunch\nc\t2\n",
        b"conversation_id\tn\treason\r\na b\t4\tlaunch\r\nc\t2\t\r\n",
        b"\xef\xbb\xbfa b\t4\tlaunch\n\n  \nc\t2",
        b'{"conversation_id": "a b", "n": 4, "reason": "launch"}\n{"n": 2, "conversation_id": "c"}\n',
        b'a b\t4\tlaunch\n{"n": 2, "conversation_id": "c", "reason": null}\n',
    ],
)
def test_lines_are_tsv_or_json(content: bytes) -> None:
    """With or without a header, a reason, a byte order mark and empty lines; ids are not stripped."""
    assert [(item.conversation_id, item.n, item.reason) for item in read(content)] == [
        ("a b", 4, "launch"),
        ("c", 2, "why"),
    ]


@pytest.mark.parametrize("name", ["tab\there", "\\ttext", "back\\slash", "esc\x1b[2J", "a\rb"])
def test_ids_are_those_of_the_listings(name: str) -> None:
    """TSV escapes them, and so they are read: another id would be raised, for ever."""
    line = f"{tsv_field(name)}\t4\t{tsv_field(name)}\n"
    assert [(item.conversation_id, item.reason) for item in read(line.encode())] == [(name, name)]


NOT_UNDERSTOOD = [
    b"a\\q\t4",
    *(
        f"a\t{n}".encode()
        for n in ("", " 4", "+4", "-4", "4.0", "4e0", "0x4", "1_6", "nan", "true", "\uff14", "9" * 99)
    ),
    *(f'{{"conversation_id": "a", "n": {n}}}'.encode() for n in ("4.0", '"4"', "true", "null", "NaN", "1e400", "[4]")),
    *(f'{{"conversation_id": "a", "n": {n}}}'.encode() for n in ("9" * 5000, "Infinity", "-1" * 9)),
    *(f'{{"conversation_id": {i}, "n": 4}}'.encode() for i in ("1", "null", '["a"]')),
    b'{"conversation_id": "a", "n": 4, "reason": 1}',
    b'{"conversation_id": "a", "n": 4, "N": 8}',
    b'{"conversation_id": "a", "n": 4, "n": 8}',
    b'{"conversation_id": "a"}',
    b'{"conversation_id": "a", "n": 4',
    b"[" * 5000,
    b'["a", 4]',
    b"a\t4\t" + b"r" * 501,
    b"a 4",
    b"a",
    b"a\t4\tlaunch\tday",
    b"\xff\t4",
    b"a\t4\na\t4",
    b"a\t4\na\t8",
    b"conversation_id\tn",
    b"x" * 20_000,
    b"\n" * (MAX_LINES + 1),
]


@pytest.mark.parametrize("content", NOT_UNDERSTOOD, ids=lambda content: content[:40].decode(errors="replace"))
def test_what_is_not_understood_is_refused(content: bytes) -> None:
    """The error names the line, in words of ours, and the file is not used."""
    with pytest.raises(UsageError, match=r"^cannot use 'f': (line \d|it has more than)") as raised:
        read(content)
    assert "Exceeds the limit" not in raised.value.message
    assert len(raised.value.message) < 500
    assert raised.value.hint.split("\n")[-1] in (
        "saltctl registry set --file f --dry-run",
        "saltctl registry import --help",
    )


@pytest.mark.parametrize("content", [b"", b"\n", b" \n\r\n", b"\xef\xbb\xbf"])
def test_an_empty_file_is_refused(content: bytes) -> None:
    """The command before it in the pipe has failed; a header alone says that there is nothing to do."""
    with pytest.raises(UsageError, match=r"^cannot use 'f': it is empty$"):
        read(content)
    assert read(b"conversation_id\tn\treason\n") == []


@pytest.mark.parametrize("content", [b"conversation_id\tmax_n\na\t4\n", b'{"conversation_id": "a", "max_n": 4}\n'])
def test_a_listing_is_for_the_import(content: bytes) -> None:
    """The hint is the command that takes it."""
    with pytest.raises(UsageError, match="it is a listing with max_n") as raised:
        read(content)
    assert raised.value.hint == "saltctl registry import f --dry-run"


@pytest.mark.parametrize("content", [b"a#1\t4", b"\t4", b"a\t6", b"a\t0", b"a\t512", b'{"conversation_id":"a","n":-4}'])
def test_what_cannot_be_is_refused(content: bytes) -> None:
    """An id with a ``#``, and an N that is no power of two or above the cap, as on the command line: exit code 6."""
    with pytest.raises(RefusedError, match=r"^cannot use 'f': line 1: "):
        read(content)


def test_only_the_first_problems_are_listed() -> None:
    """The others are counted."""
    with pytest.raises(UsageError, match=r"line 1: .*; line 5: .* and 3 more$"):
        read(b"x\n" * 8)


@pytest.fixture
def raises(tmp_path: Path) -> Callable[[str], str]:
    """``raises("a\\t4\\n")`` writes a file and returns its name."""

    def write(content: str) -> str:
        (tmp_path / "raises.tsv").write_text(content)
        return str(tmp_path / "raises.tsv")

    return write


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ("", "CONV and N are missing"),
        ("a", "N is missing"),
        ("a 4 --file f", "cannot use --file with CONV and N"),
        ("--file /no/such --yes", "cannot read '/no/such'"),
        ("--file /proc --yes", "cannot read '/proc'"),
    ],
)
def test_either_a_file_or_a_conversation(
    saltctl: Runner, words: str, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One of them, and a file that can be read."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1")
    outcome = saltctl("registry", "set", *words.split())
    assert outcome.code == 2
    assert said in outcome.err


@pytest.mark.slow
def test_every_conversation_is_raised_with_its_reason(
    saltctl: Runner, configured: Settings, registry: Registry, rebuild: Rebuilder, raises: Callable[[str], str]
) -> None:
    """One confirmation for all; a dry run changes nothing; a second run has nothing to do."""
    rebuild()
    registry.raise_to("b", 2, reason="before")
    call = (
        "registry",
        "set",
        "--file",
        raises("a\t4\tlaunch\nb\t2\tnone\nc\t8\n"),
        "--reason",
        "default",
        "-o",
        "json",
    )
    dry = saltctl(*call, "--dry-run")
    assert dry.code == 0
    assert [list(record) for record in dry.json] == [KEYS] * 3
    assert [(r["before"], r["after"], r["changed"]) for r in dry.json] == [(1, 4, True), (2, 2, False), (1, 8, True)]
    assert saltctl(*call).code == 6
    assert [registry.lookup(i).max_n for i in "abc"] == [1, 2, 1]
    done = saltctl(*call, "--yes")
    assert done.code == 0
    assert [(r["after"], r["changed"], r["committed"]) for r in done.json] == [
        (4, True, True),
        (2, False, True),
        (8, True, True),
    ]
    found = saltctl("registry", "get", "a", "c", "-o", "json").json
    assert [record["raises"][-1]["reason"] for record in found] == ["launch", "default"]
    again = saltctl(*call)
    assert again.code == 0
    assert not any(record["changed"] for record in again.json)


@pytest.mark.slow
def test_a_lower_n_is_refused_before_anything_changes(
    saltctl: Runner, configured: Settings, registry: Registry, rebuild: Rebuilder, raises: Callable[[str], str]
) -> None:
    """The line is named."""
    rebuild()
    registry.raise_to("b", 8)
    outcome = saltctl("registry", "set", "--file", raises("a\t4\nb\t4\n"), "--yes", "-o", "json")
    assert outcome.code == 6
    assert "line 2: 'b' has 8 salts already" in outcome.error["message"]
    assert registry.lookup("a").max_n == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("failure", "done", "left"),
    [(WrongTypeError("damaged"), ["a", "c"], "b: "), (AwsUnavailableError("away"), ["a"], "b, c: ")],
    ids=["one conversation", "an outage"],
)
def test_what_is_left_is_named(
    saltctl: Runner,
    configured: Settings,
    registry: Registry,
    rebuild: Rebuilder,
    raises: Callable[[str], str],
    monkeypatch: pytest.MonkeyPatch,
    failure: SaltctlError,
    done: list[str],
    left: str,
) -> None:
    """A failure of one conversation stops no other, an outage does. Exit code 4, and the same command goes on."""
    rebuild()
    real, file = Registry.raise_to, raises("a\t2\nb\t2\nc\t2\n")

    def raise_to(self: Registry, conversation_id: str, n: int, **more: Any) -> Any:
        if conversation_id == "b":
            raise failure
        return real(self, conversation_id, n, **more)

    with monkeypatch.context() as patched:
        patched.setattr(Registry, "raise_to", raise_to)
        outcome = saltctl("registry", "set", "--file", file, "--yes", "-o", "json")
    assert outcome.code == 4
    assert [record["conversation_id"] for record in outcome.json if record["changed"]] == done
    assert f"raised {len(done)} of 3 conversations; not raised: {left}" in outcome.error["message"]
    assert outcome.error["hint"].endswith(f"saltctl registry set --file {file} --yes -o json")
    assert saltctl("registry", "set", "--file", file, "--yes").code == 0
    assert [registry.lookup(i).max_n for i in "abc"] == [2, 2, 2]


@pytest.mark.slow
def test_an_outage_before_the_first_raise_is_its_own_error(
    saltctl: Runner, configured: Settings, rebuild: Rebuilder, raises: Callable[[str], str], store: RedisRegistry
) -> None:
    """Nothing was done, so nothing is left: exit code 69."""
    rebuild()
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
        patched.setenv("SALTCTL_AWS_TIMEOUT", "1s")
        assert saltctl("registry", "set", "--file", raises("a\t2\n"), "--yes").code == 69


@pytest.mark.slow
def test_stdin_needs_yes(
    process: Callable[..., Any], configured: Settings, rebuild: Rebuilder, registry: Registry
) -> None:
    """A dash is stdin, which cannot be asked."""
    rebuild()
    line = json.dumps({"conversation_id": "a\tb", "n": 2, "reason": "a\tb"}) + "\n"
    assert process("registry", "set", "--file", "-", input=line).returncode == 6
    assert process("registry", "set", "--file", "-", "--yes", input=line).returncode == 0
    assert registry.lookup("a\tb").max_n == 2
