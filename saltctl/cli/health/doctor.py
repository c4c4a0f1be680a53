"""``saltctl doctor``."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from saltctl.cli import option
from saltctl.cli.output import OutputFormat, columns_of, print_result, resolve_format
from saltctl.cli.session import Session, session_of
from saltctl.errors import ConfigurationError, ExitCode, UsageError

if TYPE_CHECKING:
    from saltctl.health.findings import Finding

COLUMNS = columns_of("name status detail fix", name="check")


def doctor(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option("--only", metavar="NAME", help="Run only this check or group: redis, backup, stream. Repeatable."),
    ] = None,
    form: Annotated[
        Literal["nagios", "prometheus"] | None,
        typer.Option("--format", help="For monitoring: Nagios plugin or Prometheus metrics."),
    ] = None,
    output: option.Output = None,
) -> None:
    """Run all checks and print a fix for each failure.

    Changes nothing. Exits 3 if a check fails; a warning or a skipped check is not a failure. With --format nagios
    it exits like a plugin: 0 ok, 1 a warning, 2 a failure, 3 all checks skipped.

    \b
    Examples:
      saltctl doctor
      saltctl doctor --only redis --only lease
      saltctl doctor --format prometheus
    """
    from saltctl.cli.health import monitoring

    if form is not None and output is not None:
        raise UsageError("--format and --output cannot be used together", hint="saltctl doctor --format nagios")
    findings = _run(session_of(context), only or [])
    failed = any(finding.status == "fail" for finding in findings)
    if form == "nagios":
        sys.stdout.write(monitoring.nagios(findings))
        raise typer.Exit(monitoring.nagios_code(findings))
    if form == "prometheus":
        sys.stdout.write(monitoring.prometheus(findings))
    else:
        _print(findings, output)
    if failed:
        raise typer.Exit(ExitCode.FOUND_SOMETHING)


def _run(session: Session, only: list[str]) -> list[Finding]:
    from saltctl.health.doctor import run_checks, select_checks, settings_error_findings
    from saltctl.health.facts import Facts
    from saltctl.health.fix_commands import FixCommands
    from saltctl.settings import config_path

    checks = select_checks(only)
    try:
        settings = session.settings
    except ConfigurationError as exc:
        return list(settings_error_findings(exc, checks))
    facts = Facts(
        settings, FixCommands(settings, session.root_options), config_file=config_path(os.environ, session.config)
    )
    return list(run_checks(facts, checks))


def _print(findings: list[Finding], output: OutputFormat | None) -> None:
    from saltctl.cli.health import doctor_view

    rows = [
        {"name": finding.check, "status": finding.status, "detail": finding.detail, "fix": finding.fix or None}
        for finding in findings
    ]
    chosen = resolve_format(output)
    if chosen in (OutputFormat.jsonl, OutputFormat.tsv):
        print_result(rows, chosen, columns=COLUMNS)
        return
    document = {"ok": not any(finding.status == "fail" for finding in findings), "checks": rows}
    print_result(document, chosen, columns=(), human_view=lambda screen: doctor_view.draw(screen, findings))
