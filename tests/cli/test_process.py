"""The command as a process: signals, pipes, terminals, streams."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable

import pytest

from saltctl import __version__
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from tests.cli.conftest import Runner
from tests.cli.terminal import run_on_a_terminal

Process = Callable[..., subprocess.CompletedProcess[str]]


def test_version(process: Process) -> None:
    """``--version`` is one line."""
    done = process("--version")
    assert (done.returncode, done.stdout) == (0, f"saltctl {__version__}\n")


@pytest.mark.slow
@pytest.mark.parametrize("group", [(), ("registry",), ("stream", "dead")])
def test_no_command_shows_help(group: tuple[str, ...], process: Process, saltctl: Runner) -> None:
    """Without a command there is the help that --help shows, on stderr, and exit 2."""
    done = process(*group)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == saltctl(*group, "--help").out


_LOADING = """
import sys
from saltctl.cli.main import run

def loaded(words, names):
    code = run(words.split())
    print(words.split()[-1], code, sorted(n for n in names.split() if n in sys.modules), file=sys.stderr)

loaded("--version", "redis boto3 botocore rich moto pydantic msgspec ssl saltctl.registry saltctl.stores.redis")
loaded("registry --help", "redis boto3 botocore rich moto msgspec")
loaded(
    "registry get conv_hot_01 -o json",
    "rich moto msgspec prometheus_client duckdb saltctl.registry.export saltctl.rebuild "
    "saltctl.detection saltctl.cooling saltctl.health saltctl.history saltctl.deployment",
)
"""


@pytest.mark.slow
def test_commands_import_only_what_they_need(seeded: LocalEnvironment) -> None:
    """Start-up is paid on every call: no driver is loaded to print a version, and no other command's code for a get."""
    done = subprocess.run([sys.executable, "-c", _LOADING], capture_output=True, text=True, check=True)
    assert done.stderr.splitlines() == ["--version 0 []", "--help 0 []", "json 0 []"]


@pytest.mark.slow
@pytest.mark.parametrize(("signum", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_ends_a_command_that_waits(signum: signal.Signals, code: int, silent_server: int) -> None:
    """A command that hangs on a server can be interrupted, prints one line, and exits with its documented code."""
    child = subprocess.Popen(
        [sys.executable, "-m", "saltctl", "rebuild", "--wait-redis", "10m", "-o", "json"],
        env={**os.environ, "SALTCTL_REDIS_URL": f"redis://127.0.0.1:{silent_server}", "SALTCTL_REDIS_TIMEOUT": "60"}
        | {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent_server}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        _wait_until_connected(child.pid, silent_server)
        child.send_signal(signum)
        out, err = child.communicate(timeout=30)
    finally:
        child.kill()
        child.wait()
    assert child.returncode == code
    assert out == ""
    error = json.loads(err.splitlines()[-1])["error"]
    assert error["exit_code"] == code
    assert error["hint"].endswith("run it again\nsaltctl rebuild --wait-redis 10m -o json")
    assert "Traceback" not in err


def _wait_until_connected(pid: int, port: int) -> None:
    wanted = f":{port:04X} 01 "
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        with open(f"/proc/{pid}/net/tcp", encoding="ascii") as connections:  # noqa: PTH123  no file, a view
            if any(re.search(f"0100007F:{port:04X} 01 ", line) for line in connections):
                return
        time.sleep(0.02)
    raise AssertionError(f"never connected: {wanted}")


@pytest.mark.slow
def test_timeout_is_exit_124(process: Process, silent_server: int) -> None:
    """``--timeout`` ends a command that waits for a server which never answers."""
    servers = {"SALTCTL_REDIS_URL": f"redis://127.0.0.1:{silent_server}", "SALTCTL_REDIS_TIMEOUT": "60"}
    aws = {"AWS_ENDPOINT_URL": f"http://127.0.0.1:{silent_server}", "SALTCTL_AWS_TIMEOUT": "60"}
    done = process("rebuild", "--timeout", "300ms", "-o", "json", env={**os.environ, **servers, **aws})
    assert done.returncode == 124
    error = json.loads(done.stderr.splitlines()[-1])["error"]
    assert error["code"] == "timeout"
    assert error["hint"].endswith("with a longer --timeout, or with none\nsaltctl rebuild -o json")


@pytest.mark.slow
def test_a_closed_pipe_is_not_an_error(seeded: LocalEnvironment) -> None:
    """``saltctl … | head -1`` ends quietly with exit 0."""
    script = f"set -o pipefail; {sys.executable} -m saltctl registry list --source backup | head -1"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "conversation_id\tmax_n\n", "")


@pytest.mark.slow
@pytest.mark.parametrize(
    "words", ["status", "rebuild", "registry list -o table", "history read conv_hot_12", "help promise", "doctor"]
)
def test_a_reader_of_text_may_leave(words: str, seeded: LocalEnvironment) -> None:
    """As one of data: Rich would end the command with 1, which is an internal error."""
    script = f"{sys.executable} -m saltctl {words} | true; exit ${{PIPESTATUS[0]}}"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 0
    assert "error" not in done.stderr


@pytest.mark.slow
def test_a_closed_stdout_is_not_an_internal_error(seeded: LocalEnvironment) -> None:
    """``saltctl … >&-``: what was asked for is lost, and that is exit 4, as on a full disk."""
    script = f"{sys.executable} -m saltctl registry list --source backup -o json >&-"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["code"], "do not close stdout" in error["hint"]) == (4, "output", True)


@pytest.mark.slow
@pytest.mark.parametrize("words", ["--version", "--help", "help", "registry --help"])
def test_help_to_a_closed_stdout_is_one_error(words: str) -> None:
    """Typer writes and flushes it: that was an internal error, and then the right one as well."""
    script = f"{sys.executable} -m saltctl {words} >&-"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False)
    assert done.returncode == 4
    assert done.stderr.startswith("error: cannot write output: Bad file descriptor\n  do not close stdout")
    assert done.stderr.count("error: ") == 1


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
def test_a_full_disk_for_errors_changes_no_outcome() -> None:
    """A log that cannot be written: cron still learns the exit code."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("SALTCTL_")}
    for arguments, code in (("config show", 0), ("no-such-command", 2), ("registry get conv", 78)):
        script = f"{sys.executable} -m saltctl {arguments} 2> /dev/full"
        done = subprocess.run(["/bin/sh", "-c", script], check=False, env=environ, stdout=subprocess.DEVNULL)
        assert done.returncode == code


@pytest.mark.slow
@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")  # noqa: PTH110
def test_a_full_disk_is_not_an_internal_error(seeded: LocalEnvironment) -> None:
    """Output that cannot be written is exit 4, with the command to run again."""
    script = f"{sys.executable} -m saltctl registry list -o json > /dev/full"
    done = subprocess.run(["/bin/bash", "-c", script], capture_output=True, text=True, check=False)
    error = json.loads(done.stderr)["error"]
    assert (done.returncode, error["code"], error["exit_code"]) == (4, "output", 4)
    assert "No space left" in error["message"]
    assert error["hint"].endswith("run it again\nsaltctl registry list -o json")


@pytest.mark.slow
def test_a_poor_locale_gets_escapes(process: Process, configured: Settings, registry: Registry) -> None:
    """A character that the terminal cannot show is escaped; nothing fails."""
    registry.raise_to("conv_äöü", 2)
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    done = process("registry", "list", "--source", "backup", "-o", "table", env=environment)
    assert done.returncode == 0
    assert "conv_\\xe4" in done.stdout


@pytest.mark.slow
def test_force_color_puts_no_bar_into_a_log(
    saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """FORCE_COLOR makes Rich assume a terminal; a log still gets lines without control characters."""
    monkeypatch.setenv("FORCE_COLOR", "1")
    done = saltctl("rebuild", "-o", "json")
    assert done.code == 0
    assert "\x1b" not in done.out + done.err
    assert "\r" not in done.err


def on_a_terminal(*args: str, typed: str = "", prompt: bytes = b"Continue?") -> tuple[int, str]:
    """Run on a pseudo-terminal; the exit code and everything that the terminal was sent."""
    leader, follower = pty.openpty()
    child = subprocess.Popen(
        [sys.executable, "-m", "saltctl", *args],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, "COLUMNS": "100", "TERM": "xterm"},
        start_new_session=True,
    )
    os.close(follower)
    shown = b""
    try:
        while True:
            if select.select([leader], [], [], 60)[0]:
                try:
                    data = os.read(leader, 65536)
                except OSError:  # the other end is closed
                    break
                shown += data
                if (typed and prompt in shown) or (typed and b"to continue:" in shown):
                    os.write(leader, typed.encode())
                    typed = ""
            else:
                child.kill()
    finally:
        os.close(leader)
        child.wait()
    return child.returncode, shown.decode()


@pytest.mark.slow
def test_a_terminal_is_asked(configured: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a terminal a raise asks; "no" and an empty answer change nothing, "y" does it."""
    monkeypatch.setenv("TERM", "xterm")
    for answer in ("\n", "n\n", "raise\n"):
        code, shown = run_on_a_terminal("registry", "set", "conv", "4", typed=answer)
        assert code == 6
        assert "Raise conv from 1 to 4? This cannot be undone. Continue? [y/N]" in shown
        assert "nothing was changed" in shown
    code, _ = on_a_terminal("registry", "set", "conv", "4", typed="y\n")
    assert code == 0
    assert registry.lookup("conv").max_n == 4


@pytest.mark.slow
def test_the_question_shows_nothing_raw(configured: Settings) -> None:
    """An id with escape sequences is asked about in escaped form."""
    code, shown = on_a_terminal("registry", "set", "\x1b[2Jconv", "4", typed="n\n")
    assert code == 6
    assert "\x1b[2J" not in shown
    assert "\\x1b[2Jconv" in shown


@pytest.mark.slow
def test_a_terminal_gets_a_table(seeded: LocalEnvironment) -> None:
    """Without ``-o`` a terminal shows a table for people."""
    code, shown = on_a_terminal("registry", "list", "--limit", "2")
    assert code == 0
    assert "conversation" in shown
    assert "\t" not in shown


@pytest.mark.slow
def test_an_error_is_one_line_and_verbose_shows_more(saltctl: Runner) -> None:
    """An error shows a traceback only with ``--verbose``."""
    quiet = saltctl("registry", "get", "x")
    loud = saltctl("--verbose", "registry", "get", "x")
    assert quiet.code == loud.code == 78
    assert "Traceback" not in quiet.err
    assert "Traceback" in loud.err


def test_json_in_another_locale(process: Process) -> None:
    """Bytes of Latin-1 would be no JSON, and neither would Python's escapes of what Latin-1 lacks."""
    variables = os.environ | {"PYTHONIOENCODING": "latin-1", "SALTCTL_ACTOR": "Zo\u00eb \U0001f600"}
    done = process("config", "show", "-o", "json", env=variables, encoding="ascii")
    assert (done.returncode, done.stderr) == (0, "")
    assert json.loads(done.stdout)[-1]["value"] == variables["SALTCTL_ACTOR"]


_BEGUN = """
import gc, json
import saltctl.cli.main
from saltctl.__main__ import main

usual = gc.get_threshold()

def work():
    before = gc.get_threshold() != usual, gc.get_freeze_count()
    kept = [[] for _ in range(250_000)]
    print(json.dumps([before, gc.isenabled(), gc.get_threshold() == usual, gc.get_freeze_count() > len(kept) / 2]))

saltctl.cli.main.main = work
main()
"""


def test_garbage_is_collected_as_usual_once_a_command_works() -> None:
    """Only the start, which makes none, is left out: the memory of a service or of a large rebuild stays flat."""
    done = subprocess.run([sys.executable, "-c", _BEGUN], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [[True, 0], True, True, True]
