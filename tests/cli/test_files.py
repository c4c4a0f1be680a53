"""Files that commands write later are checked when they start: hours later the supervisor would kill the service."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saltctl.cli.main import run
from tests.cli.conftest import Outcome, Runner
from tests.support.forked import in_child

NOBODY = 65534
COMMANDS = {
    "health file": ("service", "run", "--health-file"),
    "metrics file": ("compare", "--metrics-file"),
    "bundle": ("incident", "--bundle"),
}


@pytest.fixture(autouse=True)
def unreachable(monkeypatch: pytest.MonkeyPatch) -> None:
    """A Redis that is not there: a command that begins its work would end with 69, or never."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1")


@pytest.fixture
def directory(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that every user may pass through, which those of pytest are not. It is HOME, too."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        for variable in ("HOME", "XDG_CONFIG_HOME"):
            monkeypatch.setenv(variable, name)
        yield Path(name)


def as_nobody(work: Callable[[], object]) -> object:
    """Run a function without the rights of root."""

    def without_rights() -> object:
        if os.geteuid() == 0:
            os.setuid(NOBODY)
        return work()

    return in_child(without_rights)


def assert_refused(outcome: Outcome, kind: str, file: Path) -> None:
    """It is a misconfiguration that names the file."""
    assert outcome.code == 78, outcome
    assert kind in outcome.err
    assert str(file) in outcome.err


@pytest.mark.parametrize("kind", COMMANDS)
@pytest.mark.parametrize("case", ["no directory", "a file as directory", "a directory", "a deleted cwd"])
def test_a_file_that_nobody_can_write_is_refused(
    kind: str, case: str, saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Root cannot write it either."""
    (tmp_path / "file").touch()
    (tmp_path / "gone").mkdir()
    file = {
        "no directory": tmp_path / "missing" / "x",
        "a file as directory": tmp_path / "file" / "x",
        "a directory": tmp_path,
        "a deleted cwd": Path("x"),
    }[case]
    if case == "a deleted cwd":
        monkeypatch.chdir(tmp_path / "gone")
        (tmp_path / "gone").rmdir()
    assert_refused(saltctl(*COMMANDS[kind], str(file)), kind, file)


@pytest.mark.parametrize("kind", COMMANDS)
def test_what_no_file_can_be_called_is_a_usage_error(kind: str, saltctl: Runner, tmp_path: Path) -> None:
    """No file system takes a name of 256 bytes: exit 2, before anything is done."""
    outcome = saltctl(*COMMANDS[kind], str(tmp_path / ("x" * 256)))
    assert outcome.code == 2
    assert "is not the name of a file" in outcome.err
    assert not [*tmp_path.iterdir()]


@pytest.mark.parametrize("kind", COMMANDS)
def test_a_directory_without_permission_is_refused(
    kind: str, directory: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """The user may not create files there."""
    directory.chmod(0o555)
    code = as_nobody(lambda: run([*COMMANDS[kind], str(directory / "x")]))
    assert_refused(Outcome(int(str(code)), *capfd.readouterr()), kind, directory / "x")


def test_a_health_file_of_another_user_is_refused(directory: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Its directory is writable, but it is touched in place, and not replaced."""
    file = directory / "health"
    file.touch(mode=0o444)
    directory.chmod(0o777)
    code = as_nobody(lambda: run([*COMMANDS["health file"], str(file)]))
    assert_refused(Outcome(int(str(code)), *capfd.readouterr()), "health file", file)


def test_a_link_is_no_health_file(saltctl: Runner, tmp_path: Path) -> None:
    """It is never followed, so each touch would fail."""
    (tmp_path / "target").touch()
    (tmp_path / "link").symlink_to(tmp_path / "target")
    assert_refused(saltctl(*COMMANDS["health file"], str(tmp_path / "link")), "health file", tmp_path / "link")


@pytest.mark.slow
@pytest.mark.parametrize("kind", COMMANDS)
def test_a_read_only_file_system_is_refused(kind: str, tmp_path: Path) -> None:
    """A container's root file system often is one."""
    command = [sys.executable, "-m", "saltctl", *COMMANDS[kind], str(tmp_path / "x")]
    script = 'mount -t tmpfs -o ro none "$0" || exit 99; exec "$@"'
    if (unshare := shutil.which("unshare")) is None:
        pytest.skip("no mount namespaces here")
    words = [unshare, "--mount", "sh", "-c", script, str(tmp_path), *command]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if done.returncode == 99 or "unshare" in done.stderr:
        pytest.skip("nothing can be mounted here")
    assert_refused(Outcome(done.returncode, done.stdout, done.stderr), kind, tmp_path / "x")
