"""``saltctl doctor``."""

from __future__ import annotations

import os
import sys
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated

import typer

from saltctl.cli.output import OutputFormat, columns_of, print_result, resolve_format
from saltctl.cli.session import OutputOption, Session, session_of
from saltctl.errors import ConfigurationError, ExitCode, UsageError

if TYPE_CHECKING:
    from saltctl.health.findings import CheckResult

COLUMNS = columns_of("name status detail fix", name="check")


class Monitoring(StrEnum):
    """What monitoring reads."""

    nagios = "nagios"
    prometheus = "prometheus"


def add_to(app: typer.Typer) -> None:
    """Add the command to the tree."""
    app.command("doctor")(doctor)


def doctor(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Only this check, or group of checks: redis, backup, stream."),
    ] = None,
    form: Annotated[
        Monitoring | None, typer.Option("--format", help="For monitoring: a plugin's line, or metrics.")
    ] = None,
    output: OutputOption = None,
) -> None:
    """Check everything that has to be so, and print the command that mends what is not.

    Changes nothing. Exits 3 where a check fails; a warning or a check that cannot be made is no failure. With
    --format nagios it exits as a plugin does: 0 ok, 1 a warning, 2 a failure, 3 nothing could be checked.

    \b
    Examples:
      saltctl doctor
      saltctl doctor --only redis --only lease
      saltctl doctor --format prometheus
    """
    from saltctl.cli.health import doctor_view

    if form is not None and output is not None:
        raise UsageError("--format and --output are two ways to print one thing", hint="saltctl doctor --format nagios")
    results = _examine(session_of(context), only or [])
    failed = any(result.status == "fail" for result in results)
    if form is Monitoring.nagios:
        sys.stdout.write(doctor_view.nagios(results))
        raise typer.Exit(doctor_view.nagios_code(results))
    if form is Monitoring.prometheus:
        sys.stdout.write(doctor_view.prometheus(results))
    else:
        _print(results, output)
    if failed:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _examine(session: Session, only: list[str]) -> list[CheckResult]:
    from saltctl.health.doctor import run_checks, select_checks, settings_error_results
    from saltctl.health.facts import Facts
    from saltctl.health.fix_commands import FixCommands
    from saltctl.settings import config_path

    checks = select_checks(only)
    try:
        settings = session.settings
    except ConfigurationError as exc:
        return list(settings_error_results(exc, checks))
    facts = Facts(
        settings, FixCommands(settings, session.root_options), config_file=config_path(os.environ, session.config)
    )
    return list(run_checks(facts, checks))


def _print(results: list[CheckResult], output: OutputFormat | None) -> None:
    from saltctl.cli.health import doctor_view

    rows = [
        {"name": result.name, "status": result.status, "detail": result.detail, "fix": result.fix or None}
        for result in results
    ]
    chosen = resolve_format(output)
    if chosen in (OutputFormat.jsonl, OutputFormat.tsv):
        print_result(rows, chosen, columns=COLUMNS)
        return
    document = {"ok": not any(result.status == "fail" for result in results), "checks": rows}
    print_result(document, chosen, columns=(), human_view=lambda screen: doctor_view.draw(screen, results))
