"""Commands of hints, as a shell understands them."""

from __future__ import annotations

import shlex
import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st

from saltctl.commands import command_line, join_words

ARGUMENT = st.text(st.characters(codec="utf-8", exclude_characters="\0"))


def test_a_command_can_be_pasted() -> None:
    """A shell parses it into the same words, whatever characters an id has; options without a value are left out."""
    conversation = "a b; $(touch x) `y` '\"\\ [/] &"
    options = {"--limit": 3, "--since": None, "--all": True, "--eventual": False, "--to": "0-1"}
    command = command_line("history", "read", ids=[conversation], given=options)
    expected = ["saltctl", "history", "read", conversation, "--limit", "3", "--all", "--to", "0-1"]
    assert shlex.split(command) == expected


def test_an_id_with_a_dash_comes_after_the_options() -> None:
    """It would be an option without the two dashes."""
    command = command_line("registry", "set", ids=["-dash", "4"], given={"--dry-run": True})
    assert command == "saltctl registry set --dry-run -- -dash 4"
    assert command_line("registry", "get", ids=["a-b"]) == "saltctl registry get a-b"


@pytest.mark.slow
@given(st.lists(ARGUMENT, min_size=1, max_size=20))
def test_a_shell_gets_the_words(words: list[str]) -> None:
    """Control characters, overrides and emoji, too. The command itself is printable."""
    command = join_words(["printf", r"%s\0", *words])
    assert command.isprintable()
    done = subprocess.run(  # noqa: S602  a shell is what is tested
        command, shell=True, executable="/bin/bash", capture_output=True, check=True, env={"LC_ALL": "C.UTF-8"}
    )
    assert done.stdout.decode().split("\0") == [*words, ""]


def test_a_byte_that_is_not_utf_8_is_that_byte() -> None:
    """As an argument of the command line may hold one."""
    assert join_words(["a\udcff'\\"]) == r"$'a\xff\'\\'"
