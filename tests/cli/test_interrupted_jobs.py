"""Long jobs as processes on a terminal: progress that never wraps, and Ctrl-C at several moments."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import re
import select
import shlex
import signal
import struct
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalMoto
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.table import Table
from tests.cli.conftest import seeded_tables
from tests.support.aws_stub import Answer, AwsStub

pytestmark = pytest.mark.slow
ROWS_A_PAGE = 10
ESTIMATE = 300_000
MERGED = 400
"""Pages that take four segments two seconds: by then a rebuild has merged some, and Redis has confirmed it."""
SHOW_CURSOR = "\x1b[?25h"


@pytest.fixture(scope="module")
def environment(moto: LocalMoto) -> Iterator[LocalEnvironment]:
    """An environment of this module alone: a rebuild merges the rows of the endless table."""
    with seeded_tables(moto, "interrupted") as found:
        yield found


@pytest.fixture
def seeded(environment: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> LocalEnvironment:
    """The environment in the environment variables of this test."""
    for name, value in environment.variables().items():
        monkeypatch.setenv(name, value)
    return environment


class EndlessTables:
    """Scans that never end, of ten rows a page, and an ItemCount; ``held`` requests wait until the test ends."""

    def __init__(self, settings: Settings, estimate: int = ESTIMATE) -> None:
        self.settings = settings
        self.estimate = estimate
        self.pages = 0
        self.endless = {settings.backup_table, settings.messages_table}
        self.hold: Callable[[str, dict[str, Any]], bool] = lambda operation, request: False
        self.held = threading.Event()
        self.ended = threading.Event()
        tables = settings.backup_table, settings.messages_table
        self._descriptions = {name: self._describe(name) for name in tables}

    def _describe(self, name: str) -> dict[str, Any]:
        found = Table(self.settings, name).describe()
        return json.loads(json.dumps(found, default=lambda at: at.timestamp())) if found else {}

    def rule(self, operation: str, request: dict[str, Any]) -> Answer:
        """Answer scans and descriptions, and leave the rest to moto."""
        if self.hold(operation, request):
            self.held.set()
            self.ended.wait(60)
        if operation == "DescribeTable" and self._descriptions[request["TableName"]]:
            return 200, {"Table": self._descriptions[request["TableName"]] | {"ItemCount": self.estimate}}
        if operation != "Scan" or request["TableName"] not in self.endless:
            return None
        time.sleep(0.02)
        self.pages += 1
        number = 1 + int(re.sub(r"\D", "", json.dumps(request.get("ExclusiveStartKey", "0"))) or 0)
        backup = request["TableName"] == self.settings.backup_table
        rows = [self._row(request["TableName"], n, backup=backup) for n in range(number, number + ROWS_A_PAGE)]
        keys = [key["AttributeName"] for key in self._descriptions[request["TableName"]]["KeySchema"]]
        last = {key: rows[-1][key] for key in keys}
        units = {"TableName": request["TableName"], "CapacityUnits": 1.0}
        return 200, {"Items": rows, "LastEvaluatedKey": last, "ConsumedCapacity": units}

    def _row(self, table: str, number: int, *, backup: bool) -> dict[str, Any]:
        if backup:
            return {"conversation_id": {"S": f"c{number}"}, "max_n": {"N": "2"}, "write_n": {"N": "2"}}
        schema = {key["KeyType"]: key["AttributeName"] for key in self._descriptions[table]["KeySchema"]}
        return {schema["HASH"]: {"S": f"c{number}"}, schema["RANGE"]: {"S": "m"}}


@contextmanager
def endless(settings: Settings, monkeypatch: pytest.MonkeyPatch, estimate: int = ESTIMATE) -> Iterator[EndlessTables]:
    """Let commands use tables that never end."""
    tables = EndlessTables(settings, estimate)
    with AwsStub(settings.aws_endpoint_url or "") as stub:
        stub.rule = tables.rule
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        monkeypatch.setenv("TERM", "xterm")
        for name in ("COLUMNS", "LINES", "NO_COLOR", "FORCE_COLOR"):
            monkeypatch.delenv(name, raising=False)
        try:
            yield tables
        finally:
            tables.ended.set()


class Running:
    """A command as a process, on a terminal of so many columns, or with a pipe for stderr."""

    def __init__(self, *args: str, columns: int = 0) -> None:
        self.shown = ""
        self._raw = b""
        if columns:
            self._screen, other = pty.openpty()
            fcntl.ioctl(other, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        else:
            self._screen, other = os.pipe()
        self.process = subprocess.Popen(
            [sys.executable, "-m", "saltctl", *args],
            stdin=other if columns else subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=other,
            env=dict(os.environ),  # without the COLUMNS that readline, which pytest imports, sets behind its back
            start_new_session=True,
        )
        os.close(other)

    def wait_until(self, condition: Callable[[str], object]) -> None:
        """Read what is shown until the condition is true of it."""
        deadline = time.monotonic() + 60
        while not condition(self.shown):
            assert time.monotonic() < deadline, self.shown
            assert self._read(0.05), self.shown

    def _read(self, seconds: float) -> bool:
        """Read what there is; return whether more may come."""
        if select.select([self._screen], [], [], seconds)[0]:
            try:
                data = os.read(self._screen, 65536)
            except OSError:  # the process has closed the terminal
                data = b""
            self._raw += data
            self.shown = self._raw.decode(errors="ignore")
            return bool(data)
        return True

    def interrupt(self, signum: signal.Signals = signal.SIGINT) -> None:
        """Send a signal, as Ctrl-C does."""
        self.process.send_signal(signum)

    def end(self) -> int:
        """Read to the end and return the exit code."""
        deadline = time.monotonic() + 60
        while self._read(0.05):
            assert time.monotonic() < deadline, self.shown
        return self.process.wait(60)

    def close(self) -> None:
        """End the process if it has not ended."""
        self.process.kill()
        self.process.wait()
        os.close(self._screen)


@pytest.fixture
def start() -> Iterator[Callable[..., Running]]:
    """``start("rebuild", columns=80)``: a process that ends with the test."""
    started: list[Running] = []

    def run(*args: str, columns: int = 0) -> Running:
        started.append(Running(*args, columns=columns))
        return started[-1]

    yield run
    for running in started:
        running.close()


def plain(shown: str) -> list[str]:
    """Return the lines as a terminal had them one after the other, each redrawing of a line by itself."""
    return [line for line in re.split(r"[\r\n]+", re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown)) if line.strip()]


def commands(shown: str) -> list[list[str]]:
    """Return the words of every saltctl command that is named."""
    return [shlex.split(found) for found in re.findall(r"saltctl [^\r\n;]*", shown)]


JOBS = {
    "rebuild": ("rebuild",),
    "dry run": ("rebuild", "--dry-run"),
    "compare": ("compare",),
    "recover": ("recover", "--yes"),
    "discover": ("registry", "discover"),
}
STEPS = {
    "rebuild": "rebuilding",
    "dry run": "reading the backup",
    "compare": "comparing",
    "recover": "reading the",
    "discover": "scanning keys",
}


@pytest.mark.parametrize(
    ("job", "columns"),
    [("rebuild", 40), ("rebuild", 80), ("dry run", 80), ("compare", 40), ("recover", 120), ("discover", 80)],
)
def test_progress_is_one_line_and_ctrl_c_is_answered_at_once(
    job: str, columns: int, start: Callable[..., Running], seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Done of about how many, and the time left; what is drawn never needs a second line.

    Then the notice has a line of its own, and the error names the one command that continues. The cursor is back.
    """
    with endless(seeded.settings, monkeypatch):
        running = start(*JOBS[job], columns=columns)
        running.wait_until(lambda shown: re.search(r"of about 300,000[^\r]* left", shown))
        before = len(running.shown)
        running.interrupt()
        assert running.end() == 130
    drawn = [line for line in plain(running.shown) if " of about 300,000" in line and "left" in line]
    assert drawn
    assert max(map(len, drawn)) < columns
    assert (STEPS[job] in drawn[-1]) is (columns > 40)
    assert "…" not in "".join(drawn)
    assert running.shown.count("\x1b[1A") <= 1, "a line that wraps is drawn again from a line above"
    after = running.shown[before:]
    assert plain(after).count("stopping…") == 1
    assert plain(after)[-3] == "error: interrupted"
    (named,) = commands(after)
    assert named[1 : 1 + len(JOBS[job])] == [*JOBS[job]]
    assert after.rindex(SHOW_CURSOR) > after.rindex("stopping…")
    assert "Traceback" not in after


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_rebuild_is_resumed_by_the_command_that_is_named(
    signum: signal.Signals,
    start: Callable[..., Running],
    configured: Settings,
    registry: Registry,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """With the options of the root. What was merged is not read again."""
    registry.raise_to("conv", 4)
    file = tmp_path / "a config.toml"
    file.write_text(f'[contexts.prod]\nredis_url = "{configured.redis_url}"\n')
    monkeypatch.delenv("SALTCTL_REDIS_URL")
    root = ("--config", str(file), "--context", "prod")
    with endless(configured, monkeypatch) as tables:
        running = start(*root, "rebuild", "--restart", columns=80)
        running.wait_until(lambda shown: tables.pages > MERGED)
        running.interrupt(signum)
        assert running.end() == 128 + signum
    (named,) = commands(running.shown[running.shown.rindex("stopping…") :])
    assert named == ["saltctl", *root, "rebuild", "--resume"]
    with AwsStub(configured.aws_endpoint_url or "") as stub:
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.url)
        units = {"TableName": configured.backup_table, "CapacityUnits": 0.5}
        stub.answer_always("Scan", (200, {"Items": [], "ConsumedCapacity": units}))
        done = subprocess.run(
            [sys.executable, "-m", *named, "-o", "json"], capture_output=True, text=True, timeout=60, check=True
        )
    report = json.loads(done.stdout)
    assert (report["resumed"], report["verified"]) == (True, True)
    assert report["entries"] >= ROWS_A_PAGE * 100


def test_a_recovery_is_resumed_after_the_first_page(
    start: Callable[..., Running], configured: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A checkpoint is written at its end, not only every few seconds; the total is that of the messages."""
    registry.raise_to("conv", 4)
    MessagesTable(configured).create()
    with endless(configured, monkeypatch) as tables:
        tables.endless = {configured.messages_table}
        running = start("recover", "--yes", columns=120)
        running.wait_until(lambda shown: re.search("reading the messages: [0-9]+ of about 300,000 messages", shown))
        running.interrupt()
        assert running.end() == 130
    assert commands(running.shown[running.shown.rindex("stopping…") :]) == [["saltctl", "recover", "--yes", "--resume"]]


def test_a_second_ctrl_c_ends_at_once(
    start: Callable[..., Running], configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even if the checkpoint cannot be written, and the server does not answer; the notice is not repeated."""
    with endless(configured, monkeypatch) as tables:
        running = start("rebuild", columns=80)
        running.wait_until(lambda shown: tables.pages > 20)
        tables.hold = lambda operation, request: operation != "Scan"
        running.interrupt()
        running.wait_until(lambda shown: "stopping…" in shown and tables.held.is_set())
        while running.process.poll() is None:  # each request that the end would still send is one more
            running.interrupt()
            running.wait_until(lambda shown: True)
            time.sleep(0.05)
        assert running.end() in (130, -signal.SIGINT)  # the last one may have met an interpreter that ends
    assert running.shown.count("stopping…") == 1
    assert SHOW_CURSOR in running.shown[running.shown.rindex("stopping…") :]


@pytest.mark.parametrize("columns", [0, 80])
def test_ctrl_c_while_it_waits(
    columns: int, start: Callable[..., Running], configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before anything was merged there is no checkpoint: the command is the same one again."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0")
    with endless(configured, monkeypatch) as tables:
        running = start("rebuild", "--wait-redis", "10m", columns=columns)
        if columns:
            running.wait_until(lambda shown: "waiting: " in shown)
        else:
            tables.hold = lambda operation, request: operation == "DescribeTable"
            running.wait_until(lambda shown: tables.held.is_set() or running.process.poll() is not None)
        running.interrupt()
        assert running.end() == 130
    assert plain(running.shown).count("stopping…") == 1
    assert commands(running.shown) == [["saltctl", "rebuild", "--wait-redis", "10m"]]


def test_a_log_gets_plain_lines(
    start: Callable[..., Running], configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In a pipe the notice and the error are all that an interrupted job prints, without control characters."""
    with endless(configured, monkeypatch) as tables:
        running = start("rebuild")
        running.wait_until(lambda shown: tables.pages > MERGED)
        running.interrupt()
        assert running.end() == 130
    assert "\x1b" not in running.shown
    assert "\r" not in running.shown
    assert running.shown.splitlines()[:2] == ["stopping…", "error: interrupted"]
    assert commands(running.shown) == [["saltctl", "rebuild", "--resume"]]


def test_cron_gets_one_json_line(
    start: Callable[..., Running], configured: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits there, and every line is JSON."""
    with endless(configured, monkeypatch) as tables:
        running = start("rebuild", "--cron")
        running.wait_until(lambda shown: tables.pages > 20)
        running.interrupt(signal.SIGTERM)
        assert running.end() == 143
    line = json.loads(running.shown)
    assert (line["outcome"], line["exit_code"]) == ("terminated", 143)


def test_a_total_that_was_exceeded_is_not_shown(
    start: Callable[..., Running], configured: Settings, backup: BackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """DescribeTable is hours late: more than all is never shown, and neither is the time left."""
    with endless(configured, monkeypatch, estimate=50):
        running = start("rebuild", columns=80)
        running.wait_until(lambda shown: re.search(r"rebuilding: [0-9]{3} entries, [0-9,]+/s", shown))
        running.interrupt()
        assert running.end() == 130
    counts = [re.search(r"rebuilding: ([\d,]+)( of about 50)? entries", line) for line in plain(running.shown)]
    assert all((int(found[1].replace(",", "")) <= 50) is bool(found[2]) for found in counts if found)


def test_a_closed_stderr_changes_nothing(
    configured: Settings, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is nobody to tell, and the exit code is the same."""
    with endless(configured, monkeypatch) as tables:
        script = f"exec {shlex.quote(sys.executable)} -m saltctl rebuild 2>&-"
        child = subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.DEVNULL, start_new_session=True)
        try:
            deadline = time.monotonic() + 60
            while tables.pages < 20:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child.send_signal(signal.SIGINT)
            assert child.wait(60) == 130
        finally:
            child.kill()
            child.wait()


def test_a_reader_that_hangs_delays_no_checkpoint(
    configured: Settings, backup: BackupTable, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe that is full takes no notice: the checkpoint is written all the same."""
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with suppress(BlockingIOError):
        while True:
            os.write(writer, b"x" * 4096)
    os.set_blocking(writer, True)
    with endless(configured, monkeypatch) as tables:
        child = subprocess.Popen(
            [sys.executable, "-m", "saltctl", "rebuild"],
            stdout=subprocess.DEVNULL,
            stderr=writer,
            start_new_session=True,
        )
        os.close(writer)
        try:
            deadline = time.monotonic() + 60
            while tables.pages < MERGED:
                assert time.monotonic() < deadline
                time.sleep(0.02)
            child.send_signal(signal.SIGINT)
            while backup.lease.holder() is not None:  # the last thing before the error, which waits for the reader
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert backup.checkpoint.load() is not None
            assert child.poll() is None
        finally:
            child.kill()
            child.wait()
            os.close(reader)
