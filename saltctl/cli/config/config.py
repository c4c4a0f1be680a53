"""``saltctl config``: the settings and the configuration file."""

from __future__ import annotations

import os

import typer

from saltctl.cli import option
from saltctl.cli.guide.groups import new_group
from saltctl.cli.output import columns_of, print_result
from saltctl.cli.session import session_of

group = new_group("Show the current settings and where they come from.")


@group.command("show")
def show(context: typer.Context, output: option.Output = None) -> None:
    """Show every setting with its value and its origin; passwords are masked.

    \b
    Examples:
      saltctl config show
      saltctl config show -o json
    """
    columns = columns_of("name value origin", name="setting")
    print_result(session_of(context).settings.describe(), output, columns=columns)


@group.command("path")
def path(context: typer.Context, output: option.Output = None) -> None:
    """Show the path of the configuration file, and whether it exists.

    \b
    Examples:
      saltctl config path
    """
    from saltctl.errors import ConfigurationError
    from saltctl.settings import NO_HOME, config_path

    found = config_path(os.environ, session_of(context).config)
    if found is None:
        raise ConfigurationError("there is no configuration file", hint=NO_HOME)
    print_result({"path": str(found), "exists": found.exists()}, output, columns=columns_of("path exists"))
