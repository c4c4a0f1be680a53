"""Exceptions of signal handlers, such as a soft time limit: one may come at any moment, and leaves nothing behind."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from itertools import count
from types import FrameType
from typing import Any

import hiredis  # noqa: TID253  a test of redis-py's use of it
import pytest

from saltctl.errors import RedisUnavailableError
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.bounded.deadline import TimeBudget, remaining
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryBackup, MemoryRedis
from tests.support import Rebuilder, put_entries, rebuild_job
from tests.support.inline_pool import ManualClock

# In a finalizer they are ignored.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")

STRIDE = 7
"""Of the many moments of a new connection every seventh is tried, beginning with another one for each attempt."""
IDS = ["conv", "other"]


class SoftTimeLimit(BaseException):
    """What the handler raises."""


def interrupt_at(moment: int, work: Callable[[], Any]) -> bool:
    """Raise SoftTimeLimit at one moment of ``work``, and return whether there was such a moment.

    CPython runs signal handlers at the begin of a function, and after a call: never between a block and the release of
    its lock, which would stay locked for all later tests.
    """
    left = moment

    def interrupt(frame: FrameType, event: str, _: object) -> None:
        nonlocal left
        left -= event in ("call", "c_return") and frame.f_code is not interrupt_at.__code__
        if left < 0:
            sys.setprofile(None)
            raise SoftTimeLimit

    sys.setprofile(interrupt)
    try:
        work()
    except SoftTimeLimit:
        return True
    finally:
        sys.setprofile(None)
    return False


def moments(work: Callable[[], Any], stride: int = 1) -> Iterator[int]:
    """Interrupt ``work`` again and again, each time at a later moment, until it is over before its moment comes."""
    for number in count():
        if not interrupt_at(number * stride + number % stride, work):
            return
        yield number


def nested_budgets() -> None:
    """Begin and end two budgets."""
    with TimeBudget(0), TimeBudget(60):
        assert remaining() == 0


def test_a_budget_ends_with_its_block() -> None:
    """Even if the exception comes before the budget is taken away: later requests would fail at once, for ever."""
    for _ in moments(nested_budgets):
        assert remaining() is None
        with TimeBudget(60):
            assert (remaining() or 0) > 50


def test_the_next_lookup_tries_redis_again() -> None:
    """The one lookup that asks a server again after an outage was interrupted."""
    clock, store = ManualClock(), MemoryRedis()
    (faults,) = store.faults.values()
    registry = Registry(store, MemoryBackup(), clock=clock)
    tried = 0
    while True:
        faults.before["lookup"] = RedisUnavailableError("Redis is down", hint="start it")
        registry.lookup("conv")
        clock.now += registry.breaker_seconds + 1
        interrupted = interrupt_at(tried, lambda: registry.lookup("conv"))
        faults.clear()
        for _ in range(3):  # the first answer after an outage is not used
            clock.now += registry.breaker_seconds + 1
            found = registry.lookup("conv")
        assert found.source == "redis", tried
        if not interrupted:
            break
        tried += 1
    assert tried > 10


@pytest.mark.parametrize("connected", [True, False], ids=["connected", "connecting"])
def test_a_connection_is_used_whole_or_not_at_all(connected: bool, settings: Settings, backup: BackupTable) -> None:
    """An interrupted one has not selected its database yet, or has a reply that was not read."""
    put_entries(backup, {"conv": 4})
    elsewhere = replace(settings, redis_url=f"{settings.redis_url}"[:-1] + "3")
    stride = 1 if connected else STRIDE
    with closing(RedisRegistry(elsewhere)) as store:
        for _ in rebuild_job(elsewhere, store, backup).run():
            pass
        registry = Registry.over(elsewhere, store, backup)
        for work in (lambda: registry.lookup("conv"), lambda: registry.lookup_many(IDS)):
            for number in moments(work, stride):
                assert remaining() is None, number
                found = registry.lookup_many(IDS)
                assert {(entry.max_n, entry.source) for entry in found.values()} == {(4, "redis"), (1, "redis")}, number
                assert registry.lookup("conv").source == "redis", number
                if not connected:
                    store.close()


def test_hiredis_packs_no_numbers(settings: Settings, rebuild: Rebuilder, monkeypatch: pytest.MonkeyPatch) -> None:
    """It crashes the process if a handler raises an exception while it does (3.5.0)."""
    packed: list[Any] = []
    pack = hiredis.pack_command

    def keep(arguments: Any) -> Any:
        packed.extend(arguments)
        return pack(arguments)

    monkeypatch.setattr(hiredis, "pack_command", keep)
    rebuild()
    with closing(RedisRegistry(settings)) as store:
        store.lookup(store.primaries()[0], IDS)
    assert packed
    assert {type(argument) for argument in packed} <= {str, bytes}


@pytest.mark.slow
@pytest.mark.parametrize("module", ["boto3.resources.factory", "asyncio.futures", "redis.client", "botocore.session"])
def test_an_interrupted_import_breaks_nothing(module: str) -> None:
    """boto3 and asyncio cannot be imported again in a process in which that failed half-way: it was broken for ever."""
    program = [sys.executable, "-m", "tests.support.interrupted_import", module]
    environ = {**os.environ, "AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
    done = subprocess.run(program, capture_output=True, text=True, check=False, env=environ)
    assert (done.returncode, done.stderr) == (0, "")
