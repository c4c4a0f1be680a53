"""Each check of a history finds its violation, and accepts histories that the promise allows."""

from __future__ import annotations

from collections.abc import Sequence
from math import inf

import pytest

from saltctl.canary.judge import check, lookups_below_backup
from saltctl.canary.operations import (
    BackupLoss,
    LookupAnswer,
    Operations,
    Put,
    RaiseAttempt,
    Read,
    Sample,
    Source,
)


def put(message: str, began: float, ended: float = inf, *, acknowledged: bool = True, needed_n: int = 1) -> Put:
    """Make a put in ``conv``; without an end it is not acknowledged."""
    return Put("w", "conv", began, ended, message, acknowledged and ended < inf, needed_n)


def read(messages: str, began: float, ended: float) -> Read:
    """Make a read; each letter is a message."""
    return Read("r", "conv", began, ended, tuple(messages))


def lookup(
    max_n: int, began: float, ended: float, source: Source = "redis", write_n: int | None = None
) -> LookupAnswer:
    """Make a lookup; from Redis, write_n is max_n."""
    return LookupAnswer("l", "conv", began, ended, max_n, max_n if source == "redis" else write_n, source)


def raised(n: int, began: float, ended: float = inf, after: int | None = None) -> RaiseAttempt:
    """Make a raise; without an end it is not acknowledged."""
    return RaiseAttempt("s", "conv", began, ended, n, after or n, ended < inf)


def sample(began: float, max_n: int, write_n: int, raises: Sequence[int]) -> Sample:
    """Make a sample that took half a second; a negative record is a cool-down."""
    cooled = any(n < 0 for n in raises)
    return Sample("b", "conv", began, began + 0.5, max_n, write_n, tuple(raises), cooled)


def broken(
    *,
    puts: Sequence[Put] = (),
    reads: Sequence[Read] = (),
    lookups: Sequence[LookupAnswer] = (),
    raises: Sequence[RaiseAttempt] = (),
    samples: Sequence[Sample] = (),
    losses: Sequence[BackupLoss] = (),
) -> list[str]:
    """Return the rules that a history breaks."""
    history = Operations(list(puts), list(reads), list(lookups), list(raises), list(samples), list(losses))
    return [violation.check for violation in check(history)]


def test_a_message_acknowledged_before_the_read_began_has_to_be_there() -> None:
    """A message that was acknowledged during the read may be missing."""
    assert broken(puts=[put("a", 0, 1)], reads=[read("", 2, 3)]) == ["missing"]
    assert broken(puts=[put("a", 0, 2.5)], reads=[read("", 2, 3)]) == []
    assert broken(puts=[put("a", 0, 2.5)], reads=[read("a", 2, 3)]) == []


def test_a_message_that_may_have_been_written_has_to_stay_once_it_was_read() -> None:
    """It may appear late, but it may not disappear after a read returned it."""
    writes = [put("a", 0)]
    assert broken(puts=writes, reads=[read("", 1, 2), read("a", 3, 4), read("a", 5, 6)]) == []
    assert broken(puts=writes, reads=[read("a", 1, 2), read("", 3, 4)]) == ["missing"]
    assert broken(puts=writes, reads=[read("a", 1, 4), read("", 3, 5)]) == []


def test_a_retry_makes_a_message_acknowledged_from_its_end_on() -> None:
    """The first attempt failed, the second one was acknowledged at 3."""
    writes = [put("a", 0, 1, acknowledged=False), put("a", 2, 3)]
    assert broken(puts=writes, reads=[read("", 1.5, 2.5)]) == []
    assert broken(puts=writes, reads=[read("", 3.5, 4)]) == ["missing"]


def test_messages_never_sent_and_duplicates_are_found() -> None:
    """A message was never sent if no write of it began before the read ended."""
    assert broken(puts=[put("a", 0, 1)], reads=[read("ax", 2, 3)]) == ["never sent"]
    assert broken(puts=[put("a", 5, 6)], reads=[read("a", 2, 3)]) == ["never sent"]
    assert broken(puts=[put("a", 0, 1)], reads=[read("aa", 2, 3)]) == ["duplicate"]


def test_conversations_are_kept_apart() -> None:
    """A message of one conversation was never sent in another."""
    other = Read("r", "other", 2, 3, ("a",))
    assert broken(puts=[put("a", 0, 1)], reads=[other]) == ["never sent"]


def test_a_lookup_returns_every_raise_acknowledged_before_it() -> None:
    """This includes a larger N that the raise found and completed."""
    assert broken(raises=[raised(4, 0, 1)], lookups=[lookup(1, 2, 3)]) == ["lost raise"]
    assert broken(raises=[raised(4, 0, 2.5)], lookups=[lookup(1, 2, 3)]) == []
    found = [raised(8, 0), raised(4, 0, 1, after=8)]
    assert broken(raises=found, lookups=[lookup(4, 2, 3)]) == ["lost raise"]


def test_a_lookup_returns_no_n_without_a_raise_to_it() -> None:
    """A raise counts from its start, even if it is never acknowledged."""
    assert broken(lookups=[lookup(4, 0, 1)]) == ["never raised"]
    assert broken(raises=[raised(4, 2)], lookups=[lookup(4, 0, 1)]) == ["never raised"]
    assert broken(raises=[raised(4, 0.5)], lookups=[lookup(4, 0, 1)]) == []


@pytest.mark.parametrize(
    ("first", "second", "rules"),
    [
        (("redis", 8, 8), ("redis", 4, 4), ["below write_n", "went down"]),
        (("redis", 8, 8), ("backup", 4, 4), ["below write_n", "went down"]),
        (("backup", 8, 4), ("backup", 4, 4), ["backup went down"]),
        (("backup", 8, 4), ("redis", 4, 4), []),
        (("backup", 8, 8), ("redis", 4, 4), ["below write_n"]),
        (("backup", 8, 4), ("redis", 2, 2), ["below write_n"]),
    ],
)
def test_lookups_never_go_down(
    first: tuple[Source, int, int], second: tuple[Source, int, int], rules: list[str]
) -> None:
    """Except from the backup to Redis while no writer uses the larger N; overlapping lookups may be in any order."""
    aims = [raised(8, 0)]
    (source, max_n, write_n), (then, later_n, later_write_n) = first, second
    first_answer = lookup(max_n, 1, 2, source, write_n)
    assert broken(raises=aims, lookups=[first_answer, lookup(later_n, 3, 4, then, later_write_n)]) == rules
    assert broken(raises=aims, lookups=[first_answer, lookup(later_n, 1.5, 4, then, later_write_n)]) == []


def test_the_exception_is_counted() -> None:
    """A raise was killed after its first step: the backup held more than Redis."""
    ahead, behind = lookup(8, 1, 2, "backup", 4), lookup(4, 3, 4)
    assert lookups_below_backup(Operations(lookups=[ahead, behind])) == [(behind, 8)]
    assert lookups_below_backup(Operations(lookups=[ahead, lookup(8, 3, 4)])) == []


def test_the_backup_never_goes_down() -> None:
    """A sample is a lookup in the backup, with more rules for write_n and the records."""
    aims = [raised(8, 0), raised(4, 0)]
    assert broken(raises=aims, samples=[sample(1, 4, 1, [4]), sample(2, 8, 4, [4, 8]), sample(3, 8, 8, [4, 8])]) == []
    lower = [sample(1, 8, 1, [4, 8]), sample(2, 4, 1, [4])]
    assert broken(raises=aims, samples=lower) == ["backup went down", "records of raises"]
    assert broken(raises=aims, samples=[sample(1, 8, 4, [8]), sample(2, 8, 1, [8])]) == ["write_n went down"]
    assert broken(raises=aims, samples=[sample(1, 4, 8, [4])]) == ["write_n above max_n"]
    assert broken(raises=[raised(8, 0, 0.5)], samples=[sample(1, 4, 1, [4])]) == ["lost raise"]


def test_only_a_cool_down_lowers_write_n() -> None:
    """It is recorded; raises after it increase from its N."""
    aims = [raised(8, 0), raised(2, 3)]
    cooled = [
        sample(1, 8, 8, [8]),
        sample(2, 8, 1, [8, -1]),
        sample(4, 8, 2, [8, -1, 2]),
        sample(5, 8, 1, [8, -1, 2, -1]),
    ]
    assert broken(raises=aims, samples=cooled) == []
    for records, write_n in (([8, -1], 8), ([8, -1, 2, -4], 1), ([8, -1, 1], 1), ([8, -4, 2], 2)):
        samples = [sample(1, 8, 8, [8]), sample(3, 8, write_n, records)]
        assert ("records of raises" in broken(raises=aims, samples=samples)) == (write_n != 8)
    samples = [sample(1, 8, 8, [8, -1]), sample(2, 8, 1, [8, -1])]
    assert broken(raises=aims, samples=samples) == ["write_n went down"]


def test_records_of_raises_grow_strictly_up_to_max_n() -> None:
    """Duplicates, wrong order, and a last record that is not max_n are found."""
    aims = [raised(8, 0)]
    for records in ([4, 4, 8], [8, 4], [4]):
        assert "records of raises" in broken(raises=aims, samples=[sample(1, 8, 1, records)])


def test_redis_never_holds_more_than_the_backup() -> None:
    """Every later sample of the backup has at least the N that a lookup found in Redis."""
    assert broken(raises=[raised(8, 0)], lookups=[lookup(8, 1, 2)], samples=[sample(3, 1, 1, [])]) == [
        "below write_n",
        "went down",
    ]


def test_a_lookup_covers_the_salt_of_every_acknowledged_message() -> None:
    """Also after a loss of table and Redis; a message that was not acknowledged before proves nothing."""
    both = [BackupLoss(2, 3, 0, both=True)]
    for losses in ([], both):
        assert broken(puts=[put("a", 0, 1, needed_n=8)], lookups=[lookup(1, 4, 5)], losses=losses) == [
            "uncovered message"
        ]
        for written in (put("a", 0, needed_n=8), put("a", 0, 4.5, needed_n=8)):
            assert broken(puts=[written], lookups=[lookup(1, 4, 5)], losses=losses) == []


def test_only_a_loss_of_table_and_redis_lowers_a_lookup() -> None:
    """A raise acknowledged before may be gone with both, but not one after, nor one in the copy that was restored."""
    down = ["lost raise", "below write_n", "went down"]
    raises, answers = [raised(8, 0, 1)], [lookup(8, 1, 1.5), lookup(4, 4, 5), lookup(4, 1.6, 6)]
    for losses, rules in (
        ([], [*down, *down]),
        ([BackupLoss(2, 3, 0, both=False)], [*down, *down]),
        ([BackupLoss(2, 3, 0, both=True)], []),
        ([BackupLoss(2, 3, 1.2, both=True)], ["lost raise", "lost raise"]),
        ([BackupLoss(2, 3, 1.7, both=True)], [*down, *down]),
    ):
        assert sorted(broken(raises=raises, lookups=answers, losses=losses)) == sorted(rules), losses
    after = [raised(8, 3.1, 3.5)]
    assert broken(raises=after, lookups=[lookup(4, 4, 5)], losses=[BackupLoss(2, 3, 0, both=True)]) == ["lost raise"]


def test_a_lost_table_returns_without_raises_that_were_not_acknowledged() -> None:
    """Its records are new ones; samples of one table are compared as ever."""
    samples = [sample(0, 8, 4, [2, 4, 8]), sample(4, 4, 4, [4]), sample(6, 4, 4, [4])]
    assert broken(raises=[raised(8, 0)], samples=samples, losses=[BackupLoss(2, 3, 0, both=False)]) == []
    assert "backup went down" in broken(raises=[raised(8, 0)], samples=samples)
    samples[1] = sample(4, 8, 4, [4, 8])
    assert broken(raises=[raised(8, 0)], samples=samples, losses=[BackupLoss(2, 3, 0, both=False)]) == [
        "backup went down",
        "records of raises",
    ]
