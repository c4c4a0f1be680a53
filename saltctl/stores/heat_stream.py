"""The stream of heat reports and its consumer group."""

from __future__ import annotations

from typing import Any

from saltctl.settings import Settings
from saltctl.stores.connections import Connections
from saltctl.stores.redis_errors import redis_errors

GROUP = "saltctl"


class HeatStream:
    """``{prefix}:heat``. Thread-safe."""

    def __init__(self, settings: Settings) -> None:
        self.key = f"{settings.key_prefix}:heat"
        self.group = GROUP
        self._connections = Connections(settings, timeout=settings.redis_timeout, retries=2)
        self._primary = self._connections.primary_of(self.key)

    @property
    def _client(self) -> Any:
        return self._connections.client(self._primary)

    def group_exists(self) -> bool:
        """Whether the stream and its consumer group are there."""
        with redis_errors(self._primary):
            if not self._client.execute_command("EXISTS", self.key):
                return False
            groups = self._client.execute_command("XINFO GROUPS", self.key)
        names = {group["name"] if isinstance(group, dict) else group[1] for group in groups}
        return self.group.encode() in names or self.group in names

    def create_group(self) -> None:
        """Create the group at the stream's beginning, and the stream with it; no error where it exists."""
        import redis.exceptions as driver

        with redis_errors(self._primary):
            try:
                self._client.execute_command("XGROUP CREATE", self.key, self.group, "0", "MKSTREAM")
            except driver.ResponseError as exc:
                if not str(exc).startswith("BUSYGROUP"):
                    raise

    def append(self, fields: dict[str, str | int]) -> None:
        """Add one entry."""
        flat = [part for pair in fields.items() for part in pair]
        with redis_errors(self._primary):
            self._client.execute_command("XADD", self.key, "*", *flat)
