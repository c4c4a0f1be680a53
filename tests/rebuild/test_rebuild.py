"""The steps of a rebuild on stores in memory: their order, and the state after a failure at each step."""

from __future__ import annotations

from collections.abc import Callable, Collection, Generator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import pytest

from saltctl.errors import (
    AwsUnavailableError,
    DamagedEntryError,
    RebuildBrokenError,
    RedisUnavailableError,
    SaltctlError,
    UsageError,
)
from saltctl.rebuild.events import EntryAboveCap, Event, RebuildProgress, RebuildReport, RebuildStarted
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.settings import Settings
from saltctl.stores.contracts.messages import TableSize
from saltctl.stores.contracts.registry import BackupPage, DamagedEntry, LeaseHolder, RegistryIdentity
from tests.support.registry_item import FakeRegistryItem

SETTINGS = Settings(key_prefix="test", buckets=16)
TOKEN = "0123456789abcdef" * 2
Step = Callable[[str], None]


class FakeSession:
    """A session with one primary. ``step`` is called with the name of each step."""

    def __init__(self, primary: str, entries: dict[str, int], step: Step) -> None:
        self.primary = primary
        self.replication_id = f"id of {primary}"
        self._entries = entries
        self._step = step
        self._restored = 0

    def mark_buckets(self, token: str, *, replace_registry: bool = False) -> None:
        """Step 3."""
        assert token == TOKEN
        self._step(f"mark {self.primary}")

    def begin_merge(self, entries: Sequence[tuple[str, int] | tuple[str, int, int]]) -> None:
        """Step 4."""
        self._step(f"merge {self.primary}: {' '.join(entry[0] for entry in entries)}")
        for entry in entries:
            if self._entries.get(entry[0], 0) < entry[1]:
                self._entries[entry[0]] = entry[1]
                self._restored += 1

    def end_merge(self) -> int:
        """Return the number of entries that were restored since the last call."""
        restored, self._restored = self._restored, 0
        return restored

    def set_fence(self, token: str, damaged_ids: Collection[str] = ()) -> int:
        """Step 5, second half."""
        assert token == TOKEN
        self._step(f"fence {self.primary}")
        return 0

    def load_lookup(self) -> None:
        """Step 5, first half."""
        self._step(f"load lookup {self.primary}")

    def close(self) -> None:
        """Record it; closing does not fail."""
        self._step(f"close {self.primary}")


@dataclass
class World:
    """Both stores and the lease in one object, which records each step that is taken. ``fails_at`` names one."""

    pages: list[BackupPage]
    primaries_: list[str] = field(default_factory=lambda: ["a"])
    verified_: bool = False
    fails_at: str = ""
    failure: SaltctlError = field(default_factory=lambda: RedisUnavailableError("gone"))
    steps: list[str] = field(default_factory=list)
    redis: dict[str, int] = field(default_factory=dict)
    at: Step = lambda name: None

    def __post_init__(self) -> None:
        """Give the table an identity."""
        self.registry = FakeRegistryItem(self.step)

    def step(self, name: str) -> None:
        """Record a step, or fail at it."""
        self.steps.append(name)
        self.at(name)
        if self.fails_at and name.startswith(self.fails_at):
            raise self.failure

    # The registry in Redis.

    def check_server(self) -> None:
        """Record it."""
        self.step("check server")

    def check_owner(self) -> None:
        """Record it."""
        self.step("check owner")

    def verified(self) -> dict[str, bool]:
        """Return whether the primaries are verified."""
        if self.fails_at == "verified":
            raise self.failure
        return dict.fromkeys(self.primaries_, self.verified_)

    def replication_ids(self) -> set[str]:
        """Return those of the sessions."""
        return {f"id of {primary}" for primary in self.primaries_}

    def sessions(self) -> list[FakeSession]:
        """Open a session with each primary."""
        self.step("sessions")
        return [FakeSession(primary, self.redis, self.step) for primary in self.primaries_]

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """Group ids by the primary whose name they begin with."""
        primaries = dict.fromkeys(i[0] for i in conversation_ids)
        return {primary: [i for i in conversation_ids if i[0] == primary] for primary in primaries}

    def read_unverified(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """Return the entries in Redis."""
        return {i: self.redis.get(i) for i in conversation_ids}

    def server(self, primary: str) -> dict[str, Any]:
        """Return INFO."""
        return {"run_id": f"run of {primary}"}

    # The backup.

    @property
    def lease(self) -> World:
        """The lease is kept here, too."""
        return self

    def scan(self, segments: int, **_: Any) -> Generator[BackupPage, None, None]:
        """Yield the pages."""
        for page in self.pages:
            self.step("scan")
            yield page

    def commit_write_n(self, conversation_id: str, n: int) -> bool:
        """Record it."""
        self.step(f"commit {conversation_id} {n}")
        return True

    def size(self) -> TableSize:
        """Return a size of 10 KB."""
        return TableSize(3, 10_240)

    # The lease.

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Record it."""
        assert owner == TOKEN
        self.step("acquire")
        return None

    def renew(self, owner: str, now: float, progress: str) -> bool:
        """Renew silently: how often depends on the clock."""
        return True

    def release(self, owner: str) -> None:
        """Record it."""
        self.step("release")


def page_of(*entries: tuple[str, int, int], segment: int = 0, **rest: Any) -> BackupPage:
    """Return a page that consumed one read unit."""
    return BackupPage(list(entries), rest.pop("damaged", []), 1.0, segment, **rest)


def _no_sleep(seconds: float) -> None:
    raise AssertionError("nothing waits here")


def rebuild_of(world: World, **options: Any) -> list[Event]:
    """Run a rebuild to its end; return its events."""
    stores = cast("Any", world), cast("Any", world)
    job = Rebuild(
        SETTINGS, *stores, RebuildOptions(**options), token=TOKEN, clock=lambda: 0.0, now=lambda: 0.0, sleep=_no_sleep
    )
    return list(job.run())


def report_of(events: list[Event]) -> RebuildReport:
    """Return the last event."""
    report = events[-1]
    assert isinstance(report, RebuildReport)
    return report


def two_primaries() -> World:
    """A backup of three entries, one of them half done, for two primaries."""
    return World([page_of(("a1", 4, 4), ("b1", 8, 2)), page_of(("a2", 2, 2))], primaries_=["a", "b"])


STEPS = [
    "check server",
    "check registry",
    "acquire",
    "check registry",
    "sessions",
    "mark a",
    "mark b",
    "note primaries",
    "scan",
    "check registry",
    "merge a: a1",
    "merge b: b1",
    "scan",
    "merge a: a2",
    "check registry",
    "load lookup a",
    "load lookup b",
    "fence a",
    "fence b",
    "close a",
    "close b",
    "commit b1 8",
    "release",
]


def test_the_steps_are_taken_in_the_order_of_the_protocol() -> None:
    """Marks before the scan, all lookup scripts before the first fence, half-done raises after it."""
    world = two_primaries()
    events = rebuild_of(world, batch=1)
    assert world.steps == STEPS
    assert world.redis == {"a1": 4, "b1": 8, "a2": 2}
    assert events[0] == RebuildStarted(2, False)
    report = report_of(events)
    assert (report.entries, report.restored, report.unchanged, report.committed) == (3, 3, 0, 1)
    assert (report.verified, report.verified_before, report.primaries, report.consumed_rcu) == (True, False, 2, 2.0)


@pytest.mark.parametrize("step", dict.fromkeys(step for step in STEPS if not step.startswith(("close", "release"))))
def test_a_failure_at_any_step_verifies_nothing_and_frees_everything(step: str) -> None:
    """Nothing is loaded after the failure; sessions that were opened are closed, and the lease is released."""
    world = two_primaries()
    world.fails_at, world.failure = step, RebuildBrokenError("broken")
    with pytest.raises(RebuildBrokenError):
        rebuild_of(world, batch=1)
    failed = world.steps.index(next(taken for taken in world.steps if taken.startswith(step)))
    after = world.steps[failed + 1 :]
    assert not [taken for taken in after if taken.startswith(("load", "fence", "commit", "merge", "scan"))]
    opened = "sessions" in world.steps[:failed]
    closed = "close a" in world.steps
    assert closed is opened
    acquired = "acquire" in world.steps[:failed]
    assert ("release" in world.steps) is acquired


def test_entries_that_redis_has_already_are_unchanged() -> None:
    """An entry is never lowered."""
    world = World([page_of(("a1", 4, 4), ("a2", 4, 4))], redis={"a1": 64, "a2": 2})
    report = report_of(rebuild_of(world))
    assert (report.restored, report.unchanged) == (1, 1)
    assert world.redis == {"a1": 64, "a2": 4}


def test_a_new_primary_breaks_the_rebuild() -> None:
    """Its buckets were not marked."""
    world = World([page_of(("a1", 4, 4), ("c1", 4, 4))], primaries_=["a", "b"])
    with pytest.raises(RebuildBrokenError, match="Redis at c became a primary"):
        rebuild_of(world)
    assert "release" in world.steps


def test_a_heartbeat_page_is_not_counted() -> None:
    """A scan yields empty pages while it waits, so that the lease is renewed."""
    world = World([page_of(segment=-1), page_of(("a1", 4, 4)), page_of(segment=-1)])
    report = report_of(rebuild_of(world))
    assert (report.entries, report.consumed_rcu) == (1, 1.0)


def test_damaged_entries_and_those_above_the_cap_are_events() -> None:
    """Damaged ones are skipped, the others are merged."""
    damaged = DamagedEntry("bad", "it has no max_n")
    world = World([page_of(("a1", 512, 512), damaged=[damaged], above_cap=[("a1", 512)])])
    events = rebuild_of(world)
    assert damaged in events
    assert EntryAboveCap("a1", 512) in events
    assert report_of(events).skipped == 1
    assert world.redis == {"a1": 512}


def test_progress_is_reported_as_often_as_the_options_say() -> None:
    """The clock stands still here: once, or after every page."""
    pages = [page_of(("a1", 4, 4)), page_of(("a2", 4, 4)), page_of(("a3", 4, 4))]
    for progress_every, expected in ((0.2, 1), (0.0, 3)):
        events = rebuild_of(World(list(pages)), progress_every=progress_every)
        assert sum(isinstance(event, RebuildProgress) for event in events) == expected


def test_more_half_done_raises_than_allowed_are_completed_early() -> None:
    """They are merged first: writers must not use a number that readers in Redis do not see."""
    world = World([page_of(("a1", 4, 1), ("a2", 4, 1)), page_of(("a3", 4, 1))])
    report = report_of(rebuild_of(world, max_half_done=1))
    assert report.committed == 3
    commits = [step for step in world.steps if step.startswith("commit")]
    assert commits == ["commit a1 4", "commit a2 4", "commit a3 4"]
    assert world.steps.index("merge a: a1 a2") < world.steps.index("commit a1 4") < world.steps.index("fence a")
    assert world.steps.index("commit a3 4") > world.steps.index("fence a")


def test_a_half_done_raise_of_a_damaged_item_stops_no_other() -> None:
    """DynamoDB refuses to update it: Redis is verified, and the other raises are completed."""
    world = World([page_of(("a1", 4, 1), ("a2", 4, 1), ("a3", 4, 1))])
    world.fails_at, world.failure = "commit a1 4", DamagedEntryError("its item is too large")
    report = report_of(rebuild_of(world, max_half_done=1))
    assert (report.verified, report.committed) == (True, 2)


def test_if_needed_does_nothing_for_a_verified_redis() -> None:
    """It takes no lease, and reads only the note of the newest rebuild, which verified these primaries."""
    world = two_primaries()
    world.verified_ = True
    world.registry.identity = RegistryIdentity("feed0123456789ab", frozenset({"id of a", "id of b"}), "token")
    (report,) = rebuild_of(world, if_needed=True, segments=7)
    assert report == RebuildReport(segments=7, primaries=2, verified=True, verified_before=True)
    assert world.steps == ["check registry"]


def test_if_needed_rebuilds_primaries_that_the_newest_rebuild_does_not_name() -> None:
    """It went to a primary that was replaced, or died before its end: raises wait for the next one."""
    world = two_primaries()
    world.verified_ = True
    world.registry.identity = RegistryIdentity("feed0123456789ab", frozenset({"id of a"}), "token")
    assert report_of(rebuild_of(world, if_needed=True)).entries == 3


def test_if_needed_trusts_a_verified_redis_while_aws_is_down() -> None:
    """The note cannot be read; nothing could be rebuilt either."""
    world = two_primaries()
    world.verified_ = True
    world.fails_at, world.failure = "check registry", AwsUnavailableError("away")
    assert report_of(rebuild_of(world, if_needed=True)).verified_before


def test_another_rebuild_that_has_begun_ends_this_one() -> None:
    """It may verify other primaries, and raises may be merged into those alone: this one sets no fence."""
    world = two_primaries()

    def begin(name: str) -> None:
        if name == "merge a: a2":
            world.registry.identity = RegistryIdentity("feed0123456789ab", frozenset({"id of c"}), "theirs")

    world.at = begin
    with pytest.raises(RebuildBrokenError, match="has begun since"):
        rebuild_of(world, batch=1)
    assert not [step for step in world.steps if step.startswith(("fence", "load"))]


def test_if_needed_rebuilds_an_unverified_redis() -> None:
    """It does the same as without the option."""
    world = two_primaries()
    assert report_of(rebuild_of(world, if_needed=True)).entries == 3
    assert world.steps[-1] == "release"


def test_if_needed_leaves_an_outage_to_the_rebuild() -> None:
    """The rebuild waits for Redis, or reports its own error."""
    world = two_primaries()
    world.fails_at = "verified"
    with pytest.raises(RedisUnavailableError):
        rebuild_of(world, if_needed=True)
    assert world.steps[:3] == ["check server", "check registry", "acquire"]


def test_a_verified_redis_is_rebuilt_and_reported_so() -> None:
    """``verified_before`` distinguishes a check from a recovery."""
    world = two_primaries()
    world.verified_ = True
    assert report_of(rebuild_of(world)).verified_before
    assert "load lookup b" in world.steps


def test_a_dry_run_only_reads() -> None:
    """It estimates the cost, counts missing entries, and reports whether Redis is verified."""
    world = two_primaries()
    world.redis = {"a1": 4}
    report = report_of(rebuild_of(world, dry_run=True, max_rcu=2.0))
    assert world.steps == ["check server", "check registry", "check owner", "scan", "scan"]
    assert world.redis == {"a1": 4}
    assert (report.entries, report.restored, report.dry_run, report.verified) == (3, 2, True, False)
    assert report.estimate is not None
    assert (report.estimate.items, report.estimate.rcu, report.estimate.seconds) == (3, 3, 1.5)


def test_an_outage_of_the_backup_releases_the_lease() -> None:
    """The error of the scan is raised."""
    world = two_primaries()
    world.fails_at, world.failure = "scan", AwsUnavailableError("server error")
    with pytest.raises(AwsUnavailableError, match="server error"):
        rebuild_of(world)
    assert world.steps[-3:] == ["close a", "close b", "release"]


@pytest.mark.parametrize(
    "options",
    [{"segments": 0}, {"segments": 1_000_001}, {"max_rcu": 0.5}, {"max_rcu": float("nan")}, {"max_rcu": 1e10}],
)
def test_options_that_dynamodb_would_refuse(options: dict[str, Any]) -> None:
    """They are usage errors with an example."""
    with pytest.raises(UsageError) as refused:
        RebuildOptions(**options)
    assert refused.value.hint.startswith("such as --")
