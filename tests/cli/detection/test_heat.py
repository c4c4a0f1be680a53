"""``saltctl heat``: what it draws."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from typing import Any

import pytest

from saltctl.cli.detection import heat
from saltctl.errors import ExitCode
from saltctl.incident.heat_map import ConversationHeat, HeatMap, SaltCounts
from saltctl.incident.timeline import Event, Source
from saltctl.local.environment import LocalEnvironment
from tests.cli.conftest import Runner

NOON = 1_780_056_000
"""A whole minute, in seconds since the epoch: 12:00 UTC."""


def drawn(
    conversations: list[ConversationHeat],
    *,
    minutes: int = 20,
    width: int = 80,
    encoding: str = "utf-8",
    heat_since: float | None = NOON,
) -> str:
    """Return what is drawn of some conversations, if a salt takes 100 write units a second."""
    from rich.console import Console

    buffer = io.TextIOWrapper(io.BytesIO(), encoding=encoding)
    screen = Console(file=buffer, width=width, color_system=None)
    sources = Source("heat", NOON), Source("events")
    found = HeatMap(NOON, NOON + 60 * minutes, tuple(conversations), sources, heat_since=heat_since)
    heat.draw(screen, found=found, wps_per_salt=100)
    buffer.seek(0)
    return buffer.read()


def hot(conversation_id: str | None = "c", events: tuple[Event, ...] = (), **peaks: int) -> ConversationHeat:
    """Return a conversation with these highest seconds, by minute: ``m3=50``. It has two salts from 12:05:10 on."""
    by_minute = {NOON + 60 * int(name[1:]): peak for name, peak in peaks.items()}
    hottest = {minute: (peak, minute + 9) for minute, peak in by_minute.items()}
    return ConversationHeat(conversation_id, by_minute, hottest, events, SaltCounts(((NOON + 310.0, 2, 2),)))


def event(minute: int, kind: str) -> Event:
    """Return an event at the end of a minute."""
    return Event(NOON + 60 * minute + 59.0, kind, "c")


def test_a_bar_is_the_share_of_what_the_salts_took() -> None:
    """100 is all of one salt and half of two; what counts is N in the hottest second, and not after its raise."""
    events = event(5, "raise"), event(9, "cooled"), event(9, "throttled")
    lines = drawn([hot("c", events, m0=1, m3=100, m5=100, m6=100, m9=250)], width=42).splitlines()
    assert lines[0] == "Heat from 12:00 to 12:20 UTC: 1"
    start = lines[2].index("12:00")
    assert lines[2][start:] == "12:00   12:08"
    assert lines[3][:start].split() == ["c", "2"]
    assert lines[3][start:] == "▁  █ █▄  █"
    assert lines[4] == " " * start + "     R   *"


def test_a_narrow_screen_has_columns_of_several_minutes() -> None:
    """The hottest second of them counts. A wide one has wider columns."""
    text = drawn([hot("c", (event(119, "raise"),), m0=10, m1=100)], minutes=120, width=42)
    assert "6 minutes: 1 character;" in text
    assert [line[21:] for line in text.splitlines() if line.startswith("c ")] == ["█"]
    assert [line for line in text.splitlines() if line.endswith("R")] == [" " * 40 + "R"]
    assert "1 minute: 4 characters;" in (wide := drawn([hot("c", m0=100)], minutes=10, width=200))
    assert "████\n" in wide


def test_what_is_not_known_is_not_drawn_as_calm() -> None:
    """Minutes from before the oldest report have dots, and a conversation whose N is not known has no red bar."""
    text = drawn([hot("c", m4=100)], heat_since=NOON + 125.0, minutes=6, width=27)
    assert [line[21:] for line in text.splitlines() if line.startswith("c ")] == ["··  █"]
    unknown = replace(hot("c", m4=900), counts=SaltCounts((), None))
    lines = [line.split() for line in drawn([unknown], heat_since=None, encoding="ascii", width=27).splitlines()]
    assert ["c", "?", "??#???????"] in lines
    assert unknown.load(NOON + 240, 100) == (9.0, False)
    assert unknown.highest_load(100) == 0


def test_a_cooled_conversation_has_two_salt_counts() -> None:
    """That of writers, and that of readers."""
    cooled = replace(hot("c", m0=100), counts=SaltCounts(((NOON + 1.0, 16, 1),)))
    assert [line.split()[:2] for line in drawn([cooled]).splitlines() if line.startswith("c ")] == [["c", "1/16"]]


def test_ids_are_whole_and_harmless() -> None:
    """A long one has a line of its own; a terminal without Unicode gets other bars."""
    text = drawn([hot("x" * 60, m0=100), hot("evil\x1b[31m", m1=100), hot(None, (event(0, "throttled"),))])
    assert "x" * 60 + "\n" in text
    assert "\x1b" not in text
    assert "messages table" in text
    assert "T\n" in text
    assert "#" in drawn([hot("c", m0=100)], encoding="ascii")


def test_what_is_not_shown_is_told(saltctl: Runner, seeded: LocalEnvironment) -> None:
    """And the picture says since when there is data."""
    outcome = saltctl("heat", "--count", "1", "-o", "table")
    assert outcome.code == 0
    assert "--count shows more" in outcome.err
    assert "throttling: since 2" in outcome.out
    assert saltctl("heat", "--count", "0").code == ExitCode.USAGE


def test_a_missing_stream_is_told(saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a pipe, too: an empty list would say that nothing was hot. What else there is is printed."""
    monkeypatch.setenv("SALTCTL_KEY_PREFIX", "other")
    outcome = saltctl("heat", "-o", "jsonl")
    assert outcome.code == ExitCode.FOUND_SOMETHING
    assert (
        "there is no heat stream 'other:heat': nobody reports heat, or what was reported is lost\nsaltctl setup\n"
        in (outcome.told)
    )
    assert {one["conversation_id"] for one in map(json.loads, outcome.out.splitlines())} == {None}


@pytest.mark.parametrize("form", ["table", "json"])
def test_what_is_missing_is_an_error(
    saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch, form: str
) -> None:
    """The rest is printed all the same."""
    from saltctl.errors import AccessDeniedError
    from saltctl.stores.aws.cloudwatch import CloudWatchMetrics

    def denied(*_: Any) -> None:
        raise AccessDeniedError("no rights")

    monkeypatch.setattr(CloudWatchMetrics, "describe", denied)
    outcome = saltctl("heat", "-o", form)
    assert outcome.code == ExitCode.INCOMPLETE
    assert "the picture lacks throttling: no rights" in outcome.err
    assert "conv_hot_12" in outcome.out
    assert ("throttling" in outcome.out.replace("T throttled", "")) is False
