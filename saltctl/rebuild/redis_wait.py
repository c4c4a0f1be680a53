"""Waits for a Redis that is down or that is loading its data."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from saltctl.errors import DeadlineExceededError, RedisUnavailableError
from saltctl.rebuild.events import StartDelayed

if TYPE_CHECKING:
    from saltctl.stores.redis.registry import RedisRegistry


def wait_for_redis(
    store: RedisRegistry, timeout: float, *, clock: Callable[[], float], sleep: Callable[[float], None]
) -> Iterator[StartDelayed]:
    """Return when every primary is ready. Yields an event before each pause, for up to ``timeout`` seconds.

    Raises:
        DeadlineExceededError: Redis is still not ready.
    """
    deadline = clock() + timeout
    while (delay := _delay_of(store)) is not None:
        if clock() >= deadline:
            raise DeadlineExceededError(
                f"Redis is not ready after {timeout:g} s: {delay.reason}",
                hint="look at the server's log, or wait longer: saltctl rebuild --wait-redis 1h",
            )
        yield delay
        sleep(min(0.5, max(deadline - clock(), 0.01)))


def _delay_of(store: RedisRegistry) -> StartDelayed | None:
    """Return why Redis is not ready; None if all primaries are."""
    try:
        infos = [store.server(primary) for primary in store.primaries()]
    except RedisUnavailableError as exc:
        return StartDelayed(exc.message)
    for info in infos:
        if int(info.get("loading", 0)):
            percent = float(info.get("loading_loaded_perc", 0.0))
            return StartDelayed("Redis is loading its data", percent, float(info.get("loading_eta_seconds", 0.0)))
    return None
