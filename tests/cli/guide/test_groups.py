"""The help of the root and of the groups."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from saltctl.cli.app import COMMANDS, SECTIONS, build
from tests.cli.conftest import Runner
from tests.cli.tree import LEAVES, examples_of


def groups(command: object, path: str = "") -> Iterator[tuple[str, object]]:
    """Yield the names and the groups below a group, itself included."""
    if hasattr(command, "commands"):
        yield path, command
        for name, child in command.commands.items():
            yield from groups(child, f"{path} {name}".strip())


GROUPS = dict(groups(build()))
SENTENCES = {
    name: [" ".join(str(child.help).split("\n\n", 1)[0].split()) for child in group.commands.values()]  # type: ignore[attr-defined]
    for name, group in GROUPS.items()
}


@pytest.mark.parametrize("columns", [60, 80, 200])
@pytest.mark.parametrize("name", GROUPS)
def test_no_description_is_cut(saltctl: Runner, name: str, columns: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every command has its first sentence, whole, in lines that fit; only examples may be longer."""
    monkeypatch.setenv("COLUMNS", str(columns))
    out = saltctl(*name.split(), "--help").out
    words = " ".join(out.split())
    assert "..." not in words.replace("[ARGS]...", "")
    for sentence in SENTENCES[name]:
        assert re.split(r"(?<=\.) ", sentence)[0] in words
    assert all(len(line) <= columns for line in out.split("Examples:\n")[0].splitlines())


def test_the_root_lists_each_command_once_below_a_heading(saltctl: Runner) -> None:
    """In the order of SECTIONS, and nothing is left for the heading of the rest."""
    out = saltctl("--help").out
    assert sorted(name for names in SECTIONS.values() for name in names) == sorted(COMMANDS)
    headings = re.findall(r"^(\S.*):$", out, re.MULTILINE)
    assert headings == ["Options", *SECTIONS]
    listed = re.findall(r"^  ([a-z]+)  ", out.split("Inspect:\n")[1], re.MULTILINE)
    assert listed == [name for names in SECTIONS.values() for name in names]


@pytest.mark.parametrize("name", [name for name in GROUPS if name])
def test_a_group_shows_an_example_of_each_command(saltctl: Runner, name: str) -> None:
    """The first one in the help of the command, which is tested as it stands."""
    examples = saltctl(*name.split(), "--help").out.split("Examples:\n")[1].splitlines()
    assert [line.strip() for line in examples] == [
        examples_of(leaf)[0] for leaf in LEAVES if leaf.startswith(f"{name} ")
    ]


@pytest.mark.parametrize("name", LEAVES)
def test_arguments_are_named_as_people_write_them(saltctl: Runner, name: str) -> None:
    """Without typer's braces, doubled brackets and names of types."""
    out = saltctl(*name.split(), "--help").out
    assert not re.search(r"[{<]|\[\[|str\b|INTEGER|FLOAT|RANGE", out.split("Examples:")[0] + out.split("\nOptions:")[1])
    usage = " ".join(out.split("\n\n")[0].split())
    assert re.fullmatch(rf"Usage: saltctl {name} \[OPTIONS\]( \[?(-- )?[A-Z|-]+(\.\.\.)?\]?)*", usage)


@pytest.mark.parametrize("columns", ["60", "80"])
def test_lines_of_a_help_break_no_word(saltctl: Runner, columns: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither an option nor a verdict, which people copy; and descriptions have room beside the options."""
    monkeypatch.setenv("COLUMNS", columns)
    shown = {name: saltctl(*name.split(), "--help").out for name in (*LEAVES, *GROUPS)}
    broken = [line for text in shown.values() for line in text.splitlines() if re.search(r"\w-$|``", line)]
    assert broken == []
    assert "\n  -h, --help             Show this message and exit.\n" in shown["rebuild"]
    assert "[default: 1h]" in shown["throttle scan"]
    assert "\n    saltctl local shell\n" in shown[""]
    assert not re.search("[\ue000-\uf8ff]", "".join(shown.values()))


def test_usages_show_what_is_optional(saltctl: Runner) -> None:
    """In brackets; dots stand for more of the same."""
    commands = ("registry get", "registry set", "local run", "registry import", "service emit", "help")
    usages = [
        saltctl(*command.split(), "--help").out.splitlines()[0].partition(" [OPTIONS] ")[2] for command in commands
    ]
    assert usages == ["[CONV...]", "[CONV] [N]", "-- CMD...", "FILE|-", "KIND", "[TOPIC]"]


def test_numbers_name_their_range(saltctl: Runner) -> None:
    """So that nobody has to try."""
    assert "From 1 to 10,000." in " ".join(saltctl("stream", "peek", "--help").out.split())
    assert "From 0.1 to 1,000,000,000." in " ".join(saltctl("registry", "import", "--help").out.split())
