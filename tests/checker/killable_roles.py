"""The roles whose processes are killed: raisers, rebuilds and services.

A parent process forks each of them and survives. It has imported and prepared everything and used nothing, so that a
new process starts within milliseconds. The parent draws all random choices, so that a kill changes no later choice.
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

from saltctl.detection.detector import Detector
from saltctl.detection.events import Counters, logger
from saltctl.detection.fence_watcher import FenceWatcher
from saltctl.detection.service import Service
from saltctl.errors import SaltctlError
from saltctl.rebuild.events import RebuildReport
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.registry import RaiseResult, Registry
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.heat.window_sums import WindowSums
from tests.checker.backup_loss import recovery_request
from tests.checker.processes import fork, reap
from tests.checker.roles import CLOCK_RATE, Worker

BeforeCall = Callable[[str], None]
"""Called with the name of a method before each call of it."""
_SESSION_METHODS = ("mark_buckets", "begin_merge", "end_merge", "set_fence", "load_lookup")


def _do_nothing(name: str) -> None:
    """Do nothing before a call."""


class HookedStore:
    """A store that calls ``before_call`` before each call of one of the methods ``names``."""

    def __init__(self, inner: Any, before_call: BeforeCall, names: Collection[str]) -> None:
        self._inner = inner
        self._before_call = before_call
        self._names = names

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._inner, name)
        if name not in self._names:
            return found

        def call(*arguments: Any, **options: Any) -> Any:
            self._before_call(name)
            return found(*arguments, **options)

        return call


class HookedRegistryStore(HookedStore):
    """The registry in Redis; its rebuild sessions call ``before_call`` as well."""

    def sessions(self) -> list[Any]:
        """Return a session for each primary."""
        self._before_call("sessions")
        return [HookedStore(session, self._before_call, _SESSION_METHODS) for session in self._inner.sessions()]


class PlannedDeath:
    """The plan for one process: it is killed before a call or at any moment, it waits before a call, or it survives.

    Args:
        worker: the parent process, which draws the plan.
        role: the name in the log.
        calls: the number of calls that the process makes, about.
        probability: the probability that it is killed.
        killed_before: the call before which it is killed; None for any.
    """

    def __init__(
        self, worker: Worker, role: str, calls: int, probability: float, killed_before: str | None = None
    ) -> None:
        rng = worker.rng
        self._log = worker.log
        self._role = role
        self._killed_before = killed_before
        self._call = rng.randrange(calls)
        self._wait = rng.uniform(0.05, 0.4)
        self._alarm = rng.uniform(0.001, 0.05)
        at_call, at_alarm = (probability, 0.0) if killed_before else (probability * 0.8, probability * 0.2)
        weights = [at_call, at_alarm, (1 - probability) * 0.3, (1 - probability) * 0.7]
        drawn = rng.choices(("killed at a call", "killed by an alarm", "waits", "survives"), weights)[0]
        self._outcome = "survives" if worker.calm else drawn
        self._calls = count()

    def arm(self) -> None:
        """Start the alarm, in the child."""
        if self._outcome == "killed by an alarm":
            signal.signal(signal.SIGALRM, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_REAL, self._alarm)

    def before_call(self, name: str) -> None:
        """Kill the process or wait, if that is planned for this call."""
        planned = next(self._calls) == self._call if self._killed_before is None else name == self._killed_before
        if planned and self._outcome == "killed at a call":
            self._log.note(f"{self._role} killed", f"before {name}")
            os.kill(os.getpid(), signal.SIGKILL)
        elif planned and self._outcome == "waits":
            time.sleep(self._wait)

    def log_alarm(self, status: int) -> None:
        """Log a death by the alarm, in the parent: the child could not."""
        if os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGALRM:
            self._log.note(f"{self._role} killed", "at any moment")


def raiser(worker: Worker) -> None:
    """Raise, in a new process each time; many are killed between two steps."""
    plan = worker.plan
    worker.prepare()
    while worker.pause(plan.raise_pause):
        conversation, n = worker.rng.choice(worker.conversations()), worker.random_n()
        death = PlannedDeath(worker, "raiser", 5, plan.raiser_kill_probability, plan.raiser_killed_before)
        death.log_alarm(reap(fork(worker.log, partial(_raise, worker, death, conversation, n))))


def _raise(worker: Worker, death: PlannedDeath, conversation: str, n: int) -> None:
    backup = HookedStore(worker.backup, death.before_call, ("check_registry", "raise_max_n", "commit_write_n"))
    store = HookedStore(worker.store(), death.before_call, ("merge",))
    registry = worker.classes.registry.over(worker.settings, cast("Any", store), cast("Any", backup))
    death.arm()
    logged_raise(worker, registry, conversation, n, "checker", death.before_call)


def cooler(worker: Worker) -> None:
    """Cool conversations, in a new process each time; many are killed, in either phase."""
    plan = worker.plan
    worker.prepare()
    while worker.pause(plan.cool_pause):
        conversation, to = worker.rng.choice(worker.conversations()), worker.rng.choice((1, 1, 2, 4))
        death = PlannedDeath(worker, "cooler", 12, plan.cooler_kill_probability)
        death.log_alarm(reap(fork(worker.log, partial(_cool, worker, death, conversation, to))))


def _cool(worker: Worker, death: PlannedDeath, conversation: str, to: int) -> None:
    """Do both phases, if nobody raises the conversation in between."""
    calls = ("check_registry", "get", "allow_cooling", "replace")
    backup = HookedStore(worker.backup, death.before_call, calls)
    store = HookedStore(worker.store(), death.before_call, ("merge",))
    registry = worker.classes.registry.over(worker.settings, cast("Any", store), cast("Any", backup))
    history = worker.history()
    cooling = worker.classes.cooling(registry, history, wait=worker.settings.cool_wait, margin=0.2)
    death.arm()
    try:
        result = cooling.cool(conversation, to)
        if result.phase == "narrowed":
            worker.log.note("cooling", "narrowed")
            time.sleep(worker.settings.cool_wait)
            result = cooling.cool(conversation, to)
        if result.changed:
            worker.log.note("cooling", str(result.phase))
    except SaltctlError as exc:
        worker.log_error(exc)
    finally:
        history.close()


def logged_raise(
    worker: Worker, registry: Registry, conversation: str, n: int, reason: str, before_call: BeforeCall = _do_nothing
) -> RaiseResult:
    """Raise, and log the start and the end."""
    with worker.in_flight.operation():
        return _raise_in_flight(worker, registry, conversation, n, reason, before_call)


def _raise_in_flight(
    worker: Worker, registry: Registry, conversation: str, n: int, reason: str, before_call: BeforeCall
) -> RaiseResult:
    number = worker.log.begin("raise", conversation, n)
    try:
        result = registry.raise_to(conversation, n, reason=reason)
    except SaltctlError as exc:
        worker.log.end(number, acknowledged=False)
        worker.log_error(exc)
        raise
    before_call("acknowledgement")
    worker.log.end(number, acknowledged=True, value=result.after)
    return result


def rebuilder(worker: Worker) -> None:
    """Rebuild again and again, needed or not, in a new process each time; many are killed.

    It starts none while a recovery is wanted, which would wait for it for ever. Services do.
    """
    worker.prepare()
    while worker.pause(worker.plan.rebuild_pause):
        if recovery_request(worker.log.directory).exists():
            continue
        death = PlannedDeath(worker, "rebuild", 14, worker.plan.rebuild_kill_probability)
        death.log_alarm(reap(fork(worker.log, partial(_rebuild, worker, death))))


def _rebuild(worker: Worker, death: PlannedDeath) -> None:
    def before_call(name: str) -> None:
        death.before_call(name)
        if name == "begin_merge":
            time.sleep(worker.plan.merge_pause)

    death.arm()
    logged_rebuild(worker, before_call)


def logged_rebuild(worker: Worker, before_call: BeforeCall = _do_nothing) -> bool:
    """Rebuild, log the result, and return whether the rebuild was completed."""
    try:
        for event in rebuild_job(worker, before_call).run():
            if isinstance(event, RebuildReport):
                worker.log.note("rebuild", "resumed and completed" if event.resumed else "completed")
    except SaltctlError as exc:
        worker.log.note("rebuild", exc.code)
        return False
    return True


def rebuild_job(
    worker: Worker,
    before_call: BeforeCall = _do_nothing,
    *,
    replace_registry: bool = False,
    lock_wait: float = 0.0,
) -> Rebuild:
    """Return a rebuild that has not started; the clock of its lease runs faster."""
    store = HookedRegistryStore(worker.store(), before_call, ())
    backup = HookedStore(worker.backup, before_call, ("check_registry", "commit_write_n"))
    page_limit = worker.plan.page_limit
    return Rebuild(
        worker.settings,
        cast("Any", store),
        cast("Any", backup),
        RebuildOptions(
            segments=2,
            page_limit=page_limit,
            batch=page_limit,
            checkpoint_every=0.0,
            replace_registry=replace_registry,
            lock_wait=lock_wait,
        ),
        lease=HookedStore(worker.backup.lease, before_call, ("acquire", "release")),
        checkpoint=worker.backup.checkpoint,
        clock=lambda: CLOCK_RATE * time.monotonic(),
        now=lambda: CLOCK_RATE * time.time(),
    )


class _LoggedRegistry:
    """The registry of a service; it logs the raises."""

    def __init__(self, worker: Worker, registry: Registry) -> None:
        self._worker = worker
        self._registry = registry

    def raise_to(self, conversation_id: str, n: int, *, reason: str = "", actor: str | None = None) -> RaiseResult:
        """Raise, and log it."""
        return logged_raise(self._worker, self._registry, conversation_id, n, reason)


def service(worker: Worker) -> None:
    """Run the service in one process after another under the same name; kill or pause each."""
    worker.prepare()
    while not worker.stopped():
        with _killed_at_end(fork(worker.log, partial(_serve, worker))) as pid:
            while worker.pause(4.0):
                if worker.calm:
                    continue
                if worker.rng.random() < 0.5:
                    worker.log.note("service", "killed")
                    break
                worker.log.note("service", "paused")
                os.kill(pid, signal.SIGSTOP)
                time.sleep(worker.rng.uniform(0.2, 1.5))
                os.kill(pid, signal.SIGCONT)


@contextmanager
def _killed_at_end(pid: int) -> Iterator[int]:
    """Kill a process when the block ends."""
    try:
        yield pid
    finally:
        os.kill(pid, signal.SIGKILL)
        reap(pid)


class _EventLogger(logging.Handler):
    """Logs the events of a service that the checker counts."""

    def __init__(self, worker: Worker) -> None:
        super().__init__()
        self._worker = worker

    def emit(self, record: logging.LogRecord) -> None:
        """Log one event."""
        if record.getMessage() in ("rebuilt", "rebuild_failed", "raised", "claimed", "group_created"):
            self._worker.log.note("service", record.getMessage())


def _serve(worker: Worker) -> None:
    """Run the service as ``saltctl service run`` does."""
    logger.setLevel(logging.INFO)
    logger.addHandler(_EventLogger(worker))
    settings, counters, stop = worker.settings, Counters(), threading.Event()
    store = worker.store()
    registry = cast("Registry", _LoggedRegistry(worker, worker.classes.registry.over(settings, store, worker.backup)))
    detector = Detector(WindowSums(settings), registry, DeadLetters(settings), settings, counters=counters)
    fence_watcher = FenceWatcher(store, settings.buckets, lambda: rebuild_job(worker), counters=counters, stop=stop)
    Service(
        HeatStream(settings, block=0.3),
        detector,
        consumer=worker.log.process,
        settings=settings,
        stop=stop,
        fence_watcher=fence_watcher,
        state=ServiceState(settings),
        block=0.3,
        claim_idle=1.0,
    ).run()
