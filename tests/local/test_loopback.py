"""Inside the local environment nothing but loopback is reached, whatever names another server."""

from __future__ import annotations

import os
import pty
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from saltctl.cli.local.shell import shell_command
from saltctl.errors import ConfigurationError
from saltctl.settings import Settings, load_settings
from saltctl.stores.aws.client import create_client
from saltctl.stores.bounded.aws_endpoints import keep_to_loopback
from saltctl.stores.loopback import INSIDE
from saltctl.stores.redis.connections import Connections
from tests.local.test_environment import UNSEEDED
from tests.support.redis_stub import RedisStub

REMOTE = "redis://prod.example:6379"


def _session() -> Any:
    from botocore.session import get_session

    core: Any = get_session()
    keep_to_loopback(core)
    return core


@pytest.fixture
def inside(monkeypatch: pytest.MonkeyPatch) -> None:
    """This process is inside the local environment."""
    monkeypatch.setenv(INSIDE, "1")


@pytest.mark.parametrize(
    "url",
    [
        REMOTE,
        "rediss://u:secret@10.0.0.1",
        "redis+cluster://127.0.0.1:7000,prod.example:7000",
        "redis+sentinel://127.0.0.1,prod.example/main",
        "unix:///run/redis.sock",
    ],
)
def test_a_redis_elsewhere_is_refused(url: str, inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a flag, a variable or a context; without the variable it is not looked at before it is used."""
    with pytest.raises(ConfigurationError, match="not on loopback") as refused:
        Connections(Settings(redis_url=url), timeout=1.0, retries=0)
    assert "secret" not in refused.value.message
    assert "exit" in refused.value.hint
    monkeypatch.delenv(INSIDE)
    Connections(Settings(redis_url=url), timeout=1.0, retries=0)


def test_a_context_cannot_lead_elsewhere(inside: None, tmp_path: Path) -> None:
    """A context of a file that --config names is no way out either."""
    file = tmp_path / "config.toml"
    file.write_text(f'[contexts.prod]\nredis_url = "{REMOTE}"\naws_endpoint_url = "https://aws.example"\n')
    settings = load_settings(config=file, context="prod")
    with pytest.raises(ConfigurationError, match=r"prod\.example"):
        Connections(settings, timeout=1.0, retries=0)
    with pytest.raises(ConfigurationError, match=r"aws\.example"):
        create_client(settings, "dynamodb")


@pytest.mark.parametrize("kind", ["cluster", "sentinel"])
def test_a_server_that_names_another_one_elsewhere(kind: str, inside: None) -> None:
    """A node or a sentinel on loopback whose answer leads away: the other server is not contacted."""
    answers = {
        b"CLUSTER": b"*1\r\n*3\r\n:0\r\n:16383\r\n*2\r\n$9\r\n192.0.2.1\r\n:6379\r\n",
        b"SENTINEL": b"*2\r\n$9\r\n192.0.2.1\r\n$4\r\n6379\r\n",
    }
    with RedisStub(lambda _, command: answers.get(command[0], RedisStub.OK)) as stub:
        url = stub.url.replace("redis:", f"redis+{kind}:").removesuffix("/0")
        url += "/main" if kind == "sentinel" else ""
        connections = Connections(Settings(redis_url=url), timeout=5.0, retries=0)
        assert connections.primaries() == ("192.0.2.1:6379",)
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
            connections.client("192.0.2.1:6379")
        with pytest.raises(ConfigurationError, match=r"192\.0\.2\.1"):
            connections.ask_of("key", [("GET", "key")])


@pytest.mark.parametrize("service", ["dynamodb", "cloudwatch"])
@pytest.mark.parametrize(
    "variables",
    [
        {},
        {"AWS_ENDPOINT_URL": "http://127.0.0.1:1", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"},
        {
            "AWS_ENDPOINT_URL": "http://127.0.0.1:1",
            "AWS_ENDPOINT_URL_DYNAMODB": "http://aws.example",
            "AWS_ENDPOINT_URL_CLOUDWATCH": "http://aws.example",
        },
    ],
    ids=["none", "ignored", "specific"],
)
def test_an_aws_endpoint_elsewhere_is_refused(
    variables: dict[str, str], service: str, inside: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No endpoint at all is that of AWS; the variables of one service win over the general one."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(ConfigurationError, match="not on loopback"):
        create_client(load_settings(), service)


@pytest.mark.parametrize("name", ["sts", "sso", "sso-oidc"])
def test_clients_for_credentials_stay_on_loopback(name: str, inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Botocore makes them by the same session, for roles and single sign-on."""
    with pytest.raises(ConfigurationError, match="not on loopback"):
        _session().create_client(name)
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    assert _session().create_client(name).meta.endpoint_url == "http://127.0.0.1:1"


def test_metadata_services_are_not_asked(inside: None, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither that of an instance nor that of a container, which are not on loopback."""
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.delenv("AWS_EC2_METADATA_DISABLED")
    create_client(load_settings(), "dynamodb")
    assert os.environ["AWS_EC2_METADATA_DISABLED"] == "true"
    for name, value in (("RELATIVE", "/x"), ("FULL", "http://169.254.170.23/x")):
        with monkeypatch.context() as patch:
            patch.setenv(f"AWS_CONTAINER_CREDENTIALS_{name}_URI", value)
            with pytest.raises(ConfigurationError, match=r"169\.254"):
                _session().create_client("dynamodb")


# Shells.


@pytest.mark.parametrize(
    ("program", "kind"),
    [("bash", "bash"), ("zsh", "zsh"), ("fish", "fish"), ("dash", "sh"), ("tcsh", "bash"), ("/no/such/zsh", "bash")],
)
def test_each_shell_reads_saltctls_file_alone(
    program: str, kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The options keep the user's files out; other shells are replaced by bash."""
    for name in ("bash", "zsh", "fish", "dash", "tcsh"):
        (tmp_path / name).write_text("#!/bin/sh\n")
        (tmp_path / name).chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path))
    variables = {"SALTCTL_REDIS_URL": "redis://:p'w@127.0.0.1", "PS1": "hostile$ ", "PATH": "/bin"}
    variables |= {"HISTFILE": "/home/me/.history", "XDG_DATA_HOME": "/home/me/it's"}
    command, environ = shell_command(program, variables, tmp_path)
    files = {"bash": f"--noprofile --rcfile {tmp_path}/bash.rc", "zsh": "-d", "sh": ""}
    files["fish"] = f"--no-config --init-command 'source {tmp_path}/fish.rc'".replace("'", "")
    assert Path(command[0]).name == ("dash" if kind == "sh" else kind)
    assert " ".join(command[1:]) == files[kind]
    assert environ["SHELL"] == command[0]
    assert environ["HISTFILE"] == f"{tmp_path}/history"
    assert environ["XDG_DATA_HOME"] == (str(tmp_path) if kind == "fish" else "/home/me/it's")
    assert environ.get("ZDOTDIR") == (str(tmp_path) if kind == "zsh" else None)
    assert environ.get("PS1") == ("(saltctl local) $ " if kind == "sh" else None)
    if kind != "sh":
        content = (tmp_path / (".zshrc" if kind == "zsh" else f"{kind}.rc")).read_text()
        assert "(saltctl local) " in content
        assert "_SALTCTL_COMPLETE" in content
        assert (f"export HISTFILE={tmp_path}/history\n" in content) == (kind != "fish")
        assert ("set -e XDG_CONFIG_HOME\nset -gx XDG_DATA_HOME '/home/me/it\\'s'\n" in content) == (kind == "fish")
        assert (f"export SALTCTL_REDIS_URL={shlex.quote(variables['SALTCTL_REDIS_URL'])}" in content) == (
            kind != "fish"
        )


def type_lines(lines: list[str], variables: dict[str, str]) -> tuple[int, str]:
    """Type lines into ``local shell`` at a terminal, each after its prompt; return the exit code and the screen."""
    code = UNSEEDED
    leader, follower = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", code, "local", "shell"],
        stdin=follower,
        stdout=follower,
        stderr=follower,
        env={**os.environ, **variables, "TERM": "dumb"},
        start_new_session=True,
    )
    os.close(follower)
    screen, typed = bytearray(), 0
    try:
        while True:
            try:
                screen += os.read(leader, 65536)
            except OSError:  # all of its users have ended
                break
            prompts = len(re.findall(rb"\(saltctl local\) [^\n]*[#$] ", screen))
            if typed < min(prompts, len(lines)):
                os.write(leader, f"{lines[typed]}\r".encode())
                typed += 1
        return process.wait(timeout=30), screen.decode()
    finally:
        process.kill()
        process.wait()
        os.close(leader)


@pytest.mark.slow
@pytest.mark.parametrize("shell", ["/bin/bash", "/bin/sh"])
def test_start_up_files_cannot_lead_elsewhere(shell: str, tmp_path: Path) -> None:
    """A .bashrc that names another Redis is not read; one read by hand leads to a refusal. The history is kept."""
    if not Path(shell).exists():
        pytest.skip(f"{shell} is not installed")
    hostile = f"export SALTCTL_REDIS_URL={REMOTE} AWS_PROFILE=prod\nPS1='hostile> '\n"
    for name in (".bashrc", ".bash_profile", ".profile", ".shrc", ".zshrc"):
        (tmp_path / name).write_text(hostile)
    (history := tmp_path / ".bash_history").write_text("ls\n" * 600)
    start_up = str(tmp_path / ".bashrc")
    variables = {
        **dict.fromkeys(("ENV", "BASH_ENV"), start_up),
        "PROMPT_COMMAND": f". {start_up}",
        "HOME": str(tmp_path),
        "SHELL": shell,
        "HTTP_PROXY": "http://proxy.example",
        "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true",
        "PATH": os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]),
    }
    show = f"{sys.executable} -m saltctl registry get conv -o json"
    lines = [
        "env | grep -c -e prod -e proxy -e IGNORE",
        f"{show}; echo code=$?",
        f"SALTCTL_REDIS_URL={REMOTE} {show}; echo code=$?",
        "complete -p saltctl",
        "exit 4",
    ]
    code, screen = type_lines(lines, variables)
    assert code == 4, screen
    assert "hostile" not in screen
    assert history.read_text() == "ls\n" * 600
    assert re.findall(r"^(\d+|code=\d+)\r?$", screen, re.MULTILINE) == ["0", "code=0", "code=78"], screen
    assert ("-F _saltctl_completion saltctl" in screen) == (shell == "/bin/bash")


@pytest.mark.slow
def test_the_library_is_confined_and_descendants_end(tmp_path: Path) -> None:
    """An application in ``local run`` is refused another Redis; SIGTERM ends also what the command has started."""
    application = (
        "import saltctl, os\n"
        f"os.environ['SALTCTL_REDIS_URL'] = '{REMOTE}'\n"
        "try: saltctl.Registry.open().lookup('conv')\n"
        "except saltctl.SaltctlError as exc: print(exc.exit_code, exc)\n"
    )
    sleeping = tmp_path / "pid"
    script = f"{shlex.join([sys.executable, '-c', application])}; sleep 600 & echo $! > {sleeping}.new; "
    script += f"mv {sleeping}.new {sleeping}; wait"
    command: list[Any] = [sys.executable, "-c", UNSEEDED, "local", "run", "--", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not sleeping.exists():
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.terminate()
        out, _ = process.communicate(timeout=60)
    assert out.startswith("78 the local environment refuses the endpoint 'prod.example'")
    pid = int(sleeping.read_text())
    stat = Path(f"/proc/{pid}/stat")
    while stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z":
        assert time.monotonic() < deadline
        time.sleep(0.02)
