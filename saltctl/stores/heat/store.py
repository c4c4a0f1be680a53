"""The base of the stores of detection: one key in Redis, and commands about it."""

from __future__ import annotations

from typing import Any, ClassVar

from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.scripts import script


class HeatStore:
    """The key ``{prefix}:{name}``. All methods raise RedisUnavailableError and AccessDeniedError; none retries."""

    name: ClassVar[str]

    def __init__(self, settings: Settings) -> None:
        self.key = f"{settings.key_prefix}:{self.name}"
        self._connections = Connections(settings, timeout=settings.redis_timeout, retries=0)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _ask(self, *command: Any) -> Any:
        """Send one command and return its raw reply."""
        return self._connections.ask_of(self.key, [command])[0]

    def _run_script(self, name: str, *arguments: Any) -> Any:
        # EVAL instead of EVALSHA: the script needs no loading, and no reloading after a restart.
        return self._ask("EVAL", script(name, "heat"), 1, self.key, *arguments)
