"""One run: start servers and processes, inject faults, end them, read everything again, and check the logs."""

from __future__ import annotations

import os
import random
import signal
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from saltctl.canary.judge import Violation, check, lookups_below_backup
from saltctl.errors import SaltctlError
from saltctl.history.history import History
from saltctl.registry.registry import Registry
from tests.checker import killable_roles, loop_role, recoverer, roles
from tests.checker.backup_loss import BackupLosses
from tests.checker.log import Log, read_logs
from tests.checker.mutants import REAL, ProtocolClasses
from tests.checker.processes import fork, reap
from tests.checker.roles import Worker
from tests.checker.schedule import TABLE_LOSSES, Plan, Side
from tests.checker.servers import TOPOLOGIES, Servers
from tests.support.dynamodb_local import DynamoLocal

ROLES: Mapping[str, Callable[[Worker], None]] = {
    "writer": roles.writer,
    "reader": roles.reader,
    "lookup_client": roles.lookup_client,
    "sampler": roles.sampler,
    "preforker": roles.preforker,
    "loop_server": loop_role.loop_server,
    "reporter": roles.reporter,
    "raiser": killable_roles.raiser,
    "cooler": killable_roles.cooler,
    "rebuilder": killable_roles.rebuilder,
    "service": killable_roles.service,
    "recoverer": recoverer.recoverer,
}
CLIENTS = (roles.writer, roles.reader, roles.lookup_client, roles.sampler, roles.preforker, loop_role.loop_server)
CLIENTS_NICE = 5
"""Clients leave the processors to the servers, and to those that recover: they would use all there are."""
END_SECONDS = 60.0
"""Seconds in which every process ends after SIGTERM, and in which a registry without faults becomes verified."""
CHECK_INTERVAL = 0.5
"""Seconds between two checks of the logs during a run that ends at the first loss."""
LOSSES = ("missing", "lost raise", "uncovered message")
"""The checks that find a lost message or a lost raise."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """The result of a run. The dictionaries are counts by kind.

    ``below_backup`` counts the lookups in Redis that returned less than an earlier lookup in the backup, which is
    allowed (see ``checks``). ``seconds`` is the duration of the run.
    """

    seed: int
    seconds: float
    operations: dict[str, int]
    faults: dict[str, int]
    raisers_killed: dict[str, int]
    coolers_killed: dict[str, int]
    cooling: dict[str, int]
    rebuilds_killed: dict[str, int]
    rebuilds: dict[str, int]
    services: dict[str, int]
    forks: dict[str, int]
    cancelled: dict[str, int]
    errors: dict[str, int]
    losses: dict[str, int]
    recoveries: dict[str, int]
    recoveries_killed: dict[str, int]
    below_backup: int
    violations: list[Violation]

    def as_json(self) -> dict[str, Any]:
        """Return the outcome for ``json.dumps``."""
        shown = {name: getattr(self, name) for name in self.__slots__}
        return shown | {"violations": [violation._asdict() for violation in self.violations]}


@dataclass(frozen=True, slots=True)
class RunOptions:
    """The servers and classes of a run, and whether it ends at the first loss. None selects the default server."""

    topology: str = "pair"
    binary: Path | None = None
    dynamodb: DynamoLocal | None = None
    classes: ProtocolClasses = REAL
    stop_at_loss: bool = False


def run(plan: Plan, directory: Path, options: RunOptions) -> Outcome:
    """Run once, with logs and server files in ``directory``. The calling process must have a single thread."""
    logs = directory / "logs"
    logs.mkdir(mode=0o700)
    log = Log(logs, "controller")
    with Servers(
        TOPOLOGIES[options.topology](directory, options.binary),
        dynamodb=options.dynamodb,
        cap=plan.cap,
        names_registry=plan.names_registry,
    ) as servers:
        started = time.monotonic()

        def worker(name: str, side: Side, stopped: Callable[[], bool], log: Log) -> Worker:
            rng = random.Random(f"{plan.seed} {name}")
            return Worker(plan, options.classes, servers.settings(side), log, rng, started, stopped)

        processes = [
            fork(log, partial(_run_role, ROLES[role], name, logs, side, worker))
            for name, role, side in plan.processes()
        ]
        try:
            servers.serve()
            _inject_faults(plan, servers, log, lambda: options.stop_at_loss and _lost(logs))
        finally:
            servers.end_faults(all_faults=True)
            _stop_processes(processes, log)
        final = worker("final", "near", lambda: False, Log(logs, "final"))
        if not options.stop_at_loss:
            _read_everything(final, logs)
        seconds = time.monotonic() - started
    return _outcome(replace(plan, seconds=round(seconds, 1)), logs)


def _run_role(role: Callable[[Worker], None], name: str, logs: Path, side: Side, worker: Callable[..., Worker]) -> None:
    """Run one role until SIGTERM."""
    log = Log(logs, name)
    signals: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: signals.append(number))
    if role in CLIENTS:
        os.nice(CLIENTS_NICE)
    try:
        role(worker(name, side, lambda: bool(signals), log))
    except Exception as exc:
        log.note("crash", "".join(traceback.format_exception(exc)[-3:]))


def _inject_faults(plan: Plan, servers: Servers, log: Log, stop: Callable[[], bool]) -> None:
    """Inject the faults at their times; return at the end of the plan, or once ``stop`` returns true."""
    began, next_check = time.monotonic(), 0.0
    rng = random.Random(f"{plan.seed} controller")
    events, losses = plan.events(), BackupLosses(servers, log, plan.both_probability)
    # On a busy machine, faults are late, but all of them are injected, and every loss of the backup is recovered.
    while (now := time.monotonic() - began) < plan.seconds or events or losses.active:
        servers.end_faults()
        losses.proceed()
        if event := losses.next_event(events, now):
            log.note("fault", event.fault)
            if event.fault in TABLE_LOSSES:
                losses.inject(event)
            else:
                servers.inject(event, rng)
        elif now >= next_check:
            next_check = now + CHECK_INTERVAL
            if stop():
                return
        else:
            time.sleep(0.01)


def _lost(logs: Path) -> bool:
    return any(violation.check in LOSSES for violation in check(read_logs(logs)))


def _stop_processes(processes: list[int], log: Log) -> None:
    """Send SIGTERM to every process, and SIGKILL if it does not end in time."""
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + END_SECONDS
    left = set(processes)
    while left and time.monotonic() < deadline:
        for pid in list(left):
            if os.waitpid(pid, os.WNOHANG)[0]:
                left.remove(pid)
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        reap(pid)
        log.note("crash", "a process did not end after SIGTERM")


def _read_everything(worker: Worker, logs: Path) -> None:
    """Rebuild, and read every message and the entry of every conversation, without faults."""
    conversations = sorted({put.conversation for put in read_logs(logs).puts})
    deadline = time.monotonic() + END_SECONDS
    while not killable_roles.logged_rebuild(worker) and time.monotonic() < deadline:
        time.sleep(0.2)
    history, registry = worker.history(), worker.registry()
    _cool_everything(worker, registry, history, conversations)
    for conversation in conversations:
        roles.read_all(worker, history, conversation)
        began = time.monotonic()
        found = registry.lookup(conversation)
        worker.log.observe("lookup", conversation, began, [found.max_n, found.write_n, found.source])
        if found.source != "redis":
            worker.log.note("crash", f"a lookup used the backup after the final rebuild: {registry.last_failure}")
    history.close()


def _cool_everything(worker: Worker, registry: Registry, history: History, conversations: list[str]) -> None:
    """Cool every conversation to 1, in both phases, and write a message to each: nobody raises them in between."""
    cooling = worker.classes.cooling(registry, history, wait=worker.settings.cool_wait, margin=0.2)
    for _ in ("narrowed", "sealed"):
        for conversation in conversations:
            try:
                result = cooling.cool(conversation, 1)
            except SaltctlError as exc:  # such as that it has no messages
                worker.log_error(exc)
            else:
                if result.changed:
                    worker.log.note("cooling", str(result.phase))
        time.sleep(worker.settings.cool_wait)
    for number, conversation in enumerate(conversations):
        message = f"{worker.log.process}-cooled-{number}"
        roles.write(worker, history, conversation, roles.new_sort_key(message), message)


def _outcome(plan: Plan, logs: Path) -> Outcome:
    history = read_logs(logs)
    crashes = [Violation("crash", "", message) for message in history.notes_of("crash")]
    return Outcome(
        seed=plan.seed,
        seconds=plan.seconds,
        operations=history.operations,
        faults=history.notes_of("fault"),
        raisers_killed=history.notes_of("raiser killed"),
        coolers_killed=history.notes_of("cooler killed"),
        cooling=history.notes_of("cooling"),
        rebuilds_killed=history.notes_of("rebuild killed"),
        rebuilds=history.notes_of("rebuild"),
        services=history.notes_of("service"),
        forks=history.notes_of("fork"),
        cancelled=history.notes_of("cancelled"),
        errors=history.notes_of("error"),
        losses=history.notes_of("loss"),
        recoveries=history.notes_of("recovery"),
        recoveries_killed=history.notes_of("recovery killed"),
        below_backup=len(lookups_below_backup(history)),
        violations=crashes + check(history),
    )


def total(outcomes: list[Outcome]) -> dict[str, Counter[str]]:
    """Return the sums of the counts of several runs."""
    kinds = (
        *("operations", "faults", "raisers_killed", "rebuilds_killed", "rebuilds", "services", "forks", "errors"),
        *("cancelled", "losses", "recoveries", "recoveries_killed", "coolers_killed", "cooling"),
    )
    return {kind: sum((Counter(getattr(outcome, kind)) for outcome in outcomes), Counter()) for kind in kinds}
