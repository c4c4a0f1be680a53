"""Sorting an export in bounded memory, and the effect of each kind of line of an import."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.errors import (
    AwsUnavailableError,
    DamagedEntryError,
    RaiseIncompleteError,
    ThrottledError,
    UsageError,
    WrongTypeError,
)
from saltctl.registry.registry import Registry
from saltctl.registry.transfer import MAX_LINE_BYTES, MAX_LISTED, Import, ImportOptions, ImportReport, sort_entries
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.contracts.registry import BackupEntry, MergeOutcome
from saltctl.testing import MemoryBackup, MemoryRedis


class World:
    """A registry in memory, and imports into it."""

    def __init__(self) -> None:
        self.backup = MemoryBackup()
        self.store = MemoryRedis()
        (self.redis,) = self.store.held.values()
        self.registry = Registry(self.store, self.backup, cap=256)
        self.now = 0.0
        self.slept: list[float] = []
        self.at_sleep: Callable[[], None] = lambda: None

    def sleep(self, seconds: float) -> None:
        """Advance the clock."""
        self.slept.append(seconds)
        self.now += seconds
        self.at_sleep()

    def load(self, lines: bytes, **options: Any) -> ImportReport:
        """Import lines, and return the report."""
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
    """Conversations a and b on both sides, with 4 salts."""
    made = World()
    for conversation_id in "ab":
        made.registry.raise_to(conversation_id, 4)
    return made


def line(conversation_id: object, n: object, **more: object) -> bytes:
    """Return one line of an export."""
    return json.dumps({"conversation_id": conversation_id, "max_n": n, **more}).encode() + b"\n"


@given(st.dictionaries(st.text(), st.integers(1, 256)), st.integers(1, 7))
def test_entries_are_sorted_in_parts_of_any_size(entries: dict[str, int], at_once: int) -> None:
    """In memory or through files: the same order, and no entry is lost or duplicated."""
    assert list(sort_entries(entries.items(), at_once)) == sorted(entries.items())


def test_an_import_is_a_max_merge(world: World) -> None:
    """A larger N of the file is raised by the protocol; a smaller N is ignored; other keys are ignored."""
    report = world.load(line("a", 8, write_n=8) + line("b", 2) + line("c", 16) + line("d", 1))
    assert (report.read, report.raised, report.unchanged, report.skipped) == (4, 2, 2, 0)
    assert world.redis == {"a": 8, "b": 4, "c": 16}
    assert {i: (e.max_n, e.write_n) for i, e in world.backup.items.items()} == {"a": (8, 8), "b": (4, 4), "c": (16, 16)}
    assert world.backup.items["c"].raises[-1].reason == "registry import"
    assert {"conversation_id": "a", "before": 4, "after": 8} in report.raises


def test_a_repeated_import_changes_nothing(world: World) -> None:
    """So an interrupted import is resumed by running it again."""
    lines = line("a", 8) + line("c", 16)
    world.load(lines)
    world.backup.faults.clear()
    assert world.load(lines).raised == 0
    assert "raise_max_n" not in world.backup.faults.calls


def test_an_interrupted_raise_is_completed(world: World) -> None:
    """An entry of the backup that is not committed is completed without another raise."""
    world.backup.items["c"] = BackupEntry("c", 8, 1)
    assert world.load(line("c", 8)).raised == 0
    assert (world.redis["c"], world.backup.items["c"].write_n) == (8, 8)


@pytest.mark.parametrize("in_redis", [None, 2])
def test_a_raise_that_redis_lacks_is_completed(world: World, in_redis: int | None) -> None:
    """The backup alone does not show that nothing is to be done. A dry run counts it, and changes nothing."""
    world.redis.pop("a")
    if in_redis is not None:
        world.redis["a"] = in_redis
    before = dict(world.redis)
    assert world.load(line("a", 4) + line("b", 4), dry_run=True).completed == 1
    assert world.redis == before
    report = world.load(line("a", 2) + line("b", 4))
    assert (report.raised, report.unchanged, report.completed) == (0, 2, 1)
    assert world.redis == {"a": 4, "b": 4}
    assert world.load(line("a", 4) + line("b", 4)).completed == 0


def test_a_duplicate_id_gets_the_larger_n(world: World) -> None:
    """In either order."""
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
def test_a_bad_line_is_reported_and_the_rest_is_imported(world: World, bad: bytes, why: str) -> None:
    """With the number of the line, and the reason."""
    report = world.load(line("c", 8) + b"\n" + bad + line("d", 8))
    assert [(found.line, why in found.problem) for found in report.bad_lines] == [(3, True)]
    assert (report.read, report.skipped) == (2, 1)
    assert (world.redis["c"], world.redis["d"]) == (8, 8)
    assert len(world.backup.items) == 4


def test_a_last_line_without_newline(world: World) -> None:
    """A file without a newline at its end, or with a byte order mark, is imported completely."""
    world.load(b"\xef\xbb\xbf" + line("c", 8) + line("d", 8).strip())
    assert (world.redis["c"], world.redis["d"]) == (8, 8)


def test_a_dry_run_lists_the_raises(world: World) -> None:
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
    """Two hundred raises at fifty a second take four seconds; entries that need no raise take none."""
    lines = b"".join(line(f"conv_{number}", 2) for number in range(200))
    world.load(lines, rate=50.0)
    assert sum(world.slept) == pytest.approx(4.0)
    world.slept.clear()
    world.load(lines, rate=50.0)
    assert sum(world.slept) == 0


def test_a_rate_of_zero_is_refused() -> None:
    """It would never end."""
    with pytest.raises(UsageError):
        ImportOptions(cap=256, rate=0.0)


def test_throttled_requests_are_retried(world: World) -> None:
    """A raise that AWS throttles is retried, and the import does not end."""
    waits = iter(range(3))

    def relax() -> None:
        if next(waits) == 2:
            world.backup.faults.clear()

    world.backup.faults.before["raise_max_n"] = ThrottledError("slow down")
    world.at_sleep = relax
    assert world.load(line("c", 8)).raised == 1
    assert len(world.slept) == 3


@pytest.mark.parametrize("method", ["raise_max_n", "commit_write_n"])
def test_a_failure_has_a_hint_to_run_it_again(world: World, method: str) -> None:
    """AWS is away during the import: an error with a hint, and a second run completes it."""
    world.backup.faults.before[method] = AwsUnavailableError("away")
    with pytest.raises((AwsUnavailableError, RaiseIncompleteError)) as raised:
        world.load(line("c", 8))
    assert "run the same import again" in raised.value.hint
    world.backup.faults.clear()
    world.load(line("c", 8))
    assert (world.redis["c"], world.backup.items["c"].write_n) == (8, 8)


def test_listed_lines_are_bounded(world: World) -> None:
    """Memory is bounded for a file of another kind; every line is counted."""
    report = world.load(b"nonsense\n" * (MAX_LISTED + 5))
    assert (report.skipped, len(report.bad_lines)) == (MAX_LISTED + 5, MAX_LISTED)


@pytest.mark.parametrize("dry_run", [False, True])
def test_a_damaged_item_stops_no_other(world: World, dry_run: bool) -> None:
    """It is listed and counted; the others are raised, those of its batch included."""
    get_many = world.backup.get_many

    def fail_for_bad(conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        if "bad" in conversation_ids:
            raise DamagedEntryError("its max_n is not a number")
        return get_many(conversation_ids)

    world.backup.get_many = fail_for_bad  # type: ignore[method-assign]
    report = world.load(line("a", 4) + line("bad", 8) + line("c", 8), dry_run=dry_run)
    assert (report.read, report.raised, report.unchanged, report.failed) == (3, 1, 1, 1)
    assert report.failures == [{"conversation_id": "bad", "problem": "its max_n is not a number"}]
    assert world.redis.get("c") == (None if dry_run else 8)


def test_a_damaged_bucket_stops_no_other(world: World) -> None:
    """Neither a new raise nor the completion of an interrupted one."""
    merge = world.store.merge

    def fail_for_bad(conversation_id: str, entry: Entry, *arguments: Any, **options: Any) -> MergeOutcome:
        if conversation_id.startswith("bad"):
            raise WrongTypeError("WRONGTYPE")
        return merge(conversation_id, entry, *arguments, **options)

    world.store.merge = fail_for_bad  # type: ignore[method-assign]
    world.backup.items["bad half done"] = BackupEntry("bad half done", 8, 1, ())
    report = world.load(line("bad", 8) + line("bad half done", 8) + line("c", 8))
    assert (report.raised, report.failed, len(report.failures)) == (1, 2, 2)
    assert world.redis["c"] == 8
