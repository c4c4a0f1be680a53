"""State that is shown to operators: when Redis was verified, and the latest raises. It may be lost with Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.scripts import script

KEPT_RAISES = 8
"""Number of latest raises kept here. The backup table keeps the raises of each conversation."""
_RAISE_KEYS = {"conversation_id", "before", "after", "at", "by"}


@dataclass(frozen=True, slots=True)
class Verification:
    """The latest rebuild that verified Redis: the time, in seconds since the epoch, and the primaries.

    It does not prove that Redis is verified now. A verified primary that has one of these ``replication_ids`` has
    been verified since this time: only a rebuild verifies a primary, and each rebuild records it here.
    """

    at: float
    replication_ids: tuple[str, ...]


class ServiceState:
    """The hash ``{prefix}:service``. Thread-safe. All methods raise RedisUnavailableError and AccessDeniedError."""

    def __init__(self, settings: Settings, *, connections: Connections | None = None) -> None:
        self._key = f"{settings.key_prefix}:service"
        self._connections = connections or Connections(settings, timeout=settings.redis_timeout, retries=0)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _ask(self, *command: Any) -> Any:
        return self._connections.ask_of(self._key, [command])[0]

    def note_verified(self, replication_ids: Sequence[str], at: float) -> None:
        """Record a rebuild that verified these primaries."""
        note = {"at": at, "replication_ids": list(replication_ids)}
        self._ask("HSET", self._key, "verified", json.dumps(note))

    def verification(self) -> Verification | None:
        """Return the latest rebuild; None if none is recorded or the value is invalid."""
        found = _parse_object(self._ask("HGET", self._key, "verified"))
        if found is None:
            return None
        at, ids = found.get("at"), found.get("replication_ids")
        if not isinstance(at, int | float) or not isinstance(ids, list):
            return None
        return Verification(float(at), tuple(str(replication_id) for replication_id in ids))

    def note_raise(self, conversation_id: str, before: int, after: int, at: str, by: str) -> None:
        """Record a raise as the latest."""
        raised = {"conversation_id": conversation_id, "before": before, "after": after, "at": at, "by": by}
        self._ask("EVAL", script("note_raise", "heat"), 1, self._key, json.dumps(raised), KEPT_RAISES)

    def last_raise(self) -> dict[str, Any] | None:
        """Return the latest raise; None if none is recorded or the value is invalid."""
        return _parse_raise(self._ask("HGET", self._key, "last_raise"))

    def last_raises(self) -> list[dict[str, Any]]:
        """Return the latest raises, newest first. Invalid values are left out."""
        lines = (self._ask("HGET", self._key, "raises") or b"").split(b"\n")
        return [raised for line in lines if (raised := _parse_raise(line)) is not None]


def _parse_raise(value: Any) -> dict[str, Any] | None:
    found = _parse_object(value)
    return found if found is not None and found.keys() >= _RAISE_KEYS else None


def _parse_object(value: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(value) if value else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
