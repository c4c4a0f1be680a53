"""Commands that the controller sends to a Redis server itself."""

from __future__ import annotations

import time
from contextlib import suppress
from typing import Any

from saltctl.errors import RedisUnavailableError
from saltctl.local.servers import LocalRedis
from saltctl.stores.redis.errors import redis_errors
from tests.support.redis_servers import plain_client

ANSWER_SECONDS = 60.0


def admin(server: LocalRedis, *command: str) -> Any:
    """Send a command directly to a server, and retry until it answers: a busy machine makes servers slow."""
    deadline = time.monotonic() + ANSWER_SECONDS
    while True:
        client = plain_client(server)
        with client, suppress(RedisUnavailableError), redis_errors("the checker's server"):
            return client.execute_command(*command)
        assert time.monotonic() < deadline, f"the server did not answer {command[0]}"
