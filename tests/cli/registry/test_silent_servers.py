"""Commands whose servers do not answer: each is asked once, and named."""

from __future__ import annotations

import pytest

from tests.cli.conftest import Runner
from tests.support.slow_servers import SlowServer


def test_registry_get_asks_each_silent_server_once(saltctl: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    """The registry's id, the entry and the other side: it does not wait for the same server again."""
    with SlowServer() as redis, SlowServer() as aws:
        environment = {
            "SALTCTL_REDIS_URL": f"redis://127.0.0.1:{redis.port}/0",
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{aws.port}",
            "AWS_REGION": "us-east-1",
            **{f"SALTCTL_{name}_TIMEOUT": "0.5" for name in ("REDIS", "AWS", "PAGE")},
        }
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        outcome = saltctl("registry", "get", "conv", "-o", "json")
        assert (outcome.code, outcome.error["code"]) == (69, "aws_unavailable")
        assert str(aws.port) in outcome.error["message"]
        assert aws.connections == 1
        assert redis.connections <= 3  # redis-py's retries of one request
        history = saltctl("history", "read", "conv", "-o", "json")
        assert (history.code, history.error["code"]) == (69, "aws_unavailable")
