"""The README is true: its tables are those of the code, its console blocks and examples run."""

from __future__ import annotations

import io
import os
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from functools import cache
from pathlib import Path

import pytest

from saltctl.cli.main import run
from saltctl.errors import SaltctlError
from saltctl.local.servers import LocalMoto
from saltctl.settings import SPECS, Settings, read_config
from tests.benchmarks import compare, detection, history, lookup, memory, rebuild, startup, tail
from tests.cli.conftest import Runner, seeded_tables
from tests.cli.terminal import run_on_a_terminal
from tests.cli.tree import LEAVES

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
TOPICS = {path.stem: path.read_text(encoding="utf-8") for path in sorted((ROOT / "saltctl" / "help").glob("*.txt"))}


def _blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", README, flags=re.MULTILINE | re.DOTALL)


def _section(heading: str) -> str:
    return README.split(f"\n## {heading}\n", 1)[1].split("\n## ", 1)[0]


def _table(text: str) -> list[list[str]]:
    """The rows of the first table of a text, without markup of code."""
    lines = [line for line in text.splitlines() if line.startswith("|")][2:]
    return [[cell.strip().replace("`", "") for cell in line.strip("|").split("|")] for line in lines]


def _tree(cls: type[SaltctlError]) -> Iterator[type[SaltctlError]]:
    yield cls
    for child in cls.__subclasses__():
        yield from _tree(child)


def test_exit_codes_are_those_of_the_errors() -> None:
    """Every exit code that an error can have is in the table."""
    documented = {int(code) for row in _table(_section("Exit codes")) for code in row[0].split(",")}
    assert {cls.exit_code for cls in _tree(SaltctlError)} <= documented


def test_settings_are_those_of_the_code() -> None:
    """Each setting is in the table with its default, and its environment variable follows the rule above the table."""
    cells = [row[at : at + 2] for row in _table(_section("Configuration")) for at in (0, 2)]
    defaults = {name: default for name, default in cells if name}
    assert defaults.keys() == {spec.name for spec in SPECS}
    for spec in SPECS:
        prefix = "" if spec.name in ("aws_profile", "aws_region", "aws_endpoint_url") else "SALTCTL_"
        assert prefix + spec.name.upper() in spec.environment
        default = getattr(Settings, spec.name)
        if default is not None and spec.name != "actor":
            assert defaults[spec.name] == str(default)


def test_every_command_is_named() -> None:
    """No command exists that the README does not mention, and none is mentioned that does not exist."""
    text = _section("Commands by task")
    mentioned = set(re.findall(r"`saltctl ((?:[a-z-]+ ?)+)", text))
    for name in LEAVES:
        assert any(found.startswith(name) for found in mentioned), f"{name} is not in the README"
    groups = {name.split()[0] for name in LEAVES}
    for found in mentioned:
        assert found.split()[0] in groups, f"{found} does not exist"


def test_links_lead_somewhere() -> None:
    """Each link of the README names a heading of it, or a file of the repository; each help topic is linked."""
    prose = re.sub(r"^```.*?^```$", "", README, flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", prose, re.MULTILINE)
    anchors = {"#" + re.sub(r"[^a-z -]", "", heading.lower()).replace(" ", "-") for heading in headings}
    links = set(re.findall(r"\]\(([^)]+)\)", README))
    assert {link for link in links if link.startswith("#")} == anchors - {"#saltctl"}
    files = {link for link in links if not link.startswith("#")}
    assert all((ROOT / link).is_file() for link in files)
    assert {f"saltctl/help/{topic}.txt" for topic in TOPICS} <= files


@pytest.mark.slow
@pytest.mark.parametrize("topic", TOPICS)
def test_a_topic_names_commands_that_exist(topic: str) -> None:
    """Each ``saltctl`` command of a help topic is one, with options that it has; lines fit on a terminal."""
    for line in TOPICS[topic].splitlines():
        assert len(line) <= 100, line
        for quoted, bare in re.findall(r"`saltctl ([^`]+)`|^\s+(?:\d\. )?saltctl ((?: ?\S+)+)", line):
            words = (quoted or bare).split()
            if words == ["--version"]:
                continue
            name = next((" ".join(words[:n]) for n in (3, 2, 1) if " ".join(words[:n]) in LEAVES), None)
            assert name, f"{line!r} names no command"
            help_text = _help_of(name)
            for option in (word for word in words if word.startswith("--")):
                assert option in help_text, f"{name} has no {option}"


@cache
def _help_of(name: str) -> str:
    out = io.StringIO()
    with redirect_stdout(out):
        assert run([*name.split(), "--help"]) == 0
    return out.getvalue()


def test_the_configuration_example_can_be_read(tmp_path: Path) -> None:
    """The file in the README is accepted as it stands."""
    (block,) = _blocks("toml")
    file = tmp_path / "config.toml"
    file.write_text(block)
    assert set(read_config(file, required=True).contexts) == set(tomllib.loads(block)["contexts"])


@contextmanager
def _environment(moto: LocalMoto, name: str) -> Iterator[dict[str, str]]:
    """Yield the variables of a new, seeded local environment."""
    with seeded_tables(moto, name) as environment:
        variables = environment.variables()
        path = os.pathsep.join([str(Path(sys.executable).parent), variables.get("PATH", os.defpath)])
        yield variables | {"COLUMNS": "80", "NO_COLOR": "1", "PATH": path, "SALTCTL_ACTOR": "oncall@host"}


@pytest.fixture(scope="module")
def fresh_environment(moto: LocalMoto) -> Iterator[dict[str, str]]:
    """A new, seeded local environment, of which only the tour changes entries."""
    with _environment(moto, "fresh") as variables:
        yield variables


@pytest.fixture
def fresh(fresh_environment: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of the environment for the tour, which are those of this process during the test."""
    for name, value in fresh_environment.items():
        monkeypatch.setenv(name, value)
    return fresh_environment


def _typed(command: str) -> str:
    """Return the output of a command with a terminal as its stdout; what is not saltctl is run by a shell."""
    if not command.startswith("saltctl "):
        done = subprocess.run(["/bin/sh", "-c", command], capture_output=True, text=True, check=True)
        return done.stdout + done.stderr
    err = io.StringIO()
    with redirect_stderr(err):
        _, out = run_on_a_terminal(*shlex.split(command)[1:], streams=("stdout",))
    return err.getvalue() + re.sub(r"\x1b\[[0-9;]*m", "", out).replace("\r\n", "\n")


def _shape(text: str) -> list[str]:
    """Return the lines without padding, and without values that change: decimals, ages and ports."""
    text = re.sub(r"\d+[smh] ago", "0s ago", text)
    text = re.sub(r"\d\d:\d\d:\d\d\.\d{3}|\d{4}-\d\d-\d\d", "then", text)
    text = re.sub(r"--before \S+", "--before CURSOR", text)
    text = re.sub("─+", "─", text)  # as wide as the widest time
    text = re.sub(r"[\d,]+ ms|[\d.]+ s$", "0 ms", text, flags=re.MULTILINE)
    text = re.sub(r"127\.0\.0\.1:\d+", "127.0.0.1:0", text)
    text = re.sub(r"(?m)^(seconds|entries/s)\s+[\d.,]+\s*$", r"\1 0", text)
    # A day's heading is between any two messages, as the time of day has it.
    text = text.replace("then UTC", "")
    return [" ".join(line.split()) for line in text.splitlines() if line.strip()]


@pytest.mark.slow
def test_the_tour_is_real_output(fresh: dict[str, str]) -> None:
    """Each command of the tour, typed in this order, prints the lines in the README."""
    tried = 0
    for block in _blocks("console"):
        for step in re.split(r"^\$ ", block, flags=re.MULTILINE)[1:]:
            command, _, shown = step.partition("\n")
            seen = _typed(command)
            assert _shape(seen.rstrip()) == _shape(re.sub(r"\s+$", "", shown)), command
            tried += 1
    assert tried >= 8


@pytest.mark.slow
def test_the_python_examples_print_what_they_say(
    moto: LocalMoto, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The library example runs, and prints the lines in its comments. It raises, which the tour would count."""
    with _environment(moto, "examples") as variables:
        for name, value in variables.items():
            monkeypatch.setenv(name, value)
        for block in _blocks("python"):
            promised = re.findall(r"print\(.*\)  # (.*)$", block, flags=re.MULTILINE)
            exec(compile(block, "README.md", "exec"), {"__name__": "__main__"})  # noqa: S102
            assert capsys.readouterr() == ("".join(f"{line}\n" for line in promised), "")


TEXTFILES = "/var/lib/node_exporter"


def _scheduled() -> list[str]:
    """The command lines of the crontab and of the systemd unit, as a shell would get them."""
    (crontab,) = _blocks("crontab")
    jobs = [re.fullmatch(r"(?:[\d*/,-]+\s+){5}(.*)", line) for line in crontab.splitlines()]
    assert all(jobs)
    # cron takes a bare % for a line break.
    assert not re.search(r"(?<!\\)%", crontab)
    units = re.findall(r"^ *ExecStart=((?:.*\\\n)*.*)$", TOPICS["scheduled-jobs"], flags=re.MULTILINE)
    assert units
    return [job[1].replace("\\%", "%") for job in jobs if job] + units


@pytest.mark.slow
@pytest.mark.parametrize("command", _scheduled())
def test_scheduled_commands_are_quiet_and_write_their_metrics(
    command: str, fresh: dict[str, str], tmp_path: Path, saltctl: Runner
) -> None:
    """Each line of the crontab and of the unit runs as it is, prints nothing if nothing is wrong, and succeeds."""
    for command_before in ("setup", "rebuild"):  # the tour, if it came first, has flushed Redis
        assert saltctl(command_before).code == 0
    assert TEXTFILES in command
    command = command.replace("--for 50s", "--for 1s")  # it waits for its rate, and a shorter time is as well
    done = subprocess.run(
        ["/bin/sh", "-c", command.replace(TEXTFILES, str(tmp_path))],
        env=fresh,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    (file,) = tmp_path.glob("*.prom")
    assert re.search(r"^saltctl_job_success{.*} 1\.0$", file.read_text(), flags=re.MULTILINE)


def test_the_goals_are_those_of_the_benchmarks() -> None:
    """Each benchmark that has a goal is in the list, with that goal. Figures drift, and no test holds to them."""
    goals = {
        "Registry.lookup": {lookup.GOAL},
        "... against a client's scan": {rebuild.GOAL_CAREFUL},
        "... against a resource's scan": {rebuild.GOAL_NAIVE},
        "... saltctl's scan alone": {rebuild.GOAL_DRAINED},
        "saltctl rebuild, 300,000": {rebuild.GOAL_AGAIN},
        "memory of a rebuild": {rebuild.GOAL_PEAK, rebuild.GOAL_GROWTH},
        "saltctl compare": {compare.GOAL_MEMORY},
        "memory in Redis": {memory.GOAL},
        "the newest page": {history.GOAL_TIME, history.GOAL_ITEMS},
        "the page after a cursor": {history.GOAL_TIME, history.GOAL_ITEMS},
        "a newest page, cooled": {history.GOAL_COOLED},
        "p99 against p50": {tail.GOAL_P99, tail.GOAL_EXTRA},
        "100 readers at once": {tail.GOAL_QUERIES},
        "WriteMeter.record": {detection.RECORD_GOAL},
        "heat reports handled": {detection.REPORTS_GOAL},
        "saltctl --version": {startup.GOALS[startup.VERSION][1]},
        "saltctl registry get": {startup.GOALS[startup.GET][1]},
    }
    found = re.findall(r"^  (\S.*)\n {5}.*; goal (.*\d.*)$", TOPICS["performance"], flags=re.MULTILINE)
    rows = {name.replace("`", ""): goal for name, goal in found}
    assert len(rows) == len(goals)
    for beginning, expected in goals.items():
        (shown,) = [goal for name, goal in rows.items() if name.startswith(beginning)]
        assert {float(number.replace(",", "")) for number in re.findall(r"[\d.,]*\d", shown)} == expected


def test_the_repository_names_no_place() -> None:
    """No committed file names a directory of the machine where it was written."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)  # noqa: S607
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in filter(None, listed.stdout.decode().split("\0")):
        path = ROOT / name
        if path.is_file() and path != Path(__file__):
            text = path.read_text(encoding="utf-8", errors="replace")
            for word in ("/root/", "/work/"):
                assert word not in text, f"{name} names {word}"
