"""``saltctl completion``: the scripts that shells load."""

from __future__ import annotations

import sys
from enum import StrEnum
from typing import Annotated

import typer


class Shell(StrEnum):
    """The shells that typer can complete in."""

    bash = "bash"
    zsh = "zsh"
    fish = "fish"
    powershell = "powershell"


def add_to(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command("completion")(completion)


def completion(shell: Annotated[Shell, typer.Argument(help="The shell.")]) -> None:
    """Print the script that makes a shell complete saltctl's commands.

    \b
    Examples:
      saltctl completion bash
      saltctl completion zsh
    """
    sys.stdout.write(script(shell))


def script(shell: Shell) -> str:
    """The completion script, as ``completions/`` has it."""
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # the only way in one process

    # zsh takes a script for a completion only if its very first line says so.
    text = get_completion_script(prog_name="saltctl", complete_var="_SALTCTL_COMPLETE", shell=shell.value)
    return text.strip() + "\n"
