"""How many salts the latest heat reports need, and when they may be lost."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from saltctl.cooling.recent_heat import needed_salts
from saltctl.errors import RefusedError, StreamLostError
from saltctl.settings import Settings
from saltctl.stores.heat.contracts import Entry, StreamInfo, id_order
from saltctl.stores.heat.report import HeatReport, to_entries
from saltctl.stores.heat.stream import MAX_ENTRIES, HeatStream

NOW = 1_800_000_000.0
OLD = f"{int(NOW - 3000) * 1000}-0"
SETTINGS = Settings(max_n_cap=64)
COVERING = StreamInfo(5000, OLD, f"{int(NOW) * 1000}-9", (), added=9000, newest=NOW)


@dataclass
class Stream:
    """A heat stream that has these reports, each at the time of its window."""

    reports: Sequence[HeatReport] = ()
    known: StreamInfo | None = COVERING
    several: bool = False
    """Whether the reports share entries, as a server sends them."""
    read: list[int] = field(default_factory=list)

    def info(self) -> StreamInfo:
        """Return what is known of it."""
        if self.known is None:
            raise StreamLostError("there is no heat stream 'salt:heat'")
        return self.known

    def range(self, first: str, last: str, count: int) -> list[Entry]:
        """Return entries between two ids."""
        entries = list(to_entries(self.reports)) if self.several else [report.fields() for report in self.reports]
        windows = [int(fields[fields.index("window") + 1]) for fields in entries]
        ids = [f"{window * 1000}-{number}" for number, window in enumerate(windows)]
        exclusive, low, high = first.startswith("("), id_order(first.lstrip("(")), id_order(last)
        found = [
            Entry(one, [str(part).encode() for part in fields])
            for one, fields in zip(ids, entries, strict=True)
            if low < id_order(one) <= high or (id_order(one) == low and not exclusive)
        ]
        self.read.append(len(found[:count]))
        return found[:count]


def needed(stream: Stream, settings: Settings = SETTINGS) -> dict[str, int]:
    """Return the N of two conversations."""
    return needed_salts(cast(HeatStream, stream), ["hot", "idle"], settings, NOW)


def report(seconds_ago: int, writes: int, server: str = "a", name: str = "hot", n: int = 0) -> HeatReport:
    """Return a report of the window that began so long ago."""
    return HeatReport(name, server, int(NOW) - seconds_ago, writes, n)


@pytest.mark.parametrize(
    ("reports", "n"),
    [
        ([], 1),
        ([report(5, 800)], 1),
        ([report(5, 801)], 2),
        ([report(5, 801, "a"), report(5, 801, "b")], 4),
        ([report(5, 801, "a"), report(4, 801, "b")], 2),
        ([report(5, 801, "a"), report(5, 900, "a")], 2),
        ([report(599, 3000), report(5, 801)], 4),
        ([report(601, 3000)], 1),
        ([report(5, 3000, name="other")], 1),
        ([report(5, 3000, server="hot", name="other")], 1),
        ([report(5, 10, n=4)], 8),
        ([report(5, 10_000_000)], 64),
        ([report(5, 20, name="other")] * 2500 + [report(4, 801)], 2),
        ([report(5, 20, name="other"), report(5, 801), report(5, 20, "b", "other"), report(5, 801, "b")], 4),
    ],
)
def test_the_hottest_window_of_ten_minutes_counts(reports: Sequence[HeatReport], n: int) -> None:
    """Summed over the servers, once for each of them; older windows and other conversations do not count."""
    assert needed(Stream(reports)) == {"hot": n, "idle": 1}
    assert needed(Stream(reports, several=True)) == {"hot": n, "idle": 1}


def test_the_stream_is_read_in_pages() -> None:
    """However many reports there are, memory stays flat; what arrives later is not read."""
    stream = Stream([report(5, 20, name="other")] * 2500 + [report(-5, 3000)])
    assert needed(stream)["hot"] == 1
    assert stream.read == [1000, 1000, 500, 0]


RECENT = f"{int(NOW - 60) * 1000}-0"


@pytest.mark.parametrize(
    ("info", "retention", "problem"),
    [
        (None, 3600.0, "there is no heat stream"),
        (StreamInfo(0, None, None, ()), 3600.0, "it may be new"),
        (replace(COVERING, first_id=RECENT, added=5000), 3600.0, "it may be new"),
        (replace(COVERING, first_id=RECENT), 300.0, "keeps less than 10 minutes"),
        (replace(COVERING, first_id=RECENT, length=MAX_ENTRIES, added=2 * MAX_ENTRIES), 3600.0, "keeps less than"),
        (replace(COVERING, first_id=None, length=0), 3600.0, "keeps less than"),
        (replace(COVERING, newest=NOW + 1000), 3600.0, "clock of the heat stream is ahead"),
        (replace(COVERING, first_id=RECENT), 3600.0, ""),
        (replace(COVERING, first_id=None, length=0, newest=NOW - 3000), 300.0, ""),
    ],
)
def test_a_stream_that_may_lack_reports_is_refused(info: StreamInfo | None, retention: float, problem: str) -> None:
    """What is hot must not look idle; a stream from which only older entries were removed is complete."""
    stream, settings = Stream(known=info), replace(SETTINGS, heat_retention=retention)
    if not problem:
        assert needed(stream, settings) == {"hot": 1, "idle": 1}
        return
    with pytest.raises(RefusedError, match=f"^cannot tell how many salts are needed: .*{problem}") as refused:
        needed(stream, settings)
    assert refused.value.hint == "give the N that new messages need, with --to"
