"""The roles whose processes die: raisers, rebuilds and services, each forked by a process that lives on.

The parent has imported and prepared everything and has used nothing, so that a new process costs milliseconds. It
draws all choices, so that a child's death takes none of them along.
"""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from typing import Any, cast

from saltctl.detection.detector import Counters, Detector
from saltctl.detection.events import logger
from saltctl.detection.fence_watcher import FenceWatcher
from saltctl.detection.service import Service
from saltctl.errors import SaltctlError
from saltctl.rebuild.checkpoint import CheckpointFile
from saltctl.rebuild.events import RebuildReport
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import RaiseResult, Registry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import WindowSums
from tests.checker.forks import fork, reap
from tests.checker.roles import Me

LEASE_PACE = 20
"""How much faster the time of leases runs here: that of a killed rebuild expires in a second and a half."""
At = Callable[[str], None]
_SESSION = ("mark_buckets", "begin_merge", "end_merge", "set_fence", "load_lookup")


class Watched:
    """A store that calls ``at`` with its name before each of some methods."""

    def __init__(self, inner: Any, at: At, names: Collection[str]) -> None:
        self._inner = inner
        self._at = at
        self._names = names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._at(name)
            return found(*arguments, **options)

        return call


class WatchedStore(Watched):
    """The registry in Redis, with sessions that are watched."""

    def sessions(self) -> list[Any]:
        """One for each primary."""
        self._at("sessions")
        return [Watched(session, self._at, _SESSION) for session in self._inner.sessions()]


class Fate:
    """What becomes of one process: nothing; death before one of its calls, or any moment; or a wait before a call."""

    def __init__(self, me: Me, what: str, calls: int, deaths: float, dies_before: str | None) -> None:
        rng = me.rng
        self._log = me.log
        self._what = what
        self._dies_before = dies_before
        self._call = rng.randrange(calls)
        self._wait = rng.uniform(0.05, 0.4)
        self._alarm = rng.uniform(0.001, 0.05)
        fates = {"dies": deaths * (1.0 if dies_before else 0.8), "alarm": 0 if dies_before else deaths * 0.2}
        weights = [*fates.values(), (1 - deaths) * 0.3, (1 - deaths) * 0.7]
        self._fate = rng.choices(("dies", "alarm", "waits", "lives"), weights)[0]
        self._calls = count()

    def begin(self) -> None:
        """In the child: from here on it may strike."""
        if self._fate == "alarm":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._alarm)

    def at(self, name: str) -> None:
        """Before a call."""
        mine = next(self._calls) == self._call if self._dies_before is None else name == self._dies_before
        if mine and self._fate == "dies":
            self._log.note(f"{self._what} killed", f"before {name}")
            os.kill(os.getpid(), signal.SIGKILL)
        elif mine and self._fate == "waits":
            time.sleep(self._wait)

    def note_end(self, status: int) -> None:
        """In the parent: say it where the child could not."""
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            self._log.note(f"{self._what} killed", "at any moment")


def raiser(me: Me) -> None:
    """Raises, one process for each, many of which are killed between two steps."""
    _ = me.backup
    while me.going(me.plan.raise_pause):
        conversation, n = me.rng.choice(me.conversations()), me.any_n()
        fate = Fate(me, "raiser", 5, me.plan.raiser_deaths, me.plan.raiser_dies_before)
        fate.note_end(reap(fork(me.log, partial(_raise, me, fate, conversation, n))))


def _raise(me: Me, fate: Fate, conversation: str, n: int) -> None:
    backup = Watched(me.backup, fate.at, ("claim_layout", "raise_max_n", "commit_write_n"))
    store = Watched(me.parts.store(me.settings), fate.at, ("merge",))
    registry = me.parts.registry.over(me.settings, store, backup)
    fate.begin()
    logged_raise(me, registry, conversation, n, "checker", fate.at)


def logged_raise(
    me: Me, registry: Registry, conversation: str, n: int, reason: str, at: At = lambda name: None
) -> RaiseResult:
    """A raise that is on record before it begins."""
    number = me.log.begin("raise", conversation, n)
    try:
        result = registry.raise_to(conversation, n, reason=reason)
    except SaltctlError as exc:
        me.log.end(number, acknowledged=False)
        me.failed(exc)
        raise
    at("acknowledgement")
    me.log.end(number, acknowledged=True, value=result.after)
    return result


def rebuilder(me: Me) -> None:
    """Rebuilds again and again, needed or not, one process for each; many are killed."""
    _ = me.backup
    while me.going(me.plan.rebuild_pause):
        fate = Fate(me, "rebuild", 14, me.plan.rebuild_deaths, None)
        fate.note_end(reap(fork(me.log, partial(_rebuild, me, fate))))


def _rebuild(me: Me, fate: Fate) -> None:
    def at(name: str) -> None:
        fate.at(name)
        if name == "begin_merge":
            time.sleep(me.plan.merge_pause)

    fate.begin()
    rebuild_now(me, at)


def rebuild_now(me: Me, at: At = lambda name: None) -> bool:
    """A rebuild by whoever this is; whether it was completed."""
    try:
        for event in rebuild_job(me, at).run():
            if isinstance(event, RebuildReport):
                me.log.note("rebuild", "resumed and completed" if event.resumed else "completed")
    except SaltctlError as exc:
        me.log.note("rebuild", exc.code)
        return False
    return True


def rebuild_job(me: Me, at: At = lambda name: None) -> Rebuild:
    """A rebuild that was not started, whose lease lives in a quicker time."""
    store = WatchedStore(me.parts.store(me.settings), at, ())
    backup = Watched(me.backup, at, ("claim_layout", "commit_write_n"))
    return Rebuild(
        me.settings,
        cast("Any", store),
        cast("Any", backup),
        RebuildOptions(segments=2, page_limit=me.plan.page_limit, batch=me.plan.page_limit, checkpoint_every=0.0),
        lease=Watched(me.backup.lease, at, ("acquire", "release")),
        checkpoints=CheckpointFile(me.log.directory / f"{me.log.who}.checkpoint"),
        clock=lambda: LEASE_PACE * time.monotonic(),
        now=lambda: LEASE_PACE * time.time(),
    )


class _LoggedRaiser:
    """What a service raises by."""

    def __init__(self, me: Me, registry: Registry) -> None:
        self._me = me
        self._registry = registry

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Raise, on record."""
        return logged_raise(self._me, self._registry, conversation_id, n, reason)


def service(me: Me) -> None:
    """One instance of the service after another, under one name; each is killed, or paused for a while."""
    _ = me.backup
    while not me.stopped():
        with _alive(fork(me.log, partial(_serve, me))) as pid:
            while me.going(4.0):
                if me.rng.random() < 0.5:
                    me.log.note("service", "killed")
                    break
                me.log.note("service", "paused")
                os.kill(pid, signal.SIGSTOP)
                time.sleep(me.rng.uniform(0.2, 1.5))
                os.kill(pid, signal.SIGCONT)


@contextmanager
def _alive(pid: int) -> Iterator[int]:
    """A process that is killed when the block ends."""
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        reap(pid)


class _LoggedEvents(logging.Handler):
    """Records the events of a service that the checker counts."""

    def __init__(self, me: Me) -> None:
        super().__init__()
        self._me = me

    def emit(self, record: logging.LogRecord) -> None:
        """Record one event."""
        if record.getMessage() in ("rebuilt", "rebuild_failed", "raised", "claimed", "group_created"):
            self._me.log.note("service", record.getMessage())


def _serve(me: Me) -> None:
    """The service as ``saltctl service run`` has it."""
    logger.setLevel(logging.INFO)
    logger.addHandler(_LoggedEvents(me))
    settings, counters, stop = me.settings, Counters(), threading.Event()
    store = me.parts.store(settings)
    raising = cast("Registry", _LoggedRaiser(me, me.parts.registry.over(settings, store, me.backup)))
    detector = Detector(WindowSums(settings), raising, DeadLetters(settings), settings, counters=counters)
    fence_watcher = FenceWatcher(store, settings.buckets, lambda: rebuild_job(me), counters=counters, stop=stop)
    Service(
        HeatStream(settings, block=0.3),
        detector,
        consumer=me.log.who,
        settings=settings,
        stop=stop,
        fence_watcher=fence_watcher,
        state=ServiceState(settings),
        block=0.3,
        claim_idle=1.0,
    ).run()
