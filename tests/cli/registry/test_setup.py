"""``saltctl setup``: idempotent, honest in a dry run."""

from __future__ import annotations

import pytest

from saltctl.settings import Settings
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.table import Table
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner, variables_of
from tests.cli.terminal import run_on_a_terminal

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


def test_setup_says_that_it_has_seen_a_sample(
    saltctl: Runner, fresh: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A table with more messages may hold salted ones. Once the registry exists, that does not matter any more."""
    monkeypatch.setattr("saltctl.stores.aws.messages_table.SAMPLE", 3)
    messages = MessagesTable(fresh)
    messages.create()
    for number in range(4):
        assert saltctl("setup", "--dry-run").err == ""
        messages.put("conv", f"2026-01-01T00:00:00Z#m{number}", {})
    assert "only 3 of about 4 messages" in saltctl("setup", "--dry-run").err
    assert "saltctl recover --dry-run" in saltctl("setup").err
    assert "messages" not in saltctl("setup").err


def test_without_a_messages_table_a_person_is_asked(saltctl: Runner, fresh: Settings) -> None:
    """A wrong name or Region would hide an older registry. Scripts are warned, and a dry run warns, too."""
    code, shown = run_on_a_terminal("setup", typed="\n", prompt=b"[y/N]")
    assert code == 6, shown
    assert f"there is no DynamoDB table '{fresh.messages_table}' in Region 'us-east-1'" in " ".join(shown.split())
    assert Table(fresh, fresh.backup_table).describe() is None
    assert "no message could show whether this registry existed before" in saltctl("setup", "--dry-run").err
    code, _ = run_on_a_terminal("setup", typed="y\n", prompt=b"[y/N]")
    assert code == 0
    assert Table(fresh, fresh.backup_table).describe() is not None
    assert "no message could show" not in saltctl("setup").err
