"""The service as processes that a drill can pause and kill, and the heat reports that they consume."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable

from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import command_bound_to_parent
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream

SERVERS = 20
# Write units a second over all servers: each conversation of a wave has a known N that it needs.
RATES = (300, 900, 1700, 3400, 7000)


class ServiceProcesses:
    """Instances of ``saltctl service run``. They end with this process."""

    def __init__(self, environment: LocalEnvironment) -> None:
        self._environment = environment
        self._processes: list[subprocess.Popen[bytes]] = []

    def start(self, count: int) -> None:
        """Start instances, each with a consumer name of its own."""
        for _ in range(count):
            name = f"drill-{len(self._processes) + 1}"
            command = [sys.executable, "-m", "saltctl", "service", "run", "--consumer", name, "--claim-after", "5s"]
            with (self._environment.directory / f"{name}.log").open("wb") as log:
                process = subprocess.Popen(
                    command_bound_to_parent(command),
                    env=self._environment.variables(),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self._processes.append(process)

    def pause(self, name: str) -> None:
        """Send SIGSTOP to one instance, and wait until it has stopped."""
        pid = self._process(name).pid
        os.kill(pid, signal.SIGSTOP)
        os.waitid(os.P_PID, pid, os.WSTOPPED | os.WNOWAIT)

    def resume(self, name: str) -> None:
        """Send SIGCONT to a paused instance."""
        os.kill(self._process(name).pid, signal.SIGCONT)

    def kill(self, name: str) -> None:
        """Send SIGKILL to one instance."""
        process = self._process(name)
        process.kill()
        process.wait()

    def kill_all(self) -> None:
        """Send SIGKILL to every instance."""
        for process in self._processes:
            process.kill()
            process.wait()

    def _process(self, name: str) -> subprocess.Popen[bytes]:
        return self._processes[int(name.rpartition("-")[2]) - 1]


class HeatWaves:
    """Waves of conversations with known write rates, reported as by many servers.

    Args:
        stream: the stream of the reports.
        needed_n: the N that a rate needs.
    """

    def __init__(self, stream: HeatStream, needed_n: Callable[[int], int]) -> None:
        self._stream = stream
        self._needed_n = needed_n
        self.needed: dict[str, int] = {}
        """The N that each reported conversation needs."""

    def report(self, wave: str, copies: int = 4) -> int:
        """Report one second of a wave with ``copies`` conversations of each rate; return how many need salts."""
        window = int(time.time())
        reports = []
        for rate in RATES:
            for copy in range(copies):
                conversation_id = f"conv_{wave}_{rate}_{copy}"
                self.needed[conversation_id] = self._needed_n(rate)
                for server in range(SERVERS):
                    reports.append(HeatReport(conversation_id, f"app-{server}", window, rate // SERVERS))
        # In the order in which they would arrive: by server, not by conversation.
        reports.sort(key=lambda report: report.server)
        self._stream.append_reports(reports)
        return sum(n > 1 and wave in conversation_id for conversation_id, n in self.needed.items())
