"""``saltctl drill``: edge cases on real local servers."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from typing import Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.output import columns_of, console, print_result, resolve_format
from saltctl.cli.text import printable
from saltctl.errors import ExitCode, UsageError

COLUMNS = columns_of("passed scenarios")
LIST_COLUMNS = columns_of("name about", name="drill", about="scenario")


def drill(
    names: Annotated[list[str] | None, typer.Argument(metavar="[NAME...]", help="Drills to run; all if none.")] = None,
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
        return
    unknown = [name for name in names or () if name not in DRILLS]
    if unknown:
        raise UsageError(f"unknown drill {unknown[0]!r}", hint="saltctl drill --list")
    people = resolve_format(output) == "table"
    scenarios = [_run(name, people=people) for name in dict.fromkeys(names or DRILLS)]
    passed = all(scenario["passed"] for scenario in scenarios)
    print_result(
        {"passed": passed, "scenarios": scenarios},
        output,
        columns=COLUMNS,
        human_view=lambda screen: screen.print(_verdict(scenarios)),
    )
    if not passed:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _run(name: str, *, people: bool) -> dict[str, Any]:
    from saltctl.local.drills import DRILLS

    screen = console(stderr=not people)
    started = time.monotonic()
    if people or sys.stderr.isatty():
        screen.print(f"drill {name}: {DRILLS[name].about}", style="bold")
    steps = []
    for step in DRILLS[name].run():
        steps.append(asdict(step))
        _show(screen, step.what, step.ok, step.detail)
    return {
        "name": name,
        "passed": all(step["ok"] for step in steps),
        "seconds": round(time.monotonic() - started, 3),
        "steps": steps,
    }


def _show(screen: Any, what: str, ok: bool, detail: str) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    line = Table.grid(padding=(0, 1))
    line.add_column(width=4)
    line.add_column()
    body = Text(printable(what))
    if detail:
        body.append(f"\n{printable(detail, keep_newlines=True)}", style="dim")
    line.add_row(Text("ok", style="green") if ok else Text("FAIL", style="bold red"), body)
    screen.print(Padding(line, (0, 0, 0, 2)))


def _verdict(scenarios: list[dict[str, Any]]) -> Any:
    from rich.text import Text

    failed = [s["name"] for s in scenarios if not s["passed"]]
    seconds = sum(s["seconds"] for s in scenarios)
    if failed:
        return Text(f"FAILED: {', '.join(failed)} ({seconds:.1f} s)", style="bold red")
    count = len(scenarios)
    return Text(f"passed: {count} drill{'s' if count != 1 else ''} in {seconds:.1f} s", style="bold green")
