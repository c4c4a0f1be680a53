"""Systemd units for the service and the canary."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saltctl.deployment.variables import variables_of
from saltctl.errors import UsageError
from saltctl.settings import Settings

SECRETS = "/etc/saltctl/service.env"
"""The file of variables that the unit of the service reads besides its own."""
CANARY_SECRETS = "/etc/saltctl/canary.env"
"""That of the canary, which has another Redis user."""
PORT_PREFIX = 911
"""The port of an instance begins with it, and ends with the number of the instance."""
_PLAIN = re.compile(r"[\w@+.,:=/~-]+", re.ASCII)
_ARGUMENTS = (
    *("service", "run", "--consumer", "%H-%i", f"--metrics-port={PORT_PREFIX}%i"),
    "--health-file=%t/saltctl-%i/health",
)
_CANARY = ("canary", "--every=1m", "--timeout=50s", "--cron", "--metrics-file=%t/saltctl-canary/canary.prom")
_ENDING = """\
Restart=always
RestartSec=2
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def unit(settings: Settings, executable: Sequence[str]) -> str:
    """Return a unit template; start its instances as saltctl-service@1 to saltctl-service@9.

    The file of ``redis_password_file`` is a credential of the unit: systemd reads it, and the service, which has a user
    of its own, gets a copy.

    Args:
        settings: of the service.
        executable: the words that run saltctl; the first one is an absolute path.

    Raises:
        UsageError: systemd would not find the executable, or would read its path in another way.
    """
    return f"""# /etc/systemd/system/saltctl-service@.service
# Start instances 1 to 9, as saltctl-service@1. Their metrics are on the ports {PORT_PREFIX}1 to {PORT_PREFIX}9.
# They are served on loopback: if Prometheus runs on another machine, add --metrics-address to ExecStart.
[Unit]
Description=saltctl hot partition service (instance %i)
After=network-online.target
Wants=network-online.target

[Service]
{_running(settings, executable, _ARGUMENTS, SECRETS)}
RuntimeDirectory=saltctl-%i
TimeoutStopSec=30
{_ENDING}"""


def canary_unit(settings: Settings, executable: Sequence[str]) -> str:
    """Return a unit that runs the canary each minute; arguments and errors are those of :func:`unit`."""
    return f"""# /etc/systemd/system/saltctl-canary.service
# One on each host, or on some. Its credentials need the policy of saltctl service emit iam --role saltctl-canary.
# Add /run/saltctl-canary to the directories of the node exporter's textfile collector.
[Unit]
Description=saltctl canary
After=network-online.target
Wants=network-online.target

[Service]
{_running(settings, executable, _CANARY, CANARY_SECRETS)}
RuntimeDirectory=saltctl-canary
# The metrics of a canary that was stopped stay, and grow old.
RuntimeDirectoryPreserve=yes
# It ends after its round.
TimeoutStopSec=60
{_ENDING}"""


def _running(settings: Settings, executable: Sequence[str], arguments: Sequence[str], secrets: str) -> str:
    """Return the lines of the variables and of the command."""
    if not executable[0].startswith("/") or not all(map(_PLAIN.fullmatch, executable)):
        raise UsageError(
            f"cannot use the executable {' '.join(executable)!r:.200}: systemd needs an absolute path, and one without "
            "spaces and special characters",
            hint="saltctl service emit systemd --executable /usr/local/bin/saltctl",
        )
    lines = [f"Environment={_quoted(f'{name}={value}')}" for name, value in variables_of(settings).items()]
    lines += _credential(settings)
    lines += ["# Secrets, such as SALTCTL_REDIS_URL if it has a password: mode 0600", f"EnvironmentFile=-{secrets}"]
    return "\n".join([*lines, f"ExecStart={' '.join([*executable, *arguments])}"])


def _credential(settings: Settings) -> list[str]:
    """Return the lines that pass the file of the password to the service.

    Raises:
        UsageError: systemd would read the path in another way.
    """
    if settings.redis_password_file is None:
        return []
    path = str(settings.redis_password_file.absolute())
    if not path.isprintable() or path != path.strip() or path.endswith("\\"):
        raise UsageError(
            f"cannot use redis_password_file {path!r:.200}: systemd would read its path in another way",
            hint="give the file a name without control characters, and without a space or a backslash at its end",
        )
    return [
        "# %d needs systemd 250 or newer",
        f"LoadCredential=redis-password:{path.replace('%', '%%')}",
        "Environment=SALTCTL_REDIS_PASSWORD_FILE=%d/redis-password",
    ]


def is_hidden(path: str) -> bool:
    """Return whether the unit's ProtectHome and PrivateTmp hide a path from the service."""
    return any(path.startswith(f"/{folder}/") for folder in ("home", "root", "run/user", "tmp", "var/tmp"))


def _quoted(assignment: str) -> str:
    """Return an assignment as systemd reads it back: it expands ``%``, and splits at spaces."""
    escaped = assignment.replace("%", "%%")
    if re.search(r"[\s\"'\\]", escaped) is None:
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
