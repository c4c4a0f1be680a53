"""Facts for tests of checks, without servers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from saltctl.health.facts import Facts
from saltctl.settings import Settings
from saltctl.stores.redis.inspection import ServerInfo
from saltctl.stores.redis.replies.replicas import Replicas, connected_replicas

NAME = "cache.example:6379"
HEALTHY: dict[str, Any] = {
    "redis_version": "7.2.4",
    "role": "master",
    "connected_slaves": 0,
    "aof_enabled": 1,
    "aof_last_write_status": "ok",
    "aof_last_bgrewrite_status": "ok",
    "maxmemory_policy": "noeviction",
    "used_memory": 100,
    "maxmemory": 1000,
    "total_system_memory": 10_000,
}


class FakeFacts(Facts):
    """Facts about one server with the given INFO and CONFIG; no server is contacted."""

    def __init__(
        self,
        info: Mapping[str, Any],
        config: Mapping[str, str] | None = None,
        url: str = f"redis://{NAME}/0",
        replicas: Replicas | None = None,
        name: str = NAME,
        without_config: bool = False,
    ) -> None:
        super().__init__(Settings(redis_url=url))
        self.servers = [ServerInfo(name, {**HEALTHY, **info}, 0.001, 0.0)]
        self._config = config
        self._without_config = without_config
        self._replicas = replicas

    def config(self, primary: str) -> Mapping[str, str] | None:
        """Return the given answer of CONFIG GET."""
        return self._config

    def lacks_config(self, primary: str) -> bool:
        """Return whether the server was made without CONFIG."""
        return self._without_config

    def replicas(self, server: ServerInfo) -> Replicas:
        """Return the given replicas; by default those in INFO."""
        return self._replicas or connected_replicas(server.info)
