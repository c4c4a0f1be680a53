"""``saltctl canary``: its reports for people and programs, exit codes, and the loop. The rounds are scripted."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Self

import pytest

from saltctl.canary.conversations import RESERVED
from saltctl.canary.report import CHECK_NAMES, NO_TIME, CanaryReport, Check
from saltctl.cli.canary.view import PLANS
from saltctl.errors import AccessDeniedError, ConfigurationError
from saltctl.settings import Settings
from tests.cli.conftest import Outcome, Runner
from tests.cli.test_jobs import LINE_KEYS

Result = CanaryReport | BaseException | Callable[[], object]


def report_of(**results: bool | None) -> CanaryReport:
    """Return a report in which all checks are ok, but for these; ``_`` stands for a dash."""
    by_name = {name.replace("_", "-"): ok for name, ok in results.items()}
    assert by_name.keys() <= set(CHECK_NAMES)
    why = {True: "fine", False: f"missing in {RESERVED[1]} | \x1b[2J", None: "Redis at 127.0.0.1:1 cannot be reached"}
    checks = [Check(name, ok := by_name.get(name, True), why[ok]) for name in CHECK_NAMES]
    return CanaryReport(checks, 1.25)


ALL = len(CHECK_NAMES)
SKIPPED = CanaryReport([Check(n, None if n == "cool" else True, "nothing yet", n == "cool") for n in CHECK_NAMES], 1.25)
NOTHING = CanaryReport([Check(name, None, "AWS cannot be reached") for name in CHECK_NAMES], 0.5)


class Script:
    """The rounds of a canary: what each of them returns or raises; the last one ends a loop by SIGTERM."""

    signum = signal.SIGTERM

    def __init__(self) -> None:
        self.results: list[Result] = []
        self.opened: list[Settings] = []
        self.closed = 0
        self.ran = 0
        self.within = 0.0

    @property
    def canary(self) -> type:
        """A class in place of Canary."""
        script = self

        class Scripted:
            """A canary whose rounds are in the script."""

            @classmethod
            def open(cls, settings: Settings) -> Self:
                """Open it."""
                script.opened.append(settings)
                return cls()

            def run(self, within: float) -> CanaryReport:
                """Run the next round."""
                script.within = within
                result = script.results[script.ran]
                script.ran += 1
                if script.ran == len(script.results):
                    signal.raise_signal(script.signum)
                if isinstance(result, BaseException):
                    raise result
                if isinstance(result, CanaryReport):
                    return result
                result()
                return report_of()

            def close(self) -> None:
                """Close it."""
                script.closed += 1

        return Scripted


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch) -> Script:
    """Rounds of the test's own, and settings that lead nowhere."""
    script = Script()
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1/0")
    monkeypatch.setenv("SALTCTL_BACKUP_TABLE", "backup")
    monkeypatch.setattr("saltctl.canary.canary.Canary", script.canary)
    return script


@pytest.fixture
def canary(script: Script, saltctl: Runner) -> Callable[..., Outcome]:
    """``canary(result, "--cron")`` runs one round."""

    def call(result: Result, *args: str) -> Outcome:
        script.results, script.ran = [result, report_of()], 0
        return saltctl("canary", *args)

    return call


@pytest.fixture
def loop(script: Script, saltctl: Runner) -> Callable[..., Outcome]:
    """``loop([result, …], "--cron")`` runs a loop, which a signal ends in its last round."""

    def call(results: Sequence[Result], *args: str) -> Outcome:
        script.results, script.ran = list(results), 0
        return saltctl("canary", "--every", "1ms", *args)

    return call


def test_each_check_has_a_plan() -> None:
    """A dry run says what each check would do."""
    assert tuple(PLANS) == CHECK_NAMES


def test_all_is_well(canary: Callable[..., Outcome], script: Script) -> None:
    """A sentence, and a line for each check; the clients are closed."""
    outcome = canary(report_of())
    first, *lines = outcome.out.splitlines()
    assert (outcome.code, outcome.err) == (0, "")
    assert first == f"The promise holds: {ALL} checks ok, in 1.2 s"
    assert [line.split()[0] for line in lines] == ["ok"] * ALL
    assert "unfinished raise" in outcome.out
    assert (len(script.opened), script.closed) == (1, 1)
    assert canary(report_of(), "--cron", "-o", "json").out == ""


def test_a_check_that_had_nothing_to_do(canary: Callable[..., Outcome]) -> None:
    """It is neither judged nor missed: exit 0, and cron says nothing."""
    outcome = canary(SKIPPED)
    assert (outcome.code, outcome.err) == (0, "")
    assert "\nskipped     cool              nothing yet\n" in outcome.out
    assert "not judged" not in outcome.out
    quiet = canary(SKIPPED, "--cron")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")


@pytest.mark.parametrize("columns", ["40", "80", "120"])
def test_a_failure_says_what_to_run(
    canary: Callable[..., Outcome], columns: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit 3; the conversation of the failed check is audited. Nothing hostile is printed, and lines fit."""
    monkeypatch.setenv("COLUMNS", columns)
    outcome = canary(report_of(read=False, cool=None))
    assert outcome.code == 3
    assert outcome.out.startswith("FAILED: read; not judged: cool,")
    assert "\nFAILED      read" in outcome.out
    assert "\nnot judged  cool" in outcome.out
    assert "\x1b" not in outcome.out
    assert max(map(len, outcome.out.splitlines())) <= int(columns)
    assert f"  try: saltctl history audit {RESERVED[1]}\n" in outcome.err
    assert RESERVED[0] not in outcome.err


def test_a_failure_that_names_no_conversation(canary: Callable[..., Outcome]) -> None:
    """The detail may be about a process: nothing is audited for it."""
    outcome = canary(CanaryReport([Check(name, name != "fork", "the child hangs") for name in CHECK_NAMES], 1.0))
    assert outcome.err.splitlines()[1:] == [
        "  try: saltctl status",
        "  what each check proves, and what to do: saltctl help canary",
    ]


def test_a_part_that_cannot_be_judged(canary: Callable[..., Outcome]) -> None:
    """Exit 4: the report, and an error that says what is not known, and why."""
    outcome = canary(report_of(read=None, find=None), "-o", "json")
    assert (outcome.code, outcome.json["ok"]) == (4, True)
    assert [check["ok"] for check in outcome.json["checks"]].count(None) == 2
    assert outcome.error["message"] == "cannot judge read, find: Redis at 127.0.0.1:1 cannot be reached"
    assert outcome.error["code"] == "incomplete"


def test_a_reason_that_others_repeat_is_said_once(canary: Callable[..., Outcome]) -> None:
    """Some checks say what they were at when a server was away."""
    details = {"read": "the messages cannot be read for comparison: AWS is away", "find": "AWS is away"}
    checks = [Check(name, None if name in details else True, details.get(name, "fine")) for name in CHECK_NAMES]
    outcome = canary(CanaryReport(checks, 1.0), "-o", "json")
    assert outcome.error["message"] == f"cannot judge read, find: {details['read']}"


def test_nothing_can_be_judged(canary: Callable[..., Outcome]) -> None:
    """Exit 69, as for every command without its servers: an error alone."""
    outcome = canary(NOTHING, "-o", "json")
    assert (outcome.code, outcome.out, outcome.error["code"]) == (69, "", "unavailable")
    assert outcome.error["message"] == "nothing could be judged: AWS cannot be reached"


def test_a_round_that_cannot_begin(canary: Callable[..., Outcome]) -> None:
    """The error of the canary is that of the command."""
    outcome = canary(AccessDeniedError("no permission", hint="ask"), "-o", "json")
    assert (outcome.code, outcome.out, outcome.error["message"]) == (77, "", "no permission")


@pytest.mark.parametrize(
    ("result", "code", "first"),
    [
        (
            report_of(),
            0,
            f"SALTCTL OK - The promise holds: {ALL} checks ok, in 1.2 s | failed=0 not_judged=0 seconds=1.25",
        ),
        (SKIPPED, 0, f"SALTCTL OK - The promise holds: {ALL - 1} checks ok, in 1.2 s | failed=0 not_judged=0 "),
        (report_of(cool=None), 1, f"SALTCTL WARNING - The promise holds: {ALL - 1} checks ok; not judged: cool, in "),
        (report_of(read=False), 2, "SALTCTL CRITICAL - FAILED: read, in 1.2 s | failed=1 not_judged=0 seconds=1.25"),
        (NOTHING, 3, f"SALTCTL UNKNOWN - nothing could be judged: AWS cannot be reached | failed=0 not_judged={ALL} "),
        (AccessDeniedError("no"), 3, "SALTCTL UNKNOWN - no\n"),
        (ZeroDivisionError("x|y"), 3, "SALTCTL UNKNOWN - internal error: ZeroDivisionError: x/y\n"),
    ],
)
def test_nagios(canary: Callable[..., Outcome], result: Result, code: int, first: str) -> None:
    """The exit codes of a plugin; a line with performance data, and one for each problem, all on stdout."""
    outcome = canary(result, "--format", "nagios")
    assert (outcome.code, outcome.err) == (code, "")
    assert outcome.out.startswith(first)
    assert outcome.out.count("|") <= 1
    assert "\x1b" not in outcome.out


def test_cron(canary: Callable[..., Outcome]) -> None:
    """Nothing if all is well; else one line, with what could not be judged as its message."""
    quiet = canary(report_of(), "--cron")
    assert (quiet.code, quiet.out, quiet.err) == (0, "", "")
    found = {"failed": report_of(read=False), "partly": report_of(read=None), "nothing": NOTHING}
    lines = {name: (done := canary(report, "--cron"), json.loads(done.err)) for name, report in found.items()}
    assert [(done.code, line["exit_code"], line["outcome"]) for done, line in lines.values()] == [
        *((3, 3, "found"), (4, 4, "incomplete"), (69, 69, "unavailable"))
    ]
    assert all(list(line)[: len(LINE_KEYS)] == LINE_KEYS for _, line in lines.values())
    assert {check["name"]: check["ok"] for check in lines["failed"][1]["checks"]}["read"] is False
    assert lines["partly"][1]["message"].startswith("cannot judge read: ")


def samples_of(file: Path) -> dict[str, float]:
    """Return the samples of a metrics file by name, and by the check that they are about."""
    from prometheus_client.parser import text_string_to_metric_families

    families = text_string_to_metric_families(file.read_text())
    return {s.labels.get("check", s.name): s.value for family in families for s in family.samples}


def test_metrics(canary: Callable[..., Outcome], tmp_path: Path) -> None:
    """Of the promise, and of each check that was judged; one that was not has no value, so that it is missed."""
    file = tmp_path / "canary.prom"
    canary(report_of(read=False, cool=None), "--metrics-file", str(file))
    found = samples_of(file)
    assert (found["saltctl_canary_ok"], found["read"], found["write"]) == (0, 0, 1)
    assert "cool" not in found
    assert found["saltctl_job_success"] == 1
    assert 'saltctl_canary_check_ok{check="read",command="canary",table="backup"} 0.0\n' in file.read_text()
    canary(NOTHING, "--metrics-file", str(file))
    assert "saltctl_canary_ok" not in samples_of(file)
    assert samples_of(file)["saltctl_job_exit_code"] == 69


def test_a_loop_goes_on(loop: Callable[..., Outcome], script: Script, tmp_path: Path) -> None:
    """After a failure, an outage, an error of a round and one that nobody expected; a signal ends it with 0."""
    file = tmp_path / "canary.prom"
    seen: list[dict[str, float]] = []
    rounds: list[Result] = [
        *(report_of(), report_of(read=False), NOTHING, report_of(cool=None), ConfigurationError("evicts", hint="mend")),
        *(lambda: seen.append(samples_of(file)), ZeroDivisionError("boo"), report_of()),
    ]
    outcome = loop(rounds, "--metrics-file", str(file))
    assert (outcome.code, script.ran) == (0, len(rounds))
    lines = [line.partition("Z  ")[2] for line in outcome.out.splitlines() if line[0] != " "]  # others go on
    assert [line.split(":")[0] for line in lines] == [
        *("The promise holds", "FAILED", "The promise holds", "The promise holds", "The promise holds")
    ]
    assert "  FAILED      read" in outcome.out
    warnings = [line for line in outcome.err.splitlines() if line.startswith("warning: ")]
    assert [warning.split(":")[1][:20] for warning in warnings] == [
        *(" the promise was bro", " nothing could be ju", " cannot judge cool", " evicts", " internal error")
    ]
    assert seen[0]["saltctl_job_exit_code"] == 78  # of the round before
    assert samples_of(file)["saltctl_canary_ok"] == 1
    # Rounds that stopped somewhere leave clients behind that nobody knows; all others share theirs.
    assert (len(script.opened), script.closed) == (3, 3)


def test_a_loop_from_cron(loop: Callable[..., Outcome]) -> None:
    """For a unit whose log is read by programs: a line a round that is not well, and nothing else."""
    outcome = loop([report_of(), report_of(read=False), NOTHING, ZeroDivisionError("boo"), report_of()], "--cron")
    assert (outcome.code, outcome.out) == (0, "")
    assert [json.loads(line)["exit_code"] for line in outcome.err.splitlines()] == [3, 69, 1]


def test_a_loop_in_json_lines(loop: Callable[..., Outcome]) -> None:
    """A report a line; what is on stderr is JSON, too."""
    outcome = loop([report_of(), report_of(read=False), NOTHING, report_of(find=None)], "-o", "jsonl")
    assert [json.loads(line)["ok"] for line in outcome.out.splitlines()] == [True, False, True]
    assert [json.loads(line)["level"] for line in outcome.err.splitlines()] == ["warning"] * 3


def test_the_timeout_is_that_of_a_round(loop: Callable[..., Outcome], script: Script) -> None:
    """A round that hangs is given up, and the next one has clients of its own."""
    outcome = loop([lambda: time.sleep(60), report_of()], "--timeout", "50ms")
    assert outcome.code == 0
    assert "warning: not done after 0.05 s (--timeout)" in outcome.err
    assert script.within == 0.03
    assert len(script.opened) == 2


def test_a_round_without_time_names_the_option(canary: Callable[..., Outcome]) -> None:
    """Nothing is wrong with the servers, so ``saltctl status`` would find nothing."""
    late = [Check(name, None, f"{NO_TIME} after 3 s") for name in CHECK_NAMES]
    judged = [Check(name, True, "fine") for name in CHECK_NAMES]
    for checks, code in ([*judged[:-1], late[-1]], 4), (late, 69):
        outcome = canary(CanaryReport(checks, 3.0), "--timeout", "5s")
        assert outcome.code == code
        assert "no time was left for it after 3 s" in outcome.err
        assert "--timeout" in outcome.err.splitlines()[-1]
        assert "saltctl status" not in outcome.err
        assert "saltctl doctor" not in outcome.err


def test_a_signal_ends_the_wait(script: Script, saltctl: Runner) -> None:
    """Between two rounds at once, with exit 0."""
    script.results = [report_of(), report_of()]
    timer = threading.Timer(0.3, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    outcome = saltctl("canary", "--every", "1h")
    timer.join()
    assert (outcome.code, script.ran, script.closed) == (0, 1, 1)


@pytest.mark.parametrize("options", [(), ("--cron",)])
def test_settings_that_cannot_be_used_end_a_loop(
    saltctl: Runner, script: Script, options: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before its first round: nothing would mend them."""
    monkeypatch.delenv("SALTCTL_REDIS_URL")
    assert saltctl("canary", "--every", "1h", *options).code == 78
    assert script.ran == 0


def test_a_protected_context(script: Script, saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As every job that changes something: from cron with its name, and a dry run without."""
    file = tmp_path / "config.toml"
    file.write_text('[contexts.prod]\nprotected = true\nredis_url = "redis://127.0.0.1:1/0"\n')
    monkeypatch.delenv("SALTCTL_REDIS_URL")
    monkeypatch.setenv("SALTCTL_CONFIG", str(file))
    script.results = [report_of(), report_of()]
    refused = saltctl("--context", "prod", "canary", "-o", "json")
    assert (refused.code, refused.error["hint"]) == (6, "saltctl --context prod canary -o json --confirm prod")
    assert saltctl("--context", "prod", "canary", "--dry-run").code == 0
    assert script.ran == 0
    assert saltctl("--context", "prod", "canary", "--cron", "--confirm", "prod").code == 0


def test_a_dry_run(script: Script, saltctl: Runner) -> None:
    """The same keys, and nothing is opened."""
    outcome = saltctl("canary", "--dry-run", "-o", "json")
    assert (outcome.code, outcome.json["ok"], outcome.json["seconds"]) == (0, None, 0)
    assert [check["name"] for check in outcome.json["checks"]] == list(CHECK_NAMES)
    assert f"{RESERVED[0]} to {RESERVED[-1]}" in saltctl("canary", "--dry-run").out
    assert not script.opened


@pytest.mark.parametrize(
    "words",
    [
        "--format nagios --every 1m",
        "--format nagios -o json",
        "--format nagios --cron",
        "--format nagios --dry-run",
        "--dry-run --every 1m",
        "--dry-run --cron",
        "--dry-run --metrics-file x",
        "--every 1m -o json",
        "--every 1m -o tsv",
    ],
)
def test_options_without_effect_are_refused(script: Script, saltctl: Runner, words: str) -> None:
    """Before anything is opened."""
    assert saltctl("canary", *words.split()).code == 2
    assert not script.opened
