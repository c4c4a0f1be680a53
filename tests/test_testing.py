"""saltctl.testing, as an application's tests use it."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
import textwrap
from itertools import takewhile
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

import saltctl
import saltctl.aio
import saltctl.testing
from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import RedisUnavailableError, SortKeyTakenError, UsageError
from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.contracts.messages import Filter, MessageStore
from saltctl.stores.contracts.registry import BackupStore, RegistryStore
from saltctl.testing import MemoryBackup, MemoryMessages, MemoryRedis, MemoryServers

CONVERSATION = "conv_abc123"


def test_the_example_of_the_module_runs() -> None:
    """It imports what it uses."""
    names = _example(saltctl.testing)
    names["test_a_chat_survives_an_outage_of_redis"]()


def test_the_example_of_the_event_loop_runs(monkeypatch: pytest.MonkeyPatch, servers: MemoryServers) -> None:
    """It imports what it uses; objects in memory stand for those that it opens."""
    meter = WriteMeter(servers, clock=lambda: 0.25, thread=False)  # type: ignore[arg-type]  # it reports nothing
    monkeypatch.setattr("saltctl.aio.history.History.open", lambda: servers.aio_history)
    monkeypatch.setattr("saltctl.aio.write_meter.WriteMeter.open", lambda: saltctl.aio.WriteMeter(meter))
    asyncio.run(_example(saltctl.aio)["serve"]())
    after = MemoryServers(messages=servers.messages).history  # the example has closed the other one
    assert [message.message_id for message in after.messages(CONVERSATION)] == ["m1"]


def _example(module: ModuleType) -> dict[str, Any]:
    """Return the names of the first example in the documentation of a module."""
    lines = (module.__doc__ or "").partition("::\n\n")[2].splitlines()
    code = "\n".join(takewhile(lambda line: not line or line.startswith(" "), lines))
    names: dict[str, Any] = {}
    exec(compile(textwrap.dedent(code), module.__name__, "exec"), names)  # noqa: S102
    return names


@pytest.fixture
def servers() -> MemoryServers:
    """Servers in memory."""
    return MemoryServers()


def test_the_stores_keep_the_contracts() -> None:
    """A type checker proves that the stores have every method of their contracts."""
    stores: tuple[RegistryStore, BackupStore, MessageStore] = (MemoryRedis(), MemoryBackup(), MemoryMessages())
    assert all(stores)


def test_the_classes_are_the_public_ones(servers: MemoryServers) -> None:
    """Code under test gets what it gets in production."""
    assert type(servers.registry) is saltctl.Registry
    assert type(servers.history) is saltctl.History


def test_raises_and_lookups(servers: MemoryServers) -> None:
    """A raise is seen by lookups, of one and of many, and never lowered; completing it again changes nothing."""
    result = servers.registry.raise_to(CONVERSATION, 4, reason="test")
    assert (result.before, result.after, result.committed) == (1, 4, True)
    assert servers.registry.raise_to(CONVERSATION, 2).after == 4
    found = servers.registry.lookup_many([CONVERSATION, "other"])
    assert {i: (lookup.max_n, lookup.source) for i, lookup in found.items()} == {
        CONVERSATION: (4, "redis"),
        "other": (1, "redis"),
    }
    assert servers.registry.complete(CONVERSATION)
    assert not servers.registry.complete("other")


def test_an_application_with_an_event_loop(servers: MemoryServers) -> None:
    """It awaits the public classes of saltctl.aio, over the same stores; faults of the stores reach it."""

    async def use() -> list[str | None]:
        await servers.aio_registry.raise_to(CONVERSATION, 4)
        await servers.aio_history.put(CONVERSATION, "t#m1", {"text": "hello"})
        servers.redis.fail(RedisUnavailableError("down"))
        assert (await servers.aio_registry.lookup(CONVERSATION)).source == "backup"
        return [message.message_id async for message in servers.aio_history.messages(CONVERSATION)]

    assert (type(servers.aio_registry), type(servers.aio_history)) == (saltctl.aio.Registry, saltctl.aio.History)
    assert asyncio.run(use()) == ["m1"]
    assert servers.registry.lookup(CONVERSATION).max_n == 4


def test_an_outage_of_redis(servers: MemoryServers) -> None:
    """During an outage the backup answers; afterwards Redis does."""
    servers.registry.raise_to(CONVERSATION, 4)
    servers.redis.fail(RedisUnavailableError("down"))
    assert servers.registry.lookup(CONVERSATION).source == "backup"
    assert servers.registry.lookup(CONVERSATION).max_n == 4
    servers.redis.fail(None)
    assert servers.registry.lookup(CONVERSATION).source == "redis"


@pytest.mark.parametrize("keep_entries", [True, False])
def test_a_restart_of_redis(servers: MemoryServers, keep_entries: bool) -> None:
    """A restarted Redis is not verified, whatever it kept, until a rebuild."""
    servers.registry.raise_to(CONVERSATION, 4)
    servers.redis.restart(keep_entries=keep_entries)
    found = servers.registry.lookup(CONVERSATION)
    assert (found.max_n, found.source) == (4, "backup")
    servers.rebuild()
    found = servers.registry.lookup(CONVERSATION)
    assert (found.max_n, found.source) == (4, "redis")


def test_a_history_is_complete_and_in_order(servers: MemoryServers) -> None:
    """Messages from before and after a raise are read in order, in pages and by id."""
    keys = [f"2026-07-01T08:00:{number:02d}Z#m{number}" for number in range(12)]
    for number, key in enumerate(keys):
        if number == 6:
            servers.registry.raise_to(CONVERSATION, 4)
        assert servers.history.put(CONVERSATION, key, {"text": f"text {number}"}).written
    assert len({message.partition_key for message in servers.history.messages(CONVERSATION)}) > 1
    first = servers.history.page(CONVERSATION, ReadOptions(limit=5))
    second = servers.history.page(CONVERSATION, ReadOptions(limit=50, before=first.next_cursor))
    assert [message.sort_key for message in (*first.messages, *second.messages)] == keys[::-1]
    assert first.complete
    assert [len(page.messages) for page in servers.history.pages(CONVERSATION)] == [12]
    found = servers.history.find(CONVERSATION, "m3").message
    assert found is not None
    assert found.attributes["text"] == "text 3"
    servers.close()


def test_a_retried_put_writes_once(servers: MemoryServers) -> None:
    """A retry is recognised, and another message with the same sort key is refused."""
    servers = MemoryServers(Settings(message_id_from="attribute:id"))
    assert servers.history.put(CONVERSATION, "k", {"id": "m1"}).written
    assert not servers.history.put(CONVERSATION, "k", {"id": "m1"}).written
    with pytest.raises(SortKeyTakenError):
        servers.history.put(CONVERSATION, "k", {"id": "m2"})


def test_a_filter_is_never_ignored(servers: MemoryServers) -> None:
    """Equality is evaluated; for any other expression a test says which rows pass, or gets an error."""
    for number in range(4):
        servers.history.put(CONVERSATION, f"k#m{number}", {"number": number})
    options = ReadOptions(filter=Filter("#n > :n", {"#n": "number"}, {":n": {"N": "1"}}))
    equal = ReadOptions(filter=Filter("#n = :n", {"#n": "number"}, {":n": {"N": "1"}}))
    assert [m.attributes["number"] for m in servers.history.page(CONVERSATION, equal).messages] == [1]
    with pytest.raises(UsageError, match="does not evaluate the filter"):
        servers.history.page(CONVERSATION, options)
    servers.messages.passes = lambda item: int(item["number"]["N"]) > 1
    assert [m.attributes["number"] for m in servers.history.page(CONVERSATION, options).messages] == [3, 2]
    servers.close()


def test_settings_apply(servers: MemoryServers) -> None:
    """The limits and the actor are those of the settings."""
    servers = MemoryServers(Settings(max_n_cap=8, actor="alice"))
    servers.registry.raise_to(CONVERSATION, 8)
    assert servers.backup.items[CONVERSATION].raises[0].by == "alice"
    with pytest.raises(saltctl.SaltctlError, match="16"):
        servers.registry.raise_to(CONVERSATION, 16)


APPLICATION_TESTS = """
import os

from saltctl import History, Registry, load_settings


def test_memory(saltctl_registry, saltctl_history, saltctl_memory):
    saltctl_registry.raise_to("conv", 4)
    saltctl_history.put("conv", "k#m1", {"text": "hello"})
    assert saltctl_memory.registry is saltctl_registry
    assert [m.message_id for m in saltctl_history.messages("conv")] == ["m1"]


def test_memory_is_new_for_each_test(saltctl_registry):
    assert saltctl_registry.lookup("conv").max_n == 1


def test_real_servers(saltctl_settings):
    with Registry.open(saltctl_settings) as registry, History.open(saltctl_settings) as history:
        assert registry.lookup("conv").source == "redis"
        registry.raise_to("conv", 4)
        history.put("conv", "k#m1", {"text": "hello"})
        assert [m.message_id for m in history.messages("conv")] == ["m1"]


def test_real_servers_are_empty_for_each_test(saltctl_settings):
    assert load_settings(environ=os.environ).backup_table == saltctl_settings.backup_table
    with Registry.open() as registry:
        found = registry.lookup("conv")
        assert (found.max_n, found.source) == (1, "redis")


def test_other_tests_see_no_servers():
    assert "SALTCTL_REDIS_URL" not in os.environ
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "conftest",
    [
        'pytest_plugins = ["saltctl.testing"]',
        "from saltctl.testing import saltctl_environment, saltctl_history, saltctl_memory\n"
        "from saltctl.testing import saltctl_registry, saltctl_settings",
    ],
    ids=["plugin", "import"],
)
def test_the_fixtures_in_an_application(conftest: str, tmp_path: Path) -> None:
    """The fixtures work as a plugin and by import, on real servers and in memory."""
    (tmp_path / "conftest.py").write_text(conftest)
    (tmp_path / "test_application.py").write_text(APPLICATION_TESTS)
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(tmp_path)],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    assert "5 passed" in done.stdout


@pytest.mark.slow
def test_without_pytest_the_classes_work() -> None:
    """An application may use another test runner; a fixture that is missing says why."""
    code = (
        "import sys; sys.modules['pytest'] = None\n"
        "from saltctl.testing import MemoryServers\n"
        "print(MemoryServers().registry.raise_to('conv', 2).after)\n"
        "from saltctl.testing import saltctl_settings"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout == "2\n"
    assert "needs pytest" in done.stderr


def test_the_example_in_the_docstring_runs() -> None:
    """The usage in the module's docstring works as it stands."""
    import saltctl.testing

    assert saltctl.testing.__doc__ is not None
    _, _, rest = saltctl.testing.__doc__.partition("as in production, down to cursors, errors and the fallback")
    block = rest.partition("::\n\n")[2].partition("\n\nWith pytest")[0]
    source = "\n".join(line.removeprefix("    ") for line in block.splitlines())
    names: dict[str, object] = {"RedisUnavailableError": RedisUnavailableError}
    exec(compile(source, "example", "exec"), names)  # noqa: S102
    test = names["test_a_chat_survives_an_outage_of_redis"]
    assert callable(test)
    test()


def test_public_classes_are_registry_and_history() -> None:
    """The names of the package lead to the classes that the doubles are made of."""
    assert saltctl.Registry is Registry
    assert saltctl.History is History
