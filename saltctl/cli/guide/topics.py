"""``saltctl help``: what to do and why, by topic."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from difflib import get_close_matches
from importlib.resources import files
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli.formats.text import printable
from saltctl.cli.hints import in_force
from saltctl.cli.output import console
from saltctl.cli.session import Session, session_of
from saltctl.commands import command_line, hint_of
from saltctl.errors import SaltctlError, UsageError
from saltctl.settings import Settings

if TYPE_CHECKING:
    from rich.text import Text

MAX_WIDTH = 100
"""Columns of a page on a wider terminal: longer lines are hard to read."""
_COMMAND = re.compile(r"(?P<lead> +(?:\d+\. )?)(?P<command>(?:saltctl|aws) (?:\S+ ?)+)")
_ITEM = re.compile(r" *(?:- |\d+\. |(?:\S+ )*\S+ {2,})?")
"""The beginning of a line: its indentation, and the mark of a list or the first column of a table."""
_VERBATIM = re.compile(r"^ +(?:[\[#{]|\w+=)", re.MULTILINE)
"""A line of a configuration file or of JSON: its block is printed as it is."""


def topics() -> dict[str, str]:
    """Return the texts of the topics by name, in the order of the alphabet."""
    found = (file for file in files("saltctl").joinpath("help").iterdir() if file.name.endswith(".txt"))
    return dict(sorted((file.name.removesuffix(".txt"), file.read_text("utf-8")) for file in found))


def _complete(incomplete: str) -> Iterator[str]:
    return (name for name in topics() if name.startswith(incomplete))


def help(  # noqa: A001  the name of the command
    context: typer.Context,
    topic: Annotated[
        str | None,
        typer.Argument(metavar="TOPIC", help="The topic; without one, all are listed.", autocompletion=_complete),
    ] = None,
) -> None:
    """Explain a topic: what to do during an incident, and how saltctl works.

    Commands and tables are those of the context in force.

    \b
    Examples:
      saltctl help
      saltctl help redis-restarted
    """
    known = topics()
    if topic is None:
        width = max(map(len, known))
        typer.echo("\n".join(f"{name:{width}}  {text.partition(chr(10))[0]}" for name, text in known.items()))
        return
    if topic not in known:
        root: Any = context.find_root().command
        raise _unknown(topic, known, [name for names in root.sections.values() for name in names])
    session, screen = session_of(context), console()
    session.names_place = False  # its names are those of the page
    for line in lay_out(fill(known[topic], session), min(screen.width, MAX_WIDTH)):
        screen.print(line, soft_wrap=True)


def _unknown(topic: str, known: Mapping[str, str], commands: Sequence[str]) -> UsageError:
    """Return the error for a word that is no topic: for a command, with its help and the topics that name it."""
    near = [name for name in known if len(topic) > 2 and topic in name] or get_close_matches(topic, known, 1, 0.75)
    hints = [command_line("help", name) for name in near]
    message = f"cannot explain {topic!r:.60}: there is no such topic"
    if topic not in commands:
        message += "; `saltctl COMMAND --help` explains a command"
        return UsageError(message, hint=hint_of(*hints) or command_line("help"))
    about = [name for name, text in known.items() if re.search(rf"saltctl {topic}\b", text) and name not in near]
    mention = f"topics that name it: {', '.join(about)}" if about else ""
    return UsageError(f"{message}; {topic} is a command", hint=hint_of(command_line(topic, "--help"), *hints, mention))


def fill(text: str, session: Session) -> str:
    """Put the tables and the root options of a session into a topic. Without valid settings they are the defaults."""
    try:
        settings = session.settings
    except SaltctlError:
        settings = Settings()
    for name in ("backup_table", "messages_table"):
        text = text.replace(f"{{{name}}}", printable(getattr(settings, name)))
    return in_force(text, session.root_options)


def lay_out(text: str, width: int) -> Iterator[Text]:
    """Yield the lines of a topic for a terminal: paragraphs filled, commands whole, headings bold."""
    from rich.text import Text

    blocks = text.rstrip("\n").split("\n\n")
    for number, block in enumerate(blocks):
        if number:
            yield Text("")
        lines = block.split("\n") if _VERBATIM.search(block) else list(_fill_lines(block, width))
        for at, line in enumerate(lines):
            heading = not line.startswith(" ") and at + 1 < len(lines) and lines[at + 1].startswith(" ")
            styled = Text(line, style="bold" if heading or (number == 0 and at == 0) else "")
            if command := _COMMAND.fullmatch(line):
                styled.stylize("bold cyan", command.start("command"))
            styled.highlight_regex("`[^`]+`", "cyan")
            yield styled


def _fill_lines(block: str, width: int) -> Iterator[str]:
    """Yield the lines of a block, its paragraphs and list items filled up to a width. Commands stay on their line.

    A text whose first column would leave it no third of the width stands below that column.
    """
    import textwrap

    first, hang, words = "", "", ""  # of the paragraph that is being collected; hang is that of the file

    def filled() -> list[str]:
        """Return the lines of the paragraph."""
        above, start, rest = [], first, hang
        if len(hang) > width * 2 // 3:
            rest = start = " " * (len(first) - len(first.lstrip()) + 3)
            above = [first.rstrip()] * bool(words)
        text = textwrap.wrap(
            words, width, initial_indent=start, subsequent_indent=rest, break_long_words=False, break_on_hyphens=False
        )
        return above + text

    for line in block.split("\n"):
        item = _ITEM.match(line)
        lead = item[0] if item else ""
        text = line[len(lead) :]
        alone = "  " in text or _COMMAND.fullmatch(line)
        if words and not alone and not lead.strip() and len(lead) == len(hang):
            words += f" {text}"
            continue
        yield from filled()
        first, hang, words = lead, " " * len(lead), text
        if alone:
            yield line
            words = ""
    yield from filled()
