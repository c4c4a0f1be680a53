"""The threads of a parallel scan: too few of them, and ones that end unexpectedly."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from itertools import islice

import pytest

from saltctl.stores.parallel_scan import scan_in_parallel


def pages(segment: int) -> Iterator[int]:
    """Two pages of a segment."""
    yield segment * 10
    yield segment * 10 + 1


def limit_threads(monkeypatch: pytest.MonkeyPatch, count: int) -> None:
    """Let the system have no more than so many threads."""
    start = threading.Thread.start

    def start_or_refuse(thread: threading.Thread) -> None:
        nonlocal count
        if not count:
            raise RuntimeError("can't start new thread")
        count -= 1
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", start_or_refuse)


def test_one_thread_reads_all_segments_if_the_system_has_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The scan takes longer, and is complete."""
    limit_threads(monkeypatch, 1)
    found = list(scan_in_parallel(pages, range(4), threading.Event(), idle_page=-1, stop_timeout=5))
    assert sorted(page for page in found if page >= 0) == [0, 1, 10, 11, 20, 21, 30, 31]


def test_without_any_thread_a_scan_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    """At once, with the error of the system."""
    limit_threads(monkeypatch, 0)
    with pytest.raises(RuntimeError, match="can't start"):
        list(scan_in_parallel(pages, range(4), threading.Event(), idle_page=-1, stop_timeout=5))


@pytest.mark.parametrize("exc", [TypeError("a defect"), SystemExit("an end")], ids=["defect", "end"])
def test_an_exception_of_a_thread_is_raised_by_the_scan(exc: BaseException) -> None:
    """Also one that ends a thread silently: the scan must not wait for its pages for ever."""

    def fail(segment: int) -> Iterator[int]:
        yield segment
        raise exc

    stop = threading.Event()
    scan = scan_in_parallel(fail, range(2), stop, idle_page=-1, stop_timeout=5)
    with pytest.raises(type(exc)):
        list(islice(scan, 5))  # two pages at most, if no thread has to be waited for
    assert stop.is_set()
