"""The pytest fixtures of :mod:`saltctl.testing`."""

from __future__ import annotations

import os
import uuid
from collections.abc import Iterator
from dataclasses import replace

import pytest

from saltctl.history.history import History
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import leads_elsewhere
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.testing.servers import MemoryServers, local_environment

__all__ = ["saltctl_environment", "saltctl_history", "saltctl_memory", "saltctl_registry", "saltctl_settings"]


@pytest.fixture
def saltctl_memory() -> Iterator[MemoryServers]:
    """Redis, backup table and messages table in memory, new for each test."""
    servers = MemoryServers()
    yield servers
    servers.close()


@pytest.fixture
def saltctl_registry(saltctl_memory: MemoryServers) -> Registry:
    """A registry in memory, new for each test."""
    return saltctl_memory.registry


@pytest.fixture
def saltctl_history(saltctl_memory: MemoryServers) -> History:
    """A history in memory, over the registry of ``saltctl_registry``."""
    return saltctl_memory.history


@pytest.fixture(scope="session")
def saltctl_environment() -> Iterator[LocalEnvironment]:
    """A real Valkey and moto's server on loopback, one for the test run; environment variables stay unchanged."""
    with local_environment() as environment:
        yield environment


@pytest.fixture
def saltctl_settings(saltctl_environment: LocalEnvironment, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Settings for an empty, verified registry and tables of the test's own; environment variables name them, too."""
    test = uuid.uuid4().hex[:8]
    settings = replace(
        saltctl_environment.settings,
        key_prefix=f"salt-{test}",
        backup_table=f"backup-{test}",
        messages_table=f"messages-{test}",
    )
    for name in filter(leads_elsewhere, list(os.environ)):
        monkeypatch.delenv(name)
    for name, value in saltctl_environment.variables(settings).items():
        monkeypatch.setenv(name, value)
    saltctl_environment.create_tables(settings)
    saltctl_environment.rebuild(settings)
    return settings
