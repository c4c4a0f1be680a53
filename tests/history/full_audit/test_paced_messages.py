"""The queries of an audit keep to a rate."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from saltctl.errors import ThrottledError
from saltctl.history.full_audit.paced_messages import PacedMessages
from saltctl.stores.contracts.messages import PartitionQuery
from saltctl.testing import MemoryMessages

QUERY = PartitionQuery("c#1", consistent=False)


def test_queries_of_all_threads_keep_to_the_rate_with_what_else_is_charged() -> None:
    """Each costs half a unit. Those in progress when the first cost becomes known are not held back."""
    paced = PacedMessages(MemoryMessages(), 100.0)
    started = time.monotonic()
    paced.charge(25.0)
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda _: paced.query(QUERY), range(40)))
    assert time.monotonic() - started >= (25.0 + 20.0 - 4.0) / 100.0
    assert paced.consumed_rcu == 45.0


def test_a_throttled_query_is_sent_again_until_the_audit_ends() -> None:
    """No finding comes of throttling."""
    failures = [ThrottledError("slow down")]

    def fail(_: PartitionQuery) -> None:
        if failures:
            raise failures.pop()

    store = MemoryMessages(before_query=fail)
    paced = PacedMessages(store, None)
    assert paced.query(QUERY).items == []
    failures.append(ThrottledError("slow down"))
    paced.stop()
    with pytest.raises(ThrottledError):
        paced.query(QUERY)
