"""A systemd unit for the service."""

from __future__ import annotations

import re
from collections.abc import Sequence

from saltctl.deployment.variables import variables_of
from saltctl.errors import UsageError
from saltctl.settings import Settings

_PLAIN = re.compile(r"[\w@+.,:=/~-]+", re.ASCII)


def unit(settings: Settings, executable: Sequence[str]) -> str:
    """Return a unit template; start its instances as saltctl-service@1, saltctl-service@2 and so on.

    Args:
        settings: of the service.
        executable: the words that run saltctl; the first one is an absolute path.

    Raises:
        UsageError: systemd would not find the executable, or would read its path in another way.
    """
    if not executable[0].startswith("/") or not all(map(_PLAIN.fullmatch, executable)):
        raise UsageError(
            f"cannot use the executable {' '.join(executable)!r:.200}: systemd needs an absolute path, and one without "
            "spaces and special characters",
            hint="saltctl service emit systemd --executable /usr/local/bin/saltctl",
        )
    lines = [f"Environment={_quoted(f'{name}={value}')}" for name, value in variables_of(settings).items()]
    return f"""# /etc/systemd/system/saltctl-service@.service
[Unit]
Description=saltctl hot partition service (instance %i)
After=network-online.target
Wants=network-online.target

[Service]
{chr(10).join(lines)}
# Secrets, such as SALTCTL_REDIS_URL with its password: mode 0600
EnvironmentFile=-/etc/saltctl/service.env
ExecStart={" ".join(executable)} service run --consumer %H-%i --health-file %t/saltctl-%i/health
RuntimeDirectory=saltctl-%i
Restart=always
RestartSec=2
TimeoutStopSec=30
DynamicUser=yes
NoNewPrivileges=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes

[Install]
WantedBy=multi-user.target
"""


def is_hidden(path: str) -> bool:
    """Return whether the unit's ProtectHome and PrivateTmp hide a path from the service."""
    return any(path.startswith(f"/{folder}/") for folder in ("home", "root", "run/user", "tmp", "var/tmp"))


def _quoted(assignment: str) -> str:
    """Return an assignment as systemd reads it back: it expands ``%``, and splits at spaces."""
    escaped = assignment.replace("%", "%%")
    if re.search(r"[\s\"'\\]", escaped) is None:
        return escaped
    return '"' + escaped.replace("\\", "\\\\").replace('"', '\\"') + '"'
