"""``saltctl setup``: idempotent, honest in a dry run."""

from __future__ import annotations

import pytest

from saltctl.settings import Settings
from saltctl.stores.aws.table import Table
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner, variables_of

pytestmark = pytest.mark.slow


@pytest.fixture
def fresh(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """Servers without any table or stream."""
    for name, value in variables_of(settings).items():
        monkeypatch.setenv(name, value)
    return settings


def _actions(saltctl: Runner, *args: str) -> list[str]:
    return [action["action"] for action in saltctl("setup", "--messages", *args, "-o", "json").json["actions"]]


def test_setup_creates_missing_resources_once(saltctl: Runner, fresh: Settings) -> None:
    """A dry run creates nothing, the first run everything, the second nothing."""
    assert _actions(saltctl, "--dry-run") == ["create"] * 4
    assert _actions(saltctl) == ["created"] * 4
    assert _actions(saltctl) == ["exists"] * 4
    assert HeatStream(fresh).group_exists()
    table = Table(fresh, fresh.backup_table).describe()
    assert table is not None
    assert table["DeletionProtectionEnabled"] is True


def test_an_interrupted_setup_is_completed(saltctl: Runner, fresh: Settings) -> None:
    """The next run creates only the missing resources."""
    HeatStream(fresh).create_group()
    assert _actions(saltctl) == ["created", "created", "exists", "created"]


def test_setup_says_that_redis_is_not_verified(saltctl: Runner, fresh: Settings) -> None:
    """A new Redis needs a rebuild before it answers, and setup says so."""
    assert "saltctl rebuild" in saltctl("setup").err
    saltctl("rebuild")
    assert saltctl("setup").err == ""
