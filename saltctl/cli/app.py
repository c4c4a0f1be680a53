"""The command tree: the root's options, and the modules of the commands by name."""

from __future__ import annotations

from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperOption

from saltctl import __version__
from saltctl.cli import option
from saltctl.cli.guide.completion import complete_contexts
from saltctl.cli.guide.groups import Commands, Group
from saltctl.cli.hints import root_options
from saltctl.cli.session import Session

HELP = """Operate the salted partitions of a chat service.

Inspect and raise registry entries, rebuild Redis from its backup, and watch what happens when it dies.

\b
Nothing set up yet? Try everything on your own machine:
  saltctl local shell

\b
Exit codes:
  0 done             69 Redis or AWS is unavailable
  1 internal error   75 another process holds the lease
  2 usage            77 permission
  3 found something  78 configuration
  4 incomplete       124 timeout
  6 refused          128 + n signal n
"""

COMMANDS = {
    "setup": "registry.setup",
    "registry": "registry.registry",
    "history": "history.history",
    "rebuild": "rebuild.rebuild",
    "recover": "registry.recover",
    "compare": "registry.compare",
    "service": "detection.service",
    "stream": "detection.stream",
    "throttle": "throttling.throttle",
    "status": "health.status",
    "doctor": "health.doctor",
    "canary": "canary.canary",
    "incident": "health.incident",
    "heat": "detection.heat",
    "local": "local.local",
    "drill": "local.drill",
    "conform": "local.conform",
    "config": "config.config",
    "help": "guide.topics",
    "completion": "guide.completion",
}
"""The commands and groups, each with its module in saltctl.cli.

The command is an attribute of its module: a function of its name, or a Typer application ``group``.
"""


SECTIONS = {
    "Inspect": ("status", "doctor", "canary", "incident", "heat", "registry", "history", "throttle"),
    "Recover": ("rebuild", "recover", "compare"),
    "Operate": ("setup", "service", "stream"),
    "Try out": ("local", "drill", "conform"),
    "Configure and learn": ("config", "completion", "help"),
}
"""The headings of the help, and the commands below each."""


class _Root(Group):
    sections = SECTIONS


@cache
def build(*, only: str | None = None, completion: bool = False) -> Any:
    """Build the command tree, once a process.

    Args:
        only: one of COMMANDS, or ``--version`` for none of them; all by default. To import and build all of them
            takes longer than most commands run.
        completion: add the code that shells call at run time.
    """
    app = Commands(
        name="saltctl",
        cls=_Root,
        help=HELP,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        add_completion=completion,
        no_args_is_help=True,
        context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    )
    app.callback()(_root)
    for name in COMMANDS if only is None else (only,) if only in COMMANDS else ():
        module = import_module(f"saltctl.cli.{COMMANDS[name]}")
        if hasattr(module, name):
            app.command(name)(getattr(module, name))
        else:
            app.add_typer(module.group, name=name)
    tree = typer.main.get_command(app)
    for parameter in tree.params:  # typer adds two with completion, and has no way to leave them out
        if isinstance(parameter, TyperOption) and parameter.name in ("install_completion", "show_completion"):
            parameter.hidden = True
    return tree


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"saltctl {__version__}")
        raise typer.Exit


def _root(
    context: typer.Context,
    name: Annotated[
        str | None,
        option.text("--context", "The context to use.", "NAME", autocompletion=complete_contexts),
    ] = None,
    config_file: Annotated[
        Path | None,
        typer.Option("--config", metavar="FILE", parser=option.parse_file, help="The configuration file to use."),
    ] = None,
    redis_url: Annotated[str | None, typer.Option(metavar="URL", help="Redis, without a password.")] = None,
    backup_table: Annotated[str | None, typer.Option(metavar="TABLE", help="The backup table.")] = None,
    messages_table: Annotated[str | None, typer.Option(metavar="TABLE", help="The messages table.")] = None,
    key_prefix: Annotated[str | None, typer.Option(metavar="PREFIX", help="The prefix of Redis keys.")] = None,
    verbose: Annotated[bool, typer.Option("--verbose", help="Show a traceback with an error.")] = False,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    tables = {"backup_table": backup_table, "messages_table": messages_table}
    context.obj = Session({"redis_url": redis_url, **tables, "key_prefix": key_prefix}, name, config_file)
    root_options.set(context.obj.root_options)
