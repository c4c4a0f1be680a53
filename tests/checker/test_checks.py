"""The checks of a history can fail, each for its reason, and allow what may happen."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf
from pathlib import Path

import pytest

from tests.checker.checks import check, went_back
from tests.checker.log import History, Log, Looked, Put, Raised, Read, Sample, Source, read_logs


def put(message: str, began: float, ended: float = inf, *, acknowledged: bool = True) -> Put:
    """A message of ``conv``; without an end it is not acknowledged."""
    return Put("w", "conv", began, ended, message, acknowledged and ended < inf)


def read(messages: str, began: float, ended: float) -> Read:
    """A read of messages whose names are one letter each."""
    return Read("r", "conv", began, ended, tuple(messages))


def look(max_n: int, began: float, ended: float, source: Source = "redis", write_n: int | None = None) -> Looked:
    """A lookup; what Redis says holds for readers and writers."""
    return Looked("l", "conv", began, ended, max_n, max_n if source == "redis" else write_n, source)


def raised(n: int, began: float, ended: float = inf, after: int | None = None) -> Raised:
    """A raise; without an end it is not acknowledged."""
    return Raised("s", "conv", began, ended, n, after or n, ended < inf)


def sample(began: float, max_n: int, write_n: int, raises: Sequence[int]) -> Sample:
    """A sample that took half a second."""
    return Sample("b", "conv", began, began + 0.5, max_n, write_n, tuple(raises))


def broken(
    *,
    puts: Sequence[Put] = (),
    reads: Sequence[Read] = (),
    lookups: Sequence[Looked] = (),
    raises: Sequence[Raised] = (),
    samples: Sequence[Sample] = (),
) -> list[str]:
    """The rules that a history breaks."""
    history = History(list(puts), list(reads), list(lookups), list(raises), list(samples))
    return [violation.check for violation in check(history)]


def test_a_message_acknowledged_before_the_read_began_has_to_be_there() -> None:
    """One that was acknowledged while the read was under way may or may not be."""
    assert broken(puts=[put("a", 0, 1)], reads=[read("", 2, 3)]) == ["missing"]
    assert broken(puts=[put("a", 0, 2.5)], reads=[read("", 2, 3)]) == []
    assert broken(puts=[put("a", 0, 2.5)], reads=[read("a", 2, 3)]) == []


def test_a_message_that_may_have_been_written_has_to_stay_once_it_was_read() -> None:
    """Before the first read that has it, it may come late; afterwards, it may not go."""
    writes = [put("a", 0)]
    assert broken(puts=writes, reads=[read("", 1, 2), read("a", 3, 4), read("a", 5, 6)]) == []
    assert broken(puts=writes, reads=[read("a", 1, 2), read("", 3, 4)]) == ["missing"]
    assert broken(puts=writes, reads=[read("a", 1, 4), read("", 3, 5)]) == []


def test_a_retry_makes_a_message_acknowledged_from_its_end_on() -> None:
    """The first attempt failed, the second one was acknowledged at 3."""
    writes = [put("a", 0, 1, acknowledged=False), put("a", 2, 3)]
    assert broken(puts=writes, reads=[read("", 1.5, 2.5)]) == []
    assert broken(puts=writes, reads=[read("", 3.5, 4)]) == ["missing"]


def test_what_nobody_sent_or_came_twice() -> None:
    """A message is invented where no writing of it had begun when the read ended."""
    assert broken(puts=[put("a", 0, 1)], reads=[read("ax", 2, 3)]) == ["invented"]
    assert broken(puts=[put("a", 5, 6)], reads=[read("a", 2, 3)]) == ["invented"]
    assert broken(puts=[put("a", 0, 1)], reads=[read("aa", 2, 3)]) == ["twice"]


def test_conversations_are_kept_apart() -> None:
    """A message of one is invented in another."""
    other = Read("r", "other", 2, 3, ("a",))
    assert broken(puts=[put("a", 0, 1)], reads=[other]) == ["invented"]


def test_a_lookup_returns_every_raise_acknowledged_before_it() -> None:
    """Also the larger N that the raise found there and completed."""
    assert broken(raises=[raised(4, 0, 1)], lookups=[look(1, 2, 3)]) == ["lost raise"]
    assert broken(raises=[raised(4, 0, 2.5)], lookups=[look(1, 2, 3)]) == []
    found = [raised(8, 0), raised(4, 0, 1, after=8)]
    assert broken(raises=found, lookups=[look(4, 2, 3)]) == ["lost raise"]


def test_a_lookup_returns_nothing_that_nobody_raised_to() -> None:
    """A raise counts from its beginning, whether or not it was ever acknowledged."""
    assert broken(lookups=[look(4, 0, 1)]) == ["invented raise"]
    assert broken(raises=[raised(4, 2)], lookups=[look(4, 0, 1)]) == ["invented raise"]
    assert broken(raises=[raised(4, 0.5)], lookups=[look(4, 0, 1)]) == []


@pytest.mark.parametrize(
    ("first", "second", "rules"),
    [
        (("redis", 8, 8), ("redis", 4, 4), ["writer's leap", "went back"]),
        (("redis", 8, 8), ("backup", 4, 4), ["writer's leap", "went back"]),
        (("backup", 8, 4), ("backup", 4, 4), ["backup went back"]),
        (("backup", 8, 4), ("redis", 4, 4), []),
        (("backup", 8, 8), ("redis", 4, 4), ["writer's leap"]),
        (("backup", 8, 4), ("redis", 2, 2), ["writer's leap"]),
    ],
)
def test_lookups_never_go_back(
    first: tuple[Source, int, int], second: tuple[Source, int, int], rules: list[str]
) -> None:
    """But from the backup to Redis where nobody writes by the larger N yet; and none of it where they overlap."""
    aims = [raised(8, 0)]
    (source, max_n, write_n), (then, later_n, later_write_n) = first, second
    one = look(max_n, 1, 2, source, write_n)
    assert broken(raises=aims, lookups=[one, look(later_n, 3, 4, then, later_write_n)]) == rules
    assert broken(raises=aims, lookups=[one, look(later_n, 1.5, 4, then, later_write_n)]) == []


def test_the_exception_is_counted() -> None:
    """A raise died after its first step: the backup was ahead of Redis."""
    ahead, behind = look(8, 1, 2, "backup", 4), look(4, 3, 4)
    assert went_back([ahead, behind], [raised(8, 0)]) == [(behind, 8)]
    assert went_back([ahead, look(8, 3, 4)], [raised(8, 0)]) == []


def test_the_backup_never_goes_down() -> None:
    """A sample is a lookup in the backup, and its write_n and records are held to more."""
    aims = [raised(8, 0), raised(4, 0)]
    assert broken(raises=aims, samples=[sample(1, 4, 1, [4]), sample(2, 8, 4, [4, 8]), sample(3, 8, 8, [4, 8])]) == []
    lower = [sample(1, 8, 1, [4, 8]), sample(2, 4, 1, [4])]
    assert broken(raises=aims, samples=lower) == ["backup went back", "records of raises"]
    assert broken(raises=aims, samples=[sample(1, 8, 4, [8]), sample(2, 8, 1, [8])]) == ["write_n went down"]
    assert broken(raises=aims, samples=[sample(1, 4, 8, [4])]) == ["write_n above max_n"]
    assert broken(raises=[raised(8, 0, 0.5)], samples=[sample(1, 4, 1, [4])]) == ["lost raise"]


def test_records_of_raises_grow_strictly_up_to_max_n() -> None:
    """Doubled, out of order, or not the last one."""
    aims = [raised(8, 0)]
    for records in ([4, 4, 8], [8, 4], [4]):
        assert "records of raises" in broken(raises=aims, samples=[sample(1, 8, 1, records)])


def test_redis_never_holds_more_than_the_backup() -> None:
    """What a lookup found in Redis, every later sample of the backup has."""
    assert broken(raises=[raised(8, 0)], lookups=[look(8, 1, 2)], samples=[sample(3, 1, 1, [])]) == [
        "writer's leap",
        "went back",
    ]


def test_logs_are_read_as_they_were_written(tmp_path: Path) -> None:
    """An operation without an end may have happened; a half line is left for later."""
    log = Log(tmp_path, "w1")
    log.end(log.begin("put", "conv", "a"), acknowledged=True)
    log.begin("put", "conv", "b")
    log.end(log.begin("raise", "conv", 4), acknowledged=True, value=8)
    log.end(log.begin("raise", "conv", 16), acknowledged=False)
    log.saw("lookup", "conv", 0.0, [4, None, "redis"])
    log.saw("read", "conv", 0.0, ["a"])
    log.saw("sample", "conv", 0.0, [8, 4, [8]])
    log.note("error", "throttled")
    with (tmp_path / "w1.jsonl").open("a") as file:
        file.write('{"kind": "read"')
    history = read_logs(tmp_path)
    assert [(one.message, one.acknowledged, one.ended < inf) for one in history.puts] == [
        ("a", True, True),
        ("b", False, False),
    ]
    assert [(one.n, one.after, one.acknowledged) for one in history.raises] == [(4, 8, True), (16, 16, False)]
    assert [one[4:] for one in history.lookups] == [(4, None, "redis")]
    assert [one.messages for one in history.reads] == [("a",)]
    assert [one[4:] for one in history.samples] == [(8, 4, (8,))]
    assert history.noted("error") == {"throttled": 1}
    assert sum(history.operations.values()) == 7
