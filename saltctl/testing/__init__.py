"""Test doubles and pytest fixtures for applications that use saltctl.

In memory, without servers: ``MemoryServers`` has a real ``saltctl.Registry`` and a real ``saltctl.History`` over
stores in memory. They behave as in production, down to cursors, errors and the fallback to the backup::

    from saltctl.errors import RedisUnavailableError
    from saltctl.testing import MemoryServers

    def test_a_chat_survives_an_outage_of_redis():
        servers = MemoryServers()
        servers.registry.raise_to("conv_abc123", 4)
        servers.history.put("conv_abc123", "2026-07-01T08:00:00Z#m1", {"text": "hello"})
        servers.redis.fail(RedisUnavailableError("down"))
        assert servers.registry.lookup("conv_abc123").source == "backup"
        assert [m.attributes["text"] for m in servers.history.messages("conv_abc123")] == ["hello"]

With pytest, put ``pytest_plugins = ["saltctl.testing"]`` into the top ``conftest.py``, or import the fixtures there:

- ``saltctl_memory``, ``saltctl_registry``, ``saltctl_history``: new ``MemoryServers`` for each test, and its parts;
- ``saltctl_environment``: real servers on loopback for the test run (needs the extra ``local``);
- ``saltctl_settings``: settings for tables and a registry of the test's own on these servers, verified and empty.
  The environment variables lead there, too, so ``Registry.open()`` and ``History.open()`` need no arguments.

Tests of coroutines await ``servers.aio_registry`` and ``servers.aio_history``, the objects of ``saltctl.aio``.

The classes and ``local_environment``, a context manager of real servers, need no pytest. Without it the fixtures do
not exist.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import TYPE_CHECKING

from saltctl.testing.messages import MemoryMessages
from saltctl.testing.registry import Faults, MemoryBackup, MemoryRedis
from saltctl.testing.servers import MemoryServers, local_environment

__all__ = ["Faults", "MemoryBackup", "MemoryMessages", "MemoryRedis", "MemoryServers", "local_environment"]

if TYPE_CHECKING or find_spec("pytest") is not None:  # with __getattr__ a type checker would accept any name
    from saltctl.testing import fixtures
    from saltctl.testing.fixtures import *  # noqa: F403

    __all__ += fixtures.__all__
else:

    def __getattr__(name: str) -> object:
        """Explain why a fixture is missing."""
        if name.startswith("saltctl_"):
            raise ImportError(f"the fixture {name} of saltctl.testing needs pytest: python3 -m pip install pytest")
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
