"""Lookups after a fork: servers that load the application first and fork then must not share their connections."""

from __future__ import annotations

import os
from collections.abc import Callable

import pytest

from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.redis.registry import RedisRegistry
from tests.support.redis_stub import Command, RedisStub, array

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")


def number_of_connection(connection: int, command: Command) -> bytes:
    """Answer each lookup with the number of its connection, from 1 on."""
    return array([str(connection + 1)] * (len(command) - 5)) if command[0] == b"EVALSHA" else RedisStub.OK


def in_a_child(call: Callable[[], object]) -> str:
    """Return the result of a call in a forked child."""
    read_end, write_end = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            result = str(call())
        except BaseException as exc:
            result = repr(exc)
        os.write(write_end, result.encode())
        os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end) as answer:
        result = answer.read()
    os.waitpid(child, 0)
    return result


@pytest.mark.parametrize("ids", [["conv"], ["conv", "other"]], ids=["one", "many"])
def test_no_child_uses_a_connection_of_its_parent(ids: list[str]) -> None:
    """Both would read from one socket, and each would get the other's answers."""
    with RedisStub(number_of_connection) as server:
        store = RedisRegistry(
            Settings(redis_url=server.url, buckets=1, registry_id="feed0123456789ab", lookup_timeout=10.0)
        )
        primary = store.primaries()[0]

        def connections() -> set[Entry | None]:
            return {n for _ in range(3) for n in store.lookup(primary, ids)}

        (own,) = connections()
        children = [in_a_child(connections) for _ in range(2)]
        assert {len(children), len(set(children))} == {2}
        assert str({own}) not in children
        assert all(child.startswith("{") and "," not in child for child in children), children
        assert connections() == {own}
        store.close()
