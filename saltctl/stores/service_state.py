"""The latest raise of any service instance, for `saltctl service status`. Lost with Redis, and nobody minds."""

from __future__ import annotations

import json
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.connections import Connections
from saltctl.stores.redis_errors import redis_errors


class ServiceState:
    """``{prefix}:service``, a hash. Thread-safe. Methods raise RedisUnavailableError and AccessDeniedError."""

    def __init__(self, settings: Settings) -> None:
        self._key = f"{settings.key_prefix}:service"
        self._connections = Connections(settings, timeout=settings.redis_timeout, retries=0)
        self._primary = self._connections.primary_of(self._key)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _ask(self, *command: Any) -> Any:
        with redis_errors(self._primary):
            (reply,) = self._connections.ask_all(self._primary, [command])
            if isinstance(reply, Exception):
                raise reply
        return reply

    def note_raise(self, conversation_id: str, before: int, after: int, at: str, by: str) -> None:
        """Remember a raise as the latest."""
        raised = {"conversation_id": conversation_id, "before": before, "after": after, "at": at, "by": by}
        self._ask("HSET", self._key, "last_raise", json.dumps(raised))

    def last_raise(self) -> dict[str, Any] | None:
        """The latest raise; None where there was none since Redis was empty, or what stands there is no raise."""
        value = self._ask("HGET", self._key, "last_raise")
        try:
            found = json.loads(value) if value else None
        except ValueError:
            return None
        return found if isinstance(found, dict) else None
