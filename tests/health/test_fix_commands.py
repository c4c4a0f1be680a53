"""Tests of fix commands: no secrets, and the same servers."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from saltctl.health.fix_commands import FixCommands
from saltctl.local.servers import LocalRedis
from saltctl.settings import Settings, load_settings
from tests.support.redis_servers import plain_client
from tests.support.tls import create_authority, start_front

IN_ENVIRONMENT = {"redis_url": "environment SALTCTL_REDIS_URL"}
SECRET = "s3cret:/ %$'\"@é"  # noqa: S105
"""A password that neither a shell nor a URL takes as it is."""


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (Settings(redis_url="redis://u:s3cret@h:1/0"), "redis-cli -h h -p 1 --user u --askpass GET x"),
        (
            Settings(redis_url="redis://h:1?username=u&password=s3cret", origins=IN_ENVIRONMENT),
            "redis-cli -h h -p 1 --user u --askpass GET x",
        ),
        (Settings(redis_url="redis://u%40v:s3cret@h:1/3"), "redis-cli -h h -p 1 -n 3 --user u@v --askpass GET x"),
        (
            Settings(redis_url="rediss://h:1?ssl_ca_certs=/ca.pem&ssl_certfile=/c&ssl_keyfile=/k&ssl_password=s3cret"),
            "redis-cli -h h -p 1 --tls --cacert /ca.pem --cert /c --key /k GET x",
        ),
        (
            Settings(redis_url="redis+sentinel://s/main/2?sentinel_password=s3cret"),
            "redis-cli -h h -p 1 -n 2 GET x",
        ),
        (Settings(redis_url="rediss://h:1/0?ssl_cert_reqs=none"), "redis-cli -h h -p 1 --tls --insecure GET x"),
        (
            Settings(redis_url="rediss://u@h:1", redis_iam="elasticache"),
            "redis-cli -h h -p 1 --tls --user u GET x",
        ),
        (
            Settings(redis_url="redis://u@h:1", redis_password_file=Path("/my file"), origins=IN_ENVIRONMENT),
            "REDISCLI_AUTH=\"$(cat '/my file')\" redis-cli -h h -p 1 --user u GET x",
        ),
        (Settings(), "redis-cli -h h -p 1 GET x"),
    ],
)
def test_a_fix_contains_no_secret(settings: Settings, expected: str) -> None:
    """redis-cli reads the password from its source, or asks for it."""
    assert FixCommands(settings).redis_cli("h:1", "GET", "x") == expected


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalRedis]:
    """Start a server with a socket and with users: one has a password, and one needs none."""
    directory = tmp_path_factory.mktemp("redis-cli")
    short = Path(tempfile.mkdtemp(prefix="saltctl-"))  # a socket's path has at most 107 bytes
    redis = LocalRedis(directory, options={"unixsocket": str(short / "redis.sock")})
    redis.start()
    with plain_client(redis) as client:
        client.acl_setuser("a$b", enabled=True, passwords=["+" + SECRET], categories=["+@all"], keys=["*"])
        client.acl_setuser("open", enabled=True, nopass=True, categories=["+@all"], keys=["*"])
        client.acl_setuser("default", enabled=True, reset_passwords=True, passwords=["+" + SECRET])
    try:
        yield redis
    finally:
        redis.kill()
        shutil.rmtree(short)


def whoami(environ: dict[str, str], place: str, directory: Path) -> str:
    """Paste a command that asks who is logged in, with a redis-cli that shows its arguments to the test."""
    tool = directory / "redis-cli"
    tool.write_text(f'#!/bin/sh\nprintf "%s\\n" "$@" >"$0.args"\nexec {shutil.which("redis-cli")} "$@"\n')
    tool.chmod(0o755)
    command = FixCommands(load_settings(environ=environ)).redis_cli(place, "ACL", "WHOAMI")
    variables = environ | {"PATH": f"{directory}{os.pathsep}{os.environ['PATH']}"}
    done = subprocess.run(["/bin/sh", "-c", command], env=variables, capture_output=True, text=True, check=True)
    assert not done.stderr
    for shown in (command, (directory / "redis-cli.args").read_text()):
        assert SECRET not in shown
        assert quote(SECRET, safe="") not in shown
    return done.stdout.strip()


@pytest.mark.skipif(shutil.which("redis-cli") is None, reason="redis-cli is not installed")
@pytest.mark.parametrize(
    ("scheme", "login", "user"),
    [
        ("redis", "a%24b:{}@", "a$b"),
        ("redis", ":{}@", "default"),
        ("redis", "open@", "open"),
        ("redis", "a%24b@", "a$b"),
        ("unix", "a%24b:{}@", "a$b"),
        ("rediss", "a%24b:{}@", "a$b"),
    ],
)
def test_redis_cli_logs_in_as_saltctl_does(
    server: LocalRedis, scheme: str, login: str, user: str, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """On a port, a socket, and with TLS; no list of processes shows the password."""
    login, query, name = login.format(quote(SECRET, safe="")), "", f"127.0.0.1:{server.port}"
    environ = {"HOME": str(tmp_path)}
    if user == "a$b" and ":" not in login:
        (file := tmp_path / "it's a file").write_text(SECRET + "\n")
        environ["SALTCTL_REDIS_PASSWORD_FILE"] = str(file)
    if scheme == "unix":
        name = server.options["unixsocket"]
    elif scheme == "rediss":
        name, query = request.getfixturevalue("tls_front")
    assert whoami(environ | {"SALTCTL_REDIS_URL": f"{scheme}://{login}{name}{query}"}, name, tmp_path) == user


@pytest.fixture(scope="module")
def tls_front(server: LocalRedis, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, str]]:
    """Start TLS in front of the server; yield its name, and the query of a URL that trusts it."""
    if (openssl := shutil.which("openssl")) is None:
        pytest.skip("openssl is not installed")
    create_authority(directory := tmp_path_factory.mktemp("tls"), openssl)
    front, port = start_front(server.port, directory)
    try:
        yield f"127.0.0.1:{port}", f"?ssl_ca_certs={directory / 'ca.crt'}"
    finally:
        with front:  # closes its pipe
            front.kill()


def test_fixes_use_the_same_servers() -> None:
    """Commands contain the root options and the context's AWS settings, but not what the environment sets."""
    settings = Settings(aws_region="r", aws_profile="p", origins={"aws_profile": "environment AWS_PROFILE"})
    commands = FixCommands(settings, ["--context", "a b"])
    assert commands.saltctl("rebuild") == "saltctl --context 'a b' rebuild"
    assert commands.aws("sts", "get-caller-identity") == "aws --region r sts get-caller-identity"
