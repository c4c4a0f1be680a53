"""The heat stream on real servers: delivery, claiming, trimming and status."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from saltctl.errors import RedisUnavailableError, StreamLostError
from saltctl.local.servers import LocalRedis
from saltctl.settings import Settings
from saltctl.stores.heat.report import HeatReport, parse
from saltctl.stores.heat.stream import HeatStream

NOW = 1_800_000_000


@pytest.fixture
def stream(settings: Settings) -> Iterator[HeatStream]:
    """The stream, with its group."""
    heat = HeatStream(settings, block=0.5)
    heat.create_group()
    yield heat
    heat.close()


def report(number: int = 0) -> HeatReport:
    """A report of a conversation and a server of its own: such reports share no entry."""
    return HeatReport(f"conv_{number}", f"app-{number}", NOW, 20)


def fill(admin: Any, stream: HeatStream, count: int) -> None:
    """Entries 1-0, 2-0, … at the beginning of time."""
    for number in range(1, count + 1):
        admin.execute_command("XADD", stream.key, f"{number}-0", "a", number)


def test_reports_are_read_once(stream: HeatStream) -> None:
    """Reports arrive in order, each at one consumer, and nothing is left for the next read."""
    sent = [report(number) for number in range(2500)]
    stream.append_reports(sent)
    first = stream.read_new("c1", 1000)
    rest = stream.read_new("c2", 5000)
    assert [one for entry in first + rest for one in parse(entry.fields or [], NOW)] == sent
    assert len(first) == 1000
    assert stream.read_new("c1", 10) == []


def test_reports_of_one_server_and_window_share_entries(stream: HeatStream) -> None:
    """Up to 20 an entry, so that the stream is read and acknowledged in few entries."""
    sent = [HeatReport(f"conv_{number}", "app-1", NOW, 20) for number in range(45)]
    stream.append_reports([*sent, report(2)])
    entries = stream.read_new("c1", 10)
    assert [len(parse(entry.fields or [], NOW)) for entry in entries] == [20, 20, 5, 1]
    assert [one for entry in entries for one in parse(entry.fields or [], NOW)] == [*sent, report(2)]


def test_pending_entries_come_back_until_acknowledged(stream: HeatStream) -> None:
    """A consumer that restarts under its name reads its pending entries until it acknowledges them."""
    stream.append_reports([report(1), report(2)])
    entries = stream.read_new("c1", 10)
    assert stream.read_own("c1", "0", 10) == entries
    assert stream.read_own("c1", entries[0].id, 10) == entries[1:]
    assert stream.acknowledge([entry.id for entry in entries]) == 2
    assert stream.acknowledge([entry.id for entry in entries]) == 0
    assert stream.read_own("c1", "0", 10) == []


def test_blocking_ends_when_something_arrives(stream: HeatStream) -> None:
    """BLOCK outlasts no deadline of the client, and an entry ends it."""
    assert stream.read_new("c1", 10, block=0.05) == []
    timer = threading.Timer(0.05, stream.append_reports, [[report()]])
    timer.start()
    assert len(stream.read_new("c1", 10, block=20)) == 1
    timer.join()


def test_entries_of_a_dead_consumer_can_be_claimed(stream: HeatStream, admin: Any) -> None:
    """Claiming transfers entries; of a trimmed entry only the id is returned."""
    fill(admin, stream, 3)
    held = stream.read_new("dead", 10)
    admin.execute_command("XTRIM", stream.key, "MINID", "2-0")
    _, entries, deleted = stream.claim("c1", 60.0, "0-0", 10)
    assert (entries, deleted) == ([], ["1-0"])
    cursor, entries, _ = stream.claim("c1", 0.0, "0-0", 10)
    assert entries == held[1:]
    assert cursor == "0-0"
    assert [entry_id for entry_id, consumer, _ in stream.pending("-", 10) if consumer == "c1"] == ["2-0", "3-0"]


def test_a_trimmed_pending_entry_is_read_without_fields(stream: HeatStream, admin: Any) -> None:
    """One's own pending entry that was trimmed comes back empty and can be acknowledged."""
    fill(admin, stream, 2)
    stream.read_new("c1", 10)
    admin.execute_command("XTRIM", stream.key, "MINID", "2-0")
    first, second = stream.read_own("c1", "0", 10)
    assert (first.id, first.fields) == ("1-0", None)
    assert second.fields == [b"a", b"2"]
    assert stream.acknowledge(["1-0"]) == 1


@pytest.mark.parametrize("loss", ["FLUSHALL", "DEL", "XGROUP DESTROY"])
def test_a_lost_stream_is_an_error_of_its_own(stream: HeatStream, admin: Any, loss: str) -> None:
    """Without stream or group each read raises the same error. A new group starts at the beginning."""
    arguments: tuple[str, ...] = {"FLUSHALL": (), "DEL": (stream.key,)}.get(loss, (stream.key, stream.group))
    admin.execute_command(*loss.split(), *arguments)
    for read in (
        lambda: stream.read_new("c1", 10),
        lambda: stream.read_own("c1", "0", 10),
        lambda: stream.claim("c1", 0.0, "0-0", 10),
        lambda: stream.pending("-", 10),
    ):
        with pytest.raises(StreamLostError):
            read()
    stream.append_reports([report()])
    stream.create_group()
    assert len(stream.read_new("c1", 10)) == 1


def test_a_stream_that_is_deleted_during_a_blocking_read_is_an_error(stream: HeatStream, admin: Any) -> None:
    """DEL during a blocked read ends it with the same error."""
    timer = threading.Timer(0.1, admin.delete, [stream.key])
    timer.start()
    with pytest.raises(StreamLostError):
        stream.read_new("c1", 10, block=20)
    timer.join()


def test_a_server_that_dies_during_a_blocking_read_is_an_outage(stream: HeatStream, redis_server: LocalRedis) -> None:
    """A kill during a blocked read is an outage, at once."""
    timer = threading.Timer(0.1, redis_server.kill)
    timer.start()
    with pytest.raises(RedisUnavailableError):
        stream.read_new("c1", 10, block=20)
    timer.join()


def test_reports_are_not_retried(stream: HeatStream, redis_server: LocalRedis) -> None:
    """With Redis away a batch fails and that is that; the meter counts it."""
    redis_server.kill()
    with pytest.raises(RedisUnavailableError):
        stream.append_reports([report()])


@pytest.mark.parametrize(
    ("acknowledged", "second_reads", "left"),
    [(4, 10, 5), (10, 10, 10), (10, 6, 6), (0, 10, 1), (10, 0, 1)],
    ids=["a pending one", "all done", "another group's unread", "nothing acknowledged", "a group that read nothing"],
)
def test_trimming_stops_at_unread_and_pending_entries(
    stream: HeatStream, admin: Any, acknowledged: int, second_reads: int, left: int
) -> None:
    """Whatever is unread or pending in any group stays, and everything above it."""
    fill(admin, stream, 10)
    admin.execute_command("XGROUP", "CREATE", stream.key, "other", "0")
    if second_reads:
        admin.execute_command(
            "XREADGROUP", "GROUP", "other", "x", "COUNT", second_reads, "NOACK", "STREAMS", stream.key, ">"
        )
    ids = [entry.id for entry in stream.read_new("c1", 100)]
    stream.acknowledge(ids[:acknowledged])
    stream.trim(1e12)
    # An id that was delivered last and acknowledged may stay: below it everything is gone.
    assert stream.range("-", "+", 100)[0].id == f"{left}-0"


def test_trimming_keeps_young_entries(stream: HeatStream) -> None:
    """Acknowledged entries stay for as long as they may be replayed."""
    stream.append_reports([report()])
    stream.acknowledge([entry.id for entry in stream.read_new("c1", 10)])
    assert stream.trim(0.0) == 0


def test_trimming_without_a_group_or_a_stream_does_nothing(stream: HeatStream, admin: Any) -> None:
    """No group has read an entry, so all entries stay."""
    fill(admin, stream, 3)
    admin.execute_command("XGROUP", "DESTROY", stream.key, stream.group)
    assert stream.trim(1e12) == 0
    admin.delete(stream.key)
    assert stream.trim(1e12) == 0


def test_only_consumers_without_pending_entries_are_deleted(stream: HeatStream) -> None:
    """A dead consumer with pending entries stays, since its entries would go with it."""
    stream.append_reports([report()])
    stream.read_new("holds", 10)
    stream.send_heartbeat("empty")
    assert stream.delete_idle_consumers(60.0) == []
    assert stream.delete_idle_consumers(0.0) == ["empty"]
    group = stream.info().group(stream.group)
    assert group is not None
    assert [c.name for c in group.consumers] == ["holds"]


def test_a_heartbeat_resets_the_idle_time(stream: HeatStream, admin: Any) -> None:
    """An instance with nothing to do is known all the same, and its idle time begins again."""
    stream.send_heartbeat("c1")
    while _idle(stream) < 0.05:
        stream.read_new("other", 1, block=0.02)
    stream.send_heartbeat("c1")
    assert _idle(stream) < 0.05


def _idle(stream: HeatStream) -> float:
    (group,) = stream.info().groups
    return next(c.idle_s for c in group.consumers if c.name == "c1")


def test_info_counts_unread_and_pending_entries(stream: HeatStream, admin: Any) -> None:
    """Length, first and last id, lag, pending entries and consumers are exact."""
    fill(admin, stream, 10)
    stream.read_new("c1", 4)
    info = stream.info()
    assert (info.length, info.first_id, info.last_id) == (10, "1-0", "10-0")
    (group,) = info.groups
    assert (group.lag, group.pending, group.oldest_pending_id) == (6, 4, "1-0")
    assert group.last_delivered_id == "4-0"
    assert [(c.name, c.pending) for c in group.consumers] == [("c1", 4)]
    assert group.loss is None


def test_the_lag_is_counted_if_redis_does_not_know_it(stream: HeatStream, admin: Any) -> None:
    """After XDEL Redis says null; counting says how many there are."""
    fill(admin, stream, 10)
    stream.read_new("c1", 4)
    admin.execute_command("XDEL", stream.key, "8-0")
    (group,) = stream.info().groups
    assert group.lag == 5


def test_entries_that_were_trimmed_unread_are_proved(stream: HeatStream, admin: Any) -> None:
    """The group had read 3 of 10, the stream begins at 6: two are gone, and between which ids is known."""
    fill(admin, stream, 10)
    stream.read_new("c1", 3)
    admin.execute_command("XTRIM", stream.key, "MINID", "6-0")
    (group,) = stream.info().groups
    assert group.loss is not None
    assert (group.loss.entries, group.loss.after_id, group.loss.before_id) == (2, "3-0", "6-0")
    assert group.lag == 5


def test_a_group_that_never_read_and_a_stream_that_is_empty(stream: HeatStream, admin: Any) -> None:
    """All entries trimmed before the first read are lost, too; an empty stream has no lag."""
    fill(admin, stream, 4)
    admin.execute_command("XTRIM", stream.key, "MAXLEN", "0")
    info = stream.info()
    (group,) = info.groups
    assert (info.length, info.first_id, info.last_id, group.lag) == (0, None, "4-0", 0)
    assert group.loss is not None
    assert group.loss.entries == 4


def test_trimming_read_entries_is_not_a_loss(stream: HeatStream, admin: Any) -> None:
    """Entries that the group has read may be trimmed; no loss is reported."""
    fill(admin, stream, 10)
    stream.acknowledge([entry.id for entry in stream.read_new("c1", 6)])
    stream.trim(1e12)
    (group,) = stream.info().groups
    assert group.loss is None
    admin.execute_command("XTRIM", stream.key, "MINID", "7-0")
    (group,) = stream.info().groups
    assert group.loss is None


def test_info_without_a_stream_is_an_error(settings: Settings) -> None:
    """It raises StreamLostError."""
    with pytest.raises(StreamLostError):
        HeatStream(settings).info()


def test_a_stream_that_nobody_reads_is_bounded(settings: Settings) -> None:
    """With a dead service the oldest reports are trimmed, and what was not read is counted as lost."""
    heat = HeatStream(settings, max_entries=1000)
    heat.create_group()
    heat.append_reports([report(number) for number in range(5000)])
    info = heat.info()
    heat.close()
    (group,) = info.groups
    assert 1000 <= info.length <= 1200  # Redis trims whole nodes of 100 entries
    assert group.loss is not None
    assert group.loss.entries == 5000 - info.length


def test_ids_ahead_of_the_clock_are_noticed_and_trimmed(stream: HeatStream, admin: Any) -> None:
    """Later ids continue from an id of the year 2200; acknowledged entries are trimmed all the same."""
    ahead = 7_258_118_400_000
    stream.append_reports([report(0)])
    assert not stream.info().ahead(time.time())
    admin.execute_command("XADD", stream.key, f"{ahead}-0", "a", 1)
    stream.append_reports([report(1), report(2)])
    info = stream.info()
    assert info.last_id == f"{ahead}-2"
    assert info.ahead(time.time()) > 86400
    entries = stream.read_new("c1", 10)
    stream.acknowledge([entry.id for entry in entries[:2]])
    stream.trim(info.newest + 1)
    assert [entry.id for entry in stream.range("-", "+", 10)] == [entry.id for entry in entries[2:]]
    admin.execute_command("XADD", stream.key, f"{2**64 - 2}-0", "a", 1)
    assert stream.trim(stream.info().newest + 1) == 0, "the highest id is no time that can be trimmed to"


def test_pending_entries_that_were_trimmed_are_counted(stream: HeatStream, admin: Any) -> None:
    """Those below the first entry; all of them if the stream is empty."""
    stream.append_reports([report(number) for number in range(5)])
    entries = stream.read_new("c1", 4)
    counts = []
    for minid in (entries[0].id, entries[3].id, "9" * 15):
        admin.xtrim(stream.key, minid=minid, approximate=False)
        counts.append(stream.info().groups[0].trimmed_pending)
    assert counts == [0, 3, 4]
