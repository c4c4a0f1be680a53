"""One run: start the servers, fork the processes, let faults strike, heal, read everything once more, and judge."""

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

from tests.checker import mortals, roles
from tests.checker.checks import Violation, check, went_back
from tests.checker.forks import fork, reap
from tests.checker.log import Log, read_logs
from tests.checker.mutants import REAL, Parts
from tests.checker.roles import Me
from tests.checker.schedule import Plan, Side
from tests.checker.servers import Servers
from tests.support.dynamodb_local import DynamoLocal

ROLES: Mapping[str, Callable[[Me], None]] = {
    "writer": roles.writer,
    "reader": roles.reader,
    "looker": roles.looker,
    "sampler": roles.sampler,
    "reporter": roles.reporter,
    "raiser": mortals.raiser,
    "rebuilder": mortals.rebuilder,
    "service": mortals.service,
}
ENDS_WITHIN = 60.0
"""Seconds in which every process finishes what it is at, and in which a healed registry is verified."""
LOOK_EVERY = 0.5
LOSSES = ("missing", "lost raise")
"""The checks that show an acknowledged message or raise to be lost."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did and found. ``faults`` and ``operations`` are numbers by kind.

    ``went_back`` are lookups in Redis that returned less than an earlier one in the backup, which is allowed (see
    ``checks``). ``seconds`` are those of the faults.
    """

    seed: int
    seconds: float
    operations: dict[str, int]
    faults: dict[str, int]
    raisers_killed: dict[str, int]
    rebuilds_killed: dict[str, int]
    rebuilds: dict[str, int]
    services: dict[str, int]
    errors: dict[str, int]
    went_back: int
    violations: list[Violation]

    def as_json(self) -> dict[str, Any]:
        """For ``json.dumps``."""
        shown = {name: getattr(self, name) for name in self.__slots__}
        return shown | {"violations": [violation._asdict() for violation in self.violations]}


@dataclass(frozen=True, slots=True)
class Wishes:
    """Beside the plan: which servers and classes, and whether to end at the first loss."""

    binary: Path | None = None
    dynamodb: DynamoLocal | None = None
    parts: Parts = REAL
    until_lost: bool = False


def run(plan: Plan, directory: Path, wishes: Wishes) -> Outcome:
    """One run; logs and the servers' files are in ``directory``. To be called in a process with a single thread."""
    logs = directory / "logs"
    logs.mkdir(mode=0o700)
    log = Log(logs, "conductor")
    with Servers(directory, binary=wishes.binary, dynamodb=wishes.dynamodb, cap=plan.cap) as servers:
        started = time.monotonic()

        def me(name: str, side: Side, stopped: Callable[[], bool], own: Log) -> Me:
            rng = random.Random(f"{plan.seed} {name}")
            return Me(plan, wishes.parts, servers.settings(side), own, rng, started, stopped)

        processes = [
            fork(log, partial(_play, ROLES[role], name, logs, side, me)) for name, role, side in plan.processes()
        ]
        try:
            servers.serve()
            _conduct(plan, servers, log, lambda: wishes.until_lost and _lost(logs))
        finally:
            servers.relent(all_of_it=True)
            _end(processes, log)
        last = me("last", "near", lambda: False, Log(logs, "last"))
        if not wishes.until_lost:
            _read_everything(last, logs)
        seconds = time.monotonic() - started
    return _judge(replace(plan, seconds=round(seconds, 1)), logs)


def _play(role: Callable[[Me], None], name: str, logs: Path, side: Side, me: Callable[..., Me]) -> None:
    """The life of one process."""
    log = Log(logs, name)
    told: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: told.append(number))
    try:
        role(me(name, side, lambda: bool(told), log))
    except Exception as exc:
        log.note("crash", "".join(traceback.format_exception(exc)[-3:]))


def _conduct(plan: Plan, servers: Servers, log: Log, enough: Callable[[], bool]) -> None:
    """Let the faults strike at their times; return at the end, or when it is enough."""
    began, next_look = time.monotonic(), 0.0
    rng = random.Random(f"{plan.seed} conductor")
    events = plan.events()
    # A machine that is busy is late with faults, and leaves none of them out.
    while (now := time.monotonic() - began) < plan.seconds or events:
        servers.relent()
        if events and events[0].at <= now:
            event = events.pop(0)
            log.note("fault", event.fault)
            servers.strike(event, rng)
        elif now >= next_look:
            next_look = now + LOOK_EVERY
            if enough():
                return
        else:
            time.sleep(0.01)


def _lost(logs: Path) -> bool:
    return any(violation.check in LOSSES for violation in check(read_logs(logs)))


def _end(processes: list[int], log: Log) -> None:
    """Tell every process to end, and see to it."""
    for pid in processes:
        os.kill(pid, signal.SIGTERM)
    deadline = time.monotonic() + ENDS_WITHIN
    left = set(processes)
    while left and time.monotonic() < deadline:
        for pid in list(left):
            if os.waitpid(pid, os.WNOHANG)[0]:
                left.remove(pid)
        time.sleep(0.02)
    for pid in left:
        os.kill(pid, signal.SIGKILL)
        reap(pid)
        log.note("crash", "a process did not end when it was told to")


def _read_everything(me: Me, logs: Path) -> None:
    """With everything healed: a verified Redis, and every message of every conversation."""
    conversations = sorted({put.conversation for put in read_logs(logs).puts})
    deadline = time.monotonic() + ENDS_WITHIN
    while not mortals.rebuild_now(me) and time.monotonic() < deadline:
        time.sleep(0.2)
    history, registry = me.history(), me.registry()
    for conversation in conversations:
        roles.read_all(me, history, conversation)
        began = time.monotonic()
        found = registry.lookup(conversation)
        me.log.saw("lookup", conversation, began, [found.max_n, found.write_n, found.source])
        if found.source != "redis":
            me.log.note("crash", f"healed and rebuilt, and a lookup went to the backup: {registry.last_failure}")
    history.close()


def _judge(plan: Plan, logs: Path) -> Outcome:
    history = read_logs(logs)
    crashes = [Violation("crash", "", text) for text in history.noted("crash")]
    return Outcome(
        seed=plan.seed,
        seconds=plan.seconds,
        operations=history.operations,
        faults=history.noted("fault"),
        raisers_killed=history.noted("raiser killed"),
        rebuilds_killed=history.noted("rebuild killed"),
        rebuilds=history.noted("rebuild"),
        services=history.noted("service"),
        errors=history.noted("error"),
        went_back=len(went_back(history.lookups, history.raises)),
        violations=crashes + check(history),
    )


def total(outcomes: list[Outcome]) -> dict[str, Counter[str]]:
    """The figures of several runs together."""
    kinds = ("operations", "faults", "raisers_killed", "rebuilds_killed", "rebuilds", "services", "errors")
    return {kind: sum((Counter(getattr(one, kind)) for one in outcomes), Counter()) for kind in kinds}
