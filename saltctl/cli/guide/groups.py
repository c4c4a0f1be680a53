"""The help of commands, and of groups: every command with its whole first sentence, then an example of each."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import typer
from typer.core import TyperCommand, TyperGroup

_EXAMPLE = re.compile(r"^Examples:\n +(saltctl .*)$", re.MULTILINE)


_HYPHEN, _BLANK = "\ue000\ue001"
"""Stand for a hyphen and a blank while typer breaks lines: it would break ``--dry-run`` and ``[default: 1h]`` there."""
_NAME_CELLS = 26
"""The longest name of an option that descriptions stand beside; those of a longer one, with choices, are below it."""


class _Help:
    """The help of a command or a group, in which no line ends within a word with hyphens."""

    help: str | None

    def get_help(self, ctx: Any) -> str:
        """Return the help."""
        text: str = super().get_help(ctx)  # type: ignore[misc]
        return text.replace(_HYPHEN, "-").replace(_BLANK, " ")

    def format_help_text(self, ctx: Any, formatter: Any) -> None:
        """Write what the command does, and its examples."""
        formatter.write_paragraph()
        with formatter.indentation():
            formatter.write_text(_whole(inspect.cleandoc(self.help or "")))


def _write_rows(formatter: Any, rows: Sequence[tuple[str, str]]) -> None:
    """Write names with their descriptions beside them."""
    widest = max((len(name) for name, _ in rows if len(name) <= _NAME_CELLS), default=_NAME_CELLS)
    formatter.write_dl([(name, _whole(about)) for name, about in rows], col_max=widest)


def _whole(text: str) -> str:
    return re.sub(r"(\[default:) (?=\S+\])", rf"\1{_BLANK}", text.replace("-", _HYPHEN))


class Command(_Help, TyperCommand):
    """A command whose help names arguments as people write them: ``CONV...`` for typer's ``{CONV}... <list[str]>``."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """Return the words of the usage after the name of the command: an optional argument is in brackets."""
        names = [(argument_name(p), p.required) for p in self.get_params(ctx) if p.param_type_name == "argument"]
        return [self.options_metavar or "", *(name if required else f"[{name}]" for name, required in names)]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """Write the arguments, then the options, each with the name of its value or with its choices."""
        rows: dict[str, list[tuple[str, str]]] = {"Arguments": [], "Options": []}
        for param in self.get_params(ctx):
            if param.param_type_name == "argument":
                rows["Arguments"].append((argument_name(param), getattr(param, "help", None) or ""))
            elif (record := param.get_help_record(ctx)) is not None:
                rows["Options"].append((record[0].replace("<", "").replace(">", ""), record[1]))
        for title, section in rows.items():
            if section:
                with formatter.section(title):
                    _write_rows(formatter, section)


def argument_name(param: Any) -> str:
    """Return the name of an argument as people write it."""
    return str(param.metavar or param.name.upper()) + ("..." if param.nargs != 1 else "")


class Commands(typer.Typer):
    """A Typer application whose commands are of :class:`Command`."""

    def command(self, name: str | None = None, **options: Any) -> Callable[[Any], Any]:
        """Return the decorator of a command's function."""
        return super().command(name, **{"cls": Command, **options})


class Group(_Help, TyperGroup):
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
                    _write_rows(formatter, rows)
        if not self.sections:
            with formatter.section("Examples"):
                for example in _examples(self):
                    formatter.write(f"{'':{formatter.current_indent}}{example}\n")


def new_group(about: str) -> typer.Typer:
    """Return a group without commands. ``about`` is the sentence that its help begins with."""
    return Commands(cls=Group, help=about, no_args_is_help=True)


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
