"""What people want to know later: when Redis was verified, and the latest raises. Lost with Redis, and nobody minds."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.scripts import script

KEPT_RAISES = 8
"""The latest raises that are remembered here; the backup table remembers all of each conversation."""

_RAISE_KEYS = {"conversation_id", "before", "after", "at", "by"}


@dataclass(frozen=True, slots=True)
class Verification:
    """The latest rebuild that verified Redis: when, in seconds since the epoch, and which primaries.

    It says nothing about Redis now. But whoever finds a primary verified that still has one of these
    ``replication_ids`` knows that it has been so since then: only a rebuild verifies, and it leaves its note.
    """

    at: float
    replication_ids: tuple[str, ...]


class ServiceState:
    """``{prefix}:service``, a hash. Thread-safe. Methods raise RedisUnavailableError and AccessDeniedError."""

    def __init__(self, settings: Settings, *, connections: Connections | None = None) -> None:
        self._key = f"{settings.key_prefix}:service"
        self._connections = connections or Connections(settings, timeout=settings.redis_timeout, retries=0)

    def close(self) -> None:
        """Close the connections."""
        self._connections.close()

    def _ask(self, *command: Any) -> Any:
        return self._connections.ask_of(self._key, [command])[0]

    def note_verified(self, replication_ids: Sequence[str], at: float) -> None:
        """Remember a rebuild that verified these primaries."""
        note = {"at": at, "replication_ids": list(replication_ids)}
        self._ask("HSET", self._key, "verified", json.dumps(note))

    def verification(self) -> Verification | None:
        """The latest rebuild; None where there was none since Redis was empty, or what stands there is none."""
        found = _parsed(self._ask("HGET", self._key, "verified"))
        if found is None:
            return None
        at, ids = found.get("at"), found.get("replication_ids")
        if not isinstance(at, int | float) or not isinstance(ids, list):
            return None
        return Verification(float(at), tuple(str(each) for each in ids))

    def note_raise(self, conversation_id: str, before: int, after: int, at: str, by: str) -> None:
        """Remember a raise as the latest."""
        raised = {"conversation_id": conversation_id, "before": before, "after": after, "at": at, "by": by}
        self._ask("EVAL", script("note_raise", "heat"), 1, self._key, json.dumps(raised), KEPT_RAISES)

    def last_raise(self) -> dict[str, Any] | None:
        """The latest raise; None where there was none since Redis was empty, or what stands there is no raise."""
        return _parsed_raise(self._ask("HGET", self._key, "last_raise"))

    def last_raises(self) -> list[dict[str, Any]]:
        """The latest raises, the newest first; what stands there and is none is left out."""
        lines = (self._ask("HGET", self._key, "raises") or b"").split(b"\n")
        return [raised for line in lines if (raised := _parsed_raise(line)) is not None]


def _parsed_raise(value: Any) -> dict[str, Any] | None:
    found = _parsed(value)
    return found if found is not None and found.keys() >= _RAISE_KEYS else None


def _parsed(value: Any) -> dict[str, Any] | None:
    try:
        found = json.loads(value) if value else None
    except ValueError:
        return None
    return found if isinstance(found, dict) else None
