"""Tests of the checks of permissions."""

from __future__ import annotations

from typing import Any

from saltctl.health.checks.access import redis_permissions
from tests.health.fakes import FakeFacts


def test_refused_acl_commands_are_skipped() -> None:
    """If a managed server refuses ACL, the check is skipped."""

    class Refusing:
        def user(self, primary: str) -> str | None:
            return None

    class Managed(FakeFacts):
        redis: Any = Refusing()

    assert redis_permissions(Managed({})).status == "skip"
