"""``saltctl history`` and ``registry discover``: what they show, what they refuse, and how they end."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from decimal import Decimal
from typing import Any

import pytest

from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry
from saltctl.salting import salt_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.aws_stub import AwsStub, refusal

pytestmark = pytest.mark.slow

ESC = "\x1b"
CONV = "conv"


@pytest.fixture
def history(configured: Settings, registry: Registry, rebuild: Rebuilder) -> Iterator[History]:
    """The test's own messages table, and a verified registry where the conversation has four salts."""
    rebuild()
    registry.raise_to(CONV, 4)
    table = MessagesTable(configured)
    table.create()
    with History.over(configured, registry, table) as opened:
        yield opened


def fill(history: History, count: int, **more: Any) -> list[str]:
    """One message a minute; their ids, newest first."""
    for number in range(count):
        attributes = {"sender": f"user_{number % 3}", "text": f"text {number}", **more}
        history.put(CONV, f"2026-07-01T08:{number:02d}:00.000Z#m{number}", attributes)
    return [f"m{number}" for number in reversed(range(count))]


def ids(document: dict[str, Any]) -> list[str]:
    """The ids of a document's messages."""
    return [message["sort_key"].partition("#")[2] for message in document["messages"]]


def test_pages_follow_their_cursors(saltctl: Runner, history: History) -> None:
    """Newest first by ``--before``, oldest first by ``--after``, and null at the end."""
    expected = fill(history, 12)
    first = saltctl("history", "read", CONV, "--limit", "5", "-o", "json").json
    second = saltctl("history", "read", CONV, "--limit", "5", "--before", first["next_cursor"], "-o", "json").json
    third = saltctl("history", "read", CONV, "--limit", "5", "--before", second["next_cursor"], "-o", "json").json
    assert ids(first) + ids(second) + ids(third) == expected
    assert third["next_cursor"] is None
    back = saltctl(
        "history", "read", CONV, "--oldest-first", "--after", second["prev_cursor"], "--limit", "50", "-o", "json"
    ).json
    assert ids(back) == expected[:5][::-1]
    assert (first["complete"], first["max_n"], first["source"]) == (True, 4, "redis")
    assert [shard["partition_key"] for shard in first["shards"]] == [CONV, *(f"{CONV}#{salt}" for salt in range(4))]


def test_all_streams_in_every_format(saltctl: Runner, history: History) -> None:
    """The same messages in JSON, JSONL and TSV; JSON stays one document with its account at the end."""
    expected = fill(history, 30)
    document = saltctl("history", "read", CONV, "--all", "-o", "json").json
    assert ids(document) == expected
    assert list(document)[:4] == ["conversation_id", "messages", "next_cursor", "complete"]
    lines = saltctl("history", "read", CONV, "--all", "-o", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == document["messages"]
    header, *rows = saltctl("history", "read", CONV, "--all").out.splitlines()
    assert header.split("\t") == ["sort_key", "message_id", "partition_key", "message"]
    assert [row.split("\t")[1] for row in rows] == expected


def test_bounds_of_time(saltctl: Runner, history: History) -> None:
    """From ``--since`` on and below ``--until``, in UTC whatever zone was typed; 100d is a hundred days ago."""
    expected = fill(history, 10)

    def read(*args: str) -> list[str]:
        return ids(saltctl("history", "read", CONV, "-o", "json", *args).json)

    assert read("--since", "2026-07-01T08:03", "--until", "2026-07-01T08:06:00Z") == expected[4:7]
    assert read("--since", "2026-07-01T10:03:00+02:00") == expected[:7]
    assert read("--since", "2026-07-01", "--until", "2026-07-02") == expected
    assert read("--until", "2026-07-01") == []
    assert read("--until", "36500d") == []
    assert read("--since", "2026-07-01T08:03:00.000Z#m3") == expected[:7]


def test_numbers_are_exact_and_binary_is_base64(saltctl: Runner, history: History) -> None:
    """No float ever sees a number, and every type has its JSON."""
    value = {
        "n": Decimal("12345678901234567890.123456789012345678"),
        "cents": Decimal("0.10"),
        "b": b"\x00\xff",
        "ns": {Decimal("2"), Decimal("1.5")},
        "ss": {"b", "a"},
        "null": None,
        "bool": True,
        "l": [1, {"m": b"x"}],
    }
    history.put(CONV, "t#m", value)
    for form in ("json", "jsonl"):
        out = saltctl("history", "read", CONV, "-o", form).out
        document = json.loads(out, parse_float=Decimal)
        (message,) = document["messages"] if form == "json" else [document]
        assert message["n"] == value["n"]
        assert "12345678901234567890.123456789012345678" in out
        assert (message["b"], message["ns"], message["ss"]) == ("AP8=", [Decimal("1.5"), 2], ["a", "b"])
        assert (message["null"], message["bool"], message["l"]) == (None, True, [1, {"m": "eA=="}])


@pytest.mark.parametrize("columns", ["80", "120"])
def test_hostile_text_is_shown_as_what_it_is(
    saltctl: Runner, history: History, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """No escape, override or markup reaches the terminal, and nothing is wider than it."""
    monkeypatch.setenv("COLUMNS", columns)
    text = f"{ESC}[31mred{ESC}[0m [bold]x[/bold] \u202eevil\x9b2J \x07 " + "long" * 60 + "\nsecond line\twith tab"
    history.put(CONV, f"2026-07-01T08:00:00Z#m{ESC}", {"sender": f"a{ESC}]0;t\x07", "text": text})
    history.put(CONV, f"{ESC}x", {"body": "no time here"})
    history.put(CONV, "2026-07-01T08:01:00Z#m2", {"data": {"only": [f"{ESC}attributes"]}})
    outcome = saltctl("history", "read", CONV, "-o", "table")
    assert outcome.code == 0
    assert all(c.isprintable() or c == "\n" for c in outcome.out)
    assert "\\x1b[31mred" in outcome.out
    assert "[bold]x[/bold]" in outcome.out
    assert "no time here" in outcome.out
    assert "attributes" in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= int(columns)
    for form in ("json", "jsonl", "tsv"):
        printed = saltctl("history", "read", CONV, "-o", form).out
        assert all(c.isprintable() or c in "\n\t" for c in printed)


def test_a_chat_on_a_terminal(saltctl: Runner, history: History) -> None:
    """The day once, then time, sender and text; below it an account of every partition and the way on."""
    fill(history, 9)
    outcome = saltctl("history", "read", CONV, "--limit", "3", "-o", "table")
    lines = [line.rstrip() for line in outcome.out.splitlines()]
    assert lines[:4] == [
        "2026-07-01 UTC",
        "08:08:00.000  user_2  text 8",
        "08:07:00.000  user_1  text 7",
        "08:06:00.000  user_0  text 6",
    ]
    assert "3 messages of conv, newest first" in outcome.out
    for salt in range(4):
        assert f"conv#{salt}" in outcome.out
    # What is told can be pasted.
    command = outcome.err.strip().removeprefix("more: saltctl ")
    assert "text 5" in saltctl(*shlex.split(command), "-o", "table").out


def test_what_reads_on_keeps_what_was_asked(saltctl: Runner, history: History) -> None:
    """The command for the next page has the bounds, the limit and the direction of this one, and quotes the id."""
    conversation = "a b; touch $(pwned) 'x'"
    for minute in range(6):
        at = f"2026-03-01T08:0{minute}:00.000Z"
        history.put(conversation, f"{at}#m{minute}", {"text": f"text {minute}"})
    bounds = ("--since", "2026-03-01T08:01:00Z", "--until", "2026-03-01T08:04:00Z")
    first = saltctl("history", "read", conversation, "--limit", "2", "--oldest-first", *bounds, "-o", "table")
    words = shlex.split(first.err.strip().removeprefix("more: saltctl "))
    assert words[2] == conversation
    second = saltctl(*words, "-o", "json").json
    assert [message["text"] for message in second["messages"]] == ["text 3"]


def test_an_unknown_conversation_is_an_empty_history(saltctl: Runner, history: History) -> None:
    """Exit 0, and it says that it looked and where."""
    outcome = saltctl("history", "read", "nobody", "-o", "json")
    assert outcome.code == 0
    assert (outcome.json["messages"], outcome.json["complete"], outcome.json["next_cursor"]) == ([], True, None)
    assert "no messages in nobody (max_n 1" in outcome.err


def test_explain_sends_no_query(
    saltctl: Runner, history: History, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It shows the first requests; the table sees none of them."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.settings(settings).aws_endpoint_url or "")
        outcome = saltctl("history", "read", CONV, "--explain", "--eventual", "--since", "2026", "-o", "json")
    assert "Query" not in stub.seen
    first = outcome.json["requests"][1]
    assert (first["partition_key"], first["order"], first["from"], first["to"], first["consistent"]) == (
        f"{CONV}#0",
        "newest first",
        "2026",
        None,
        False,
    )


@pytest.mark.parametrize("cursor", ["nonsense", "", "damaged", "of another"])
def test_a_cursor_that_is_none_is_refused(saltctl: Runner, history: History, cursor: str) -> None:
    """Damaged, invented, or of another conversation: exit 6, and nothing is read."""
    fill(history, 4)
    good = history.page(CONV, ReadOptions(limit=1)).next_cursor or ""
    given = {"damaged": good[:-2] + ("AA" if not good.endswith("AA") else "BB"), "of another": good}
    conversation = "other" if cursor == "of another" else CONV
    outcome = saltctl("history", "read", conversation, "--before", given.get(cursor, cursor), "-o", "json")
    assert outcome.code == 6
    assert outcome.error["code"] == "invalid_cursor"
    assert outcome.out == ""


def test_all_takes_no_limit(saltctl: Runner, configured: Settings) -> None:
    """The two say different things."""
    assert saltctl("history", "read", CONV, "--all", "--limit", "5").code == 2


@pytest.fixture
def throttled(
    saltctl: Runner, history: History, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> Iterator[list[str]]:
    """A table where one partition is throttled at every query; the ids of the messages."""
    expected = fill(history, 20)
    _ = history.store.keys
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as stub:
        stub.rule = lambda operation, request: (
            refusal("ThrottlingException")
            if operation == "Query" and request["ExpressionAttributeValues"][":saltctl_p"]["S"] == f"{CONV}#2"
            else None
        )
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.settings(settings).aws_endpoint_url or "")
        monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
        yield expected


def test_a_partition_out_of_reach_is_an_error(saltctl: Runner, throttled: list[str]) -> None:
    """Exit 69 with its name and the way to see the rest; no message is printed."""
    outcome = saltctl("history", "read", CONV, "-o", "json")
    assert (outcome.code, outcome.out) == (69, "")
    assert f"'{CONV}#2'" in outcome.error["message"]
    assert "--allow-partial" in outcome.error["hint"]


def test_partial_on_request(saltctl: Runner, throttled: list[str]) -> None:
    """Exit 4, ``complete`` false, the reason beside the partition, and the messages of the others."""
    outcome = saltctl("history", "read", CONV, "--allow-partial", "-o", "json")
    assert outcome.code == 4
    assert outcome.json["complete"] is False
    assert ids(outcome.json) == [message for message in throttled if salt_of(message, 4) != 2]
    errors = {shard["partition_key"]: shard["error"] for shard in outcome.json["shards"]}
    assert [key for key, error in errors.items() if error] == [f"{CONV}#2"]
    assert f"cannot read {CONV}#2" in outcome.err


def test_find_shows_the_message(saltctl: Runner, history: History) -> None:
    """By id alone, or cheaper with its sort key."""
    fill(history, 12)
    plain = saltctl("history", "find", CONV, "m7", "-o", "json")
    assert plain.json["text"] == "text 7"
    keyed = saltctl("history", "find", CONV, "m7", "--sort-key", "2026-07-01T08:07:00.000Z#m7", "-o", "json")
    assert keyed.json == plain.json
    assert "text 7" in saltctl("history", "find", CONV, "m7", "-o", "table").out


def test_find_without_result(saltctl: Runner, history: History) -> None:
    """Exit 3, null, and where it was looked for."""
    fill(history, 3)
    outcome = saltctl("history", "find", CONV, "nothing", "-o", "json")
    assert (outcome.code, outcome.json) == (3, None)
    assert "not found on" in outcome.err


def test_message_ids_from_an_attribute(
    saltctl: Runner, history: History, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The setting says where ids are."""
    history.id_attribute = "uid"
    history.put(CONV, "t", {"uid": "u1", "text": "here"})
    assert saltctl("history", "find", CONV, "u1", "-o", "json").code == 3
    monkeypatch.setenv("SALTCTL_MESSAGE_ID_FROM", "attribute:uid")
    assert saltctl("history", "find", CONV, "u1", "-o", "json").json["text"] == "here"
    monkeypatch.setenv("SALTCTL_MESSAGE_ID_FROM", "guess")
    assert saltctl("history", "find", CONV, "u1").code == 78


@pytest.fixture
def orphaned(history: History) -> list[str]:
    """Messages that were written under 16 salts by a raise that nobody knows of any more."""
    fill(history, 5)
    missed = []
    for number in range(20):
        salt = salt_of(f"lost{number}", 16)
        history.store.put(f"{CONV}#{salt}", f"2026-07-01T09:{number:02d}:00Z#lost{number}", {})
        if salt is not None and salt >= 4:
            missed.append(f"lost{number}")
    return missed


def test_an_audit_finds_a_lost_raise(saltctl: Runner, orphaned: list[str]) -> None:
    """Exit 3, the messages that readers miss, and the command that mends it."""
    outcome = saltctl("history", "audit", CONV, "-o", "json")
    assert outcome.code == 3
    found = outcome.json
    assert {orphan["message_id"] for orphan in found["orphans"]} == set(orphaned)
    assert (found["max_n"], found["needed_n"], found["complete"]) == (4, 16, False)
    assert "audit conv --repair" in outcome.err


def test_an_audit_repairs_only_when_told(saltctl: Runner, orphaned: list[str], backup: BackupTable) -> None:
    """Dry run and missing consent change nothing; with ``--yes`` N is raised, and afterwards nothing is missed."""
    assert saltctl("history", "audit", CONV, "--repair", "--dry-run").code == 3
    assert saltctl("history", "audit", CONV, "--repair").code == 6
    entry = backup.get(CONV)
    assert entry is not None
    assert entry.max_n == 4
    outcome = saltctl("history", "audit", CONV, "--repair", "--yes", "--reason", "lost", "-o", "json")
    assert (outcome.code, outcome.json["repaired"]) == (0, True)
    entry = backup.get(CONV)
    assert entry is not None
    assert (entry.max_n, entry.write_n, entry.raises[-1].reason) == (16, 16, "lost")
    assert saltctl("history", "audit", CONV, "-o", "json").json["complete"]
    assert set(orphaned) <= set(ids(saltctl("history", "read", CONV, "-o", "json").json))


def test_discover_recovers_a_registry(
    saltctl: Runner, orphaned: list[str], backup: BackupTable, history: History
) -> None:
    """What the backup holds too little of is listed with exit 3; ``--apply`` raises it, and only with consent."""
    history.store.put("gone#1", "t#m", {})
    found = saltctl("registry", "discover", "-o", "json")
    assert found.code == 3
    assert "the scan reads about" in found.err
    states = {entry["conversation_id"]: entry["state"] for entry in found.json["conversations"]}
    assert states == {CONV: "behind", "gone": "behind"}
    assert saltctl("registry", "discover", "--apply").code == 6
    assert saltctl("registry", "discover", "--apply", "--dry-run", "--yes").code == 3
    assert backup.get("gone") is None
    applied = saltctl("registry", "discover", "--apply", "--yes", "-o", "json")
    assert (applied.code, applied.json["raised"], applied.json["dry_run"]) == (0, 2, False)
    assert {i: e.max_n for i, e in backup.get_many([CONV, "gone"]).items()} == {CONV: 16, "gone": 2}
    assert saltctl("registry", "discover", "-o", "json").json["behind"] == 0


def test_an_interrupted_stream_names_its_continuation(
    saltctl: Runner, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was printed is whole; the rest follows from the cursor that is named."""
    expected = fill(history, 12)
    pages = 0
    page = History.page

    def interrupted(self: History, conversation_id: str, options: ReadOptions) -> Any:
        nonlocal pages
        pages += 1
        if pages == 3:
            raise KeyboardInterrupt
        return page(self, conversation_id, replace(options, limit=4))

    monkeypatch.setattr(History, "page", interrupted)
    first = saltctl("history", "read", CONV, "--all", "-o", "jsonl")
    assert first.code == 130
    command = next(line for line in first.err.splitlines() if "history read" in line).partition("saltctl ")[2]
    rest = saltctl(*shlex.split(command), "-o", "jsonl")
    lines = [*first.out.splitlines(), *rest.out.splitlines()]
    assert [json.loads(line)["text"] for line in lines] == [f"text {message[1:]}" for message in expected]
    assert len(first.out.splitlines()) == 8


def test_a_closed_pipe_is_no_error(history: History) -> None:
    """``| head`` ends quietly, also in the middle of the history: no continuation is told to nobody."""
    for number in range(200):
        history.put(CONV, f"2026-07-01T08:00:00.{number:03d}Z#m{number}", {"text": "x" * 1024})
    wanted = 101  # one more than the first page has; what is left is more than a pipe holds
    done = subprocess.run(
        [
            "/bin/sh",
            "-c",
            f"{shlex.quote(sys.executable)} -m saltctl history read {CONV} --all -o jsonl | head -{wanted}",
        ],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == wanted


def test_people_are_told_the_range_once(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """Which every request has in common; the table has what differs."""
    first = saltctl("history", "read", "conv_hot_12", "--limit", "20", "-o", "json").json
    page = ("history", "read", "conv_hot_12", "--limit", "20")
    after = saltctl(*page, "--before", first["next_cursor"], "--explain", "-o", "table")
    assert re.search(r"^every request reads from \S+ up to \S+$", after.err, flags=re.MULTILINE)
    assert max(map(len, after.out.splitlines())) <= 60
    assert len(after.out.splitlines()) == 2 + 17
    newest = saltctl(*page, "--explain", "-o", "table")
    assert "every request reads from the newest message on" in newest.err
    since = saltctl(*page, "--since", "2026", "--explain", "-o", "table")
    assert "every request reads from 2026\n" in since.err
