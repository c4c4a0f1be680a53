"""The command line of ``local shell``: a shell whose start-up files are saltctl's own."""

from __future__ import annotations

import re
import shlex
import shutil
from collections.abc import Mapping
from pathlib import Path

PROMPT = "(saltctl local) "
_PROGRAM = re.compile(r"(?:r?(bash)|(zsh)|(fish)|(?:d?a?)(sh))$")

# A file of the whole system may be read first. These lines undo it: variables, functions, aliases and hooks.
_BASH = """trap - DEBUG
unalias -a
unset -f saltctl aws redis-cli valkey-cli command_not_found_handle
unset PROMPT_COMMAND BASH_ENV ENV "${!AWS_@}" "${!SALTCTL_@}" "${!BOTO_@}"
unset http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
PS1=%(prompt)s'\\w \\$ '
"""
_ZSH = """unalias -a
unfunction saltctl aws redis-cli valkey-cli precmd preexec 2>/dev/null
precmd_functions=() preexec_functions=()
unset BASH_ENV ENV ${(k)parameters[(I)(AWS|SALTCTL|BOTO)_*]}
unset http_proxy https_proxy all_proxy no_proxy HTTP_PROXY HTTPS_PROXY ALL_PROXY NO_PROXY
PROMPT=%(prompt)s'%%~ %%# '
autoload -Uz compinit && compinit -i -D
"""
_FISH_DIRECTORIES = ("XDG_CONFIG_HOME", "XDG_DATA_HOME")
_FISH = """function fish_prompt; printf '%%s%%s> ' %(prompt)s (pwd); end
"""


def shell_command(
    program: str | None, variables: Mapping[str, str], directory: Path
) -> tuple[list[str], dict[str, str]]:
    """Return the command line of a shell and its environment variables.

    bash, zsh and fish read a file in ``directory`` and none of the user's. A plain sh reads none at all. Any other
    shell, or none, is replaced by bash or sh, because its start-up files are not known. The history is in
    ``directory``, too: without the user's settings, bash would cut theirs to 500 lines.
    """
    name, path = _choose(program)
    environ = {**variables, "SHELL": path, "HISTFILE": str(directory / "history")}
    if name == "sh":
        return [path], {**environ, "PS1": f"{PROMPT}$ "}
    environ.pop("PS1", None)
    file = directory / (".zshrc" if name == "zsh" else f"{name}.rc")
    file.touch(mode=0o600)
    file.write_text(_start_up_file(name, environ), encoding="utf-8", errors="surrogateescape")
    if name == "zsh":
        return [path, "-d"], {**environ, "ZDOTDIR": str(directory)}
    if name == "fish":
        return [path, "--no-config", "--init-command", f"source {shlex.quote(str(file))}"], {
            **environ,  # fish creates directories there; the file restores both
            **dict.fromkeys(_FISH_DIRECTORIES, str(directory)),
        }
    return [path, "--noprofile", "--rcfile", str(file)], environ


def _choose(program: str | None) -> tuple[str, str]:
    """Return the kind and the path of the shell to start."""
    path = shutil.which(program) if program else None
    match = _PROGRAM.match(Path(path).name) if path else None
    if path is None or match is None:
        path = shutil.which("bash")
        return ("bash", path) if path else ("sh", "/bin/sh")
    return match[match.lastindex or 0], path


def _start_up_file(name: str, variables: Mapping[str, str]) -> str:
    from typer.completion import get_completion_script  # type: ignore[attr-defined]  # as in cli/app.py

    lines = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}[name] % {"prompt": shlex.quote(PROMPT)}
    if name == "fish":  # it has read no other file
        for n in _FISH_DIRECTORIES:
            lines += f"set -gx {n} {_fish_quoted(variables[n])}\n" if n in variables else f"set -e {n}\n"
    else:
        names = ("PATH", "SHELL", "HISTFILE")
        kept = {n: v for n, v in variables.items() if n in names or n.startswith(("AWS_", "SALTCTL_"))}
        lines += "".join(f"export {n}={shlex.quote(v)}\n" for n, v in kept.items() if n.isidentifier())
    return lines + get_completion_script(prog_name="saltctl", complete_var="_SALTCTL_COMPLETE", shell=name)


def _fish_quoted(value: str) -> str:
    """Quote for fish, which knows a backslash between single quotes."""
    return "'" + value.replace("\\", "\\\\").replace("'", "\\'") + "'"
