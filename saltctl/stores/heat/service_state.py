"""State that is shown to operators: when Redis was verified, and the latest raises. It may be lost with Redis."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.stores.heat.store import HeatStore

KEPT_RAISES = 8
"""Number of latest raises kept here. The backup table keeps the raises of each conversation."""
_INSTANCE = "instance:"
_RAISE_KEYS = {"conversation_id", "before", "after", "at", "by"}


@dataclass(frozen=True, slots=True)
class Verification:
    """The latest rebuild that verified Redis: the time, in seconds since the epoch, the primaries, and its table.

    It does not prove that Redis is verified now. A verified primary that has one of these ``replication_ids`` has
    been verified since this time: only a rebuild verifies a primary, and each rebuild records it here. ``table``
    and ``region`` are those of the backup; empty if they are not recorded.
    """

    at: float
    replication_ids: tuple[str, ...]
    table: str = ""
    region: str = ""


class ServiceState(HeatStore):
    """The hash ``{prefix}:service``. Thread-safe."""

    name = "service"

    def note_verified(self, replication_ids: Sequence[str], at: float, table: str, region: str) -> None:
        """Record a rebuild that verified these primaries from a table in a Region."""
        note = {"at": at, "replication_ids": list(replication_ids), "table": table, "region": region}
        self._ask("HSET", self.key, "verified", json.dumps(note))

    def verification(self) -> Verification | None:
        """Return the latest rebuild; None if none is recorded or the value is invalid."""
        found = _parse(self._field("verified"), {"at", "replication_ids"}) or {}
        at, ids = found.get("at"), found.get("replication_ids")
        if not isinstance(at, int | float) or not isinstance(ids, list):
            return None
        table, region = (str(found.get(name, "")) for name in ("table", "region"))
        return Verification(float(at), tuple(map(str, ids)), table, region)

    def note_raise(self, conversation_id: str, before: int, after: int, at: str, by: str) -> None:
        """Record a raise as the latest."""
        raised = {"conversation_id": conversation_id, "before": before, "after": after, "at": at, "by": by}
        self._run_script("note_raise", json.dumps(raised), KEPT_RAISES)

    def note_instance(self, name: str, late: Sequence[str], at: float) -> None:
        """Record which parts of an instance have not done their work for a while."""
        self._ask("HSET", self.key, _INSTANCE + name, json.dumps({"late": list(late), "at": at}))

    def forget_instances(self, names: Sequence[str]) -> None:
        """Delete the records of instances that are gone."""
        if names:
            self._ask("HDEL", self.key, *(_INSTANCE + name for name in names))

    def late_parts(self, names: Sequence[str]) -> dict[str, list[str]]:
        """Return the late parts of these instances, by name; an instance without a valid record is left out."""
        if not names:
            return {}
        values = self._ask("HMGET", self.key, *(_INSTANCE + name for name in names))
        records = ((name, _parse(value, {"late"})) for name, value in zip(names, values, strict=True))
        return {n: list(map(str, r["late"])) for n, r in records if r is not None and isinstance(r["late"], list)}

    def last_raise(self) -> dict[str, Any] | None:
        """Return the latest raise; None if none is recorded or the value is invalid."""
        return _parse(self._field("last_raise"), _RAISE_KEYS)

    def last_raises(self) -> list[dict[str, Any]]:
        """Return the latest raises, newest first. Invalid values are left out."""
        lines = (self._field("raises") or b"").split(b"\n")
        return [raised for line in lines if (raised := _parse(line, _RAISE_KEYS)) is not None]

    def _field(self, name: str) -> bytes | None:
        [value] = self._ask("HMGET", self.key, name)  # HGET would take any string for its reply
        return value  # type: ignore[no-any-return]


def _parse(value: Any, keys: set[str]) -> dict[str, Any] | None:
    """Return the JSON object; None if it is missing, invalid or lacks a key."""
    try:
        found = json.loads(value) if value else None
    except ValueError:
        return None
    return found if isinstance(found, dict) and found.keys() >= keys else None
