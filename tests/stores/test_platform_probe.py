"""The probe of a live server: each clause is observed, refuted or unknown, and nothing of it stays."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.settings import Settings
from saltctl.stores.platform_probe import Clause, probe_platform
from tests.support.redis_stub import Command, RedisStub, bulk

ID = "a" * 40
INFO = f"# Server\r\nredis_version:7.2.0\r\nmaxmemory_policy:noeviction\r\nmaster_replid:{ID}\r\nrole:master\r\n"


def by_clause(clauses: list[Clause]) -> dict[str, str]:
    """Return the status of each clause."""
    return {clause.clause: clause.status for clause in clauses}


def test_a_real_server(settings: Settings, admin: Any) -> None:
    """Everything is observed, but for what cannot be; no key is left."""
    found = by_clause(probe_platform(settings))
    unknown = {name for name, status in found.items() if status == "unknown"}
    assert unknown == {"new-id-after-restart", "scripts-not-replicated"}
    assert set(found.values()) == {"observed", "unknown"}
    assert len(found) == 9
    assert not list(admin.scan_iter("*:probe:*"))


class OddServer:
    """A server that lacks one thing. ``more`` replies come first."""

    def __init__(self, more: dict[bytes, list[bytes]], info: str = INFO) -> None:
        self.more = more
        self.info = info
        self.loaded = False

    def answer(self, _: int, command: Command) -> bytes:
        """Answer one command."""
        name = command[0]
        if self.more.get(name):
            return self.more[name].pop(0)
        if name == b"INFO":
            return bulk(self.info)
        if name == b"SCRIPT":
            self.loaded = True
            import hashlib

            return bulk(hashlib.sha1(command[2]).hexdigest())  # noqa: S324  Redis names scripts so
        if name == b"EVALSHA":
            return bulk(self.info) if self.loaded else b"-NOSCRIPT No matching script.\r\n"
        return {b"PTTL": b":-1\r\n", b"HSET": b":1\r\n", b"DEL": b":1\r\n"}.get(name, RedisStub.OK)


OTHER_ID = INFO.replace(ID, "b" * 40)


@pytest.mark.parametrize(
    ("more", "info", "clause", "status"),
    [
        ({}, INFO, "evalsha", "observed"),
        ({b"EVALSHA": [bulk(INFO)]}, INFO, "noscript", "refuted"),
        ({b"EVALSHA": [b"-NOSCRIPT x\r\n", b"-ERR not allowed from script\r\n"]}, INFO, "evalsha", "refuted"),
        ({b"EVALSHA": [b"-NOSCRIPT x\r\n", b"-ERR not allowed from script\r\n"]}, INFO, "info-in-scripts", "unknown"),
        ({b"EVALSHA": [b"-NOSCRIPT x\r\n", bulk(OTHER_ID)]}, INFO, "info-in-scripts", "refuted"),
        ({b"INFO": [bulk(INFO), bulk(OTHER_ID)]}, INFO, "stable-id", "refuted"),
        ({}, INFO.replace(ID, "0" * 40), "stable-id", "refuted"),
        ({b"PTTL": [b":5000\r\n"]}, INFO, "no-ttl", "refuted"),
        ({b"PTTL": [b":-2\r\n"]}, INFO, "no-ttl", "unknown"),
        ({}, INFO.replace("noeviction", "allkeys-lru"), "no-eviction", "refuted"),
        ({}, INFO.replace("maxmemory_policy:noeviction\r\n", ""), "no-eviction", "unknown"),
        ({}, INFO.replace("policy:noeviction", "policy:"), "no-eviction", "unknown"),
        ({b"EVALSHA": [b"-NOPERM x\r\n"]}, INFO, "noscript", "unknown"),
        ({b"SCRIPT": [b"-NOPERM x\r\n"]}, INFO, "evalsha", "unknown"),
        ({}, INFO + "dragonfly_version:df-v1\r\n", "engine", "unknown"),
    ],
)
def test_an_odd_server(more: dict[bytes, list[bytes]], info: str, clause: str, status: str) -> None:
    """Only what was seen is observed."""
    server = OddServer({name: list(replies) for name, replies in more.items()}, info)
    with RedisStub(server.answer) as stub:
        assert by_clause(probe_platform(Settings(redis_url=stub.url)))[clause] == status


def test_a_key_that_stays_is_reported() -> None:
    """The user may lack the permission to delete it."""
    server = OddServer({b"DEL": [b"-NOPERM User x has no permission\r\n"]})
    with RedisStub(server.answer) as stub:
        clauses = probe_platform(Settings(redis_url=stub.url))
    (clause,) = [clause for clause in clauses if clause.clause == "no-ttl"]
    assert "was not deleted" in clause.detail
