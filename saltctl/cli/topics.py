"""``saltctl help``: what to do and why, by topic."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.resources import files
from typing import Annotated

import typer

from saltctl.errors import UsageError


def _topics() -> dict[str, str]:
    """Return the texts of the topics by name, in the order of the alphabet."""
    found = (file for file in files("saltctl").joinpath("help").iterdir() if file.name.endswith(".txt"))
    return dict(sorted((file.name.removesuffix(".txt"), file.read_text("utf-8")) for file in found))


def _complete(incomplete: str) -> Iterator[str]:
    return (name for name in _topics() if name.startswith(incomplete))


def help(  # noqa: A001  the name of the command
    topic: Annotated[
        str | None, typer.Argument(help="The topic; without one, all are listed.", autocompletion=_complete)
    ] = None,
) -> None:
    """Explain a topic: what to do during an incident, and how saltctl works.

    \b
    Examples:
      saltctl help
      saltctl help redis-restarted
    """
    topics = _topics()
    if topic is None:
        width = max(map(len, topics))
        typer.echo("\n".join(f"{name:{width}}  {text.partition(chr(10))[0]}" for name, text in topics.items()))
    elif topic in topics:
        typer.echo(topics[topic], nl=False)
    else:
        raise UsageError(
            f"there is no topic {topic!r}", hint="saltctl help lists them; of a command: saltctl COMMAND --help"
        )
