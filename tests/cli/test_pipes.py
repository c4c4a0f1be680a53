"""Data survives pipes: the ids that a listing prints are the ids that commands take."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from saltctl.cli.formats.delimited import tsv_value
from saltctl.history.history import History
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner
from tests.cli.detection.helpers import report
from tests.support import Rebuilder
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow

SHAPES = (
    *("-dash", "--help", "-o", "-", "=1+1", "@x", "+1", "'-quoted", " a ", "  ", "a b", "a,b", '"a"', "$(a)", "*"),
    *(
        "a\tb",
        "a\nb",
        "\n",
        "\r",
        "a\r",
        "\x1b[31m",
        "\x00",
        "\x7f",
        "\x85",
        "\u2028",
        "\ufeffa",
        "\u202egnp",
        "a\u200b",
    ),
    *("e\u0301", "\u00e9", "\U0001f469\u200d\U0001f680", "\u2764\ufe0f", "\u4f60\u597d", "\U000e0001", "\ufdd0"),
    *("\\", "\\t", "\\x1b", "a\\", "\\u202e", "{", "[", '{"conversation_id": "a"}', "conversation_id", "x" * 2000),
)
IDS = st.one_of(
    st.sampled_from(SHAPES), st.text(st.characters(codec="utf-8", exclude_characters="#"), min_size=1, max_size=30)
)
FORMS = ("tsv", "jsonl", "json")


def parsed(form: str, text: str) -> list[dict[str, Any]]:
    """Return the records of a command's output, as a program reads them."""
    if form == "json":
        document = json.loads(text)
        assert isinstance(document, list)
        return document
    lines = text.split("\n")
    assert lines.pop() == ""
    if form == "jsonl":
        return [json.loads(line) for line in lines]
    keys = lines.pop(0).split("\t")
    return [dict(zip(keys, map(tsv_value, line.split("\t")), strict=True)) for line in lines]


def ids_in(form: str, text: str) -> list[str]:
    """Return the conversation ids in a command's output."""
    return [record["conversation_id"] for record in parsed(form, text)]


def examples(number: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Run a test with lists of ids; its servers are the same for all of them, and its registry grows."""
    settings = hypothesis_settings(
        max_examples=number, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    )

    def decorate(test: Callable[..., None]) -> Callable[..., None]:
        return settings(given(ids=st.lists(IDS, min_size=8, max_size=16, unique=True))(test))

    return decorate


@pytest.fixture
def salted(configured: Settings, registry: Registry, rebuild: Rebuilder) -> Callable[[list[str]], set[str]]:
    """``salted(ids)`` raises conversations, and returns all that are raised so far. All of SHAPES are at first."""
    rebuild()
    done: set[str] = set()

    def salt(ids: list[str]) -> set[str]:
        for conversation in {*ids} - done:
            registry.raise_to(conversation, 2)
            done.add(conversation)
        return done

    salt(list(SHAPES))
    return salt


@examples(3)
def test_what_a_list_prints_get_takes(
    ids: list[str], saltctl: Runner, salted: Callable[[list[str]], set[str]], tmp_path: Path
) -> None:
    """In every format, from each side: as a file, as arguments, and the export."""
    everything = salted(ids)
    file = tmp_path / "listing"
    for form in FORMS:
        for source in ("redis", "backup"):
            listing = saltctl("registry", "list", "--source", source, "-o", form)
            assert sorted(ids_in(form, listing.out)) == sorted(everything), listing.err
        file.write_text(listing.out, newline="")
        got = saltctl("registry", "get", "--ids-from", str(file), "-o", form)
        assert got.code == 0, got.err
        assert ids_in(form, got.out) == ids_in(form, listing.out)
        assert {str(record["max_n"]) for record in parsed(form, got.out)} == {"2"}
        named = saltctl("registry", "get", "-o", form, "--", *ids)
        # As `jq -r` prints them; what would not come back as it is, is refused.
        file.write_text("".join(f"{name}\n" for name in ids), newline="")
        plain = saltctl("registry", "get", "--ids-from", str(file), "-o", form)
        assert plain.code == 2 or ids_in(form, plain.out) == ids
        assert ids_in(form, named.out) == ids, named.err
        assert {str(record["max_n"]) for record in parsed(form, named.out)} == {"2"}
    assert sorted(ids_in("jsonl", saltctl("registry", "export").out)) == sorted(everything)


@examples(2)
def test_compare_names_the_ids(
    ids: list[str],
    saltctl: Runner,
    salted: Callable[[list[str]], set[str]],
    redis_server: LocalRedis,
    rebuild: Rebuilder,
) -> None:
    """All that a Redis lacks which lost everything."""
    everything = salted(ids)
    with plain_client(redis_server) as client:
        client.flushall()
    drift = saltctl("compare", "-o", "json").json["drift"]
    rebuild()
    assert sorted(found["conversation_id"] for found in drift) == sorted(everything)


@pytest.fixture
def history(configured: Settings, registry: Registry) -> Iterator[History]:
    """The messages of the test, none yet."""
    table = MessagesTable(configured)
    table.create()
    with History.over(configured, registry, table) as opened:
        yield opened


@examples(2)
def test_a_history_is_read_by_its_id(
    ids: list[str],
    saltctl: Runner,
    salted: Callable[[list[str]], set[str]],
    history: History,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its messages have the id, a raise and an audit take it, and a scan of the messages finds it."""
    monkeypatch.setenv("SALTCTL_MAX_N_CAP", "4")  # an audit queries each of these partitions
    salted(ids)
    for conversation in ids[:3]:
        history.put(conversation, "2026-07-01T08:00:00Z", {"message_id": "m1", "text": conversation})
        read = saltctl("history", "read", "-o", "json", "--", conversation)
        assert read.json["conversation_id"] == conversation, read.err
        assert [message["text"] for message in read.json["messages"]][-1] == conversation
        (row, *_) = parsed("tsv", saltctl("history", "read", "-o", "tsv", "--", conversation).out)
        assert row["partition_key"].rpartition("#")[0] == conversation
        assert json.loads(row["message"])["text"] == conversation
        assert saltctl("history", "audit", "-o", "json", "--", conversation).json["conversation_id"] == conversation
        raised = saltctl("registry", "set", "--dry-run", "-o", "json", "--", conversation, "4")
        assert (raised.json["conversation_id"], raised.json["before"]) == (conversation, 2)
    for form in ("tsv", "jsonl"):
        found = saltctl("registry", "discover", "-o", form)
        assert {*ids[:3]} <= {*ids_in(form, found.out)}


@examples(3)
def test_the_stream_shows_the_ids(ids: list[str], saltctl: Runner, configured: Settings) -> None:
    """Those of the reports, as servers sent them."""
    stream = HeatStream(configured)
    first = report(stream, *ids)[-len(ids)]
    stream.close()
    for form in FORMS:
        assert ids_in(form, saltctl("stream", "peek", "--from", first, "-o", form).out) == ids


@pytest.fixture
def shell(configured: Settings) -> Callable[[str], subprocess.CompletedProcess[bytes]]:
    """``shell("saltctl registry list | wc -l")`` runs a pipeline in a real shell."""

    def run(script: str) -> subprocess.CompletedProcess[bytes]:
        script = script.replace("saltctl", f"{shlex.quote(sys.executable)} -m saltctl")
        return subprocess.run(  # noqa: S602  a shell is what is tested
            f"set -o pipefail; {script}", shell=True, executable="/bin/bash", capture_output=True, check=False
        )

    return run


def test_a_pipeline_takes_what_a_list_prints(
    shell: Callable[[str], subprocess.CompletedProcess[bytes]], salted: Callable[[list[str]], set[str]]
) -> None:
    """From process to process nothing is lost: every id is salted."""
    done = shell("saltctl registry list | saltctl registry get --ids-from - -o jsonl")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    assert {record["conversation_id"]: record["max_n"] for record in found} == dict.fromkeys(SHAPES, 2)


def test_xargs_passes_ids_that_need_no_escape(
    shell: Callable[[str], subprocess.CompletedProcess[bytes]], salted: Callable[[list[str]], set[str]]
) -> None:
    """A line is an argument; ``--`` lets an id begin with a dash. Escaped ids are for ``--ids-from``."""
    lines = "saltctl registry list | tail -n +2 | cut -f1 | grep -v '[\\]'"
    done = shell(rf"{lines} | tr '\n' '\0' | xargs -0 saltctl registry get -o jsonl --")
    assert done.returncode == 0, done.stderr
    found = [json.loads(line) for line in done.stdout.decode().split("\n")[:-1]]
    plain = [name for name in SHAPES if "\\" not in name and name.isprintable() | (name[0] in "\u2028\ufeff\u202e")]
    assert {*plain} <= {record["conversation_id"] for record in found}
    assert {record["max_n"] for record in found} == {2}


@pytest.mark.parametrize(("args", "stdin"), [((), ""), (("a", "--ids-from", "-"), ""), (("--ids-from", "-"), "a\tb\n")])
def test_ids_are_typed_or_listed(
    args: tuple[str, ...], stdin: str, process: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    """One of the two, and a listing has its header."""
    done = process("registry", "get", *args, input=stdin)
    assert (done.returncode, done.stdout) == (2, "")
    assert "--ids-from" in done.stderr or "not below a TSV header" in done.stderr


def test_the_command_for_the_next_page_takes_the_id(saltctl: Runner, history: History, rebuild: Rebuilder) -> None:
    """An id that begins with a dash comes last, after ``--``, and the cursor before it."""
    rebuild()
    for number in range(3):
        history.put("-dash", f"2026-07-01T08:00:0{number}Z", {"message_id": f"m{number}"})
    shown = saltctl("history", "read", "--limit", "1", "-o", "jsonl", "--", "-dash")
    command = shlex.split(shown.told.partition("more: ")[2])
    assert command[-2:] == ["--", "-dash"]
    following = saltctl(*command[1:3], "-o", "json", *command[3:]).json
    assert [message["message_id"] for message in following["messages"]] == ["m1"]


LONG = ("tenant-0042:" + "x" * 120, "会話-" * 12 + "东京", "\U0001f680" * 30, "two words, and " * 5, "c")


@pytest.mark.parametrize("columns", [40, 60, 80, 120])
def test_a_table_shows_every_id_whole(
    columns: int,
    saltctl: Runner,
    configured: Settings,
    history: History,
    registry: Registry,
    rebuild: Rebuilder,
    redis_server: LocalRedis,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """On a terminal of any width an id is on one line, and every column is there."""
    rebuild()
    ids = [name.strip() for name in LONG]
    for conversation in ids:
        registry.raise_to(conversation, 2, reason="launch day of the new product")
        history.put(conversation, "2026-07-01T08:00:00Z", {"message_id": "m1", "text": "x"})
    stream = HeatStream(configured)
    report(stream, *ids)
    stream.close()
    monkeypatch.setenv("COLUMNS", str(columns))
    shown = {
        "max_n": saltctl("registry", "list", "-o", "table").out,
        "write_n, in sync, last raise": saltctl("registry", "get", "-o", "table", "--", *ids).out,
        "server, window, writes, valid": saltctl("stream", "peek", "-o", "table").out,
        "needed N, state, problem": saltctl("registry", "discover", "-o", "table").out,
    }
    with plain_client(redis_server) as client:
        client.flushall()
    shown["kind, redis, backup, write_n"] = saltctl("compare", "-o", "table").out
    for titles, out in shown.items():
        for conversation in ids:
            assert any(conversation in line for line in out.split("\n")), titles
        assert all(title in out for title in titles.split(", "))
    audit = saltctl("history", "audit", "-o", "table", "--", ids[0]).out
    assert all(f"{ids[0]}#{salt}" in audit for salt in range(2))
