"""Three instances of the service under load; one is killed in the middle of a batch, then all; then they return.

Shown with figures: while nobody is alive new hot conversations are not detected, and status says so; when the
service comes back, or `stream replay` runs without it, every conversation reaches the N it needs, no raise is
lost, and none is done twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from saltctl.detection.stream_status import is_alive, read_stream_status
from saltctl.local.drills.drill import Step
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import command_bound_to_parent
from saltctl.salting import needed_n
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.contracts import GroupInfo
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream

INSTANCES = 3
SERVERS = 20
WAIT = 60.0
FREEZES = 10
"""Waves after which the drill gives up to catch an instance in the middle of a batch."""
# Write units a second over all servers: what each wave of conversations needs is known beforehand.
RATES = (300, 900, 1700, 3400, 7000)


class Fleet:
    """Services as processes, as people start them; they end with the drill, whatever happens to it."""

    def __init__(self, environment: LocalEnvironment) -> None:
        self._environment = environment
        self._running: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Start instances under names of their own."""
        for _ in range(count):
            name = f"drill-{len(self._running) + 1}"
            command = [sys.executable, "-m", "saltctl", "service", "run", "--consumer", name, "--claim-after", "5s"]
            log = (self._environment.directory / f"{name}.log").open("wb")
            with log:
                self._running.append(
                    subprocess.Popen(
                        command_bound_to_parent(command),
                        env=self._environment.variables(),
                        stdin=subprocess.DEVNULL,
                        stdout=log,
                        stderr=log,
                    )
                )

    def freeze(self, name: str) -> None:
        """SIGSTOP one instance, and wait until it stands still."""
        pid = self._process(name).pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)

    def thaw(self, name: str) -> None:
        """Let a frozen instance go on."""
        os.kill(self._process(name).pid, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """SIGKILL for one instance."""
        process = self._process(name)
        process.kill()
        process.wait()

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        return self._running[int(name.rpartition("-")[2]) - 1]

    def kill_all(self) -> None:
        """SIGKILL for whatever runs."""
        for process in self._running:
            process.kill()
            process.wait()


class Heat:
    """Waves of conversations of known heat, reported as a fleet of servers would."""

    def __init__(self, stream: HeatStream, per_salt: int, cap: int) -> None:
        self._stream = stream
        self._per_salt = per_salt
        self._cap = cap
        self.needed: dict[str, int] = {}

    def report(self, wave: str, copies: int = 4) -> int:
        """One second of a wave, ``copies`` conversations of each rate; how many of them need salts."""
        window = int(time.time())
        reports = []
        for rate in RATES:
            for copy in range(copies):
                conversation_id = f"conv_{wave}_{rate}_{copy}"
                self.needed[conversation_id] = needed_n(rate, self._per_salt, self._cap)
                for server in range(SERVERS):
                    reports.append(HeatReport(conversation_id, f"app-{server}", window, rate // SERVERS))
        # Spread over the stream as they would arrive: by server, not by conversation.
        reports.sort(key=lambda report: report.server)
        self._stream.append_reports(reports)
        return sum(n > 1 and wave in conversation_id for conversation_id, n in self.needed.items())


def run() -> Iterator[Step]:
    """Run the scenario."""
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        settings = environment.settings
        stream, backup = HeatStream(settings), BackupTable(settings)
        heat = Heat(stream, settings.wps_per_salt, settings.max_n_cap)
        fleet = Fleet(environment)
        try:
            fleet.start(INSTANCES)
            yield _step(
                f"{INSTANCES} instances of the service run on a real Valkey and moto's DynamoDB",
                lambda: _alive(stream) == INSTANCES,
                lambda: f"ready in {time.monotonic() - started:.1f} s",
            )
            yield from _calm(heat, stream, backup)
            yield from _one_killed(heat, stream, backup, fleet)
            yield from _all_killed(heat, stream, backup, fleet)
            yield from _back(heat, stream, backup, fleet)
            yield from _replayed(environment, heat, stream, backup, fleet)
        finally:
            fleet.kill_all()
            stream.close()


def _calm(heat: Heat, stream: HeatStream, backup: BackupTable) -> Iterator[Step]:
    hot = heat.report("calm")
    yield _step(
        f"before: {hot} hot conversations reported by {SERVERS} servers, each far below the limit, are raised",
        lambda: _settled(stream) and not _wrong(heat, backup),
        lambda: _figures(heat, stream, backup),
    )


def _one_killed(heat: Heat, stream: HeatStream, backup: BackupTable, fleet: Fleet) -> Iterator[Step]:
    victim, held = _frozen_in_a_batch(heat, stream, fleet)
    if victim:
        fleet.kill(victim)
    yield Step(
        "one is killed with SIGKILL in the middle of a batch", held > 0, f"{victim or 'nobody'} held {held} entries"
    )
    yield _step(
        "the others claim what it held; every conversation reaches the N it needs",
        lambda: _settled(stream) and not _wrong(heat, backup),
        lambda: _figures(heat, stream, backup),
    )


def _frozen_in_a_batch(heat: Heat, stream: HeatStream, fleet: Fleet) -> tuple[str, int]:
    """Freeze whoever has a batch in hand; its name, and how many entries it holds. Empty and 0 if nobody ever did.

    Frozen first and looked at then: an instance that runs may have acknowledged what it was seen to hold. One that
    was too quick goes on, and another wave is reported.
    """
    for attempt in range(FREEZES):
        heat.report(f"first-{attempt}")
        busy: set[str] = set()

        def somebody_holds(found: set[str] = busy) -> bool:
            found.update(consumer.name for consumer in _group(stream).consumers if consumer.pending)
            return bool(found)

        _until(somebody_holds, pause=0.002)
        for name in sorted(busy):
            fleet.freeze(name)
            _held(stream, name)  # what it had sent before it stood still is carried out before this is answered,
            if held := _held(stream, name):  # or before this
                return name, held
            fleet.thaw(name)
    return "", 0


def _all_killed(heat: Heat, stream: HeatStream, backup: BackupTable, fleet: Fleet) -> Iterator[Step]:
    fleet.kill_all()
    hot = heat.report("second")
    _until(lambda: _alive(stream) == 0)
    seen = read_stream_status(stream, 0.2)
    missed = len(_wrong(heat, backup))
    yield Step(
        "all are killed: new hot conversations are NOT detected, and status says so",
        seen.verdict == "stopped" and missed == hot,
        f"verdict {seen.verdict}; {missed} of {hot} new hot conversations wait for their raise; the stream keeps "
        "their reports",
    )


def _back(heat: Heat, stream: HeatStream, backup: BackupTable, fleet: Fleet) -> Iterator[Step]:
    began = time.monotonic()
    fleet.start(INSTANCES)
    yield _step(
        "the service comes back and catches up from the stream",
        lambda: _settled(stream) and not _wrong(heat, backup),
        lambda: f"after {time.monotonic() - began:.1f} s; {_figures(heat, stream, backup)}",
    )


def _replayed(
    environment: LocalEnvironment, heat: Heat, stream: HeatStream, backup: BackupTable, fleet: Fleet
) -> Iterator[Step]:
    fleet.kill_all()
    hot = heat.report("third")
    missed = len(_wrong(heat, backup))
    command = [sys.executable, "-m", "saltctl", "stream", "replay", "--timeout", "2m", "-o", "json"]
    done = subprocess.run(command, env=environment.variables(), capture_output=True, text=True, check=False)
    wrong = _wrong(heat, backup)
    yield Step(
        "killed once more; `saltctl stream replay` does the same without the service",
        missed == hot and done.returncode == 0 and not wrong and not _twice(heat, backup),
        f"{missed} waited, {len(wrong)} wait now; {_figures(heat, stream, backup)}"
        + ("" if done.returncode == 0 else f"; exit {done.returncode}: {done.stderr.strip()}"),
    )
    again = subprocess.run(
        [*command, "--from", "1h"], env=environment.variables(), capture_output=True, text=True, check=False
    )
    yield Step(
        "the whole hour is replayed once more, and nothing changes",
        again.returncode == 0 and not _wrong(heat, backup) and not _twice(heat, backup),
        _figures(heat, stream, backup),
    )


def _step(what: str, condition: Callable[[], bool], detail: Callable[[], str]) -> Step:
    ok = _until(condition)
    return Step(what, ok, detail())


def _until(condition: Callable[[], bool], *, pause: float = 0.05) -> bool:
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(pause)
    return condition()


def _group(stream: HeatStream) -> GroupInfo:
    group = stream.info().group(stream.group)
    assert group is not None
    return group


def _alive(stream: HeatStream) -> int:
    return sum(is_alive(consumer.idle_s) for consumer in _group(stream).consumers)


def _held(stream: HeatStream, name: str) -> int:
    return sum(consumer.pending for consumer in _group(stream).consumers if consumer.name == name)


def _settled(stream: HeatStream) -> bool:
    group = _group(stream)
    return group.lag == 0 and group.pending == 0


def _wrong(heat: Heat, backup: BackupTable) -> list[str]:
    """Conversations that do not have the N they need, neither less nor more."""
    held = backup.get_many(list(heat.needed))
    return [i for i, n in heat.needed.items() if (held[i].max_n if i in held else 1) != n]


def _twice(heat: Heat, backup: BackupTable) -> list[str]:
    """Conversations on whose record a raise stands twice."""
    return [
        entry.conversation_id
        for entry in backup.get_many(list(heat.needed)).values()
        if len({raised.n for raised in entry.raises}) != len(entry.raises)
    ]


def _figures(heat: Heat, stream: HeatStream, backup: BackupTable) -> str:
    group = _group(stream)
    needing = sum(n > 1 for n in heat.needed.values())
    lost, twice = len(_wrong(heat, backup)), len(_twice(heat, backup))
    return (
        f"{needing} conversations need salts: {needing - lost} have exactly their N, {lost} lost, "
        f"{twice} raised twice; {group.lag} unread, {group.pending} pending"
    )
