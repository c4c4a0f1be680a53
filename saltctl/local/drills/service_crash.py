"""Three instances of the service under load: one is killed in the middle of a batch, then all; then they return.

Shown with figures: while no instance is alive, new hot conversations are not detected, and status says so. When
the service is back, or ``stream replay`` runs without it, every conversation reaches the N that it needs: no
raise is lost, and none is done twice.
"""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator

from saltctl.detection.stream_status import is_alive, read_stream_status
from saltctl.local.drills.drill import Step
from saltctl.local.drills.service_processes import SERVERS, HeatWaves, ServiceProcesses
from saltctl.local.environment import LocalEnvironment
from saltctl.salting import needed_n
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.contracts import GroupInfo
from saltctl.stores.heat.stream import HeatStream

INSTANCES = 3
STEP_SECONDS = 60.0
MAX_PAUSES = 10
"""Waves after which the drill gives up catching an instance in the middle of a batch."""
NeededN = Callable[[int, int, int], int]


def run(*, needed: NeededN = needed_n, step_seconds: float = STEP_SECONDS) -> Iterator[Step]:
    """Run the scenario.

    Args:
        needed: the N that the drill expects for a rate, the write units of a salt, and the cap. Tests pass a
            wrong one, to prove that this drill can fail.
        step_seconds: how long a step may take, once the instances run.
    """
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        settings = environment.settings
        stream = HeatStream(settings)
        waves = HeatWaves(stream, lambda rate: needed(rate, settings.wps_per_salt, settings.max_n_cap))
        scenario = _Scenario(environment, stream, waves, step_seconds)
        try:
            scenario.services.start(INSTANCES)
            yield Step(
                f"{INSTANCES} instances of the service run on a real Valkey and moto's DynamoDB",
                _wait_for(lambda: scenario.alive() == INSTANCES, STEP_SECONDS),
                f"ready in {time.monotonic() - started:.1f} s",
            )
            yield scenario.detect()
            yield from scenario.kill_one()
            yield scenario.kill_all()
            yield scenario.restart()
            yield from scenario.replay()
        finally:
            scenario.services.kill_all()
            stream.close()


class _Scenario:
    """The steps, and the state of stream and backup that they check."""

    def __init__(
        self, environment: LocalEnvironment, stream: HeatStream, waves: HeatWaves, step_seconds: float
    ) -> None:
        self.services = ServiceProcesses(environment)
        self._environment = environment
        self._stream = stream
        self._waves = waves
        self._backup = BackupTable(environment.settings)
        self._step_seconds = step_seconds

    # The steps.

    def detect(self) -> Step:
        """Report a first wave while all instances run."""
        hot = self._waves.report("calm")
        return self._all_raised(
            f"before: {hot} hot conversations reported by {SERVERS} servers, each far below the limit, are raised"
        )

    def kill_one(self) -> Iterator[Step]:
        """Kill an instance that has unacknowledged entries."""
        victim, pending = self._pause_in_a_batch()
        if victim:
            self.services.kill(victim)
        yield Step(
            "one is killed with SIGKILL in the middle of a batch",
            pending > 0,
            f"{victim} had {pending} pending entries" if victim else "no instance had pending entries",
        )
        yield self._all_raised("the others claim its entries; every conversation reaches the N it needs")

    def _pause_in_a_batch(self) -> tuple[str, int]:
        """Pause an instance that has a batch; return its name and its pending entries, or "" and 0.

        It is paused before its entries are counted: a running instance may acknowledge them meanwhile. An
        instance that was quicker resumes, and another wave is reported.
        """
        for attempt in range(MAX_PAUSES):
            self._waves.report(f"first-{attempt}")
            busy: set[str] = set()

            def any_pending(found: set[str] = busy) -> bool:
                """Add the consumers with pending entries to ``found``, and return whether there are any."""
                found.update(consumer.name for consumer in self._group().consumers if consumer.pending)
                return bool(found)

            _wait_for(any_pending, self._step_seconds, pause=0.002)
            for name in sorted(busy):
                self.services.pause(name)
                self._pending_of(name)  # Redis runs the commands that the instance had sent before this one,
                if pending := self._pending_of(name):  # or before this one
                    return name, pending
                self.services.resume(name)
        return "", 0

    def kill_all(self) -> Step:
        """Kill every instance, and report a wave that is not detected."""
        self.services.kill_all()
        hot = self._waves.report("second")
        _wait_for(lambda: self.alive() == 0, self._step_seconds)
        status = read_stream_status(self._stream, 0.2)
        missed = len(self._wrong())
        return Step(
            "all are killed: new hot conversations are NOT detected, and status says so",
            status.verdict == "stopped" and missed == hot,
            f"verdict {status.verdict}; {missed} of {hot} new hot conversations wait for their raise; the stream keeps "
            "their reports",
        )

    def restart(self) -> Step:
        """Start the service again."""
        began = time.monotonic()
        self.services.start(INSTANCES)
        step = self._all_raised("the service comes back and catches up from the stream")
        return Step(step.what, step.ok, f"after {time.monotonic() - began:.1f} s; {step.detail}")

    def replay(self) -> Iterator[Step]:
        """Kill the service once more, and replay the stream twice without it."""
        self.services.kill_all()
        hot = self._waves.report("third")
        missed = len(self._wrong())
        done = self._run_replay()
        wrong = self._wrong()
        yield Step(
            "killed once more; `saltctl stream replay` does the same without the service",
            missed == hot and done.returncode == 0 and not wrong and not self._raised_twice(),
            f"{missed} waited, {len(wrong)} wait now; {self._figures()}"
            + ("" if done.returncode == 0 else f"; exit {done.returncode}: {done.stderr.strip()}"),
        )
        again = self._run_replay("--from", "1h")
        yield Step(
            "the whole hour is replayed once more, and nothing changes",
            again.returncode == 0 and not self._wrong() and not self._raised_twice(),
            self._figures(),
        )

    def _run_replay(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "saltctl", "stream", "replay", "--timeout", "2m", "-o", "json", *options]
        return subprocess.run(command, env=self._environment.variables(), capture_output=True, text=True, check=False)

    # The checks.

    def alive(self) -> int:
        """Return the number of instances that are alive."""
        return sum(is_alive(consumer.idle_s) for consumer in self._group().consumers)

    def _all_raised(self, what: str) -> Step:
        """Wait until all reports are acknowledged and every conversation has the N that it needs."""
        ok = _wait_for(lambda: self._drained() and not self._wrong(), self._step_seconds)
        return Step(what, ok, self._figures())

    def _group(self) -> GroupInfo:
        group = self._stream.info().group(self._stream.group)
        assert group is not None
        return group

    def _pending_of(self, name: str) -> int:
        return sum(consumer.pending for consumer in self._group().consumers if consumer.name == name)

    def _drained(self) -> bool:
        group = self._group()
        return group.lag == 0 and group.pending == 0

    def _wrong(self) -> list[str]:
        """Return the conversations with less or more than the N that they need."""
        held = self._backup.get_many(list(self._waves.needed))
        return [i for i, n in self._waves.needed.items() if (held[i].max_n if i in held else 1) != n]

    def _raised_twice(self) -> list[str]:
        """Return the conversations whose record has the same raise twice."""
        return [
            entry.conversation_id
            for entry in self._backup.get_many(list(self._waves.needed)).values()
            if len({raised.n for raised in entry.raises}) != len(entry.raises)
        ]

    def _figures(self) -> str:
        group = self._group()
        needing = sum(n > 1 for n in self._waves.needed.values())
        lost, twice = len(self._wrong()), len(self._raised_twice())
        return (
            f"{needing} conversations need salts: {needing - lost} have exactly their N, {lost} lost, "
            f"{twice} raised twice; {group.lag} unread, {group.pending} pending"
        )


def _wait_for(condition: Callable[[], bool], seconds: float, *, pause: float = 0.05) -> bool:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if condition():
            return True
        time.sleep(pause)
    return condition()
