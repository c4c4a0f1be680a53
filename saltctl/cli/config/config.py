"""``saltctl config``: the settings and the configuration file."""

from __future__ import annotations

import os
import sys
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated

import typer

from saltctl.cli import option
from saltctl.cli.formats.text import printable
from saltctl.cli.guide.completion import complete_contexts
from saltctl.cli.guide.groups import new_group
from saltctl.cli.output import Column, Record, columns_of, format_value, print_result, warn
from saltctl.cli.session import session_of
from saltctl.commands import command_line
from saltctl.errors import ConfigurationError
from saltctl.settings import NO_HOME, config_path

group = new_group("Show the settings and their origins, and choose a context.")


@group.command("show")
def show(context: typer.Context, output: option.Output = None) -> None:
    """Show every setting with its value and its origin; passwords are masked.

    \b
    Examples:
      saltctl config show
      saltctl config show -o json
    """
    columns = (*columns_of("name", name="setting"), Column("value", show=_as_typed), *columns_of("origin"))
    print_result(session_of(context).settings.describe(), output, columns=columns)


def _as_typed(record: Record) -> str:
    """Return the value of a setting as it is typed: a number without commas."""
    value = record["value"]
    return format_value(value).replace(",", "") if isinstance(value, int | float) else format_value(value)


@group.command("path")
def path(context: typer.Context, output: option.Output = None) -> None:
    """Print the path of the configuration file. A warning says if it does not exist.

    \b
    Examples:
      saltctl config path
      saltctl config path -o json
    """
    found = _path(context)
    session_of(context).names_place = False  # the path may be of no context
    exists = found.exists()

    def view(_: object) -> None:
        """Print the path alone, as ``$(saltctl config path)`` takes it."""
        text = str(found)
        sys.stdout.write(f"{printable(text) if sys.stdout.isatty() else text}\n")
        if not exists:
            warn("the configuration file does not exist", "saltctl config init")

    record = {"path": str(found), "exists": exists}
    print_result(record, output, columns=columns_of("path exists"), human_view=view)


@group.command("init")
def init(context: typer.Context, dry_run: option.DryRun = False, output: option.Output = None) -> None:
    """Create the configuration file, with a comment on each setting.

    Never overwrites a file (exit code 6). Only its owner can read it. To write another file than the one that
    `saltctl config path` names, put --config FILE before the command.

    \b
    Examples:
      saltctl config init --dry-run
      saltctl config init
    """
    from saltctl.cli.config.edit import create_config

    found = _path(context)
    create_config(found, dry_run=dry_run)
    record = {"path": str(found), "created": not dry_run, "dry_run": dry_run}
    print_result(record, output, columns=columns_of("path created dry_run"))


@group.command("use-context")
def use_context(
    context: typer.Context,
    name: Annotated[
        str, typer.Argument(metavar="NAME", help="A context of the file.", autocompletion=complete_contexts)
    ],
    dry_run: option.DryRun = False,
    output: option.Output = None,
) -> None:
    """Make a context the default: write default_context to the configuration file, and keep the rest as it is.

    --context and SALTCTL_CONTEXT override the default.

    \b
    Examples:
      saltctl config use-context staging --dry-run
      saltctl config use-context staging
    """
    from saltctl.cli.config.edit import change_default_context
    from saltctl.settings import context_hint, read_config

    found = _path(context)
    file = read_config(found, required=True)
    if name not in file.contexts:
        others = f"it has {', '.join(file.contexts)}" if file.contexts else "it has none"
        close = get_close_matches(name, file.contexts, 1)
        raise ConfigurationError(
            f"cannot use the context {name!r:.60}: {str(found)!r} has no such context; {others}",
            hint=command_line("config", "use-context", *close) if close else context_hint(name),
        )
    before = file.default_context
    if name != before:
        change_default_context(found, name, dry_run=dry_run)
    record = {"path": str(found), "before": before, "after": name, "changed": name != before, "dry_run": dry_run}
    print_result(record, output, columns=columns_of("path before after changed dry_run"))
    if (set_there := os.environ.get("SALTCTL_CONTEXT") or name) != name:
        warn(f"SALTCTL_CONTEXT is {set_there!r} in this shell, and overrides the default")


def _path(context: typer.Context) -> Path:
    """Return the path of the configuration file."""
    found = config_path(os.environ, session_of(context).config)
    if found is None:
        raise ConfigurationError("there is no configuration file", hint=NO_HOME)
    return found
