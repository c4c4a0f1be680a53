"""``saltctl help``: the topics, and the hints that name one."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.cli.conftest import Runner

PACKAGE = Path(__file__).parents[2] / "saltctl"
TOPICS = {file.stem: file.read_text("utf-8") for file in (PACKAGE / "help").glob("*.txt")}


@pytest.mark.parametrize("topic", sorted(TOPICS))
def test_a_topic_is_printed_as_it_is(saltctl: Runner, topic: str) -> None:
    """The whole text."""
    assert saltctl("help", topic).out == TOPICS[topic]


def test_the_topics_are_listed_with_their_titles(saltctl: Runner) -> None:
    """In lines that fit a narrow terminal."""
    lines = saltctl("help").out.splitlines()
    assert [line.split(maxsplit=1) for line in lines] == [
        [topic, text.split("\n")[0]] for topic, text in sorted(TOPICS.items())
    ]
    assert max(map(len, lines)) <= 80


def test_an_unknown_topic_is_a_usage_error(saltctl: Runner) -> None:
    """The hint says how to see the topics, and the help of a command."""
    result = saltctl("help", "registry")
    assert result.code == 2
    assert "'registry'" in result.err
    assert "saltctl help lists them" in result.err


def test_every_topic_that_a_text_names_exists() -> None:
    """In messages, hints, and the topics themselves."""
    sources = [*PACKAGE.rglob("*.py"), *PACKAGE.rglob("*.txt"), PACKAGE.parent / "README.md"]
    named = {name for file in sources for name in re.findall(r"saltctl help ([a-z-]+)", file.read_text("utf-8"))}
    assert "redis-urls" in named
    assert named <= set(TOPICS) | {"lists"}
