"""Long jobs: progress on stderr, and for cron and the node exporter ``--cron`` and ``--metrics-file``."""

from __future__ import annotations

import errno
import json
import os
import re
import stat
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from saltctl.cli.files import is_special, replace_file
from saltctl.cli.jobs import Job, drain, write_metrics
from saltctl.cli.session import Session
from saltctl.cli.signals import arguments
from saltctl.errors import ConfigurationError
from saltctl.local.servers import LocalRedis
from saltctl.metrics import CANARY_CHECK_OK, FIGURES, JOB, JobName
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.registry import Raise
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner
from tests.support import Rebuilder
from tests.support.exported import exported_names

LINE_KEYS = ["at", "level", "event", "run", "outcome", "exit_code", "seconds"]


@pytest.fixture
def verified_settings(configured: Settings, registry: Registry, rebuild: Rebuilder) -> Settings:
    """A registry that is verified and agrees with its backup, and a heat stream with its group."""
    registry.raise_to("conv", 4)
    rebuild()
    HeatStream(configured).create_group()
    return configured


def metrics_of(file: Path) -> dict[str, float]:
    """Return the samples of a metrics file by name; fail if its syntax is wrong."""
    found = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            assert re.fullmatch(r"# (HELP \w+ .+|TYPE \w+ gauge)", line)
            continue
        sample = re.fullmatch(r'(\w+)\{command="\w+",table="[\w-]+"\} (\S+)', line)
        assert sample is not None, line
        found[sample[1]] = float(sample[2])
    return found


JOBS = (("compare",), ("rebuild",), ("stream", "replay"))


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_nothing_happened_prints_nothing(job: tuple[str, ...], saltctl: Runner, verified_settings: Settings) -> None:
    """With all in order ``--cron`` prints not one byte, so cron mails nothing."""
    for options in ((), ("-o", "json")):
        outcome = saltctl(*job, "--cron", *options)
        assert (outcome.code, outcome.out, outcome.err) == (0, "", "")


@pytest.mark.slow
def test_a_job_that_found_something_says_so_in_one_line(
    saltctl: Runner, verified_settings: Settings, backup: BackupTable
) -> None:
    """Drift, and then its repair, are one JSON line each, with another run id."""
    backup.raise_max_n("conv", Raise(8, "2026-01-01T00:00:00Z", "x", ""))
    lines = []
    for options, code, outcome in ((("--cron",), 3, "found"), (("--cron", "--repair", "--yes"), 0, "ok")):
        done = saltctl("compare", *options)
        (line,) = map(json.loads, done.err.splitlines())
        assert done.out == ""
        assert list(line)[: len(LINE_KEYS)] == LINE_KEYS
        assert (done.code, line["exit_code"], line["outcome"], line["event"]) == (code, code, outcome, "compare")
        lines.append(line)
    assert lines[0]["behind"] == 1
    assert lines[0]["drift"][0]["conversation_id"] == "conv"
    assert lines[1]["repaired"] == 1
    assert lines[0]["run"] != lines[1]["run"]


@pytest.mark.slow
def test_a_rebuild_that_verified_says_so(
    saltctl: Runner, verified_settings: Settings, redis_server: LocalRedis
) -> None:
    """The rebuild of a restarted Redis is reported, even if its AOF had all entries."""
    redis_server.kill()
    redis_server.start()
    (line,) = map(json.loads, saltctl("rebuild", "--cron").err.splitlines())
    assert (line["event"], line["outcome"], line["verified"], line["restored"]) == ("rebuild", "ok", True, 0)
    assert saltctl("rebuild", "--cron").err == ""


@pytest.mark.slow
def test_a_failure_is_one_line(saltctl: Runner, verified_settings: Settings, redis_server: LocalRedis) -> None:
    """The line has the error's code, message and hint; they are not printed again."""
    redis_server.kill()
    outcome = saltctl("compare", "--cron")
    (line,) = map(json.loads, outcome.err.splitlines())
    assert (outcome.code, line["exit_code"], line["outcome"], line["level"]) == (69, 69, "redis_unavailable", "error")
    assert "127.0.0.1" in line["message"]
    assert line["hint"]


@pytest.mark.slow
def test_a_held_lease_prints_nothing(saltctl: Runner, verified_settings: Settings, backup: BackupTable) -> None:
    """A rebuild that runs every minute during a long rebuild exits with 75 and without a mail."""
    backup.lease.acquire("other", time.time(), host="app-17", pid=4242, expiry=30)
    outcome = saltctl("rebuild", "--cron")
    assert (outcome.code, outcome.out, outcome.err) == (75, "", "")


@pytest.mark.slow
def test_output_is_printed_if_a_format_is_given(
    saltctl: Runner, verified_settings: Settings, backup: BackupTable
) -> None:
    """``--cron -o json`` has its document on stdout, if something happened, besides the line on stderr."""
    backup.raise_max_n("conv", Raise(8, "2026-01-01T00:00:00Z", "x", ""))
    done = saltctl("compare", "--cron", "-o", "json")
    assert (done.code, done.json["behind"], json.loads(done.err)["behind"]) == (3, 1, 1)


@pytest.mark.slow
@pytest.mark.parametrize("job", JOBS, ids=" ".join)
def test_metrics_are_written_at_success(
    job: tuple[str, ...], saltctl: Runner, verified_settings: Settings, tmp_path: Path
) -> None:
    """The file has the outcome, its time and the numbers of the report; all users may read it."""
    file = tmp_path / "saltctl.prom"
    before = time.time()
    assert saltctl(*job, "--metrics-file", str(file)).code == 0
    found = metrics_of(file)
    assert (found["saltctl_job_success"], found["saltctl_job_exit_code"]) == (1, 0)
    assert before - 1 <= found["saltctl_job_last_success_timestamp_seconds"] <= time.time() + 1
    assert any(name.startswith(f"saltctl_{'_'.join(job)}_") for name in found)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert [path.name for path in tmp_path.glob("*saltctl.prom*")] == ["saltctl.prom"]


@pytest.mark.parametrize("name", FIGURES)
def test_a_metrics_file_has_every_metric_of_its_job(name: JobName, configured: Settings, tmp_path: Path) -> None:
    """Each number of the report, and each check that was judged, is exported as the module of metrics says."""
    checks = [{"name": check, "ok": ok, "detail": ""} for check, ok in (("a", True), ("b", False), ("c", None))]
    report = dict.fromkeys(FIGURES[name], 1.5) | {"checks": checks, "text": "", "null": None}
    write_metrics(tmp_path / "x.prom", Job(name, cron=True, report=report), Session(), 3, 1.5)
    text = (tmp_path / "x.prom").read_text(encoding="utf-8")
    checked = [CANARY_CHECK_OK] if name == "canary" else []
    assert exported_names(text) == {metric.name for metric in (*JOB, *FIGURES[name].values(), *checked)}
    assert text.count("saltctl_canary_check_ok{") == 2 * len(checked)


@pytest.mark.slow
def test_metrics_are_written_at_failure_and_keep_the_last_success(
    saltctl: Runner, verified_settings: Settings, redis_server: LocalRedis, tmp_path: Path
) -> None:
    """A failed run is recorded, and the timestamp of the last success stays, for alerts on its age."""
    file = tmp_path / "saltctl.prom"
    saltctl("compare", "--metrics-file", str(file))
    good = metrics_of(file)
    redis_server.kill()
    assert saltctl("compare", "--metrics-file", str(file)).code == 69
    bad = metrics_of(file)
    assert (bad["saltctl_job_success"], bad["saltctl_job_exit_code"]) == (0, 69)
    last = "saltctl_job_last_success_timestamp_seconds"
    assert bad[last] == good[last]
    assert "saltctl_compare_checked" not in bad
    file.unlink()
    saltctl("compare", "--metrics-file", str(file))
    assert metrics_of(file)[last] == 0


@pytest.mark.slow
def test_drift_is_a_success_with_metrics_of_its_own(
    saltctl: Runner, verified_settings: Settings, backup: BackupTable, tmp_path: Path
) -> None:
    """A comparison that found drift succeeded; the number of its findings is another metric."""
    file = tmp_path / "saltctl.prom"
    backup.raise_max_n("conv", Raise(8, "2026-01-01T00:00:00Z", "x", ""))
    assert saltctl("compare", "--metrics-file", str(file)).code == 3
    found = metrics_of(file)
    assert (found["saltctl_job_success"], found["saltctl_compare_behind"]) == (1, 1)


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [("--timeout", "500ms"), ("--sample", "1/0"), ("--sample", "x"), ("--repair",)], ids=" ".join
)
def test_every_exit_code_is_in_the_metrics(
    arguments: tuple[str, ...],
    saltctl: Runner,
    verified_settings: Settings,
    tmp_path: Path,
    hanging_redis: Callable[[], None],
) -> None:
    """A timeout, a usage error and a refusal are written with their exit codes."""
    file = tmp_path / "saltctl.prom"
    if "--timeout" in arguments:
        hanging_redis()
    code = saltctl("compare", *arguments, "--metrics-file", str(file)).code
    assert code in (124, 2, 6)
    assert metrics_of(file)["saltctl_job_exit_code"] == code


@pytest.mark.slow
def test_a_link_is_replaced_and_not_followed(
    saltctl: Runner, verified_settings: Settings, tmp_path: Path, hanging_redis: Callable[[], None]
) -> None:
    """A user who can write into the directory cannot have another file overwritten or read."""
    precious = tmp_path / "precious"
    precious.write_text('saltctl_job_last_success_timestamp_seconds{command="compare"} 77\n')
    file = tmp_path / "saltctl.prom"
    file.symlink_to(precious)
    hanging_redis()
    assert saltctl("compare", "--timeout", "500ms", "--metrics-file", str(file)).code == 124
    assert "77" in precious.read_text()
    assert not file.is_symlink()
    assert metrics_of(file)["saltctl_job_last_success_timestamp_seconds"] == 0


@pytest.mark.slow
def test_an_unwritable_metrics_file_is_refused_before_the_job(
    saltctl: Runner, verified_settings: Settings, tmp_path: Path
) -> None:
    """A missing directory is exit 78 at once, not a surprise an hour later."""
    outcome = saltctl("compare", "--metrics-file", str(tmp_path / "nowhere" / "x.prom"), "-o", "json")
    assert (outcome.code, outcome.error["code"], outcome.out) == (78, "configuration", "")


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["directory", "pipe", "device", "link to a directory", "link to a pipe"])
def test_only_a_regular_file_is_replaced(
    kind: str, saltctl: Runner, verified_settings: Settings, tmp_path: Path
) -> None:
    """A path that is a directory, a pipe or a device is exit 78, and stays as it is."""
    file = tmp_path / "x.prom"
    match kind:
        case "directory":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "device":
            make_null_device(file)
        case "link to a pipe":
            os.mkfifo(tmp_path / "pipe")
            file.symlink_to(tmp_path / "pipe")
        case _:
            file.symlink_to(tmp_path)
    before = file.lstat()
    outcome = saltctl("compare", "--metrics-file", str(file), "-o", "json")
    assert (outcome.code, outcome.error["code"], outcome.out) == (78, "configuration", "")
    assert repr(str(file)) in outcome.error["message"]
    after = file.lstat()
    assert (before.st_ino, before.st_mode) == (after.st_ino, after.st_mode)


@pytest.mark.parametrize("name", ["/dev/stdout", "/proc/self/fd/1", "/dev/no-such-file.prom"])
def test_links_of_the_system_are_not_replaced(name: str) -> None:
    """/dev/stdout may lead to a regular file; root would replace the link for the whole machine."""
    assert is_special(Path(name))


@pytest.mark.parametrize("kind", ["pipe", "device", "link to a pipe"])
def test_a_metrics_file_that_became_special_is_left_alone(kind: str, tmp_path: Path) -> None:
    """The check before the job is repeated at the write, which leaves no other file behind either."""
    file = tmp_path / "x.prom"
    replace_file(file, b"before", "metrics file")
    file.unlink()
    if kind == "device":
        make_null_device(file)
    else:
        os.mkfifo(tmp_path / "pipe" if kind != "pipe" else file)
    if kind == "link to a pipe":
        file.symlink_to(tmp_path / "pipe")
    before = sorted((path.name, path.lstat().st_mode) for path in tmp_path.iterdir())
    with pytest.raises(ConfigurationError, match="regular file"):
        replace_file(file, b"after", "metrics file")
    assert sorted((path.name, path.lstat().st_mode) for path in tmp_path.iterdir()) == before


def make_null_device(file: Path) -> None:
    """Make a device node that discards what is written, or skip the test: only root can, and not everywhere."""
    try:
        os.mknod(file, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("device nodes cannot be made here")


@pytest.mark.slow
def test_the_node_exporter_can_read_the_file(saltctl: Runner, verified_settings: Settings, tmp_path: Path) -> None:
    """The file is readable for all, whatever the umask of the job; the umask is restored."""
    file = tmp_path / "x.prom"
    before = os.umask(0o077)
    try:
        assert saltctl("compare", "--metrics-file", str(file)).code == 0
        after = os.umask(0o077)
    finally:
        os.umask(before)
    assert stat.S_IMODE(file.stat().st_mode) == 0o644
    assert after == 0o077


@pytest.mark.slow
def test_a_damaged_metrics_file_is_replaced(
    saltctl: Runner, verified_settings: Settings, tmp_path: Path, hanging_redis: Callable[[], None]
) -> None:
    """A previous file that is not metrics counts as none: the last success is 0."""
    file = tmp_path / "x.prom"
    hanging_redis()
    file.write_bytes(b"\xff{{{ 1\nsaltctl_job_last_success_timestamp_seconds x\n")
    assert saltctl("compare", "--timeout", "500ms", "--metrics-file", str(file)).code == 124
    assert metrics_of(file)["saltctl_job_last_success_timestamp_seconds"] == 0


def test_a_usage_error_is_reported(saltctl: Runner, verified_settings: Settings) -> None:
    """A mistake in a crontab is one JSON line that names it, whether the job or the parser of the options finds it."""
    for words, shown in (
        (("--sample", "x"), "1/24"),
        (("--segments", "x"), "whole number"),
        (("--nope",), "--nope"),
        (("--metrics-file", ""), "is the variable set that holds it"),
    ):
        outcome = saltctl("compare", "--cron", *words)
        line = json.loads(outcome.err)
        assert (outcome.code, line["exit_code"], line["outcome"], line["event"]) == (2, 2, "usage", "compare")
        assert shown in f"{line['message']}; {line['hint']}"
        assert line["hint"]


def test_a_metrics_file_that_cannot_be_written_is_one_json_line(
    saltctl: Runner, verified_settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the start it is an error; at the end, such as on a full disk, a warning."""
    outcome = saltctl("compare", "--cron", "--metrics-file", str(tmp_path))
    line = json.loads(outcome.err)
    assert (outcome.code, line["exit_code"], "metrics file" in line["message"]) == (78, 78, True)

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("saltctl.cli.jobs.replace_file", full)
    outcome = saltctl("compare", "--cron", "--metrics-file", str(tmp_path / "x.prom"))
    line = json.loads(outcome.err)
    assert (outcome.code, line["level"], "No space" in line["message"]) == (0, "warning", True)


def test_a_job_says_once_that_aws_throttles_it(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A call that is throttled for seconds is a warning, however many events follow; with --cron it is none."""
    monkeypatch.setattr("saltctl.cli.jobs.throttled_call", lambda seconds: "AWS throttles 't'" if seconds >= 1 else "")
    for command, lines in (("rebuild",), 1), (("rebuild", "--cron"), 0):
        token = arguments.set(command)
        assert drain((event for event in ("a", "b", "report")), str, lambda event: None) == "report"
        arguments.reset(token)
        assert capsys.readouterr().err.count("warning: AWS throttles 't'") == lines
