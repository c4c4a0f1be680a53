"""``saltctl service emit``."""

from __future__ import annotations

import sys
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
Role = Literal["saltctl-app", "saltctl-service", "saltctl-readonly", "saltctl-alarms"]
_KINDS = {"--role": ("iam", "acl"), "--executable": ("systemd",), "--image": ("kubernetes",)}
"""The files that an option has an effect on."""


def emit(
    context: typer.Context,
    kind: Annotated[
        Kind, typer.Argument(metavar="KIND", help="The file to print: systemd, kubernetes, alerts, iam or acl.")
    ],
    role: Annotated[
        Role | None, typer.Option("--role", help="Only this role, as its own file; with iam and acl.")
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

    systemd: a unit. kubernetes: manifests of the service and of its jobs. alerts: Prometheus rules. iam: policies,
    and acl: Redis users, each of all roles or of one. Installs nothing, and prints no secret. With -o json the file
    is the key text of a JSON document.

    \b
    Examples:
      saltctl service emit systemd
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
    from saltctl.deployment import acl, alerts, iam, kubernetes, systemd
    from saltctl.deployment.variables import variables_of

    match kind:
        case "systemd":
            words = [executable] if executable is not None else running_executable()
            unit = systemd.unit(settings, words)
            if systemd.is_hidden(words[0]):
                warn(f"the unit hides {words[0]} from the service (ProtectHome, PrivateTmp): install saltctl elsewhere")
            if "SALTCTL_REDIS_URL" not in variables_of(settings):
                missing = "has a password" if settings.redis_url else "is not set"
                warn(f"the unit has no Redis URL, which {missing}: write SALTCTL_REDIS_URL into {systemd.SECRETS}")
            return unit
        case "kubernetes":
            return kubernetes.manifests(settings, image or kubernetes.IMAGE)
        case "alerts":
            return in_force(alerts.rules(settings))
        case "iam":
            return iam.document(settings, role)
        case "acl":
            if role is not None and role not in acl.ROLES:
                raise UsageError(
                    f"{role} needs no Redis user", hint=command_line("service", "emit", "iam", "--role", role)
                )
            return acl.users(settings, role)


def running_executable() -> list[str]:
    """Return the words that run this saltctl, the first one an absolute path: systemd takes no other."""
    started, beside = Path(sys.argv[0]), Path(sys.executable).with_name("saltctl")
    for script in (started, beside):
        if script.name == "saltctl" and script.is_file():
            return [str(script.absolute())]
    return [sys.executable, "-m", "saltctl"]
