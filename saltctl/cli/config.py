"""``saltctl config show|path``."""

from __future__ import annotations

import os

import typer

from saltctl.cli import option
from saltctl.cli.output import columns_of, print_result
from saltctl.cli.session import session_of

group = typer.Typer(help="Show the current settings and where they come from.", no_args_is_help=True)
SHOW_COLUMNS = columns_of("name value origin", name="setting")
PATH_COLUMNS = columns_of("path exists")


@group.command("show")
def show(context: typer.Context, output: option.Output = None) -> None:
    """Show every setting with its value and its origin; passwords are masked.

    \b
    Examples:
      saltctl config show
      saltctl config show -o json
    """
    print_result(session_of(context).settings.describe(), output, columns=SHOW_COLUMNS)


@group.command("path")
def path(context: typer.Context, output: option.Output = None) -> None:
    """Show the path of the configuration file, and whether it exists.

    \b
    Examples:
      saltctl config path
    """
    from saltctl.settings import config_path

    found = config_path(os.environ, session_of(context).config)
    print_result({"path": str(found), "exists": found.exists()}, output, columns=PATH_COLUMNS)
