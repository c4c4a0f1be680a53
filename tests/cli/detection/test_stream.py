"""``saltctl stream``: status, lost entries and peek."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner
from tests.cli.detection.helpers import HOSTILE, report


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


def test_ids_ahead_of_the_clock_are_a_finding(saltctl: Runner, stream: HeatStream, admin: Any) -> None:
    """A stream that a service reads is degraded, since its times mean nothing; the seconds are in the JSON."""
    stream.send_heartbeat("worker")
    admin.execute_command("XADD", stream.key, "7258118400000-0", "a", 1)
    stream.acknowledge([entry.id for entry in stream.read_new("worker", 3)])
    outcome = saltctl("stream", "status", "--window", "10ms", "-o", "json")
    assert (outcome.code, outcome.json["verdict"]) == (3, "degraded")
    assert abs(outcome.json["ahead_s"] - (7_258_118_400 - time.time())) < 3600
    assert "ahead of the clock" in outcome.err
    assert "ahead of the clock" in saltctl("doctor", "--only", "stream-lag").out


def test_entries_that_were_trimmed_while_pending_are_told(saltctl: Runner, stream: HeatStream, admin: Any) -> None:
    """``stream status`` counts them while they are pending, and ``stream replay`` when it drops them."""
    stream.send_heartbeat("worker")
    report(stream, "a", "b", "c")
    stream.read_new("worker", 2)
    admin.xtrim(stream.key, maxlen=1, approximate=False)
    outcome = saltctl("stream", "status", "--window", "10ms", "-o", "json")
    assert (outcome.code, outcome.json["groups"][0]["trimmed_pending"]) == (3, 2)
    assert "2 entries of group saltctl were trimmed while they were pending" in outcome.err
    outcome = saltctl("stream", "replay", "--dry-run", "-o", "json")
    assert (outcome.code, outcome.json["trimmed_pending"]) == (0, 2)
    assert "2 pending entries were trimmed before anyone had handled them" in outcome.err


def test_without_a_stream_the_verdict_is_unknown(saltctl: Runner, configured: Settings) -> None:
    """Exit 3, and null for unknown values."""
    outcome = saltctl("stream", "status", "--window", "10ms", "-o", "json")
    assert outcome.code == 3
    found = outcome.json
    assert (found["verdict"], found["length"], found["first_id"], found["groups"]) == ("unknown", None, None, [])


@pytest.mark.parametrize("lost", ["stream", "group"])
def test_a_missing_stream_has_one_meaning(
    saltctl: Runner, stream: HeatStream, letters: DeadLetters, admin: Any, lost: str
) -> None:
    """Commands that look exit 3, those that need it 78, and all name the command that creates it, and nothing else."""
    report(stream, "a")
    letters.add([(Entry("1-1", [b"x", b"y"]), "why")])
    admin.delete(stream.key) if lost == "stream" else admin.xgroup_destroy(stream.key, stream.group)
    wanted = {
        "stream status --window 10ms": 3,
        "service status --window 10ms": 3,
        "stream peek": 3,
        "stream peek --pending": 3,
        "stream dead list": 3,
        "stream dead requeue --all": 78,
        "stream replay": 78,
        "stream replay --dry-run": 78,
    }
    for command, code in wanted.items():
        outcome = saltctl(*command.split())
        named = [line for line in outcome.err.splitlines() if line.startswith("  try: ")]
        assert (outcome.code, named[:1]) == (code, ["  try: saltctl setup"]), (command, outcome)
        assert "heat stream" in outcome.err, command
    assert len(letters.list()) == 1
    healed = saltctl("setup", "--stream", "--cron", "-o", "json")
    assert (healed.code, [action["action"] for action in healed.json["actions"]]) == (0, ["created"])
    assert json.loads(healed.err)["event"] == "setup"
    again = saltctl("setup", "--stream", "--cron")
    assert (again.code, again.out, again.err) == (0, "", "")
    assert saltctl("stream", "peek").code == 0


@pytest.mark.slow
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


def test_peek_has_a_row_for_each_report(saltctl: Runner, stream: HeatStream) -> None:
    """Reports that share an entry share its id; --count is a number of entries."""
    window = int(time.time())
    stream.append_reports([HeatReport(f"conv_{number}", "app", window, number) for number in range(22)])
    rows = saltctl("stream", "peek", "--count", "1", "-o", "json").json
    assert [(row["conversation_id"], row["writes"]) for row in rows] == [(f"conv_{n}", n) for n in range(20)]
    assert len({(row["id"], row["server"], row["window"], row["valid"]) for row in rows}) == 1


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
    ("bound", "expected"),
    [("0", 2), ("1h", 2), ("2020-01-01", 2), ("yesterday", 2), ("2020-01-01T00:00:00+02:00", 2), ("0ms", 0)],
)
def test_peek_starts_at_an_id_or_a_time(bound: str, expected: int, saltctl: Runner, stream: HeatStream) -> None:
    """An id, a time in any zone, or a duration ago."""
    report(stream, "a", "b")
    time.sleep(0.002)  # ids have milliseconds
    assert len(saltctl("stream", "peek", "--from", bound, "-o", "json").json) == expected


@pytest.mark.parametrize("bound", ["", "tomorrow", "1-2-3", "-1", "2026-13-01", "9" * 20, "9" * 30, f"1-{2**64}"])
def test_an_invalid_start_is_a_usage_error(bound: str, saltctl: Runner, stream: HeatStream) -> None:
    """Exit 2, with examples of valid values; Redis is not asked."""
    outcome = saltctl("stream", "peek", f"--from={bound}", "-o", "json")
    assert outcome.code == 2
    assert outcome.error["code"] == "usage"
