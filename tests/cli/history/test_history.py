"""``saltctl history`` and ``registry discover``: output, refusals and exit codes."""

from __future__ import annotations

import json
import re
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from decimal import Decimal
from itertools import count
from typing import Any

import pytest

from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import PARTITION_KEY, SORT_KEY, MessagesTable
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.redis.registry import RedisRegistry
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.aws_stub import AwsStub, refusal
from tests.support.redis_servers import plain_client

pytestmark = pytest.mark.slow

ESC = "\x1b"
CONV = "conv"
TWO_PAGES = 100 + 1000
"""Messages of the first two pages of ``--all``, if they are small."""


@pytest.fixture
def history(
    configured: Settings, registry: Registry, rebuild: Rebuilder, monkeypatch: pytest.MonkeyPatch
) -> Iterator[History]:
    """Create a messages table for the test. The registry is verified, and the conversation has four salts."""
    monkeypatch.setenv("SALTCTL_MAX_N_CAP", "32")  # an audit queries each of these partitions
    rebuild()
    registry.raise_to(CONV, 4)
    table = MessagesTable(configured)
    table.create()
    with History.over(configured, registry, table) as opened:
        yield opened


@pytest.fixture
def stub(history: History, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[AwsStub]:
    """Put a stub between the commands and AWS."""
    assert settings.aws_endpoint_url is not None
    with AwsStub(settings.aws_endpoint_url) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.settings(settings).aws_endpoint_url or "")
        yield server


def put_messages(history: History, number: int) -> list[str]:
    """Write one message for each minute, and return their ids, newest first."""
    load(
        history,
        {
            f"2026-07-01T08:{minute:02d}:00.000Z#m{minute}": {"sender": f"user_{minute % 3}", "body": f"body {minute}"}
            for minute in range(number)
        },
    )
    return [f"m{minute}" for minute in reversed(range(number))]


def load(history: History, messages: dict[str, dict[str, str]]) -> None:
    """Write messages by their sort keys to the partitions that ``put`` would choose, many in one request."""
    assert isinstance(history.store, MessagesTable)
    history.store.load(
        {
            PARTITION_KEY: {"S": partition_key(CONV, salt_of(sort_key.partition("#")[2], 4))},
            SORT_KEY: {"S": sort_key},
            **{name: {"S": value} for name, value in attributes.items()},
        }
        for sort_key, attributes in messages.items()
    )


def ids_of(document: dict[str, Any]) -> list[str]:
    """Return the message ids of a JSON document."""
    return [message["sort_key"].partition("#")[2] for message in document["messages"]]


def is_query_of(key: str, operation: str, request: dict[str, Any]) -> bool:
    """Return whether a request is a query of this partition."""
    return operation == "Query" and request["ExpressionAttributeValues"][":saltctl_p"]["S"] == key


def test_pages_follow_their_cursors(saltctl: Runner, history: History) -> None:
    """``--before`` continues with older messages, ``--after`` with newer ones, and the last cursor is null."""
    expected = put_messages(history, 12)
    first = saltctl("history", "read", CONV, "--limit", "5", "-o", "json").json
    second = saltctl("history", "read", CONV, "--limit", "5", "--before", first["next_cursor"], "-o", "json").json
    third = saltctl("history", "read", CONV, "--limit", "5", "--before", second["next_cursor"], "-o", "json").json
    assert ids_of(first) + ids_of(second) + ids_of(third) == expected
    assert third["next_cursor"] is None
    back = saltctl(
        "history", "read", CONV, "--oldest-first", "--after", second["prev_cursor"], "--limit", "50", "-o", "json"
    ).json
    assert ids_of(back) == expected[:5][::-1]
    assert (first["complete"], first["max_n"], first["source"]) == (True, 4, "redis")
    assert [shard["partition_key"] for shard in first["shards"]] == [CONV, *(f"{CONV}#{salt}" for salt in range(4))]


def test_all_prints_every_message_in_every_format(saltctl: Runner, history: History) -> None:
    """JSON, JSONL and TSV have the same messages. JSON is one document, with the summary after the messages."""
    expected = put_messages(history, 30)
    document = saltctl("history", "read", CONV, "--all", "-o", "json").json
    assert ids_of(document) == expected
    assert list(document)[:4] == ["conversation_id", "messages", "next_cursor", "complete"]
    lines = saltctl("history", "read", CONV, "--all", "-o", "jsonl").out.splitlines()
    assert [json.loads(line) for line in lines] == document["messages"]
    header, *rows = saltctl("history", "read", CONV, "--all", "-o", "tsv").out.splitlines()
    assert header.split("\t") == ["sort_key", "message_id", "partition_key", "message"]
    assert [row.split("\t")[1] for row in rows] == expected


def test_since_and_until_accept_times_and_durations(saltctl: Runner, history: History) -> None:
    """``--since`` is included, ``--until`` excluded. Times of any zone are converted; 36500d is 100 years ago."""
    expected = put_messages(history, 10)

    def read(*args: str) -> list[str]:
        """Return the ids of the messages between these bounds."""
        return ids_of(saltctl("history", "read", CONV, "-o", "json", *args).json)

    assert read("--since", "2026-07-01T08:03", "--until", "2026-07-01T08:06:00Z") == expected[4:7]
    assert read("--since", "2026-07-01T10:03:00+02:00") == expected[:7]
    assert read("--since", "2026-07-01", "--until", "2026-07-02") == expected
    assert read("--until", "2026-07-01") == []
    assert read("--until", "36500d") == []
    assert read("--since-key", "2026-07-01T08:03:00.000Z#m3") == expected[:7]
    assert read("--since", "2026-07-01T08:03", "--until-key", "2026-07-01T08:06") == expected[4:7]


@pytest.mark.parametrize("text", ["12hr", "20261126", "11/26/2026", "-2h", "9999999d", "2026", "m3"])
@pytest.mark.parametrize("command", [("read", CONV), ("find", CONV, "m1")], ids=" ".join)
def test_a_bound_that_is_not_a_time_is_refused(saltctl: Runner, command: tuple[str, ...], text: str) -> None:
    """Exit 2 before any server is asked: it is never taken for a sort key."""
    outcome = saltctl("history", *command, "--since", text, "-o", "json")
    assert (outcome.code, outcome.out, outcome.error["code"]) == (2, "", "usage")
    assert "yesterday" in outcome.error["message"]


@pytest.mark.parametrize(
    "bounds",
    [("--since", "2h", "--since-key", "x"), ("--until", "2h", "--until-key", "x"), ("--since", "1h", "--until", "2h")],
    ids=" ".join,
)
def test_bounds_that_exclude_each_other_are_refused(saltctl: Runner, bounds: tuple[str, ...]) -> None:
    """A bound is a time or a sort key, and the range has messages."""
    assert saltctl("history", "read", CONV, *bounds).code == 2


def test_sort_keys_without_a_known_form_are_refused(
    saltctl: Runner, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 2 and no message, even if only the oldest row has another form; the setting names the form."""
    put_messages(history, 60)
    history.put(CONV, "0001#first", {"body": "x"})
    outcome = saltctl("history", "read", CONV, "--since", "2026-07-01T08:50", "-o", "json")
    assert (outcome.code, outcome.out) == (2, "")
    assert "--since-key" in outcome.error["hint"]
    monkeypatch.setenv("SALTCTL_SORT_KEY_FORM", "iso")
    named = saltctl("history", "read", CONV, "--since", "2026-07-01T08:58", "-o", "json")
    assert ids_of(named.json) == ["m59", "m58"]


def test_a_message_is_found_between_times(saltctl: Runner, history: History) -> None:
    """``history find`` takes the bounds of ``history read``, and none with a whole sort key."""
    put_messages(history, 9)
    find = ("history", "find", CONV, "m4", "-o", "json")
    assert saltctl(*find, "--since", "2026-07-01T08:04", "--until", "2026-07-01T08:05").code == 0
    assert saltctl(*find, "--since", "2026-07-01T08:05").code == 3
    assert saltctl(*find, "--until-key", "2026-07-01T08:04").code == 3
    assert saltctl(*find, "--since", "2h", "--sort-key", "2026-07-01T08:04:00.000Z#m4").code == 2


def test_a_time_in_an_empty_conversation(saltctl: Runner, history: History) -> None:
    """There is nothing to learn the form from, and nothing to leave out."""
    outcome = saltctl("history", "read", "unknown", "--since", "2h", "-o", "json")
    assert (outcome.code, outcome.json["messages"]) == (0, [])


def test_numbers_are_exact_and_binary_is_base64(saltctl: Runner, history: History) -> None:
    """Numbers are never converted to floats, and every type of DynamoDB has a JSON form."""
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
def test_hostile_messages_are_printed_escaped(
    saltctl: Runner, history: History, monkeypatch: pytest.MonkeyPatch, columns: str
) -> None:
    """The terminal gets no escapes, overrides or markup, and no line is wider than it is."""
    monkeypatch.setenv("COLUMNS", columns)
    body = f"{ESC}[31mred{ESC}[0m [bold]x[/bold] \u202eevil\x9b2J \x07 " + "long" * 60 + "\nsecond line\twith tab"
    history.put(CONV, f"2026-07-01T08:00:00Z#m{ESC}", {"sender": f"a{ESC}]0;t\x07", "text": body})
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
    for form in ("json", "jsonl", "tsv", "csv"):
        printed = saltctl("history", "read", CONV, "-o", form).out
        data = "\u202e" if form in ("tsv", "csv") else ""  # in a pipe, where an override is data
        assert all(c.isprintable() or c in "\n\t" or c == data for c in printed)


def test_a_table_is_a_chat(saltctl: Runner, history: History) -> None:
    """It has the day once, then time, sender and body, then a summary, and the command for the next page."""
    put_messages(history, 9)
    outcome = saltctl("history", "read", CONV, "--limit", "3", "-o", "table")
    lines = [line.rstrip() for line in outcome.out.splitlines()]
    assert lines[:4] == [
        "2026-07-01 UTC",
        "08:08:00.000  user_2  body 8",
        "08:07:00.000  user_1  body 7",
        "08:06:00.000  user_0  body 6",
    ]
    assert "3 messages of conv, newest first" in outcome.out
    # The printed command can be pasted.
    command = outcome.err.strip().removeprefix("more: saltctl ")
    assert "body 5" in saltctl(*shlex.split(command), "-o", "table").out


@pytest.mark.parametrize("form", ["tsv", "jsonl"])
def test_a_page_in_a_pipe_says_that_there_are_more(saltctl: Runner, history: History, form: str) -> None:
    """A runbook that reads stdout alone would take the first page for the history. The last page says nothing."""
    put_messages(history, 9)
    first = saltctl("history", "read", CONV, "--limit", "5", "-o", form)
    more = first.told if form == "jsonl" else first.err
    last = saltctl(*shlex.split(more.strip().removeprefix("more: saltctl ")), "-o", form)
    assert all(f"body {number}" in (last.out if number < 4 else first.out) for number in range(9))
    assert last.err == ""


def test_the_command_for_the_next_page_keeps_the_options(saltctl: Runner, history: History) -> None:
    """It has the bounds, the limit and the direction of this page, and quotes the id."""
    conversation = "a b; touch $(pwned) 'x'"
    for minute in range(6):
        at = f"2026-03-01T08:0{minute}:00.000Z"
        history.put(conversation, f"{at}#m{minute}", {"body": f"body {minute}"})
    bounds = ("--since", "2026-03-01T08:01:00Z", "--until", "2026-03-01T08:04:00Z")
    first = saltctl("history", "read", conversation, "--limit", "2", "--oldest-first", *bounds, "-o", "table")
    words = shlex.split(first.err.strip().removeprefix("more: saltctl "))
    assert words[2] == conversation
    second = saltctl(*words, "-o", "json").json
    assert [message["body"] for message in second["messages"]] == ["body 3"]


def test_an_unknown_conversation_is_an_empty_history(saltctl: Runner, history: History) -> None:
    """The exit code is 0, and a note names the partition that was read."""
    outcome = saltctl("history", "read", "unknown", "-o", "json")
    assert outcome.code == 0
    assert (outcome.json["messages"], outcome.json["complete"], outcome.json["next_cursor"]) == ([], True, None)
    assert "no messages in unknown (max_n 1" in outcome.err


def test_explain_sends_no_query(saltctl: Runner, stub: AwsStub) -> None:
    """It shows the first requests and does not send them."""
    outcome = saltctl("history", "read", CONV, "--explain", "--eventual", "--since-key", "2026", "-o", "json")
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
def test_an_invalid_cursor_is_refused(saltctl: Runner, history: History, cursor: str) -> None:
    """A cursor that is damaged, invented or of another conversation is exit 6, and no message is printed."""
    put_messages(history, 4)
    good = history.page(CONV, ReadOptions(limit=1)).next_cursor or ""
    given = {"damaged": good[:-2] + ("AA" if not good.endswith("AA") else "BB"), "of another": good}
    conversation = "other" if cursor == "of another" else CONV
    outcome = saltctl("history", "read", conversation, "--before", given.get(cursor, cursor), "-o", "json")
    assert outcome.code == 6
    assert outcome.error["code"] == "invalid_cursor"
    assert outcome.out == ""


def test_all_with_a_limit_is_refused(saltctl: Runner, configured: Settings) -> None:
    """``--all`` chooses the size of its pages, so a ``--limit`` is a usage error."""
    assert saltctl("history", "read", CONV, "--all", "--limit", "5").code == 2


@pytest.fixture
def throttled(history: History, stub: AwsStub, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Write messages, throttle every query of one partition, and return the ids of all messages."""
    refused = refusal("ThrottlingException")
    stub.rule = lambda *request: refused if is_query_of(f"{CONV}#2", *request) else None
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    return put_messages(history, 20)


def test_an_unavailable_partition_is_an_error(saltctl: Runner, throttled: list[str]) -> None:
    """Exit 69: the error names the partition, its hint has --allow-partial, and no message is printed."""
    outcome = saltctl("history", "read", CONV, "-o", "json")
    assert (outcome.code, outcome.out) == (69, "")
    assert f"'{CONV}#2'" in outcome.error["message"]
    assert "--allow-partial" in outcome.error["hint"]


def test_allow_partial_prints_the_other_partitions(saltctl: Runner, throttled: list[str]) -> None:
    """Exit 4: ``complete`` is false, the failed partition has its error, and the messages of the others are printed."""
    outcome = saltctl("history", "read", CONV, "--allow-partial", "-o", "json")
    assert outcome.code == 4
    assert outcome.json["complete"] is False
    assert ids_of(outcome.json) == [message for message in throttled if salt_of(message, 4) != 2]
    errors = {shard["partition_key"]: shard["error"] for shard in outcome.json["shards"]}
    assert [key for key, error in errors.items() if error] == [f"{CONV}#2"]
    assert f"cannot read {CONV}#2" in outcome.err


def test_allow_partial_does_not_hide_a_missing_permission(saltctl: Runner, history: History, stub: AwsStub) -> None:
    """Exit 77 without any message: an access refusal of one partition is not a partial answer."""
    put_messages(history, 20)
    denied = refusal("AccessDeniedException")
    stub.rule = lambda *request: denied if is_query_of(f"{CONV}#2", *request) else None
    outcome = saltctl("history", "read", CONV, "--allow-partial", "-o", "json")
    assert (outcome.code, outcome.out, outcome.error["code"]) == (77, "", "access_denied")


@pytest.mark.parametrize(
    "command",
    [
        ("history", "find", CONV, "m1", "--since", "2h"),
        ("history", "read", CONV, "--until", "2h"),
        ("history", "read", CONV, "--explain", "--since", "2h"),
        ("registry", "discover", "--cost"),
        ("registry", "discover"),
    ],
    ids=" ".join,
)
def test_a_timeout_bounds_the_first_requests_too(
    saltctl: Runner, history: History, stub: AwsStub, command: tuple[str, ...]
) -> None:
    """A table that does not describe itself: a bound of the sort key and the cost of a scan need its description."""
    over = threading.Event()

    def hang(operation: str, request: dict[str, Any]) -> None:
        if operation == "DescribeTable" and request["TableName"] == history.store.name:  # type: ignore[attr-defined]
            over.wait(30)

    stub.rule = hang
    try:
        assert saltctl(*command, "--timeout", "700ms", "-o", "json").code == 124
    finally:
        over.set()


def test_find_shows_the_message(saltctl: Runner, history: History) -> None:
    """A message is found by its id alone, and by its id and sort key."""
    put_messages(history, 12)
    plain = saltctl("history", "find", CONV, "m7", "-o", "json")
    assert plain.json["body"] == "body 7"
    keyed = saltctl("history", "find", CONV, "m7", "--sort-key", "2026-07-01T08:07:00.000Z#m7", "-o", "json")
    assert keyed.json == plain.json
    assert "body 7" in saltctl("history", "find", CONV, "m7", "-o", "table").out


def test_find_of_an_unknown_message_is_exit_3(saltctl: Runner, history: History) -> None:
    """The JSON is null, and a note names the partitions that were read."""
    put_messages(history, 3)
    outcome = saltctl("history", "find", CONV, "nothing", "-o", "json")
    assert (outcome.code, outcome.json) == (3, None)
    assert "not found on" in outcome.err


def test_message_ids_from_an_attribute(
    saltctl: Runner, history: History, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``message_id_from`` names the attribute that holds ids; an unknown rule is a configuration error."""
    history.id_attribute = "uid"
    history.put(CONV, "t", {"uid": "u1", "body": "here"})
    assert saltctl("history", "find", CONV, "u1", "-o", "json").code == 3
    monkeypatch.setenv("SALTCTL_MESSAGE_ID_FROM", "attribute:uid")
    assert saltctl("history", "find", CONV, "u1", "-o", "json").json["body"] == "here"
    monkeypatch.setenv("SALTCTL_MESSAGE_ID_FROM", "guess")
    assert saltctl("history", "find", CONV, "u1").code == 78


@pytest.fixture
def orphaned(history: History) -> list[str]:
    """Write messages over 16 salts without a raise, as if it was lost; return the ids that readers miss."""
    put_messages(history, 5)
    missed = []
    for number in range(20):
        salt = salt_of(f"lost{number}", 16)
        history.store.put(f"{CONV}#{salt}", f"2026-07-01T09:{number:02d}:00Z#lost{number}", {})
        if salt is not None and salt >= 4:
            missed.append(f"lost{number}")
    return missed


def test_an_audit_finds_a_lost_raise(saltctl: Runner, orphaned: list[str]) -> None:
    """Exit 3: the messages that readers miss are listed, and the warning has the command that raises N."""
    outcome = saltctl("history", "audit", CONV, "-o", "json")
    assert outcome.code == 3
    found = outcome.json
    assert {orphan["message_id"] for orphan in found["orphans"]} == set(orphaned)
    assert (found["max_n"], found["needed_n"], found["complete"]) == (4, 16, False)
    assert "audit conv --repair" in outcome.err


def test_an_audit_of_all_names_each_finding_with_its_command(
    saltctl: Runner, orphaned: list[str], registry: Registry, history: History, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found as long as it stands, also by cron. The commands mend it, and then nothing is printed."""
    monkeypatch.setenv("SALTCTL_MAX_N_CAP", "16")  # an audit queries each of these partitions
    registry.raise_to("other", 2)
    for number in range(40):
        history.store.put(f"gone#{salt_of(f'm{number}', 4)}", f"2026-07-01T09:{number:02d}:00Z#m{number}", {})
    first = saltctl("history", "audit", "--all", "--for", "1ms", "-o", "json")
    assert (first.json["cycle_complete"], first.json["oldest_age_s"], first.json["audited"]) == (False, None, 1)
    outcome = saltctl("history", "audit", "--all", "--max-rcu", "10000", "-o", "json")
    assert (outcome.code, outcome.json["cycle_complete"]) == (3, True)
    kinds = {found["conversation_id"]: found["kind"] for found in outcome.json["findings"]}
    assert kinds == {CONV: "beyond", "gone": "lost"}
    line = json.loads(saltctl("history", "audit", "--all", "--cron").err)
    assert (line["event"], line["outcome"], line["found"]) == ("history audit", "found", 2)
    assert saltctl("status", "-o", "json").json["audit"]["missed"] == 2
    for name in (CONV, "gone"):
        assert f"try: saltctl history audit {name} --repair --yes" in saltctl("history", "audit", "--all").err
        assert saltctl("history", "audit", name, "--repair", "--yes").code == 0
    assert saltctl("status", "-o", "json").json["audit"]["found"] == 0
    assert saltctl("history", "audit", "--all").out.startswith("Complete: readers see every message")
    quiet = saltctl("history", "audit", "--all", "--cron", "-o", "json")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.parametrize(
    ("words", "refused"),
    [
        (("--all", CONV), "CONV with --all"),
        (("--all", "--repair"), "--repair with --all"),
        ((CONV, "--sample-items", "0"), "--sample-items with CONV"),
        ((CONV, "--cron"), "--cron with CONV"),
    ],
)
def test_an_audit_is_of_one_or_of_all(saltctl: Runner, words: tuple[str, ...], refused: str) -> None:
    """Options of the one are no options of the other."""
    outcome = saltctl("history", "audit", *words)
    assert outcome.code == 2
    assert refused in outcome.err


def test_an_audit_repairs_only_with_consent(saltctl: Runner, orphaned: list[str], backup: BackupTable) -> None:
    """A dry run and a missing confirmation change nothing. ``--yes`` raises N, and then readers see all messages."""
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
    assert set(orphaned) <= set(ids_of(saltctl("history", "read", CONV, "-o", "json").json))


def test_an_orphan_of_a_cooled_conversation_raises_recent_n(
    saltctl: Runner, history: History, registry: Registry, backup: BackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is a message from the boundary on, outside the recent salts. A plan names the boundary, a page reads all."""
    monkeypatch.setenv("SALTCTL_MAX_N_CAP", "8")  # an audit queries each of these partitions
    registry.raise_to(CONV, 8)
    expected, boundary = put_messages(history, 6), "2026-07-01T08:03"
    for minute in range(3, 6):  # the writers of today
        found = history.find(CONV, f"m{minute}").message
        assert found is not None
        history.store.put(CONV, str(found.sort_key), {"sender": {"S": "x"}})
    before = backup.get(CONV)
    assert before is not None
    narrowed = before.narrowed(Raise(1, "2026-07-01T09:00:00.000Z", "test", "", cooled=True))
    assert backup.replace(before, narrowed)
    assert backup.replace(narrowed, narrowed.sealed(boundary))
    registry.complete(CONV)
    assert registry.lookup(CONV).read_set(boundary) == [CONV]

    plan = saltctl("history", "read", CONV, "--explain", "-o", "json").json
    assert (plan["max_n"], plan["recent_n"], plan["recent_from"]) == (8, 1, boundary)
    assert [request["partition_key"] for request in plan["requests"]] == [CONV]
    plan_of_all = saltctl("history", "read", CONV, "--oldest-first", "--explain", "-o", "table")
    assert f"8 old salts are read only below the boundary {boundary}, once the page reaches there\n" in plan_of_all.err
    assert "every request reads" not in plan_of_all.err
    assert [line.split()[-2] for line in plan_of_all.out.splitlines()[-8:]] == [boundary] * 8

    audited = saltctl("history", "audit", CONV, "-o", "json")
    orphans = {orphan["partition_key"] for orphan in audited.json["orphans"]}
    assert audited.code == 3
    assert CONV not in orphans
    assert (audited.json["recent_n"], audited.json["needed_n"]) == (1, 4)
    assert f"{CONV} has recent_n 1 and needs 4" in audited.err
    assert saltctl("history", "audit", CONV, "--repair", "--yes").code == 0
    assert registry.lookup(CONV).recent_n == 4
    assert set(ids_of(saltctl("history", "read", CONV, "-o", "json").json)) == set(expected)
    assert saltctl("history", "audit", CONV, "-o", "json").json["complete"]


def test_discover_recovers_a_registry(
    saltctl: Runner, orphaned: list[str], backup: BackupTable, history: History
) -> None:
    """Exit 3: conversations that are behind in the backup are listed. ``--apply`` raises them, only with consent."""
    for number in range(40):  # enough to prove that they are on salts
        history.store.put(f"gone#{salt_of(f'm{number}', 2)}", f"t#m{number}", {})
    found = saltctl("registry", "discover", "-o", "json")
    assert (found.code, found.json["dry_run"]) == (3, False)
    assert "scanning the messages: the cost is unknown" in found.err
    states = {entry["conversation_id"]: entry["state"] for entry in found.json["conversations"]}
    assert states == {CONV: "behind", "gone": "behind"}
    assert "nothing was raised; to raise them:\\n  try: saltctl registry discover -o json --apply" in found.err
    assert saltctl("registry", "discover", "--apply").code == 6
    dry = saltctl("registry", "discover", "--apply", "--dry-run", "--yes")
    assert (dry.code, "try: saltctl registry discover --apply --yes\n" in dry.err) == (3, True)
    assert backup.get("gone") is None
    applied = saltctl("registry", "discover", "--apply", "--yes", "-o", "json")
    assert (applied.code, applied.json["raised"], applied.json["dry_run"]) == (0, 2, False)
    shown = {c["conversation_id"]: (c["state"], c["backup_n"]) for c in applied.json["conversations"]}
    assert (shown, applied.json["behind"]) == ({CONV: ("held", 16), "gone": ("held", 2)}, 0)
    assert ("2 salted conversations, 0 behind, 2 raised" in applied.err, "to raise" in applied.err) == (True, False)
    assert {i: e.max_n for i, e in backup.get_many([CONV, "gone"]).items()} == {CONV: 16, "gone": 2}
    assert saltctl("registry", "discover", "-o", "json").json["behind"] == 0


def test_discover_does_not_merge_conversations_of_a_single_table_design(
    saltctl: Runner, history: History, backup: BackupTable
) -> None:
    """``CONV#7`` may be a conversation: without proof it is not raised, and the warning says why. Exit 4 after others.

    An audit does not raise it either.
    """
    for number in range(40):
        history.store.put(f"CONV#{number % 16}", f"t#m{number}", {})
        history.store.put(f"ok#{salt_of(f'm{number}', 4)}", f"t#m{number}", {})
    history.store.put("USER#c77f", "t#m", {})
    history.store.put("#3", "t#m", {})
    history.store.put(f"long#{'9' * 30}", "t#m", {})
    applied = saltctl("registry", "discover", "--apply", "--yes", "-o", "json")
    assert (applied.code, applied.json["raised"]) == (4, 1)
    states = {entry["conversation_id"]: (entry["state"], entry["problem"]) for entry in applied.json["conversations"]}
    assert states["ok"] == ("held", "")
    assert next(c["needed_n"] for c in applied.json["conversations"] if c["conversation_id"] == "long") is None
    assert states["CONV"][0] == "unproven"
    assert states["CONV"][1] in applied.err
    assert "'USER#c77f'" in applied.err
    assert "need a manual check: 1, such as '': the conversation id is empty" in applied.err
    assert {i: entry.max_n for i, entry in backup.get_many(["CONV", "ok"]).items()} == {"ok": 4}
    audit = saltctl("history", "audit", "CONV", "-o", "json")
    assert (audit.code, audit.json["repaired"]) == (3, False)
    assert audit.json["unproven"]
    assert "--repair" not in audit.err
    refused = saltctl("history", "audit", "CONV", "--repair", "--yes", "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "refused")
    assert "different conversations" in refused.error["message"]
    assert backup.get("CONV") is None
    accepted = saltctl("registry", "discover", "--any-salting", "--apply", "--yes", "-o", "json")
    assert (accepted.code, accepted.json["raised"]) == (3, 1)


def test_discover_completes_raises_that_were_interrupted(
    saltctl: Runner, history: History, registry: Registry, store: RedisRegistry, redis_server: LocalRedis
) -> None:
    """The backup holds what an earlier run wrote: Redis and the commit may lack it."""
    history.store.put(f"{CONV}#3", "t#m", {})
    assert registry.backup.commit_write_n(CONV, 4) is False
    with plain_client(redis_server) as client:
        client.hset(store.key_of(CONV), CONV, 2)
    assert saltctl("registry", "discover", "--apply").code == 6
    assert saltctl("registry", "discover", "--apply", "--yes").code == 0
    assert store.read_unverified([CONV]) == {CONV: 4}


DAMAGE: dict[str, tuple[dict[str, Any], int, bool]] = {
    "its messages": ({"max_n": {"N": "0"}}, 8, False),
    "its raises": ({"raises": {"L": [{"M": {"n": {"N": "32"}}}]}}, 32, True),
    "a string": ({"max_n": {"S": "32"}, "write_n": {"N": "2"}}, 32, False),
    "Redis": ({"max_n": {"N": "3.5"}, "write_n": {"S": "?"}, "raises": {"S": "?"}}, 16, True),
    "raises alone": ({"max_n": {"N": "8"}, "write_n": {"N": "8"}, "raises": {"S": "?"}}, 8, True),
}


@pytest.mark.parametrize(("attributes", "needed", "verified"), DAMAGE.values(), ids=DAMAGE)
def test_a_damaged_item_is_named_and_mended(
    saltctl: Runner,
    history: History,
    configured: Settings,
    redis_server: LocalRedis,
    backup: BackupTable,
    store: RedisRegistry,
    attributes: dict[str, Any],
    needed: int,
    verified: bool,
) -> None:
    """The healthy ones are shown, the damaged one is named, and its cure loses no message and no raise."""
    for number in range(40):
        history.store.put(f"bad#{salt_of(f'm{number}', 8)}", f"t#m{number}", {})
    backup.client.put_item(TableName=configured.backup_table, Item={"conversation_id": {"S": "bad"}, **attributes})
    with plain_client(redis_server) as client:
        if not verified:
            client.flushall()
        if needed == 16:
            client.hset(store.key_of("bad"), "bad", 16)
    seen = saltctl("registry", "get", CONV, "bad", "other", "-o", "json")
    if readable := needed == 8 and attributes["max_n"] == {"N": "8"}:
        assert [record["max_n"] for record in seen.json][::2] == [4, 1]
    else:
        assert (seen.code, [record["backup_n"] for record in seen.json]) == (4, [4, None, 1])
        assert [record["backup_state"] for record in seen.json] == ["entry", "damaged", "absent"]
        assert (seen.json[1]["max_n"] is None) != verified
        assert "'bad'" in seen.error["message"]
        assert seen.error["hint"].splitlines()[-1] == "saltctl history audit bad --repair --yes"
    looked = saltctl("history", "audit", "bad", "-o", "json")
    assert (looked.code, looked.json["needed_n"], bool(looked.json["damage"])) == (3, needed, True)
    assert saltctl("history", "audit", "bad", "--repair", "--yes").code == 0
    entry = backup.get("bad")
    assert entry is not None
    assert (entry.max_n, entry.write_n, entry.raises[-1].n) == (needed, needed, needed)
    assert entry.raises[-1].reason == "audit: damage repaired"
    assert store.read_unverified(["bad"]) == {"bad": needed}
    assert saltctl("history", "audit", "bad", "-o", "json").json["damage"] is None
    assert readable or saltctl("registry", "get", "bad").code == 0


def test_a_damaged_value_in_redis_is_named_and_mended(
    saltctl: Runner, history: History, store: RedisRegistry, redis_server: LocalRedis
) -> None:
    """The others are shown; lookups of this one are answered by the backup, and the cure replaces the value."""
    with plain_client(redis_server) as client:
        client.hset(store.key_of(CONV), CONV, "many")
        client.hset(store.key_of("alone"), "alone", "x")
    seen = saltctl("registry", "get", CONV, "other", "-o", "json")
    sides = [(record["max_n"], record["redis_n"], record["redis_state"], record["in_sync"]) for record in seen.json]
    assert sides == [(4, None, "unreadable", None), (1, 1, "absent", True)]
    assert "unreadable" in saltctl("registry", "get", CONV, "-o", "table").out
    compared = saltctl("compare", "-o", "json")
    assert {(drift["conversation_id"], drift["kind"]) for drift in compared.json["drift"]} == {
        (CONV, "unreadable"),
        ("alone", "unreadable"),
    }
    assert "saltctl history audit alone --repair --yes" in compared.told
    (drift,) = saltctl("doctor", "--only", "drift", "-o", "json").json["checks"]
    assert ("Redis: unreadable" in drift["detail"], drift["status"]) == (True, "fail")
    assert f"for {CONV!r}" in seen.told
    assert f"\nsaltctl history audit {CONV} --repair --yes\n" in seen.told
    listed = saltctl("registry", "list", "-o", "json")
    assert (listed.code, listed.json, "'alone'" in listed.err) == (4, [], True)
    for conversation, n in ((CONV, 4), ("alone", 1)):
        assert saltctl("history", "audit", conversation, "-o", "json").code == 3
        assert saltctl("history", "audit", conversation, "--repair", "--yes").code == 0
        assert store.read_unverified([conversation]) == {conversation: n}
    assert saltctl("compare").code == 0


def test_an_interrupted_read_prints_the_command_that_continues(
    saltctl: Runner, configured: Settings, stub: AwsStub
) -> None:
    """SIGINT during the third page: two whole pages are printed, and the command prints the rest."""
    expected = [f"m{number:04d}" for number in reversed(range(TWO_PAGES + 30))]
    MessagesTable(configured).load(
        {PARTITION_KEY: {"S": partition_key(CONV, salt_of(message_id, 4))}, SORT_KEY: {"S": f"#{message_id}"}}
        for message_id in expected
    )
    base_queries, ended, main = count(1), threading.Event(), threading.main_thread().ident
    assert main is not None

    def interrupt(operation: str, request: dict[str, Any]) -> None:
        """Interrupt the command at the third query of the base partition, which every page queries once."""
        if is_query_of(CONV, operation, request) and next(base_queries) == 3:
            signal.pthread_kill(main, signal.SIGINT)
            ended.wait(30)

    stub.rule = interrupt
    first = saltctl("history", "read", CONV, "--all", "-o", "jsonl")
    ended.set()
    assert first.code == 130
    notes = [json.loads(line) for line in first.err.splitlines()]
    command = next(one["message"] for one in notes if "history read" in one.get("message", "")).partition("saltctl ")[2]
    rest = saltctl(*shlex.split(command), "-o", "jsonl")
    lines = [*first.out.splitlines(), *rest.out.splitlines()]
    assert [json.loads(line)["sort_key"][1:] for line in lines] == expected
    assert len(first.out.splitlines()) == TWO_PAGES


def test_a_closed_pipe_is_not_an_error(history: History) -> None:
    """``| head`` ends quietly, also in the middle of the history: the command that continues is not printed."""
    load(history, {f"2026-07-01T08:00:00.{number:03d}Z#m{number}": {"body": "x" * 1024} for number in range(200)})
    wanted = 101  # one more than the first page has; the others do not fit into a pipe
    read = f"{shlex.quote(sys.executable)} -m saltctl history read {CONV} --all -o jsonl | head -{wanted}"
    done = subprocess.run(["/bin/sh", "-c", read], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == wanted


def test_a_table_of_requests_omits_their_common_range(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """A note has the range that all requests share; the table has the columns that differ."""
    first = saltctl("history", "read", "conv_hot_12", "--limit", "20", "-o", "json").json
    page = ("history", "read", "conv_hot_12", "--limit", "20")
    after = saltctl(*page, "--before", first["next_cursor"], "--explain", "-o", "table")
    assert re.search(r"^every request reads from \S+ up to \S+$", after.err, flags=re.MULTILINE)
    assert max(map(len, after.out.splitlines())) <= 60
    assert len(after.out.splitlines()) == 2 + 17
    newest = saltctl(*page, "--explain", "-o", "table")
    assert "every request reads from the newest message on" in newest.err
    since = saltctl(*page, "--since-key", "2026", "--explain", "-o", "table")
    assert "every request reads from 2026\n" in since.err
    timed = saltctl(*page, "--since", "2026-01-01", "--explain", "-o", "table")
    assert "every request reads from 2026-01-01T00:00:00\n" in timed.err
    assert "times become sort keys of the form iso" in timed.err
