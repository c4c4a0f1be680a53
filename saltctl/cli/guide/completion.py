"""``saltctl completion``."""

from __future__ import annotations

import sys
from typing import Annotated, Literal

import typer


def completion(
    shell: Annotated[Literal["bash", "zsh", "fish", "powershell"], typer.Argument(help="The shell.")],
) -> None:
    """Print the script that makes a shell complete saltctl's commands.

    \b
    Examples:
      saltctl completion bash
      saltctl completion zsh
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # the only way in one process

    # zsh accepts a script as a completion only if its very first line says so.
    script = get_completion_script(prog_name="saltctl", complete_var="_SALTCTL_COMPLETE", shell=shell)
    sys.stdout.write(script.strip() + "\n")
