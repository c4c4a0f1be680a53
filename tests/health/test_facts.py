"""Tests of facts: functions that use them in parallel, and results that are computed once."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from saltctl.health.facts import Facts
from tests.health.fakes import FakeFacts


@pytest.mark.slow
def test_a_hanging_call_does_not_delay_the_others() -> None:
    """Results and exceptions are returned in the functions' order; a call without a result has a TimeoutError."""
    forever = threading.Event()

    def fail(facts: Facts) -> str:
        raise ValueError("broken")

    def hang(facts: Facts) -> str:
        forever.wait()
        return "too late"

    try:
        found = FakeFacts({}).call_in_parallel({"hang": hang, "fail": fail, "ok": lambda _: "fine"}, timeout=0.5)
    finally:
        forever.set()
    assert list(found) == ["hang", "fail", "ok"]
    assert found["ok"] == "fine"
    assert isinstance(found["fail"], ValueError)
    assert isinstance(found["hang"], TimeoutError)


def test_a_result_is_computed_once() -> None:
    """All threads get the result, or the exception, of a single call."""
    facts = FakeFacts({})
    calls: list[str] = []

    def compute() -> int:
        calls.append("compute")
        return len(calls)

    def fail() -> int:
        calls.append("fail")
        raise ValueError("broken")

    with ThreadPoolExecutor(8) as pool:
        assert set(pool.map(lambda _: facts.once("number", compute), range(8))) == {1}
    for _ in range(2):
        with pytest.raises(ValueError, match="broken"):
            facts.once("error", fail)
    assert calls == ["compute", "fail"]
