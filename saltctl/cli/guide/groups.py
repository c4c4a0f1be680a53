"""Groups of commands, and their help: every command with its whole first sentence, then an example of each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperGroup

_EXAMPLE = re.compile(r"^Examples:\n +(saltctl .*)$", re.MULTILINE)


class Group(TyperGroup):
    """A group of commands. ``sections`` are the headings of its help, each with the commands below it."""

    sections: ClassVar[Mapping[str, Sequence[str]]] = {}

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """Write the commands, at any width without cutting a description, and the examples."""
        listed = [name for names in self.sections.values() for name in names]
        sections = {**self.sections, "Commands": [name for name in self.commands if name not in listed]}
        for title, names in sections.items():
            rows = [(name, first_sentence(self.commands[name])) for name in names if name in self.commands]
            if rows:
                with formatter.section(title):
                    formatter.write_dl(rows)
        if not self.sections:
            with formatter.section("Examples"):
                for example in _examples(self):
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def new_group(about: str) -> typer.Typer:
    """Return a group without commands. ``about`` is the sentence that its help begins with."""
    return typer.Typer(cls=Group, help=about, no_args_is_help=True)


def first_sentence(command: Any) -> str:
    """Return the first sentence of a command's help, in one line."""
    paragraph = inspect.cleandoc(command.help or "").split("\n\n")[0]
    return re.split(r"(?<=\.)\s", " ".join(paragraph.split()))[0]


def _examples(group: Any) -> Iterator[str]:
    """Yield the first example of each command below a group."""
    for command in group.commands.values():
        if hasattr(command, "commands"):
            yield from _examples(command)
        elif found := _EXAMPLE.search(inspect.cleandoc(command.help or "")):
            yield found[1].strip()
