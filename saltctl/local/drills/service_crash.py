"""Three instances of the service under load: one is killed in the middle of a batch, then all; then they return.

Shown with figures: while no instance is alive, new hot conversations are not detected, and status says so. When
the service is back, or ``stream replay`` runs without it, every conversation reaches the N that it needs: no
raise is lost, and none is done twice.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from typing import TypeVar

from saltctl.detection.stream_status import is_alive, read_stream_status
from saltctl.local.drills.drill import Step
from saltctl.local.drills.timeline import timeline
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import command_bound_to_parent
from saltctl.salting import needed_n
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.heat.contracts import GroupInfo
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream

_SALTCTL = (sys.executable, "-P", "-m", "saltctl")  # -P: the current directory has no modules of ours
INSTANCES = 3
STEP_SECONDS = 60.0
MAX_PAUSES = 10
"""Waves after which the drill gives up catching an instance in the middle of a batch."""
SERVERS = 20
RATES = (300, 900, 1700, 3400, 7000)
"""Write units a second over all servers: each conversation of a wave has a known N that it needs."""
COPIES = 4
"""Conversations of each rate in a wave."""
NeededN = Callable[[int, int, int], int]
T = TypeVar("T")


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
        scenario = _Scenario(environment, needed, step_seconds)
        try:
            scenario.start_instances()
            yield Step(
                f"{INSTANCES} instances of the service run on a real Valkey and moto's DynamoDB",
                _wait_for(lambda: scenario.alive() == INSTANCES, STEP_SECONDS),
                f"ready in {time.monotonic() - started:.1f} s",
            )
            hot = scenario.report_wave("calm")
            yield scenario.check_all_raised(
                f"before: {hot} hot conversations reported by {SERVERS} servers, each far below the limit, are raised"
            )
            yield from scenario.kill_one()
            yield scenario.kill_all()
            yield scenario.restart()
            yield from scenario.replay()
            yield timeline(environment)
        finally:
            scenario.kill_instances()
            scenario.stream.close()


@dataclass
class _Scenario:
    """The steps, the instances of ``saltctl service run``, which end with this process, and the checks."""

    environment: LocalEnvironment
    needed_n: NeededN
    step_seconds: float
    instances: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    needed: dict[str, int] = field(default_factory=dict)
    """The N that each reported conversation needs."""

    def __post_init__(self) -> None:
        settings = self.environment.settings  # a wave is thousands of reports, which take longer than a server's few
        self.stream = HeatStream(replace(settings, lookup_timeout=settings.redis_timeout))
        self.backup = BackupTable(self.environment.settings)

    # The steps.

    def kill_one(self) -> Iterator[Step]:
        """Kill an instance that has unacknowledged entries."""
        victim, pending = self._pause_in_a_batch()
        if victim:
            self.kill_instances(victim)
        yield Step(
            "one is killed with SIGKILL in the middle of a batch",
            pending > 0,
            f"{victim} had {pending} pending entries" if victim else "no instance had pending entries",
        )
        yield self.check_all_raised("the others claim its entries; every conversation reaches the N it needs")

    def _pause_in_a_batch(self) -> tuple[str, int]:
        """Pause an instance that has a batch; return its name and its pending entries, or "" and 0.

        It is paused before its entries are counted: a running instance may acknowledge them meanwhile. An
        instance that was quicker resumes, and another wave is reported.
        """
        for attempt in range(MAX_PAUSES):
            self.report_wave(f"first-{attempt}")
            for name in sorted(_wait_for(self._pending, self.step_seconds, pause=0.002)):
                pid = self.instances[name].pid
                os.kill(pid, signal.SIGSTOP)
                os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)
                self._pending()  # Redis runs the commands that the instance had sent before this one,
                if pending := self._pending().get(name):  # or before this one
                    return name, pending
                os.kill(pid, signal.SIGCONT)
        return "", 0

    def kill_all(self) -> Step:
        """Kill every instance, and report a wave that is not detected."""
        self.kill_instances()
        hot = self.report_wave("second")
        _wait_for(lambda: self.alive() == 0, self.step_seconds)
        status = read_stream_status(self.stream, 0.2)
        missed, _ = self._wrong_and_twice()
        return Step(
            "all are killed: new hot conversations are NOT detected, and status says so",
            status.verdict == "stopped" and missed == hot,
            f"verdict {status.verdict}; {missed} of {hot} new hot conversations wait for their raise; the stream keeps "
            "their reports",
        )

    def restart(self) -> Step:
        """Start the service again."""
        began = time.monotonic()
        self.start_instances()
        step = self.check_all_raised("the service comes back and catches up from the stream")
        return replace(step, detail=f"after {time.monotonic() - began:.1f} s; {step.detail}")

    def replay(self) -> Iterator[Step]:
        """Kill the service once more, and replay the stream twice without it."""
        self.kill_instances()
        hot = self.report_wave("third")
        missed, _ = self._wrong_and_twice()
        done = self._run_replay()
        wrong, twice = self._wrong_and_twice()
        yield Step(
            "killed once more; `saltctl stream replay` does the same without the service",
            missed == hot and done.returncode == 0 and not wrong and not twice,
            f"{missed} waited, {wrong} wait now; {self._figures()}"
            + ("" if done.returncode == 0 else f"; exit {done.returncode}: {done.stderr.strip()}"),
        )
        again = self._run_replay("--from", "1h")
        ok = again.returncode == 0 and not any(self._wrong_and_twice())
        yield Step("the whole hour is replayed once more, and nothing changes", ok, self._figures())

    def _run_replay(self, *options: str) -> subprocess.CompletedProcess[str]:
        command = [*_SALTCTL, "stream", "replay", "--timeout", "2m", "-o", "json", *options]
        return subprocess.run(command, env=self.environment.variables(), capture_output=True, text=True, check=False)

    # The service and its load.

    def start_instances(self) -> None:
        """Start instances, each with a consumer name of its own."""
        for number in range(len(self.instances) + 1, len(self.instances) + 1 + INSTANCES):
            name = f"drill-{number}"
            command = [*_SALTCTL, "service", "run", "--consumer", name, "--claim-after", "5s"]
            with (self.environment.directory / f"{name}.log").open("wb") as log:
                self.instances[name] = subprocess.Popen(
                    command_bound_to_parent(command),
                    env=self.environment.variables(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )

    def kill_instances(self, *names: str) -> None:
        """Send SIGKILL to instances, by default to all."""
        for name in names or self.instances:
            self.instances[name].kill()
            self.instances[name].wait()

    def report_wave(self, wave: str) -> int:
        """Report one second of a wave of conversations as by many servers; return how many need salts."""
        window = int(time.time())
        rates = {f"conv_{wave}_{rate}_{copy}": rate for rate in RATES for copy in range(COPIES)}
        # In the order in which they would arrive: by server, not by conversation.
        self.stream.append_reports(
            [
                HeatReport(conversation_id, f"app-{server}", window, rate // SERVERS)
                for server in range(SERVERS)
                for conversation_id, rate in rates.items()
            ]
        )
        settings = self.environment.settings
        needed = {i: self.needed_n(rate, settings.wps_per_salt, settings.max_n_cap) for i, rate in rates.items()}
        self.needed.update(needed)
        return sum(n > 1 for n in needed.values())

    # The checks.

    def alive(self) -> int:
        """Return the number of instances that are alive."""
        return sum(is_alive(consumer.idle_s) for consumer in self._group().consumers)

    def check_all_raised(self, what: str) -> Step:
        """Wait until all reports are acknowledged and every conversation has the N that it needs."""
        return Step(what, _wait_for(self._all_raised, self.step_seconds), self._figures())

    def _all_raised(self) -> bool:
        group = self._group()
        return group.lag == 0 and group.pending == 0 and not self._wrong_and_twice()[0]

    def _group(self) -> GroupInfo:
        group = self.stream.info().group(self.stream.group)
        assert group is not None
        return group

    def _pending(self) -> dict[str, int]:
        """Return the instances that have pending entries, and how many."""
        return {consumer.name: consumer.pending for consumer in self._group().consumers if consumer.pending}

    def _wrong_and_twice(self) -> tuple[int, int]:
        """Return the number of conversations with less or more than the N that they need, and of those raised twice."""
        held = self.backup.get_many(list(self.needed))
        wrong = sum((held[i].max_n if i in held else 1) != n for i, n in self.needed.items())
        return wrong, sum(len({raised.n for raised in entry.raises}) != len(entry.raises) for entry in held.values())

    def _figures(self) -> str:
        group = self._group()
        needing = sum(n > 1 for n in self.needed.values())
        lost, twice = self._wrong_and_twice()
        return (
            f"{needing} conversations need salts: {needing - lost} have exactly their N, {lost} lost, "
            f"{twice} raised twice; {group.lag} unread, {group.pending} pending"
        )


def _wait_for(condition: Callable[[], T], seconds: float, *, pause: float = 0.05) -> T:
    """Wait until a condition is true; return its last value."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(pause)
    return condition()
