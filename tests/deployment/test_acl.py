"""The Redis users; tests/cli/detection/test_service.py tests what each of them may do."""

from __future__ import annotations

from saltctl.deployment.acl import ROLES, users
from saltctl.settings import Settings

SETTINGS = Settings(key_prefix="px")


def test_the_users_follow_the_settings() -> None:
    """The prefix of the keys is that in force."""
    assert "~px:heat" in users(SETTINGS)


def test_a_role_is_a_line_of_its_own() -> None:
    """The lines of all roles together are the file without a role."""
    lines = [users(SETTINGS, role) for role in ROLES]
    assert [line.split()[:2] for line in lines] == [["user", role] for role in ROLES]
    assert all(line.count("\n") == 1 for line in lines)
    assert "".join(lines) == users(SETTINGS)
