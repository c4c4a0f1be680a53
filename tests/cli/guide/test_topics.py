"""``saltctl help``: the topics, how they are laid out, and their commands, run in the situation that they are for."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saltctl.cli.guide.topics import fill, lay_out, topics
from saltctl.cli.session import Session
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalMoto
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from tests.cli.conftest import Runner, seeded_tables
from tests.cli.terminal import run_on_a_terminal
from tests.support.aws_cli import check_aws_command
from tests.support.exports import row, write_export
from tests.support.lost_tables import delete_backup, restore_backup
from tests.support.redis_servers import eventually, plain_client

PACKAGE = Path(__file__).parents[3] / "saltctl"
TOPICS = topics()
INCIDENTS = (
    "backup-lost",
    "dynamodb-restored",
    "failover",
    "history-incomplete",
    "redis-restarted",
    "service-down",
    "stream-backlog",
    "throttled",
)
CONVERSATION, N = "conv_hot_12", "32"
FULL = "conv_hot_11"
"""A conversation that no incident changes."""


SPECIFICATION = "client-protocol"
"""No page for an incident: it is printed and implemented, and a rule that is elsewhere would be missed."""


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_a_page_is_short(topic: str) -> None:
    """At most 60 lines; the title is the first. Only the specification is longer."""
    lines = TOPICS[topic].splitlines()
    assert len(lines) <= (160 if topic == SPECIFICATION else 60)
    assert lines[0]
    assert not lines[1]


@pytest.mark.parametrize("topic", INCIDENTS)
def test_an_incident_has_symptoms_checks_fixes_and_warnings(topic: str) -> None:
    """In this order."""
    headings = re.findall(r"^(Symptoms|Checks|Fix|Do not)\b", TOPICS[topic], flags=re.MULTILINE)
    assert list(dict.fromkeys(headings)) == ["Symptoms", "Checks", "Fix", "Do not"]


@pytest.mark.parametrize("width", [60, 80, 120])
@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_laying_out_loses_nothing(topic: str, width: int) -> None:
    """Every word is printed in its order, and every line fits, so that no terminal breaks a word; no table is wider."""
    text = fill(TOPICS[topic], Session())
    lines = [str(line) for line in lay_out(text, width)]
    assert " ".join(lines).split() == text.split()
    for line in lines:
        assert len(line) <= width or (width < 80 and re.match(r" +(\d\. )?saltctl ", line)), line


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_a_topic_is_printed(saltctl: Runner, topic: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The whole text, also without settings that could be used."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "nonsense")
    shown = saltctl("help", topic)
    assert shown.code == 0
    assert "\x1b" not in shown.out
    assert shown.out.split() == fill(TOPICS[topic], Session()).split()


def test_commands_and_tables_are_those_of_the_context(saltctl: Runner, tmp_path: Path) -> None:
    """Each command leads to the context that was given; the names of its tables are filled in."""
    file = tmp_path / "config.toml"
    file.write_text('[contexts.prod]\nbackup_table = "b1"\nmessages_table = "m1"\nredis_url = "redis://r/0"\n')
    shown = saltctl("--config", str(file), "--context", "prod", "help", "dynamodb-restored").out
    assert "--table-name b1" in shown
    assert "--table-name m1" in shown
    commands = re.findall(r"^ +(?:\d\. )?(saltctl .*)", shown, flags=re.MULTILINE)
    assert len(commands) >= 5
    assert all(command.startswith(f"saltctl --context prod --config {file} ") for command in commands)


def test_the_topics_are_listed_with_their_titles(saltctl: Runner) -> None:
    """In lines that fit a narrow terminal."""
    lines = saltctl("help").out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        [topic, text.split("\n")[0]] for topic, text in sorted(TOPICS.items())
    ]
    assert max(map(len, lines)) <= 80


def test_an_unknown_topic_is_a_usage_error(saltctl: Runner) -> None:
    """The hint is a similar topic, or the list; the message says where the help of a command is."""
    result = saltctl("help", "elsewhere")
    assert result.code == 2
    assert "'elsewhere'" in result.err
    assert "saltctl COMMAND --help" in result.err
    assert result.err.endswith("try: saltctl help\n")
    assert saltctl("help", "redis-restart").err.endswith("try: saltctl help redis-restarted\n")
    assert saltctl("help", "redis-ristarted").err.endswith("try: saltctl help redis-restarted\n")
    assert saltctl("help", "e").err.endswith("try: saltctl help\n")
    part = saltctl("help", "redis").err
    assert part.endswith("  try: saltctl help redis-restarted\n  try: saltctl help redis-urls\n")
    command = saltctl("help", "throttle").err.splitlines()[1:]
    assert command == [
        "  try: saltctl throttle --help",
        "  try: saltctl help throttled",
        "  topics that name it: service-down",
    ]
    assert saltctl("help", "config").err.endswith("config is a command\n  try: saltctl config --help\n")


def test_every_topic_that_a_text_names_exists() -> None:
    """In messages, hints, alert rules, and the topics themselves."""
    sources = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.txt"), PACKAGE.parent / "README.md"]
    texts = [file.read_text("utf-8") for file in sources]
    named = {name for text in texts for name in re.findall(r"saltctl help ([a-z-]+)", text)}
    named |= {name for text in TOPICS.values() for name in re.findall(r"\btopic\s+([a-z-]+)", text)}
    assert {"redis-urls", "recover"} <= named
    assert named <= set(TOPICS)


@pytest.mark.parametrize("command", sorted(set(re.findall(r"^ +(aws .*)", "\n".join(TOPICS.values()), re.MULTILINE))))
def test_commands_of_aws_exist(command: str) -> None:
    """Each has an operation of AWS, and its parameters."""
    check_aws_command(command)


# Every command of an incident's page, run in that incident.


def _restart_empty(environment: LocalEnvironment) -> None:
    environment.redis.kill()
    environment.redis.start()
    plain_client(environment.redis).flushall()


def _promote(environment: LocalEnvironment) -> None:
    with plain_client(environment.redis) as client:
        before = client.info()["master_replid"]
        client.execute_command("REPLICAOF", "127.0.0.1", "1")
        client.execute_command("REPLICAOF", "NO", "ONE")
        eventually(lambda: bool(client.info()["master_replid"] != before), "it is promoted")


def _delete_backup(environment: LocalEnvironment) -> None:
    delete_backup(environment.settings)


def _restore_backup(environment: LocalEnvironment) -> None:
    restore_backup(environment.settings)


def _lose_a_raise(environment: LocalEnvironment) -> None:
    """Outside of the protocol: both sides forget that a conversation is salted."""
    backup = BackupTable(environment.settings)
    backup.client.delete_item(TableName=backup.name, Key={"conversation_id": {"S": CONVERSATION}})
    with plain_client(environment.redis) as client:
        for key in client.scan_iter("salt:r:*", count=5000):
            if client.type(key) == b"hash":
                client.hdel(key, CONVERSATION)


def _nothing(environment: LocalEnvironment) -> None:
    """It is so from the start: no service runs, reports wait on the stream, and DynamoDB throttled."""


SITUATIONS: dict[str, Callable[[LocalEnvironment], None]] = {
    "backup-lost": _delete_backup,
    "dynamodb-restored": _restore_backup,
    "failover": _promote,
    "history-incomplete": _lose_a_raise,
    "redis-restarted": _restart_empty,
    "service-down": _nothing,
    "stream-backlog": _nothing,
    "throttled": _nothing,
}


def _commands(topic: str) -> list[str]:
    """The saltctl commands of a page: those on lines of their own in their order, then those inside sentences."""
    text = TOPICS[topic]
    own = re.findall(r"^ +(?:\d\. )?saltctl (.*)", text, flags=re.MULTILINE)
    inside = [" ".join(found.split()) for found in re.findall(r"`saltctl\s+([^`]+)`", text)]
    return [*own, *(command for command in dict.fromkeys(inside) if command not in own)]


@pytest.fixture
def situation(
    request: pytest.FixtureRequest, moto: LocalMoto, monkeypatch: pytest.MonkeyPatch
) -> Iterator[tuple[str, str]]:
    """The topic, and its incident in an environment of its own; with the id of a message of ``FULL``."""
    topic = request.param
    with seeded_tables(moto, topic) as environment:
        for name, value in environment.variables().items():
            monkeypatch.setenv(name, value)
        monkeypatch.setenv("SALTCTL_BREAKER_SECONDS", "0")
        monkeypatch.setenv("SALTCTL_MAX_N_CAP", "32")  # an audit queries each of these partitions
        message = next(MessagesTable(environment.settings).rows(f"{FULL}#1"))
        SITUATIONS[topic](environment)
        yield topic, message["message_id"]["S"]


def _run(command: str, message_id: str) -> int:
    """Run a command of a page, with examples in place of its placeholders, and answer its questions."""
    values = {
        "CONV": CONVERSATION,
        "MESSAGE": message_id,
        "N": N,
        "TEXT": "launch",
        "ARN": "arn:aws:sns:us-east-1:123456789012:oncall",
    }
    words = [values.get(word, word) for word in shlex.split(command)]
    if words == ["service", "run"]:
        return _run_service()
    code, shown = run_on_a_terminal(*words, typed="y\n")
    assert code in (0, 3), f"{command}: {code}\n{shown}"
    return code


def _run_service() -> int:
    """Run an instance until it is alive, and end it."""
    with subprocess.Popen([sys.executable, "-m", "saltctl", "service", "run"], stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        try:
            started = next(line for line in child.stderr if json.loads(line)["event"] == "started")
        finally:
            child.terminate()
            child.communicate()
    assert started
    return child.returncode


RUN_ELSEWHERE = ("drill", "service run", "conform")
OTHERS = sorted({command for topic in TOPICS if topic not in INCIDENTS for command in _commands(topic)})


@pytest.mark.slow
@pytest.mark.parametrize("command", [command for command in OTHERS if not command.startswith(RUN_ELSEWHERE)])
def test_the_commands_of_the_other_pages_work(
    command: str, scratch: LocalEnvironment, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In an environment where no instance of the service runs, and nothing else is wrong."""
    monkeypatch.chdir(tmp_path)  # one of them writes a file, others read these
    write_export(tmp_path / "export", {"a": [row("x", "m")]}, scratch.settings.messages_table)
    (tmp_path / "result.csv").write_text('"conversation_id","max_n"\n')
    command = command.replace("ID", "0123456789abcdef").replace("registry get", f"registry get {FULL}")
    command = command.replace("--for 50s", "--for 1s")  # it waits for its rate
    words = shlex.split(command)
    code, shown = run_on_a_terminal(*words, typed="y\n")
    # Nothing is known to be idle in an environment that is new.
    assert code in ((0, 2) if "nagios" in words else (6,) if "--idle" in words else (0, 3)), shown


def test_every_incident_is_tried() -> None:
    """Each page of an incident has its situation."""
    assert sorted(SITUATIONS) == sorted(INCIDENTS)


@pytest.mark.slow
@pytest.mark.parametrize("situation", INCIDENTS, indirect=True)
def test_the_commands_of_an_incident_end_it(situation: tuple[str, str], saltctl: Runner) -> None:
    """Run in their order they work, and afterwards Redis is verified, both sides agree, and all messages are read."""
    topic, message_id = situation
    for command in _commands(topic):
        _run(command.replace("find CONV", f"find {FULL}"), message_id)
    assert saltctl("rebuild", "--if-needed", "-o", "json").json["verified_before"] is True
    assert saltctl("compare").code == 0
    assert saltctl("history", "audit", CONVERSATION).code == 0
    assert saltctl("status", "-o", "json").json["state"] != "BROKEN"
