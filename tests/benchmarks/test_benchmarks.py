"""Each benchmark with small sizes does the work that it measures, and prints its tables. No test checks a time.

Most of them are exhaustive: they start many processes, and only a change of the benchmarks breaks them.
"""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from saltctl.local.servers import LocalRedis
from saltctl.settings import Settings
from saltctl.stores.redis.registry import RedisRegistry
from tests.benchmarks import (
    compare,
    contenders,
    detection,
    history,
    large,
    lookup,
    memory,
    rebuild,
    recover,
    sizes,
    startup,
    tail,
)
from tests.benchmarks.__main__ import main
from tests.benchmarks.backup_pages import PagesServer, Table, make_chunks
from tests.benchmarks.entries import REGISTRY_ID, conversation_id, differences, entries
from tests.benchmarks.report import WIDTH, Outcome, WrongResultError
from tests.benchmarks.servers import engines, fill


def printed(outcome: Outcome) -> str:
    """Return the printed tables; fails if a line is too wide."""
    output = "\n".join(table.render() for table in outcome.tables())
    assert max(len(line) for line in output.splitlines()) <= WIDTH
    return output


@pytest.mark.long
@pytest.mark.exhaustive
def test_lookups_are_answered_by_redis() -> None:
    """On every server and on a cluster, each contender runs in every round, and Redis answers every lookup."""
    outcome = lookup.run(quick=True)
    assert [engine.engine for engine in outcome.engines] == [*engines(), lookup.CLUSTER]
    for engine in outcome.engines:
        rounds = len(engine.floor)
        assert {name: len(figures) for name, figures in engine.seconds.items()} == dict.fromkeys(engine.seconds, rounds)
        assert engine.lookups == rounds * lookup.CALLS
        assert {len(figures) for figures in engine.on_loop.seconds.values()} == {rounds}
    output = printed(outcome)
    for row in (lookup.HGET, lookup.PLAIN, lookup.SCRIPT, lookup.STORE, lookup.LOOKUP, "<= 1.15"):
        assert output.count(row) >= len(engines())
    for row in (lookup.CLUSTER, lookup.CLUSTER_HGET, lookup.NODE_HGET):
        assert row in output


@pytest.mark.long
@pytest.mark.exhaustive
def test_pages_have_the_right_messages() -> None:
    """At every N, each contender reads its page, and the table has the goals."""
    outcome = history.run(quick=True)
    assert [result.n for result in outcome.results] == list(history.SALTS)
    for result in outcome.results:
        assert {len(figures) for figures in (*result.seconds.values(), *result.items.values())} == {outcome.rounds}
        # A full page from nearly every salt, and no item from the base partition, which is empty.
        assert all(0.9 * result.n < items <= result.n for items in result.items[history.NAIVE])
    output = printed(outcome)
    assert "<= 1.3" in output
    assert "<= 2 " in output


@pytest.mark.slow
def test_pages_over_slow_queries_have_the_right_messages() -> None:
    """Each contender reads every page, and queries are counted by the server."""
    outcome = tail.run(quick=True)
    assert {len(result.seconds) for result in outcome.pages.values()} == {outcome.rounds}
    assert all(result.queries >= outcome.rounds * (tail.N + 1) for result in outcome.pages.values())
    assert all(tail.N < count < tail.READERS * tail.N for count in outcome.queries_at_once)
    output = printed(outcome)
    assert "<= 0.03" in output
    assert "<= 3 " in output


@pytest.mark.slow
def test_a_lookup_that_falls_back_is_not_measured(redis_server: LocalRedis) -> None:
    """An unverified server is an error of the benchmark, and its times are not used."""
    settings = Settings(redis_url=redis_server.url, buckets=32, registry_id=REGISTRY_ID)
    fill(settings, list(entries(200)))
    redis_server.kill()
    redis_server.delete_aof()
    redis_server.start()
    store = RedisRegistry(settings)
    try:
        ids = [conversation for conversation, _ in entries(200)]
        contender = lookup.contenders(settings, store, _UnusedClient(), ids)[lookup.LOOKUP]
        with pytest.raises(WrongResultError, match="called the backup"):
            contender(ids)
    finally:
        store.close()


class _UnusedClient:
    """A client for contenders that do not run."""

    def execute_command(self, *_: object) -> bytes:
        return b""


@pytest.mark.long
@pytest.mark.exhaustive
def test_memory_is_measured_with_all_entries_present() -> None:
    """Every layout holds all entries, and the registry's hashes are listpacks."""
    outcome = memory.run(quick=True)
    assert list(outcome.engines) == list(engines())
    for figures in outcome.engines.values():
        assert [figure.differences for figure in figures] == [0] * len(figures)
        assert [figure.name for figure in figures][:2] == [memory.ONE_KEY_EACH, memory.ONE_HASH]
        assert set(figures[1].encodings) == {"hashtable"}
        (default,) = [figure for figure in figures if figure.default]
        assert set(default.encodings) == {"listpack"}
        assert default.bytes_an_entry > 0
    output = printed(outcome)
    assert output.count("<= 30") == len(engines())
    assert output.count(" buckets") == len(engines()) * len(memory.BUCKETS)


@pytest.mark.long
@pytest.mark.exhaustive
def test_every_contender_of_the_rebuild_does_its_work() -> None:
    """All contenders use the same pages, and the entries they write are compared with the backup."""
    outcome = rebuild.run(quick=True)
    assert set(outcome.rates) == {*contenders.CONTENDERS, rebuild.AGAIN} == set(rebuild.LABELS)
    assert {len(rates) for rates in outcome.rates.values()} == {1}
    assert outcome.compared == 2 * outcome.items + sum(outcome.peaks)
    assert all(peak > 0 for peak in outcome.peaks.values())
    output = printed(outcome)
    for row in (*rebuild.LABELS.values(), ">= 20 ", ">= 4 ", ">= 350,000 ", ">= 0.8 ", "<= 70 "):
        assert row in output


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_large_rebuild_runs_twice() -> None:
    """Both rebuilds handle every entry, and the table shows what they and Redis need."""
    outcome = large.run(quick=True)
    assert outcome.first.finished.items == outcome.again.finished.items == outcome.items
    assert min(outcome.first.used, outcome.first.resident, outcome.first.aof) > 0
    assert "<= 70 " in printed(outcome)


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_rebuilt_registry_equals_the_backup(redis_server: LocalRedis) -> None:
    """With several pages and segments, a rebuild merges every entry once, and no other entry."""
    count = 30_000
    with PagesServer(count) as pages:
        job = contenders.Job(count, 512, redis_server.url, pages.url)
        assert contenders.rebuild(job)() == count
    store = RedisRegistry(job.settings)
    try:
        assert dict(store.entries()) == dict(entries(count))
        assert all(store.verified().values())
    finally:
        store.close()


@pytest.mark.slow
def test_pages_are_the_same_for_any_number_of_segments() -> None:
    """Scans with one and with several segments find every item once; a key of another segment is refused."""
    count = 40_000
    table = Table(make_chunks(count))
    for segments, limit in ((1, 20_000), (2, 5_500), (5, 1)):
        found: list[str] = []
        for segment in range(segments):
            request = {"TableName": "backup", "Segment": segment, "TotalSegments": segments, "Limit": limit}
            while True:
                status, parts, _ = table.answer("Scan", request)
                answer = json.loads(b"".join(parts))
                assert status == 200
                assert answer["Count"] == len(answer["Items"]) <= {20_000: 12_000, 5_500: 5_000, 1: 1_000}[limit]
                found += [item["conversation_id"]["S"] for item in answer["Items"]]
                if "LastEvaluatedKey" not in answer:
                    break
                request["ExclusiveStartKey"] = answer["LastEvaluatedKey"]
        assert sorted(found) == sorted(conversation for conversation, _ in entries(count))
    first = json.loads(b"".join(table.answer("Scan", {"TableName": "b", "Segment": 0, "TotalSegments": 2})[1]))
    foreign = {"Segment": 1, "TotalSegments": 2, "ExclusiveStartKey": first["LastEvaluatedKey"]}
    assert table.answer("Scan", {"TableName": "b", **foreign})[0] == 400


def test_a_wrong_or_missing_entry_is_found() -> None:
    """The comparison counts wrong values, missing entries and unexpected entries."""
    right = list(entries(100))
    wrong = [(right[0][0], right[0][1] * 2), *right[1:]]
    assert differences(right, 100) == 0
    assert differences(wrong, 100) == 1
    assert differences(right[1:], 100) == 1
    assert differences([*right, (conversation_id(100), 4)], 100) > 0


@pytest.mark.slow
def test_commands_start_and_print_correct_output() -> None:
    """Every command runs in every round, and ``registry get`` reads its entry from Redis."""
    outcome = startup.run(quick=True)
    assert len({len(figures) for figures in outcome.seconds.values()}) == 1
    assert outcome.printed["conversation_id"] == startup.CONVERSATION
    assert outcome.printed["source"] == "redis"
    output = printed(outcome)
    for row in (startup.VERSION, startup.GET, startup.TYPER, startup.CLIENTS, "<= 1.4 ", "<= 1.2 "):
        assert row in output


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_comparison_finds_all_in_sync() -> None:
    """Both sizes are compared completely, and the table has a row for each."""
    outcome = compare.run(quick=True)
    assert [compared.in_sync for compared in outcome.compared] == [2_000, 4_000]
    assert "4,000 entries" in printed(outcome)


@pytest.mark.long
@pytest.mark.exhaustive
def test_detection_does_the_work_that_it_measures() -> None:
    """Every report is handled once, memory is measured, and a hot conversation gets salts."""
    outcome = detection.run(quick=True)
    assert list(outcome.rates) == [1, 2]
    assert all(peak > 0 for peak in outcome.peaks.values())
    output = printed(outcome)
    for row in (detection.INCREMENT, detection.RECORD, "<= 5", ">= 100,000", ">= 1.6", "2 instances", "slowest"):
        assert row in output


@pytest.mark.slow
def test_the_program_runs_the_named_benchmarks(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Only the named benchmarks run, and an unknown name is a usage error."""
    monkeypatch.setattr("sys.argv", ["benchmarks", "lookup", "--quick"])
    main()
    shown = capsys.readouterr().out
    assert shown.startswith("lookup, valkey\n")
    assert "memory," not in shown
    monkeypatch.setattr("sys.argv", ["benchmarks", "nothing"])
    with pytest.raises(SystemExit) as exit_info:
        main()
    assert exit_info.value.code == 2


@pytest.mark.long
@pytest.mark.exhaustive
def test_a_recovery_adds_every_entry() -> None:
    """The report has one write unit for each entry, and Redis is verified."""
    outcome = recover.run(quick=True)
    assert (outcome.report.from_redis, outcome.report.consumed_wcu) == (1_000, 1_000)
    output = "".join(table.render() for table in outcome.tables())
    assert "1,000 entries" in output


@pytest.mark.long
@pytest.mark.exhaustive
def test_the_plots_show_every_cost(tmp_path: Path) -> None:
    """Each size has its row in a table and its tick in a plot, also where a cost was not tried."""
    outcome = sizes.run(quick=True, plots=tmp_path)
    assert [path.name for path in outcome.plots] == ["rebuild.svg", "page.svg"]
    assert all(cost for measured in outcome.measured for costs in measured.costs.values() for cost in costs)
    assert "one query" in printed(outcome)
    not_tried = sizes.Sizes(
        "a title", "a.svg", "entries", "seconds", 2, (10, 1_000), {"saltctl": [0.5, 7], "SET": [3, None]}
    )
    assert not_tried.table().rows == [("10", "0.50", "3.00"), ("1,000", "7.00", "")]
    for measured, path in zip((*outcome.measured, not_tried), (*outcome.plots, not_tried.plot(tmp_path)), strict=True):
        texts = re.findall("<text[^>]*>([^<]*)</text>", path.read_text())
        assert {measured.title, *measured.costs, *(f"{size:,}" for size in measured.sizes)} <= set(texts)
    assert outcome.plots[0].read_text() == outcome.measured[0].plot(tmp_path).read_text()
