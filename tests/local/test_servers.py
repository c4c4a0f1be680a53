"""Local servers: started, killed, damaged and started again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from saltctl.errors import UnavailableError
from saltctl.local.servers import LocalMoto, LocalRedis, dummy_credentials, free_port, without_server_settings
from saltctl.settings import Settings
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.redis.registry import RedisRegistry


@pytest.fixture
def server(tmp_path: Path) -> Iterator[LocalRedis]:
    """A server with a password that writes its AOF at once."""
    redis = LocalRedis(tmp_path / "redis", password="secret", options={"appendfsync": "always"})  # noqa: S106
    redis.start()
    yield redis
    redis.stop()


def entries(server: LocalRedis) -> dict[str, Entry | None]:
    """Return the entries of two conversations."""
    store = RedisRegistry(Settings(redis_url=server.url, buckets=64, registry_id="feed0123456789ab"))
    try:
        return store.read_unverified(["first", "second"])
    finally:
        store.close()


def merge(server: LocalRedis, conversation_id: str) -> None:
    """Write an entry."""
    store = RedisRegistry(Settings(redis_url=server.url, buckets=64, registry_id="feed0123456789ab"))
    store.merge(conversation_id, 4)
    store.close()


@pytest.mark.slow
def test_a_restart_keeps_port_and_data(server: LocalRedis) -> None:
    """A killed server returns on its port, with the data of its AOF and another process."""
    merge(server, "first")
    before = (server.port, server.pid)
    server.kill()
    assert server.pid is None
    server.start()
    assert server.port == before[0]
    assert server.pid not in (None, before[1])
    assert entries(server) == {"first": 4, "second": None}


@pytest.mark.slow
def test_a_deleted_aof_is_lost_data(server: LocalRedis) -> None:
    """A server without its AOF returns empty."""
    merge(server, "first")
    server.kill()
    server.delete_aof()
    server.start()
    assert entries(server) == {"first": None, "second": None}


@pytest.mark.slow
def test_a_truncated_aof_loses_its_tail(server: LocalRedis) -> None:
    """A server with a damaged AOF returns with the data before the damage."""
    merge(server, "first")
    merge(server, "second")
    server.kill()
    server.truncate_aof(10)
    server.start()
    assert entries(server) == {"first": 4, "second": None}


def test_a_taken_port_is_an_error(server: LocalRedis, tmp_path: Path) -> None:
    """A server that finds its previous port taken does not start, and does not take another port."""
    other = LocalRedis(tmp_path / "other", password=server.password)
    other.port = server.port
    with pytest.raises(UnavailableError, match="does not start"):
        other.start()
    assert other.pid is None


@pytest.mark.slow
def test_the_configuration_is_private(server: LocalRedis) -> None:
    """The password is readable for the owner alone."""
    assert server.directory.stat().st_mode & 0o077 == 0
    assert (server.directory / "server.conf").stat().st_mode & 0o077 == 0


def test_free_ports_are_usable() -> None:
    """A free port is a number of an unprivileged port."""
    assert 1024 <= free_port() < 65536


def test_variables_that_lead_elsewhere_are_removed() -> None:
    """Profiles, endpoints and credentials of AWS and contexts of saltctl are removed; other variables stay."""
    others = {"https_proxy": "x", "NO_PROXY": "*", "BASH_ENV": "x", "AWS_IGNORE_CONFIGURED_ENDPOINT_URLS": "true"}
    others |= {"AWS_PROFILE": "prod", "AWS_SESSION_TOKEN": "x", "SALTCTL_CONTEXT": "prod", "SALTCTL_CONFIG": "x"}
    assert without_server_settings({"PATH": "/bin"} | others) == {"PATH": "/bin"}
    assert not without_server_settings(others)
    assert dummy_credentials()["AWS_ACCESS_KEY_ID"] == "local"


def test_motos_server_names_its_cause_and_runs_no_file_of_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A numbers.py of the current directory is not executed; one on PYTHONPATH is, and its error is named."""
    (tmp_path / "numbers.py").write_text(
        f"open({str(tmp_path / 'ran')!r}, 'w').close()\nraise SystemExit('not moto')\n"
    )
    monkeypatch.chdir(tmp_path)
    server = LocalMoto()
    try:
        server.start()
        assert not (tmp_path / "ran").exists()
        server.stop()
        monkeypatch.setenv("PYTHONPATH", str(tmp_path), prepend=os.pathsep)
        with pytest.raises(UnavailableError, match="does not start: not moto"):
            server.start()
    finally:
        server.stop()
