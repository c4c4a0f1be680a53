"""Tests of fix commands: no secrets, and the same servers."""

from __future__ import annotations

import pytest

from saltctl.health.fix_commands import FixCommands
from saltctl.settings import Settings


@pytest.mark.parametrize(
    ("settings", "begins"),
    [
        (Settings(redis_url="redis://u:s3cret@h:1/0"), "redis-cli -h h -p 1 --user u --askpass GET x"),
        (
            Settings(redis_url="redis://h:1?username=u&password=s3cret"),
            "redis-cli -h h -p 1 --user u --askpass GET x",
        ),
        (Settings(redis_url="redis://u%40v:s3cret@h:1"), "redis-cli -h h -p 1 --user u@v --askpass GET x"),
        (
            Settings(redis_url="rediss://h:1?ssl_ca_certs=/ca.pem&ssl_certfile=/c&ssl_keyfile=/k&ssl_password=s3cret"),
            "redis-cli -h h -p 1 --tls --cacert /ca.pem --cert /c --key /k GET x",
        ),
        (Settings(redis_url="rediss://h:1/0"), "redis-cli -h h -p 1 --tls GET x"),
        (
            Settings(redis_url="redis://:s3cret@h:1/0", origins={"redis_url": "environment SALTCTL_REDIS_URL"}),
            'redis-cli -u "$(echo "$SALTCTL_REDIS_URL" | sed ',
        ),
    ],
)
def test_a_fix_contains_no_secret(settings: Settings, begins: str) -> None:
    """redis-cli reads the password from its source, or asks for it."""
    command = FixCommands(settings).redis_cli("h:1", "GET", "x")
    assert command.startswith(begins)
    assert "s3cret" not in command


def test_fixes_use_the_same_servers() -> None:
    """Commands contain the root options and the context's AWS settings, but not what the environment sets."""
    settings = Settings(aws_region="r", aws_profile="p", origins={"aws_profile": "environment AWS_PROFILE"})
    commands = FixCommands(settings, ["--context", "a b"])
    assert commands.saltctl("rebuild") == "saltctl --context 'a b' rebuild"
    assert commands.aws("sts", "get-caller-identity") == "aws sts get-caller-identity --region r"
