"""``saltctl service emit``."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

from saltctl.cli import option
from saltctl.cli.hints import in_force
from saltctl.cli.output import print_result, warn
from saltctl.cli.session import session_of
from saltctl.commands import command_line
from saltctl.errors import UsageError
from saltctl.settings import Settings

Kind = Literal["systemd", "kubernetes", "alerts", "iam", "acl"]
Role = Literal[
    "saltctl-app", "saltctl-service", "saltctl-readonly", "saltctl-canary", "saltctl-audit", "saltctl-alarms"
]
_KINDS = {"--role": ("iam", "acl", "systemd"), "--executable": ("systemd",), "--image": ("kubernetes",)}
"""The files that an option has an effect on."""


def emit(
    context: typer.Context,
    kind: Annotated[
        Kind, typer.Argument(metavar="KIND", help="The file to print: systemd, kubernetes, alerts, iam or acl.")
    ],
    role: Annotated[
        Role | None, typer.Option("--role", help="Only this role, as its own file; with iam, acl and systemd.")
    ] = None,
    executable: Annotated[
        str | None,
        option.text("--executable", "saltctl on the machine of the unit; with systemd, this one if omitted.", "PATH"),
    ] = None,
    image: Annotated[
        str | None, option.text("--image", "The container image; with kubernetes, a placeholder if omitted.", "IMAGE")
    ] = None,
    output: Annotated[
        Literal["table", "json", "jsonl"] | None,
        typer.Option(
            "--output", "-o", help="How to print. Default: the file itself, as with table.", show_default=False
        ),
    ] = None,
) -> None:
    """Print a file to deploy the service, from the current settings.

    systemd: a unit, of the service, or of the canary by its role. kubernetes: manifests of both and of the jobs.
    alerts: Prometheus rules. iam: policies, and acl: Redis users, each of all roles or of one. Installs nothing, and
    prints no secret. With -o json the file is the key text of a JSON document.

    \b
    Examples:
      saltctl service emit systemd
      saltctl service emit systemd --role saltctl-canary
      saltctl service emit kubernetes --image registry.example/saltctl:1.0
      saltctl service emit alerts
      saltctl service emit iam --role saltctl-app
      saltctl service emit acl
    """
    for name, value in (("--role", role), ("--executable", executable), ("--image", image)):
        if value is not None and kind not in (kinds := _KINDS[name]):
            raise UsageError(f"{name} has no effect on {kind}", hint=f"saltctl service emit {kinds[0]} --help")
    content = _content(kind, session_of(context).settings, role, executable, image)
    if output in ("json", "jsonl"):
        print_result({"kind": kind, "text": content}, output, columns=())
    else:
        sys.stdout.write(content)


def _content(kind: Kind, settings: Settings, role: Role | None, executable: str | None, image: str | None) -> str:
    from saltctl.deployment import acl, alerts, iam, kubernetes

    match kind:
        case "systemd":
            return _unit(settings, role, [executable] if executable is not None else running_executable())
        case "kubernetes":
            return kubernetes.manifests(settings, image or kubernetes.IMAGE)
        case "alerts":
            return in_force(alerts.rules(settings))
        case "iam":
            return iam.document(settings, role)
        case "acl":
            if role is not None and role not in acl.ROLES:
                raise UsageError(
                    f"{role} needs no Redis user of its own",
                    hint=command_line("service", "emit", "iam", "--role", role),
                )
            return acl.users(settings, role)


def _unit(settings: Settings, role: Role | None, words: Sequence[str]) -> str:
    """Return the unit of a role, that of the service by default; warn of what is missing in it."""
    from saltctl.deployment import systemd
    from saltctl.deployment.variables import variables_of

    kinds = {"saltctl-service": (systemd.unit, systemd.SECRETS)}
    kinds["saltctl-canary"] = (systemd.canary_unit, systemd.CANARY_SECRETS)
    if (role := role or "saltctl-service") not in kinds:
        raise UsageError(f"{role} has no unit", hint="saltctl service emit systemd --role saltctl-canary")
    make, secrets = kinds[role]
    unit = make(settings, words)
    if systemd.is_hidden(words[0]):
        warn(f"the unit hides {words[0]} from the service (ProtectHome, PrivateTmp): install saltctl elsewhere")
    if "SALTCTL_REDIS_URL" not in variables_of(settings):
        missing = "has a password" if settings.redis_url else "is not set"
        warn(f"the unit has no Redis URL, which {missing}: write SALTCTL_REDIS_URL into {secrets}")
    return unit


def running_executable() -> list[str]:
    """Return the words that run this saltctl, the first one an absolute path: systemd takes no other."""
    started, beside = Path(sys.argv[0]), Path(sys.executable).with_name("saltctl")
    for script in (started, beside):
        if script.name == "saltctl" and script.is_file():
            return [str(script.absolute())]
    return [sys.executable, "-m", "saltctl"]
