"""Commands of fixes: ready to paste, for the servers and the context in force, without secrets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from saltctl.settings import Settings
from saltctl.urls import has_password


class FixCommands:
    """Builder of commands.

    Args:
        settings: the current settings.
        root: root options for saltctl commands, such as ``--context prod``.
    """

    def __init__(self, settings: Settings, root: Sequence[str] = ()) -> None:
        self._settings = settings
        self._root = tuple(root)

    def saltctl(self, *words: str) -> str:
        """Build a saltctl command with the root options."""
        return shlex.join(["saltctl", *self._root, *words])

    def redis_cli(self, primary: str, *words: str | int) -> str:
        """Build a redis-cli command for one server. It reads the password from the place that saltctl uses."""
        return f"{self._redis_cli(primary)} {shlex.join(str(word) for word in words)}"

    def _redis_cli(self, primary: str) -> str:
        settings = self._settings
        url = settings.redis_url or ""
        parts = urlsplit(url)
        origin = settings.origins.get("redis_url", "")
        if (
            origin == "environment SALTCTL_REDIS_URL"
            and settings.redis_password_file is None
            and parts.scheme in ("redis", "rediss")
            and not parts.query
            and primary == f"{parts.hostname}:{parts.port or 6379}"
        ):
            if parts.password and not parts.username:
                # redis-cli would log in as a user with an empty name (seen with 7.0.15).
                return '''redis-cli -u "$(echo "$SALTCTL_REDIS_URL" | sed 's|//:|//default:|')"'''
            return 'redis-cli -u "$SALTCTL_REDIS_URL"'
        password = ""
        words = ["redis-cli", *_address(primary)]
        if parts.scheme.startswith("rediss"):
            words.append("--tls")
        if parts.username:
            words += ["--user", parts.username]
        if settings.redis_password_file is not None:
            password = f'REDISCLI_AUTH="$(cat {shlex.quote(str(settings.redis_password_file))})" '
        elif has_password(url):
            words.append("--askpass")
        return password + shlex.join(words)

    def config_set(self, primary: str, info: Mapping[str, Any], **values: str | int) -> str:
        """Build CONFIG SET, and CONFIG REWRITE if the server has a configuration file (see ``info``)."""
        words: list[str | int] = []
        for name, value in values.items():
            words += (name.replace("_", "-"), value)
        command = self.redis_cli(primary, "CONFIG", "SET", *words)
        if info.get("config_file"):
            command += " && " + self.redis_cli(primary, "CONFIG", "REWRITE")
        return command

    def aws(self, *words: str) -> str:
        """Build an AWS CLI command for the account, Region and endpoint that saltctl uses."""
        settings = self._settings
        options: list[str] = []
        for name in ("profile", "region", "endpoint_url"):
            value = getattr(settings, f"aws_{name}")
            # The AWS CLI reads the same environment variables.
            if value is not None and not settings.origins.get(f"aws_{name}", "").startswith("environment"):
                options += [f"--{name.replace('_', '-')}", str(value)]
        return shlex.join(["aws", *words, *options])

    def export(self, **variables: str) -> str:
        """Build an export of environment variables."""
        return " ".join(["export", *(f"{name}={shlex.quote(value)}" for name, value in variables.items())])

    def replace_server(self, old: str, new: str) -> str:
        """Build an export that replaces a server's name in SALTCTL_REDIS_URL and keeps the rest of the URL."""
        if self._settings.origins.get("redis_url", "").startswith("environment"):
            return f'export SALTCTL_REDIS_URL="$(echo "$SALTCTL_REDIS_URL" | sed {shlex.quote(f"s|{old}|{new}|")})"'
        return self.export(SALTCTL_REDIS_URL=f"redis://{new}/0")


def _address(primary: str) -> list[str]:
    if primary.startswith("/"):
        return ["-s", primary]
    host, _, port = primary.rpartition(":")
    return ["-h", host.strip("[]"), "-p", port]
