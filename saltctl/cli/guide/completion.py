"""``saltctl completion``, and the names that shells complete: contexts, drills and checks.

Conversation ids are not completed: a key press must not read a registry of a million entries.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Iterable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from saltctl.errors import SaltctlError
from saltctl.settings import config_path, read_config

_PLAIN = re.compile(r"[A-Za-z0-9_.@%+/-]+")
"""Names that a shell takes as they are: the scripts evaluate what they read."""
_OPTION_WITH_VALUE = re.compile(r"(?:^|\s)(--[a-z-]+=)\S*$")
_ITEM = re.compile(r"""^(?:_arguments '\*: :\(\()?"|^(?=[^_"\n])""", re.MULTILINE)
"""Where a value begins in an answer: for zsh in quotes, the first one after a command; for others on its line."""
_ZSH_TAIL = """
if [ "$funcstack[1]" = "_saltctl" ]; then
  _saltctl_completion
else
  compdef _saltctl_completion saltctl
fi
"""


def complete_contexts(context: typer.Context, incomplete: str) -> list[str]:
    """Return the contexts of the configuration file in use, which ``--config`` may name; none if it cannot be read."""
    given: Any = context.find_root().params.get("config_file")
    try:
        path = config_path(os.environ, Path(given) if given else None)
        contexts = {} if path is None else read_config(path, required=False).contexts
    except SaltctlError:
        return []
    return list(_plain(contexts, incomplete))


def complete_drills(incomplete: str) -> list[str]:
    """Return the names of the drills."""
    from saltctl.local.drills import DRILLS

    return list(_plain(DRILLS, incomplete))


def complete_checks(incomplete: str) -> list[str]:
    """Return the names of the doctor's checks and of their groups."""
    from saltctl.health.doctor import check_names

    return list(_plain(check_names(), incomplete))


def _plain(names: Iterable[str], incomplete: str) -> Iterator[str]:
    return (name for name in names if name.startswith(incomplete) and _PLAIN.fullmatch(name))


def answer_shell(tree: Any) -> None:
    """Print what a shell asks for at a Tab, also for a value after ``=``, and exit as typer does.

    bash passes the option, ``=`` and the value as three words, and takes the value. The others pass one word, and take
    one; typer understands that, and answers with the value alone.
    """
    words = os.environ.get("COMP_WORDS", "").split("\n")
    at = len(words) - 2
    if words[at:-1] == ["="] and os.environ.get("COMP_CWORD") == str(at + 1):
        del words[at]
        os.environ |= {"COMP_WORDS": "\n".join(words), "COMP_CWORD": str(at)}
    option = _OPTION_WITH_VALUE.search(os.environ.get("_TYPER_COMPLETE_ARGS", ""))
    answer = io.StringIO()
    try:
        with redirect_stdout(answer):
            tree(prog_name="saltctl")
    finally:
        sys.stdout.write(_ITEM.sub(rf"\g<0>{option[1]}", answer.getvalue()) if option else answer.getvalue())


def completion(
    shell: Annotated[
        Literal["bash", "zsh", "fish", "powershell"],
        typer.Argument(metavar="SHELL", help="bash, zsh, fish or powershell."),
    ],
) -> None:
    """Print the script that makes a shell complete saltctl's commands.

    It completes commands, options and their choices, contexts, drills, checks and help topics. To install it, write
    it to the file that your shell reads, and start a new shell. The directory may not exist yet:

    \b
      bash  mkdir -p ~/.local/share/bash-completion/completions
            saltctl completion bash > ~/.local/share/bash-completion/completions/saltctl
      zsh   mkdir -p ~/.zfunc && saltctl completion zsh > ~/.zfunc/_saltctl
            and in ~/.zshrc, before compinit: fpath+=~/.zfunc
      fish  mkdir -p ~/.config/fish/completions
            saltctl completion fish > ~/.config/fish/completions/saltctl.fish
      powershell  saltctl completion powershell >> $PROFILE

    bash needs the package bash-completion; without it, write to a file that ~/.bashrc sources.

    \b
    Examples:
      saltctl completion bash
      saltctl completion zsh
    """
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # the only way in one process

    script = get_completion_script(prog_name="saltctl", complete_var="_SALTCTL_COMPLETE", shell=shell).strip()
    if shell == "zsh":
        # compinit runs the file at the first Tab, as the function _saltctl: it has to complete then.
        script = script.replace("\ncompdef _saltctl_completion saltctl", _ZSH_TAIL.rstrip("\n"))
    if shell == "powershell":
        # What Tab does for other commands is not ours to change, and not every host has PSReadLine.
        script = "\n".join(line for line in script.splitlines() if "PSReadLine" not in line)
    sys.stdout.write(script + "\n")
