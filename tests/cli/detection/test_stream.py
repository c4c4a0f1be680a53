"""``saltctl stream``: status, lost entries, peek, replay and dead letters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import MAX_ENTRY_BYTES, HeatReport
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner
from tests.support import Rebuilder

HOSTILE = "[/]\x1b[2Jconv"


@pytest.fixture
def stream(configured: Settings) -> Iterator[HeatStream]:
    """The heat stream with its group, empty."""
    opened = HeatStream(configured)
    opened.create_group()
    yield opened
    opened.close()


@pytest.fixture
def letters(configured: Settings) -> Iterator[DeadLetters]:
    """The dead letters, none yet."""
    opened = DeadLetters(configured)
    yield opened
    opened.close()


@pytest.fixture
def admin(configured: Settings) -> Iterator[Any]:
    """A plain client, for changes by hand."""
    import redis

    client = redis.Redis.from_url(configured.require_redis_url())
    yield client
    client.close()


def report(stream: HeatStream, *conversations: str, writes: int = 900) -> list[str]:
    """One report of each conversation, just now; the ids of all entries there are."""
    window = int(time.time())
    stream.append_reports([HeatReport(name, "app", window, writes) for name in conversations])
    return [entry.id for entry in stream.range("-", "+", 1000)]


def add_letter(letters: DeadLetters, *fields: bytes) -> str:
    """An entry with these fields that cannot be handled; return the letter's id."""
    letters.add([(Entry("1-1", list(fields)), "no version")])
    return letters.list()[-1].id


def test_unread_entries_that_were_trimmed_are_reported(saltctl: Runner, stream: HeatStream, admin: Any) -> None:
    """Exit 3, with the number of lost entries and their range of time."""
    entries = report(stream, *(f"conv_{number}" for number in range(10)))
    stream.acknowledge([entry.id for entry in stream.read_new("worker", 3)])
    admin.xtrim(stream.key, minid=entries[6], approximate=False)
    outcome = saltctl("stream", "status", "--window", "10ms", "-o", "json")
    assert outcome.code == 3
    (group,) = outcome.json["groups"]
    assert (group["trimmed_unread"], group["lag"]) == (3, 4)
    assert group["trimmed_from"] <= group["trimmed_to"]
    assert f"3 entries were trimmed before group {group['name']} had read them" in outcome.err
    assert group["trimmed_to"] in outcome.err


def test_without_a_stream_the_verdict_is_unknown(saltctl: Runner, configured: Settings) -> None:
    """Exit 3, and null for unknown values."""
    outcome = saltctl("stream", "status", "--window", "10ms", "-o", "json")
    assert outcome.code == 3
    found = outcome.json
    assert (found["verdict"], found["length"], found["first_id"], found["groups"]) == ("unknown", None, None, [])


def test_peek_takes_no_entries_and_escapes_hostile_ones(saltctl: Runner, stream: HeatStream) -> None:
    """An invalid report is shown with the reason; the group has read no entry."""
    first, *_ = report(stream, HOSTILE, "conv")
    stream.append({"v": 7, "conversation_id": HOSTILE})
    shown = saltctl("stream", "peek", "-o", "json")
    assert [row["valid"] for row in shown.json] == [True, True, False]
    assert shown.json[0]["conversation_id"] == HOSTILE
    assert "unknown version" in shown.json[2]["reason"]
    for form in ("table", "tsv", "json", "jsonl"):
        assert "\x1b" not in saltctl("stream", "peek", "-o", form).out
    (row,) = saltctl("stream", "peek", "--from", first, "--count", "1", "-o", "json").json
    assert row["id"] == first
    assert len(stream.read_new("worker", 10)) == 3


def test_peek_shows_pending_entries(saltctl: Runner, stream: HeatStream, admin: Any) -> None:
    """Only pending entries are shown, even if the entry itself was trimmed."""
    entries = report(stream, "a", "b", "c")
    stream.read_new("worker", 2)
    admin.xdel(stream.key, entries[0])
    rows = saltctl("stream", "peek", "--pending", "-o", "json").json
    assert [(row["id"], row["valid"], row["reason"]) for row in rows] == [
        (entries[0], False, "trimmed"),
        (entries[1], True, None),
    ]


@pytest.mark.parametrize(
    ("bound", "expected"), [("0", 2), ("1h", 2), ("2020-01-01", 2), ("2020-01-01T00:00:00+02:00", 2), ("0ms", 0)]
)
def test_peek_starts_at_an_id_or_a_time(bound: str, expected: int, saltctl: Runner, stream: HeatStream) -> None:
    """An id, a time in any zone, or a duration ago."""
    report(stream, "a", "b")
    time.sleep(0.002)  # ids have milliseconds
    assert len(saltctl("stream", "peek", "--from", bound, "-o", "json").json) == expected


@pytest.mark.parametrize("bound", ["", "yesterday", "1-2-3", "-1", "2026-13-01", "9" * 20, "9" * 30, f"1-{2**64}"])
def test_an_invalid_start_is_a_usage_error(bound: str, saltctl: Runner, stream: HeatStream) -> None:
    """Exit 2, with examples of valid values; Redis is not asked."""
    outcome = saltctl("stream", "peek", f"--from={bound}", "-o", "json")
    assert outcome.code == 2
    assert outcome.error["code"] == "usage"


def test_a_replay_shows_its_raises_as_a_table(
    saltctl: Runner, stream: HeatStream, rebuild: Rebuilder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table of them below the counts, hostile ids made harmless."""
    rebuild()
    report(stream, HOSTILE, "conv", writes=3000)
    monkeypatch.setenv("COLUMNS", "80")
    lines = saltctl("stream", "replay", "-o", "table").out.splitlines()
    assert [line.split() for line in lines[-2:]] == [["[/]\\x1b[2Jconv", "1", "4"], ["conv", "1", "4"]]


def test_requeueing_puts_the_entry_back(saltctl: Runner, stream: HeatStream, letters: DeadLetters) -> None:
    """A dry run changes nothing; then the entry is on the stream under a new id, and the letter is gone."""
    kept = add_letter(letters, b"v", b"2", b"conversation_id", HOSTILE.encode())
    dry = saltctl("stream", "dead", "requeue", kept, "--dry-run", "-o", "json").json
    assert dry == [{"id": kept, "new_id": None, "action": "requeue"}]
    assert (letters.length(), stream.range("-", "+", 10)) == (1, [])
    (done,) = saltctl("stream", "dead", "requeue", kept, "-o", "json").json
    (entry,) = stream.range("-", "+", 10)
    assert entry == Entry(done["new_id"], [b"v", b"2", b"conversation_id", HOSTILE.encode()])
    assert letters.length() == 0


def test_a_cut_dead_letter_is_not_requeued(saltctl: Runner, stream: HeatStream, letters: DeadLetters) -> None:
    """By id it is refused with the command that drops it; with --all the others are requeued, with a note."""
    cut = add_letter(letters, b"v", b"1", b"padding", b"x" * (MAX_ENTRY_BYTES + 1))
    add_letter(letters, b"v", b"2")
    named = saltctl("stream", "dead", "requeue", cut, "-o", "json")
    assert named.code == 6
    assert named.error["hint"] == f"saltctl stream dead drop {cut}"
    every = saltctl("stream", "dead", "requeue", "--all", "-o", "json")
    assert len(every.json) == 1
    assert "1 letters stay" in every.err
    assert [letter.id for letter in letters.list()] == [cut]


def test_dropping_needs_confirmation(saltctl: Runner, letters: DeadLetters, configured: Settings) -> None:
    """Without --yes it exits 6; a dry run drops nothing."""
    kept, dropped = add_letter(letters, b"v", b"2"), add_letter(letters, b"v", b"3")
    assert saltctl("stream", "dead", "drop", "--all").code == 6
    assert saltctl("stream", "dead", "drop", "--all", "--dry-run").code == 0
    assert letters.length() == 2
    assert saltctl("stream", "dead", "drop", dropped, "--yes").code == 0
    assert [letter.id for letter in letters.list()] == [kept]


@pytest.mark.parametrize("action", ["drop", "requeue"])
def test_ids_or_all_are_required(action: str, saltctl: Runner, letters: DeadLetters) -> None:
    """No id, an id with --all, or an unknown id: exit 2, and nothing changes."""
    kept = add_letter(letters, b"v", b"2")
    for args in ((), ("--all", kept), ("1-1",)):
        outcome = saltctl("stream", "dead", action, *args, "-o", "json")
        assert outcome.code == 2
        assert outcome.error["hint"] == "saltctl stream dead list"
    assert letters.length() == 1
