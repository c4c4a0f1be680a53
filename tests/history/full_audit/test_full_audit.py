"""An audit of all conversations finds what readers miss, however its runs end, and nothing else."""

from __future__ import annotations

import time
from collections.abc import Generator, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from saltctl.errors import AccessDeniedError, AwsUnavailableError, CheckpointRefusedError, LeaseHeldError
from saltctl.history.full_audit.events import AuditRestarted, FullAudit
from saltctl.history.full_audit.paced_messages import PacedMessages
from saltctl.history.full_audit.probe import Missed, Probe
from saltctl.history.full_audit.state import MAX_FINDINGS, AuditState
from saltctl.salting import salt_of
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.stores.contracts.registry import LeaseHolder
from saltctl.stores.saved_state import decode
from tests.history.full_audit.fakes import CAP, World


@pytest.fixture
def world() -> Iterator[World]:
    """Return eight conversations with N 4, whose readers see everything."""
    world = World()
    for number in range(8):
        world.servers.registry.raise_to(f"c{number}", 4)
        world.write(f"c{number}", 1, 3)
        world.write(f"c{number}", 4, 8, first=3)
    yield world
    world.servers.close()


def kinds(report: FullAudit) -> dict[str, str]:
    """Return the kind of each finding by conversation."""
    return {found.conversation_id: found.kind for found in report.findings}


def result_of(steps: Generator[None, None, Missed | None]) -> Missed | None:
    """Run a probe to its end."""
    while True:
        try:
            next(steps)
        except StopIteration as done:
            return done.value  # type: ignore[no-any-return]


def plant(world: World) -> dict[str, str]:
    """Plant everything that readers miss; return the kinds."""
    world.write("c2", 8)
    world.write("c7", 16)
    world.write("lost", 8, 40)
    world.write("gone", 2, 60)
    entry = world.servers.backup.items["c4"]
    assert entry is not None
    return {"c2": "beyond", "c7": "beyond", "lost": "lost", "gone": "lost"}


def test_a_healthy_registry_has_no_findings(world: World) -> None:
    """One run audits everything. Before the first complete cycle nothing is proved."""
    first = world.audit(budget=0.5, sample_items=10)
    assert (first.audited, first.cycle_complete, first.found) == (8, True, 0)
    assert first.oldest_age_s == 0.0
    assert first.sample_age_s is None
    world.now += 60
    second = world.audit()
    assert (second.sample_items, second.sample_age_s) == (78, 60.0)
    assert world.item.holder is None


def test_the_age_counts_from_the_begin_of_the_last_complete_cycle(world: World) -> None:
    """A run whose time is over audits one conversation at least."""
    began = world.now
    ages = []
    for _ in range(18):
        auditor = world.auditor(budget=1.0, sample_items=0)
        world.clock += 5
        *_, report = auditor.run()
        assert isinstance(report, FullAudit)
        assert report.audited == 1
        ages.append(report.oldest_age_s)
        world.now += 10
    assert ages[:7] == [None] * 7
    assert ages[7:15] == [world.now - 10 * (18 - i) - began for i in range(7, 15)]
    assert ages[15] == 70.0


@pytest.mark.parametrize("step", [1, 2, 5, 13])
def test_everything_is_found_in_one_cycle_however_often_it_is_killed(world: World, step: int) -> None:
    """Each run is killed a few queries later than it could save something."""
    planted = plant(world)
    at, report = 20, None
    for _ in range(400):
        report = world.killed_run(at, sample_items=20)
        if report is not None and report.cycle_complete:
            break
        at += step
    assert report is not None
    assert kinds(report).items() >= {"c2": "beyond", "c7": "beyond"}.items()
    while report.sample_age_s is None:
        report = world.audit(sample_items=40)
    assert kinds(report) == planted
    assert (report.found, report.lost) == (4, 2)
    by_id = {found.conversation_id: found for found in report.findings}
    assert (by_id["c2"].max_n, by_id["c2"].needed_n) == (4, 8)
    assert (by_id["lost"].max_n, by_id["lost"].needed_n) == (1, 8)


def test_a_raise_removes_a_finding_with_the_next_run(world: World) -> None:
    """Messages that were deleted remove it with the next cycle."""
    plant(world)
    assert world.audit().found == 4
    for name, n in (("c2", 8), ("lost", 8)):
        world.servers.registry.raise_to(name, n)
    short = world.auditor(budget=1.0, sample_items=0)
    world.clock += 5
    *_, report = short.run()
    assert isinstance(report, FullAudit)
    assert report.audited == 1
    assert set(kinds(report)) == {"c7", "gone"}
    world.audit(sample_items=0)
    for salt in range(2):
        world.messages.clear(f"gone#{salt}")
    world.now += 1
    assert set(kinds(world.audit(sample_items=0))) == {"c7"}


def test_a_raise_during_the_audit_is_no_false_alarm(world: World) -> None:
    """A writer leaps to the new salts after the audit has looked the conversation up."""

    def raise_meanwhile(request: PartitionQuery) -> None:
        if request.partition_key == "c3#4":
            world.on_query = lambda request: None
            world.servers.registry.raise_to("c3", 8)
            world.write("c3", 8)

    world.on_query = raise_meanwhile
    paced = PacedMessages(world.messages, None)
    probe = Probe(world.servers.history.lookup, paced, world.servers.history.pool, cap=CAP)
    assert result_of(probe.run("c3")) is None
    assert probe.probed == 12 + 8


def test_nothing_is_found_while_others_write_and_raise(world: World) -> None:
    """Writers spread over new salts as soon as they may, on conversations that are new, too."""

    def work(worker: int) -> None:
        for number in range(240):
            name = f"new{worker}-{number // 40}"
            if number % 10 == 9:
                world.servers.registry.raise_to(name, 2 ** (number % 40 // 10))
            world.servers.history.put(name, f"t{number:06}#{name}-{number}", {})
            time.sleep(0.001)

    with ThreadPoolExecutor(2) as pool:
        workers = [pool.submit(work, worker) for worker in range(2)]
        while not all(worker.done() for worker in workers):
            assert world.audit(sample_items=200).findings == []
        for worker in workers:
            worker.result()
    assert world.audit().audited == 8 + 12


def test_messages_from_the_boundary_on_are_found(world: World) -> None:
    """In a cooled conversation, they are on old salts."""
    from saltctl.stores.contracts.registry import BackupEntry, Cooling

    cooling = Cooling(1, 1, 1, 1, 1, "t9")
    world.servers.backup.items["c1"] = entry = BackupEntry("c1", 4, 1, (), cooling)
    world.servers.redis.merge("c1", entry.entry)
    assert world.audit().found == 0
    world.messages.put("c1#2", "t9#late", {})
    (found,) = world.audit().findings
    assert (found.conversation_id, found.kind, found.orphans, found.needed_n) == ("c1", "boundary", 1, 4)


def test_rows_of_other_designs_are_not_lost_conversations(world: World) -> None:
    """Keys such as ``USER#77`` are counted, and no finding."""
    for number in range(100, 140):
        world.messages.put(f"USER#{number}", f"t#{number}", {})
    world.messages.put("c5#9", "t#other", {})
    report = world.audit()
    assert kinds(report) == {"c5": "unproven"}
    assert (report.found, report.orphans) == (1, 0)
    assert report.sample_unproven >= 1


def test_a_sample_that_takes_long_goes_on_within_a_page(world: World) -> None:
    """Each run judges one conversation of the page at least, and all of them are found."""
    world.messages.page_rows = 300
    lost = {f"lost{number}" for number in range(6)}
    for name in lost:
        for number in range(40):
            world.messages.put(f"{name}#{salt_of(f'm{number}', 4)}", f"t{number}#m{number}", {})

    def slow(_: PartitionQuery) -> None:
        world.clock += 1

    world.on_query = slow
    reports = []
    for _ in range(60):
        reports.append(world.audit(budget=20.0, sample_items=10**6))
        if reports[-1].sample_age_s is not None:
            break
    assert set(kinds(reports[-1])) == lost
    assert sum(report.sample_items for report in reports) == 8 * 11 + 6 * 40


def test_a_damaged_item_is_a_finding_and_is_audited(world: World) -> None:
    """Its N is what the rest of the registry shows."""
    world.backup.damaged["c6"] = "its max_n is not a number"
    world.write("c6", 8)
    (found,) = world.audit(sample_items=0).findings
    assert (found.kind, found.detail, found.needed_n) == ("damaged", "its max_n is not a number", 8)
    assert found.orphans > 0
    del world.backup.damaged["c6"]
    assert kinds(world.audit(sample_items=0)) == {"c6": "beyond"}


def denied(*prefixes: str) -> object:
    """Return what refuses the queries of some partitions."""

    def refuse(request: PartitionQuery) -> None:
        if request.partition_key.startswith(prefixes):
            raise AccessDeniedError("access is denied")

    return refuse


def test_a_conversation_that_cannot_be_read_is_named_and_proves_nothing(world: World) -> None:
    """The cycle goes on. The age of the proof grows until the conversation was audited."""
    world.audit()
    world.now += 100
    world.write("c4", 8)
    world.on_query = denied("c3#", "c4#")  # type: ignore[assignment]
    report = world.audit(sample_items=0)
    assert kinds(report) == {"c3": "unread", "c4": "unread"}
    assert (report.audited, report.unread, report.cycle_complete, report.oldest_age_s) == (6, 2, True, 100.0)
    world.on_query = lambda request: None
    world.now += 100
    report = world.audit(sample_items=0)
    assert (kinds(report), report.oldest_age_s) == ({"c4": "beyond"}, 0.0)
    world.on_query = denied("c4#")  # type: ignore[assignment]
    assert kinds(world.audit(sample_items=0)) == {"c4": "beyond"}


def test_a_refusal_of_all_queries_ends_the_run_without_findings(world: World) -> None:
    """The next run continues with the first conversation that failed."""
    world.on_query = denied("c2", "c3", "c4", "c5", "c6")  # type: ignore[assignment]
    with pytest.raises(AccessDeniedError):
        world.audit(sample_items=0)
    state = decode(world.item.state or "", AuditState)
    assert (state.position, state.findings, state.audited, state.unread) == ("c1", (), 2, 0)
    world.on_query = lambda request: None
    assert world.audit(sample_items=0).audited == 6


def test_an_outage_at_the_start_ends_the_run(world: World) -> None:
    """A registry of a single conversation proves nothing in an outage, either."""
    for number in range(1, 8):
        del world.servers.backup.items[f"c{number}"]

    def fail(_: PartitionQuery) -> None:
        raise AwsUnavailableError("down")

    world.on_query = fail
    with pytest.raises(AwsUnavailableError):
        world.audit(sample_items=0)
    assert decode(world.item.state or "", AuditState).began is not None


def test_more_findings_than_the_list_has_are_counted(world: World) -> None:
    """So are they in the next cycle, until it ends."""
    many = MAX_FINDINGS + 5
    for number in range(many):
        name = f"many{number:03}"
        world.servers.registry.raise_to(name, 2)
        world.messages.put(f"{name}#7", "t#x", {})
    for _ in range(2):
        report = world.audit(sample_items=0)
        assert (report.found, len(report.findings)) == (many, MAX_FINDINGS)


def test_one_run_at_a_time(world: World) -> None:
    """The second is refused; a run whose lease was taken over writes nothing."""
    world.item.holder = LeaseHolder("other", "host", 1, world.now, world.now, "3 audited")
    with pytest.raises(LeaseHeldError, match="auditing all conversations already"):
        world.audit()
    world.item.holder = None
    run = world.auditor().run()
    next(run)
    saved = world.item.state
    world.item.holder = LeaseHolder("other", "host", 1, world.now, world.now, "")
    with pytest.raises(LeaseHeldError, match="taken over"):
        list(run)
    assert world.item.state == saved
    assert world.item.holder is not None


def test_a_damaged_state_is_refused_and_replaced_by_a_restart(world: World) -> None:
    """So is one that was edited by hand, and that of another registry is not used."""
    plant(world)
    world.audit()
    state = world.item.state or ""
    for broken in ("", "x", state.replace('"audited":8', '"audited":9')):
        world.item.state = broken
        with pytest.raises(CheckpointRefusedError, match="damaged"):
            world.audit()
        assert world.item.state == broken
    first, *_ = world.auditor(restart=True).run()
    assert isinstance(first, AuditRestarted)
    world.item.state = state
    world.backup.identity = world.backup.identity.__class__("other")
    first, *_, report = world.auditor().run()
    assert isinstance(first, AuditRestarted)
    assert isinstance(report, FullAudit)
    assert report.restarted


def test_a_restart_keeps_what_was_found_and_proved(world: World) -> None:
    """Only the position of the cycle is dropped."""
    plant(world)
    world.audit()
    world.now += 30
    world.killed_run(40, sample_items=0)
    report = world.audit(restart=True, sample_items=0)
    assert (report.audited, report.found, report.oldest_age_s) == (8 + 2, 4, 0.0)
