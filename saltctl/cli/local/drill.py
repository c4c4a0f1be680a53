"""``saltctl drill``: edge cases on real local servers."""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from difflib import get_close_matches
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.formats.tables import print_unpadded
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.guide.completion import complete_drills
from saltctl.cli.output import OutputFormat, columns_of, console, print_result, resolve_format
from saltctl.commands import command_line
from saltctl.errors import ExitCode, UsageError

if TYPE_CHECKING:
    from rich.console import Console

    from saltctl.local.drills.drill import Drill, Step

COLUMNS = columns_of("passed scenarios")
LIST_COLUMNS = columns_of("name about", name="drill", about="scenario")


def drill(
    names: Annotated[
        list[str] | None,
        typer.Argument(metavar="NAME", help="Drills to run; all if none.", autocompletion=complete_drills),
    ] = None,
    list_: Annotated[bool, typer.Option("--list", help="List the drills and run none.")] = False,
    output: option.Output = None,
) -> None:
    """Break servers on purpose in a local environment, and show that every read stays complete.

    Needs only the extra 'local'. Exits 3 if a step fails.

    \b
    Examples:
      saltctl drill --list
      saltctl drill redis-restart
    """
    from saltctl.local.drills import DRILLS

    if list_:
        print_result([{"name": d.name, "about": d.about} for d in DRILLS.values()], output, columns=LIST_COLUMNS)
    else:
        run_drills(DRILLS, names, output)


def run_drills(drills: Mapping[str, Drill], names: Sequence[str] | None, output: OutputFormat | None) -> None:
    """Run the drills that are named, each once, or all of them, and print the result.

    Raises:
        UsageError: no drill has this name.
        typer.Exit: a step failed.
    """
    for name in names or ():
        if name not in drills:
            close = get_close_matches(name, drills, 1)
            hint = command_line("drill", *close) if close else "saltctl drill --list"
            raise UsageError(f"cannot run the drill {name!r:.60}: there is none of this name", hint=hint)
    people = resolve_format(output, listing=False) == "table"
    scenarios = [_run(drills[name], people=people) for name in dict.fromkeys(names or drills)]
    failed = [scenario["name"] for scenario in scenarios if not scenario["passed"]]
    seconds = sum(scenario["seconds"] for scenario in scenarios)
    if failed:
        verdict, style = f"FAILED: {', '.join(failed)} ({seconds:.1f} s)", "bold red"
    else:
        verdict, style = f"passed: {counted(len(scenarios), 'drill')} in {seconds:.1f} s", "bold green"
    record = {"passed": not failed, "scenarios": scenarios}
    print_result(record, output, columns=COLUMNS, human_view=lambda screen: screen.print(verdict, style=style))
    if failed:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _run(drill: Drill, *, people: bool) -> dict[str, Any]:
    screen = console(stderr=not people)
    started = time.monotonic()
    if people or sys.stderr.isatty():
        screen.print(f"drill {drill.name}: {drill.about}", style="bold")
    steps = []
    for step in drill.run():
        steps.append(asdict(step))
        _show(screen, step)
    return {
        "name": drill.name,
        "passed": all(step["ok"] for step in steps),
        "seconds": round(time.monotonic() - started, 3),
        "steps": steps,
    }


def _show(screen: Console, step: Step) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    line.add_column(width=4)
    line.add_column()
    body = Text(printable(step.what))
    if step.detail:
        body.append(f"\n{printable(step.detail, keep_newlines=True)}", style="dim")
    line.add_row(Text("ok", style="green") if step.ok else Text("FAIL", style="bold red"), body)
    print_unpadded(screen, Padding(line, (0, 0, 0, 2)))
