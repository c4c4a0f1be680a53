"""``saltctl conform``: a client in any language, tried on real local servers under faults."""

from __future__ import annotations

import os
import shutil
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from saltctl.cli import option
from saltctl.cli.formats.tables import print_unpadded
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.output import columns_of, console, print_result, resolve_format
from saltctl.errors import ExitCode, UsageError
from saltctl.stores.loopback import INSIDE

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from rich.console import Console

    from saltctl.conformance.trial import Checked

COLUMNS = columns_of("passed seed seconds checks")
FINDING_COLUMNS = columns_of("check passed ran rule step asked answered expected")
"""Of TSV and CSV, which have a row for each finding."""
EXAMPLE = "saltctl conform -- python3 -m saltctl.conformance.python_client"
ANSWER_SECONDS = 10.0


def conform(
    command: Annotated[list[str] | None, typer.Argument(metavar="-- CMD", help="The client and its arguments.")] = None,
    only: Annotated[list[str] | None, option.text("--only", "Run this check alone; may be repeated.", "CHECK")] = None,
    vectors: Annotated[bool, typer.Option("--vectors", help="Print test vectors as JSON, and try no client.")] = False,
    seed: Annotated[int, option.number("--seed", "Repeats what is random.", 0, 2**32 - 1)] = 1,
    answer_timeout: Annotated[
        float, option.duration("--answer-timeout", "How long an answer may take; 10s if omitted.")
    ] = ANSWER_SECONDS,
    output: option.Output = None,
) -> None:
    """Test whether a client in any language keeps the rules of `saltctl help client-protocol`.

    Starts a real Valkey and moto on loopback, and the client, which answers lines of JSON: see `saltctl help
    client-conformance`. Needs only the extra 'local'. Exits 3 if the client breaks a rule, and names it.

    \b
    Examples:
      saltctl conform -- python3 -m saltctl.conformance.python_client
      saltctl conform --vectors
    """
    if vectors:
        from saltctl.conformance.vectors import vectors_text

        if command or only:
            raise UsageError("--vectors prints test vectors, and tries no client", hint="saltctl conform --vectors")
        typer.echo(vectors_text(), nl=False)
        return
    if not command:
        raise UsageError("cannot try a client: its command is missing", hint=EXAMPLE)
    record = _try(command, only, seed, answer_timeout, people=resolve_format(output, listing=False) == "table")
    _print(record, output)
    if not record["passed"]:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _print(record: dict[str, Any], output: option.Output) -> None:
    if resolve_format(output, listing=False) in ("tsv", "csv"):
        rows = [row for check in record["checks"] for row in _rows(check)]
        print_result({"findings": rows}, output, columns=(), lists={"findings": FINDING_COLUMNS}, rows="findings")
    else:
        print_result(record, output, columns=COLUMNS, human_view=lambda screen: _show_verdict(screen, record))


def _rows(check: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Return a row for each finding of a check, or one without a finding."""
    known = {"check": check["name"], "passed": check["passed"], "ran": check["ran"]}
    none = dict.fromkeys(("rule", "step", "asked", "answered", "expected"), "")
    return [known | none | finding for finding in check["findings"] or [{}]]


def _try(
    command: Sequence[str], only: list[str] | None, seed: int, answer_timeout: float, *, people: bool
) -> dict[str, Any]:
    from saltctl.conformance.client import ClientProcess
    from saltctl.conformance.stage import Stage
    from saltctl.conformance.trial import CHECKS, run_trial
    from saltctl.local.environment import LocalEnvironment

    for name in only or ():
        if name not in CHECKS:
            raise UsageError(
                f"cannot run the check {name!r:.60}: there is none of this name",
                hint=f"the checks are {', '.join(CHECKS)}",
            )
    variables = _variables(os.environ)
    if shutil.which(command[0], path=variables["PATH"]) is None:
        raise UsageError(f"cannot run {command[0]!r:.100}: it is not found, or not executable", hint=EXAMPLE)
    screen, started, checks = console(stderr=not people), time.monotonic(), list[dict[str, Any]]()
    with LocalEnvironment() as environment, Stage(environment, seed) as stage:
        for checked in run_trial(stage, lambda: ClientProcess(command, variables, answer_timeout), only):
            checks.append(asdict(checked))
            if people or sys.stderr.isatty():
                _show(screen, checked)
    return {
        "passed": all(check["passed"] for check in checks),
        "seed": seed,
        "seconds": round(time.monotonic() - started, 3),
        "checks": checks,
    }


def _variables(environ: Mapping[str, str]) -> dict[str, str]:
    """Return the environment of the client: nothing leads it to other servers than those of its first request."""
    from saltctl.local.servers import dummy_credentials, without_server_settings

    nowhere = os.devnull
    path = os.pathsep.join([str(Path(sys.executable).parent), environ.get("PATH", os.defpath)])
    files = {"AWS_CONFIG_FILE": nowhere, "AWS_SHARED_CREDENTIALS_FILE": nowhere, "SALTCTL_CONFIG": nowhere}
    return {**without_server_settings(environ), **dummy_credentials(), **files, INSIDE: "1", "PATH": path}


def _show(screen: Console, checked: Checked) -> None:
    from rich.padding import Padding
    from rich.table import Table
    from rich.text import Text

    from saltctl.conformance.judge import shown

    line = Table.grid(padding=(0, 1))
    line.add_column(width=4)
    line.add_column()
    verdict = Text("ok", style="green") if checked.passed else Text("FAIL", style="bold red")
    body = Text(checked.name)
    if not checked.ran:
        body.append("\nnot run: the client ended or did not answer too often, or cannot look up", style="dim")
    if checked.note:
        body.append(f"\n{checked.note}", style="dim")
    for finding in checked.findings:
        body.append(f"\nrule {finding.rule} of saltctl help client-protocol: {printable(finding.step)}")
        for name in ("asked", "answered", "expected"):
            body.append(f"\n  {name + ':':9} {printable(shown(getattr(finding, name)))}", style="dim")
    if checked.more:
        body.append(f"\nand {checked.more} more", style="dim")
    line.add_row(verdict, body)
    print_unpadded(screen, Padding(line, (0, 0, 0, 2)))


def _show_verdict(screen: Console, record: Mapping[str, Any]) -> None:
    failed = [check["name"] for check in record["checks"] if not check["passed"]]
    if failed:
        screen.print(f"FAILED: {', '.join(failed)} ({record['seconds']:.1f} s)", style="bold red")
    else:
        count = counted(len(record["checks"]), "check")
        screen.print(f"passed: {count} in {record['seconds']:.1f} s", style="bold green")
