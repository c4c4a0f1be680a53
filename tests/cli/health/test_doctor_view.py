"""Tests of the human view of doctor."""

from __future__ import annotations

import shlex

import pytest

from saltctl.cli.health.doctor_view import pasteable


@pytest.mark.parametrize("width", [20, 40, 78])
def test_a_wrapped_command_is_the_same_command(width: int) -> None:
    """At any width, the lines together are the words of the command."""
    command = (
        """redis-cli -u "$(echo "$URL" | sed 's|a b|c|')" CONFIG SET a-long-name value && saltctl rebuild 'x  y'"""
    )
    lines = pasteable(command, width)
    joined = "\n".join(lines).replace("\\\n", "")
    assert shlex.split(joined) == shlex.split(command)
    assert width < 78 or max(map(len, lines)) <= width  # a word that is longer is not broken
