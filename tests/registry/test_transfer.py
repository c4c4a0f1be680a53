"""Sorting an export in flat memory, and what an import makes of each kind of line."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.errors import AwsUnavailableError, RaiseIncompleteError, ThrottledError, UsageError
from saltctl.registry.registry import Registry
from saltctl.registry.transfer import MAX_LINE_BYTES, MAX_LISTED, Import, ImportOptions, ImportReport, sort_entries
from saltctl.stores.contracts import BackupEntry
from saltctl.testing import MemoryBackup, MemoryRedis


class World:
    """A registry in memory, and imports into it."""

    def __init__(self) -> None:
        self.backup = MemoryBackup()
        self.store = MemoryRedis()
        (self.redis,) = self.store.held.values()
        self.registry = Registry(self.store, self.backup, layout="v1:16", key_prefix="salt", cap=256)
        self.now = 0.0
        self.slept: list[float] = []
        self.at_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.slept.append(seconds)
        self.now += seconds
        self.at_sleep()

    def load(self, lines: bytes, **options: Any) -> ImportReport:
        """Import lines."""
        job = Import(
            io.BytesIO(lines),
            self.registry,
            self.backup,
            ImportOptions(cap=256, **options),
            clock=lambda: self.now,
            sleep=self.sleep,
        )
        for _ in job.run():
            pass
        return job.report


@pytest.fixture
def world() -> World:
    """Conversations a and b in both places, at 4."""
    made = World()
    for conversation_id in "ab":
        made.registry.raise_to(conversation_id, 4)
    return made


def line(conversation_id: object, n: object, **more: object) -> bytes:
    """One line of an export."""
    return json.dumps({"conversation_id": conversation_id, "max_n": n, **more}).encode() + b"\n"


@given(st.dictionaries(st.text(), st.integers(1, 256)), st.integers(1, 7))
def test_entries_come_sorted_however_they_are_cut(entries: dict[str, int], at_once: int) -> None:
    """In memory or through files of a few entries each: the same order, and nothing lost or doubled."""
    assert list(sort_entries(entries.items(), at_once)) == sorted(entries.items())


def test_an_import_is_a_max_merge(world: World) -> None:
    """What the file has more of is raised by the protocol; what it has less of stays; other keys do not matter."""
    report = world.load(line("a", 8, write_n=8) + line("b", 2) + line("c", 16) + line("d", 1))
    assert (report.read, report.raised, report.unchanged, report.skipped) == (4, 2, 2, 0)
    assert world.redis == {"a": 8, "b": 4, "c": 16}
    assert {i: (e.max_n, e.write_n) for i, e in world.backup.items.items()} == {"a": (8, 8), "b": (4, 4), "c": (16, 16)}
    assert world.backup.items["c"].raises[-1].reason == "registry import"
    assert {"conversation_id": "a", "before": 4, "after": 8} in report.raises


def test_the_same_import_again_changes_nothing(world: World) -> None:
    """Which is how an import goes on that was broken off."""
    lines = line("a", 8) + line("c", 16)
    world.load(lines)
    world.backup.faults.clear()
    assert world.load(lines).raised == 0
    assert "raise_max_n" not in world.backup.faults.calls


def test_a_raise_left_half_way_is_completed(world: World) -> None:
    """An entry that the backup has and that was not committed is completed, without another raise."""
    world.backup.items["c"] = BackupEntry("c", 8, 1)
    assert world.load(line("c", 8)).raised == 0
    assert (world.redis["c"], world.backup.items["c"].write_n) == (8, 8)


def test_an_id_that_comes_twice_gets_the_larger_n(world: World) -> None:
    """In whichever order they come."""
    world.load(line("c", 16) + line("c", 2) + line("d", 2) + line("d", 32))
    assert (world.redis["c"], world.redis["d"]) == (16, 32)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (b"not json\n", "not JSON"),
        (b"\xff\xfe\n", "not JSON"),
        (b"[1, 2]\n", "not an object"),
        (b'{"conversation_id": "x"}\n', "not an object with"),
        (line(7, 4), "not a string"),
        (line("x", "4"), "not a whole number"),
        (line("x", True), "not a whole number"),
        (line("x", 4.5), "not a whole number"),
        (line("x", 0), "at least 1"),
        (line("x", 6), "power of two"),
        (line("x", 512), "cap of 256"),
        (line("", 4), "empty"),
        (line("a#3", 4), "'#'"),
        (line("x" * 2001, 4), "2001 bytes"),
        (b'{"conversation_id": "\\ud800", "max_n": 4}\n', "UTF-8"),
        (b'{"conversation_id": "' + b"x" * 3 * MAX_LINE_BYTES + b'", "max_n": 4}\n', "too long"),
        (b"[" * 15_000 + b"\n", "not JSON"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_imported(world: World, bad: bytes, why: str) -> None:
    """The number of the line and what is wrong with it; lines before and after it count."""
    report = world.load(line("c", 8) + b"\n" + bad + line("d", 8))
    assert [(found.line, why in found.problem) for found in report.bad_lines] == [(3, True)]
    assert (report.read, report.skipped) == (2, 1)
    assert (world.redis["c"], world.redis["d"]) == (8, 8)
    assert len(world.backup.items) == 4


def test_a_last_line_without_its_end(world: World) -> None:
    """A file that ends without a newline, or begins with a byte order mark, is whole all the same."""
    world.load(b"\xef\xbb\xbf" + line("c", 8) + line("d", 8).strip())
    assert (world.redis["c"], world.redis["d"]) == (8, 8)


def test_a_dry_run_says_what_would_be_raised(world: World) -> None:
    """And changes nothing, on either side."""
    before = dict(world.redis)
    report = world.load(line("a", 8) + line("c", 2) + line("b", 4), dry_run=True)
    assert (report.raised, report.unchanged, report.dry_run) == (2, 1, True)
    assert report.raises == [
        {"conversation_id": "c", "before": 1, "after": 2},
        {"conversation_id": "a", "before": 4, "after": 8},
    ]
    assert world.redis == before
    assert set(world.backup.items) == {"a", "b"}


def test_the_rate_is_kept(world: World) -> None:
    """Two hundred raises at fifty a second take four seconds; entries that are held already take none."""
    lines = b"".join(line(f"conv_{number}", 2) for number in range(200))
    world.load(lines, rate=50.0)
    assert sum(world.slept) == pytest.approx(4.0)
    world.slept.clear()
    world.load(lines, rate=50.0)
    assert sum(world.slept) == 0


def test_an_impossible_rate() -> None:
    """A rate of zero would never end."""
    with pytest.raises(UsageError):
        ImportOptions(cap=256, rate=0.0)


def test_throttling_is_waited_out(world: World) -> None:
    """A raise that AWS throttles is tried again, and nobody has to run the import again for it."""
    waits = iter(range(3))

    def relax() -> None:
        if next(waits) == 2:
            world.backup.faults.clear()

    world.backup.faults.before["raise_max_n"] = ThrottledError("slow down")
    world.at_sleep = relax
    assert world.load(line("c", 8)).raised == 1
    assert len(world.slept) == 3


@pytest.mark.parametrize("method", ["raise_max_n", "commit_write_n"])
def test_a_failure_says_that_running_it_again_goes_on(world: World, method: str) -> None:
    """AWS away in the middle: an error with its remedy, and the second run finishes."""
    world.backup.faults.before[method] = AwsUnavailableError("away")
    with pytest.raises((AwsUnavailableError, RaiseIncompleteError)) as raised:
        world.load(line("c", 8))
    assert "run the same import again" in raised.value.hint
    world.backup.faults.clear()
    world.load(line("c", 8))
    assert (world.redis["c"], world.backup.items["c"].write_n) == (8, 8)


def test_named_lines_are_bounded(world: World) -> None:
    """A file that is something else altogether does not fill the memory; every line is counted."""
    report = world.load(b"nonsense\n" * (MAX_LISTED + 5))
    assert (report.skipped, len(report.bad_lines)) == (MAX_LISTED + 5, MAX_LISTED)
