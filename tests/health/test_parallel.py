"""Tests of parallel calls and of results that are computed once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from saltctl.health.parallel import OnceCache, call_in_parallel


@pytest.mark.slow
def test_a_hanging_call_does_not_delay_the_others() -> None:
    """Results and exceptions are returned in the functions' order; a call without a result has a TimeoutError."""
    forever = threading.Event()

    def fail() -> str:
        raise ValueError("broken")

    def hang() -> str:
        forever.wait()
        return "too late"

    try:
        found = call_in_parallel({"hang": hang, "fail": fail, "ok": lambda: "fine"}, timeout=0.5)
    finally:
        forever.set()
    assert list(found) == ["hang", "fail", "ok"]
    assert found["ok"] == "fine"
    assert isinstance(found["fail"], ValueError)
    assert isinstance(found["hang"], TimeoutError)


def test_a_result_is_computed_once() -> None:
    """All threads get the result, or the exception, of a single call."""
    cache = OnceCache()
    calls: list[str] = []

    def compute() -> int:
        calls.append("compute")
        return len(calls)

    def fail() -> int:
        calls.append("fail")
        raise ValueError("broken")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: cache.get("number", compute), range(8))) == {1}
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            cache.get("error", fail)
    assert calls == ["compute", "fail"]
