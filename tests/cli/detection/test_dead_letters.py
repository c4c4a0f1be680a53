"""``saltctl stream dead``: requeueing and dropping dead letters."""

from __future__ import annotations

import pytest

from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import MAX_ENTRY_BYTES, HeatReport, parse
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner
from tests.cli.detection.helpers import HOSTILE


def add_letter(letters: DeadLetters, *fields: bytes) -> str:
    """An entry with these fields that cannot be handled; return the letter's id."""
    letters.add([(Entry("1-1", list(fields)), "no version")])
    return letters.list()[-1].id


@pytest.mark.slow
def test_requeueing_puts_the_entry_back(saltctl: Runner, stream: HeatStream, letters: DeadLetters) -> None:
    """A dry run changes nothing; then the entry is on the stream under a new id, and the letter is gone."""
    kept = add_letter(letters, b"v", b"2", b"conversation_id", HOSTILE.encode())
    dry = saltctl("stream", "dead", "requeue", kept, "--dry-run", "-o", "json").json
    assert dry == [{"id": kept, "new_id": None, "action": "requeue"}]
    assert (letters.length(), stream.range("-", "+", 10)) == (1, [])
    (done,) = saltctl("stream", "dead", "requeue", kept, "-o", "json").json
    (entry,) = stream.range("-", "+", 10)
    assert entry == Entry(done["new_id"], [b"v", b"2", b"conversation_id", HOSTILE.encode(), b"requeued", b"1"])
    assert letters.length() == 0


@pytest.mark.slow
def test_a_full_entry_can_be_requeued(saltctl: Runner, stream: HeatStream, letters: DeadLetters) -> None:
    """The count of its requeues does not make it too large to be parsed, or to be kept whole."""
    sent = [HeatReport(f"{number:04}" + "c" * 189, "app", 1_700_000_000, 5) for number in range(20)]
    stream.append_reports(sent)
    for _ in range(12):
        entry = stream.range("-", "+", 100)[-1]
        letters.add([(entry, "why")])
        assert saltctl("stream", "dead", "requeue", "--all").code == 0
    entry = stream.range("-", "+", 100)[-1]
    assert parse(entry.fields or [], 1_700_000_000) == sent
    assert entry.fields is not None
    assert entry.fields[-2:] == [b"requeued", b"12"]
    assert len(b"".join(entry.fields)) > 4000


@pytest.mark.slow
def test_an_entry_without_room_for_a_count_stays_whole(
    saltctl: Runner, stream: HeatStream, letters: DeadLetters
) -> None:
    """One of another client that is as large as an entry may be: requeued as it was, as often as needed."""
    row = '["c",1' + " " * (MAX_ENTRY_BYTES - 41) + "]"
    stream.append({"v": 2, "server": "s", "window": 1_700_000_000, "reports": f"[{row}]"})
    (entry,) = stream.range("-", "+", 10)
    assert entry.fields is not None
    assert MAX_ENTRY_BYTES - 9 < len(b"".join(entry.fields)) <= MAX_ENTRY_BYTES
    for _ in range(2):
        letters.add([(stream.range("-", "+", 10)[-1], "why")])
        assert saltctl("stream", "dead", "requeue", "--all").code == 0
    assert stream.range("-", "+", 10)[-1].fields == entry.fields
    assert len(parse(entry.fields, 1_700_000_000)) == 1


@pytest.mark.slow
def test_a_cut_dead_letter_is_not_requeued(saltctl: Runner, stream: HeatStream, letters: DeadLetters) -> None:
    """By id it is refused with the command that drops it; with --all the others are requeued, and it exits 4."""
    cut = add_letter(letters, b"v", b"1", b"padding", b"x" * (MAX_ENTRY_BYTES + 1))
    add_letter(letters, b"v", b"2")
    named = saltctl("stream", "dead", "requeue", cut, "-o", "json")
    assert named.code == 6
    assert named.error["hint"] == f"saltctl stream dead drop {cut}"
    every = saltctl("stream", "dead", "requeue", "--all", "-o", "json")
    assert len(every.json) == 1
    assert every.code == 4
    assert f"too large to be kept whole: 1. To delete: saltctl stream dead drop {cut}\n" in every.told
    assert [letter.id for letter in letters.list()] == [cut]


def test_dropping_needs_confirmation(saltctl: Runner, letters: DeadLetters, configured: Settings) -> None:
    """Without --yes it exits 6; a dry run drops nothing."""
    kept, dropped = add_letter(letters, b"v", b"2"), add_letter(letters, b"v", b"3")
    assert saltctl("stream", "dead", "drop", "--all").code == 6
    assert saltctl("stream", "dead", "drop", "--all", "--dry-run").code == 0
    assert letters.length() == 2
    assert saltctl("stream", "dead", "drop", dropped, "--yes").code == 0
    assert [letter.id for letter in letters.list()] == [kept]


@pytest.mark.slow
@pytest.mark.parametrize("action", ["drop", "requeue"])
def test_ids_or_all_are_required(action: str, saltctl: Runner, letters: DeadLetters) -> None:
    """No id, an id with --all, or what is no id: exit 2, and nothing changes."""
    kept = add_letter(letters, b"v", b"2")
    wrong = ("1", "x", f"0{kept}", f"{kept}-0", "1-18446744073709551616", f"{kept} ")
    for args in ((), ("--all", kept), *((kept, text) for text in wrong)):
        outcome = saltctl("stream", "dead", action, *args, "-o", "json")
        assert outcome.code == 2
        assert outcome.error["hint"] == "saltctl stream dead list"
    assert letters.length() == 1


@pytest.mark.parametrize("action", ["drop", "requeue"])
def test_a_second_run_has_nothing_to_do(
    action: str, saltctl: Runner, letters: DeadLetters, stream: HeatStream, configured: Settings
) -> None:
    """A script may run twice, and name a letter twice: it is handled once, then listed as absent, with exit code 0."""
    first, second = add_letter(letters, b"v", b"2"), add_letter(letters, b"v", b"3")
    command = ("stream", "dead", action, *([] if action == "requeue" else ["--yes"]), "-o", "json")
    assert saltctl(*command, first, first).code == 0
    assert (len(stream.range("-", "+", 10)), letters.length()) == (1 if action == "requeue" else 0, 1)
    again = saltctl(*command, first, second)
    assert (again.code, letters.length()) == (0, 0)
    done = "requeued" if action == "requeue" else "dropped"
    assert [(row["id"], row["action"]) for row in again.json] == [(second, done), (first, "absent")]
