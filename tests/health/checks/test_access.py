"""Tests of the checks of permissions."""

from __future__ import annotations

from typing import Any

import pytest

from saltctl.health.checks.access import redis_permissions
from tests.health.fakes import FakeFacts


class _Permissive:
    """Every user may run nothing that it needs, and everything that it should not."""

    def user(self, primary: str) -> str:
        return "saltctl-service"

    def refused(self, primary: str, user: str, commands: dict[str, Any]) -> list[str]:
        return [name for name in commands if name[0] in "+("]


@pytest.mark.parametrize(
    ("facts", "words"),
    [
        ({"info": {}}, "redis-cli -h cache.example -p 6379 ACL SETUSER saltctl-app +evalsha"),
        ({"info": {"os": "Amazon ElastiCache"}}, "modify-user --user-id saltctl-app --append-access-string '+evalsha"),
        ({"info": {"os": "Amazon MemoryDB"}}, "aws memorydb update-user --user-name saltctl-app"),
        ({"info": {"os": "Google"}}, "Memorystore may refuse ACL SETUSER: give the user saltctl-app the rules"),
        ({"info": {}, "name": "c.redis.cache.windows.net:6380"}, "az redis access-policy update"),
        ({"info": {}, "without_config": True}, "this server may refuse ACL SETUSER"),
    ],
)
def test_users_of_managed_services_have_their_command(facts: dict[str, Any], words: str) -> None:
    """Missing rights and too many rights: ACL SETUSER is refused there."""

    class Managed(FakeFacts):
        redis: Any = _Permissive()
        layout: Any = "v2:1024:id"

    found = redis_permissions(Managed(**facts))
    assert found.status == "fail"
    assert words in found.fix
    assert "-script -flushall -flushdb" in found.fix
    assert ("redis-cli" in found.fix) is ("redis-cli" in words)


def test_refused_acl_commands_are_skipped() -> None:
    """If a managed server refuses ACL, the check is skipped."""

    class Refusing:
        def user(self, primary: str) -> str | None:
            return None

    class Managed(FakeFacts):
        redis: Any = Refusing()

    assert redis_permissions(Managed({})).status == "skip"
