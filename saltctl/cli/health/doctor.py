"""``saltctl doctor``, and its findings for people, Nagios and Prometheus."""

from __future__ import annotations

import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Literal, get_args

import typer

from saltctl.cli import option
from saltctl.cli.formats.nagios import plugin_output
from saltctl.cli.formats.tables import print_beside, print_unpadded
from saltctl.cli.formats.text import counted, printable
from saltctl.cli.guide.completion import complete_checks
from saltctl.cli.hints import in_force
from saltctl.cli.output import columns_of, print_result, resolve_format
from saltctl.cli.session import Session, session_of
from saltctl.errors import ConfigurationError, ExitCode, SaltctlError, UsageError
from saltctl.health.findings import WORST_FIRST, Finding, Status
from saltctl.metrics import DOCTOR_CHECK, DOCTOR_MEASURES

if TYPE_CHECKING:
    from rich.console import Console

    from saltctl.stores.platform_probe import Clause

COLUMNS = columns_of("name status detail fix", name="check")
_STYLES = {"ok": "green", "warn": "yellow", "fail": "bold red", "skip": "dim"}
_PROBED = {"observed": "green", "unknown": "yellow", "refuted": "bold red"}
_WORD = re.compile(r"""(?:[^\s"']|"(?:[^"\\]|\\.)*"|'[^']*')+""")
"""A word of a shell command; a space inside quotes does not end it."""


def doctor(
    context: typer.Context,
    only: Annotated[
        list[str] | None,
        typer.Option(
            "--only",
            metavar="NAME",
            help="Run only these checks or groups, such as redis,backup. Repeatable.",
            autocompletion=complete_checks,
        ),
    ] = None,
    form: Annotated[
        Literal["nagios", "prometheus"] | None,
        typer.Option("--format", help="For monitoring: Nagios plugin or Prometheus metrics."),
    ] = None,
    probe: Annotated[
        bool,
        typer.Option("--probe-platform", help="Try on each Redis primary what the fence needs, with a key of its own."),
    ] = False,
    confirm: option.Confirm = None,
    output: option.Output = None,
) -> None:
    """Run all checks and print a fix for each failure.

    Changes nothing. Exits 3 if a check fails; a warning or a skipped check is not a failure. With --format nagios
    it exits like a plugin: 0 ok, 1 a warning, 2 a failure, 3 all checks skipped.
    With --probe-platform it writes one key and one script to each primary, deletes the key, and reports each clause
    as observed, refuted or unknown; it exits 3 if one is refuted.

    \b
    Examples:
      saltctl doctor
      saltctl doctor --only redis,lease
      saltctl doctor --format prometheus
      saltctl doctor --probe-platform
    """
    if form is not None and (output is not None or probe):
        other = "--probe-platform" if probe else "--output"
        raise UsageError(f"--format and {other} cannot be used together", hint="saltctl doctor --format nagios")
    session = session_of(context)
    if probe:
        session.require_consent("Write a key of the probe to Redis, and delete it?", confirm)
    findings = _run(session, only or [])
    clauses = _probe(session) if probe else None
    failed = any(row.status in ("fail", "refuted") for row in (*findings, *(clauses or ())))
    if form == "nagios":
        code, plugin_output = nagios(findings)
        sys.stdout.write(plugin_output)
        raise typer.Exit(code)
    if form == "prometheus":
        sys.stdout.write(prometheus(findings, _table(session)))
    else:
        rows = [{"name": f.check, "status": f.status, "detail": f.detail, "fix": f.fix or None} for f in findings]
        chosen = resolve_format(output, listing=False)
        if chosen in ("jsonl", "tsv", "csv"):
            rows += [
                {"name": f"platform {c.clause}", "status": c.status, "detail": f"{c.server}: {c.detail}", "fix": None}
                for c in clauses or ()
            ]
            print_result(rows, chosen, columns=COLUMNS)
        else:
            platform = None if clauses is None else [clause._asdict() for clause in clauses]
            document = {"ok": not failed, "checks": rows, "platform": platform}
            print_result(document, chosen, columns=(), human_view=lambda screen: draw(screen, findings, clauses or ()))
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
        return _in_force(settings_error_findings(exc, checks))
    commands = FixCommands(settings, session.root_options)
    facts = Facts(settings, commands, config_file=config_path(os.environ, session.config))
    return _in_force(run_checks(facts, checks))


def _table(session: Session) -> str:
    """Return the backup table; empty, which is no label to Prometheus, if the settings are not valid."""
    with suppress(SaltctlError):
        return session.settings.backup_table
    return ""


def _in_force(findings: Iterable[Finding]) -> list[Finding]:
    """Return the findings with fixes and details whose commands have the root options in force."""
    return [replace(found, detail=in_force(found.detail), fix=in_force(found.fix)) for found in findings]


def _probe(session: Session) -> list[Clause]:
    """Probe the platform. A server that does not answer must not hide the checks."""
    from saltctl.stores.platform_probe import Clause, probe_platform

    try:
        return probe_platform(session.settings)
    except SaltctlError as exc:
        return [Clause("", "probe", "unknown", exc.message)]


# For people.


def draw(screen: Console, findings: Sequence[Finding], clauses: Sequence[Clause] = ()) -> None:
    """Print a line for each check, the commands that fix the problems, and the clauses of a probe."""
    from rich.table import Table
    from rich.text import Text

    label = max((len(finding.check) for finding in findings), default=0) + 8
    for finding in findings:
        lead = Text.assemble((f"{finding.status:4}", _STYLES[finding.status]), f"  {finding.check}")
        detail = Text(printable(finding.detail), style="dim" if finding.status == "skip" else "")
        print_beside(screen, lead, detail, label)
    # The failures first: a warning does not break the promise.
    for finding in sorted(findings, key=lambda finding: WORST_FIRST.index(finding.status)):
        if finding.fix:
            screen.print()
            screen.print(Text(f"To fix {finding.check}:", style=_STYLES[finding.status]))
            for line in pasteable(printable(finding.fix), screen.width - 2):
                screen.print(Text(f"  {line}"), soft_wrap=True)
    screen.print()
    if clauses:
        probed = Table.grid(padding=(0, 2, 0, 0))
        for clause in clauses:
            texts = (clause.status, clause.clause, clause.server, printable(clause.detail))
            probed.add_row(
                *(Text(text, style=_PROBED[clause.status] if at == 0 else "") for at, text in enumerate(texts))
            )
        print_unpadded(screen, probed)
        screen.print()
    screen.print(Text(summary(findings)))


def pasteable(command: str, width: int) -> list[str]:
    """Break a shell command into lines of at most ``width`` that are still one command; a long word is not broken."""
    first, *words = _WORD.findall(command)
    lines = [first]
    for word in words:
        if len(lines[-1]) + 1 + len(word) <= width - 2:
            lines[-1] += f" {word}"
        else:
            lines[-1] += " \\"
            lines.append(f"  {word}")
    return lines


def summary(findings: Sequence[Finding]) -> str:
    """Count the findings by status."""
    count = Counter(finding.status for finding in findings)
    checks = counted(len(findings), "check")
    return f"{checks}: {count['ok']} ok, {count['warn']} warn, {count['fail']} fail, {count['skip']} skip"


# For monitoring.


def nagios(findings: Sequence[Finding]) -> tuple[int, str]:
    """Return a plugin's exit code and output: a line with performance data, then one for each warning and failure."""
    status: Status = min((finding.status for finding in findings), key=WORST_FIRST.index, default="skip")
    problems = [finding for finding in findings if finding.status in ("fail", "warn")]
    names = ", ".join(finding.check for finding in problems)
    count = Counter(finding.status for finding in findings)
    figures = {"failed": count["fail"], "warnings": count["warn"], "skipped": count["skip"], **_measures(findings)}
    told = [f"{f.status} {f.check}: {' - '.join(filter(None, (f.detail, f.fix)))}" for f in problems]
    return plugin_output(status, summary(findings) + (f" ({names})" if names else ""), figures, told)


def _measures(findings: Sequence[Finding]) -> dict[str, float]:
    return {name: value for finding in findings for name, value in finding.measures.items()}


def prometheus(findings: Sequence[Finding], table: str) -> str:
    """Format Prometheus metrics of a backup table: a gauge for each check and status, and one for each measure."""
    from prometheus_client import CollectorRegistry, Gauge, generate_latest

    registry = CollectorRegistry()
    checks = Gauge(DOCTOR_CHECK.name, DOCTOR_CHECK.about, DOCTOR_CHECK.labels, registry=registry)
    for finding in findings:
        for status in get_args(Status):
            checks.labels(table, finding.check, status).set(finding.status == status)
    for name, value in _measures(findings).items():
        if metric := DOCTOR_MEASURES.get(name):
            Gauge(metric.name, metric.about, metric.labels, registry=registry).labels(table).set(value)
    return generate_latest(registry).decode()
