"""No command prints a password, whatever is wrong with the URL, the server or the endpoint."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from saltctl.cli.formats.text import without_passwords
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalRedis, free_port
from tests.cli.commands import COMMANDS
from tests.cli.conftest import Runner
from tests.support.aws_stub import AwsStub, refusal

SECRET = "Hunter2+cORRECT"  # noqa: S105  made up, and looked for in all output
ESCAPED = "Hunter2%2BcORRECT"
CALLS = list(dict.fromkeys((*c.name.split(), *c.args) for c in COMMANDS if not c.slow))
Variables = Callable[[LocalRedis, Path], dict[str, str]]


def _password_file(server: LocalRedis, directory: Path) -> dict[str, str]:
    file = directory / "password"
    file.write_text(SECRET)
    return {"SALTCTL_REDIS_URL": server.url, "SALTCTL_REDIS_PASSWORD_FILE": str(file)}


CASES: dict[str, Variables] = {
    "a server that refuses the password": lambda server, _: {
        "SALTCTL_REDIS_URL": f"redis://someone:{ESCAPED}@127.0.0.1:{server.port}/0"
    },
    "a server that refuses the password of a file": _password_file,
    "no server at the port": lambda *_: {"SALTCTL_REDIS_URL": f"redis://:{ESCAPED}@127.0.0.1:{free_port()}/0"},
    "a password in the query": lambda server, _: {
        "SALTCTL_REDIS_URL": f"redis://127.0.0.1:{server.port}/0?username=x&password={ESCAPED}&nonsense=1"
    },
    "a password that is not quoted": lambda server, _: {
        "SALTCTL_REDIS_URL": f"redis://:/{SECRET}#?@127.0.0.1:{server.port}/0"
    },
    "a port that is none": lambda *_: {"SALTCTL_REDIS_URL": f"redis://:{SECRET}@127.0.0.1:port/0"},
    "a host that is none": lambda *_: {"SALTCTL_REDIS_URL": f"rediss://:{SECRET}@[::1/0"},
    "a cluster that is none": lambda server, _: {
        "SALTCTL_REDIS_URL": f"redis+cluster://:{ESCAPED}@127.0.0.1:{server.port}"
    },
    "sentinels that are none": lambda server, _: {
        "SALTCTL_REDIS_URL": f"redis+sentinel://:{ESCAPED}@127.0.0.1:{server.port}/service"
    },
}


@pytest.fixture(scope="module")
def locked_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """A Redis with another password."""
    server = LocalRedis(tmp_path_factory.mktemp("locked") / "redis", password=SECRET[::-1])
    server.start()
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.parametrize("case", CASES)
def test_no_command_shows_a_password(
    case: str,
    saltctl: Runner,
    locked_server: LocalRedis,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Every command fails because of Redis, with tracebacks on; AWS's endpoint and key are secrets, too."""
    variables = CASES[case](locked_server, tmp_path) | {
        "AWS_ENDPOINT_URL": f"http://someone:{ESCAPED}@127.0.0.1:{free_port()}",
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_SESSION_TOKEN": SECRET,
        "AWS_MAX_ATTEMPTS": "1",
        "SALTCTL_AWS_TIMEOUT": "0.2",
        "SALTCTL_REDIS_TIMEOUT": "0.5",
    }
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("time.sleep", lambda seconds: None)  # botocore pauses before it tries again
    for call in CALLS:
        outcome = saltctl("--verbose", *call)
        shown = outcome.out + outcome.err
        for secret in (SECRET, ESCAPED):
            assert secret not in shown, f"saltctl {' '.join(call)} shows it"


def test_a_password_that_is_shown_would_be_noticed(saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """Config show prints settings that are not secret: the tests above would find a secret there."""
    monkeypatch.setenv("SALTCTL_ACTOR", SECRET)
    assert SECRET in saltctl("config", "show").out


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("at http://u:p@h:1/x, and redis://:p/@#@h", "at http://u:***@h:1/x, and redis://:***@h"),
        ("http://127.0.0.1:80/ mail@example", "http://127.0.0.1:80/ mail@example"),
        ("no URL: a:b@c", "no URL: a:b@c"),
    ],
)
def test_passwords_in_urls_are_masked(text: str, shown: str) -> None:
    """The rest of the string is unchanged."""
    assert without_passwords(text) == shown


@pytest.mark.parametrize(
    "variable",
    ["SALTCTL_ACTOR", "SALTCTL_REDIS_PASSWORD_FILE", "AWS_PROFILE", "SALTCTL_MESSAGE_ID_FROM"],
)
def test_a_password_in_a_setting_that_is_shown_is_refused(
    variable: str, saltctl: Runner, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A URL in the wrong variable is neither printed nor recorded with raises."""
    monkeypatch.setenv(variable, f"attribute:redis://:{SECRET}@127.0.0.1")
    outcome = saltctl("config", "show")
    assert outcome.code == 78
    assert "only redis_url may contain one" in outcome.err
    assert SECRET not in outcome.out + outcome.err


@pytest.mark.parametrize("form", ["table", "json"])
def test_a_server_that_quotes_the_request_shows_no_token(
    form: str, saltctl: Runner, seeded: LocalEnvironment, monkeypatch: pytest.MonkeyPatch
) -> None:
    """AWS quotes its canonical request, with the session token, if a signature is wrong."""
    token = "IQoJ" + "x" * 80
    quoted = f"The Canonical String should have been 'POST\n/\nx-amz-security-token:{token}\n\nhost'"
    with AwsStub(seeded.moto.url) as stub:
        stub.answer_always("Scan", refusal("InvalidSignatureException", message=quoted))
        monkeypatch.setenv("AWS_ENDPOINT_URL", stub.settings(seeded.settings).aws_endpoint_url or "")
        monkeypatch.setenv("AWS_SESSION_TOKEN", token)
        outcome = saltctl("--verbose", "registry", "list", "--source", "backup", "-o", form)
    assert outcome.code == 77
    assert "x-amz-security-token:***" in outcome.err
    assert token not in outcome.out + outcome.err
