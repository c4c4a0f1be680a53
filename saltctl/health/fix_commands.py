"""Commands that can be pasted: for the servers and the context in force, and without any secret."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from urllib.parse import urlsplit

from saltctl.settings import Settings
from saltctl.urls import has_password


class FixCommands:
    """Writes commands.

    Args:
        settings: those in force.
        root: the options that saltctl itself was started with, such as ``--context prod``, for the next time.
    """

    def __init__(self, settings: Settings, root: Sequence[str] = ()) -> None:
        self._settings = settings
        self._root = tuple(root)

    def saltctl(self, *words: str) -> str:
        """A command of saltctl's own."""
        return shlex.join(["saltctl", *self._root, *words])

    def redis(self, primary: str, *words: str | int) -> str:
        """A command for one server, by redis-cli, which knows its password from where saltctl does."""
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
                # redis-cli would log in as the user of an empty name (seen with 7.0.15).
                return '''redis-cli -u "$(echo "$SALTCTL_REDIS_URL" | sed 's|//:|//default:|')"'''
            return 'redis-cli -u "$SALTCTL_REDIS_URL"'
        start = ""
        words = ["redis-cli", *_address(primary)]
        if parts.scheme.startswith("rediss"):
            words.append("--tls")
        if parts.username:
            words += ["--user", parts.username]
        if settings.redis_password_file is not None:
            start = f'REDISCLI_AUTH="$(cat {shlex.quote(str(settings.redis_password_file))})" '
        elif has_password(url):
            words.append("--askpass")
        return start + shlex.join(words)

    def set_redis(self, primary: str, info: object, **values: str | int) -> str:
        """CONFIG SET, and CONFIG REWRITE where the server has a configuration file to remember it in."""
        words: list[str | int] = []
        for name, value in values.items():
            words += (name.replace("_", "-"), value)
        command = self.redis(primary, "CONFIG", "SET", *words)
        if isinstance(info, dict) and info.get("config_file"):
            command += " && " + self.redis(primary, "CONFIG", "REWRITE")
        return command

    def aws(self, *words: str) -> str:
        """A command of the AWS CLI, for the account, Region and endpoint that saltctl talks to."""
        settings = self._settings
        more: list[str] = []
        for name, option in (
            ("aws_profile", "--profile"),
            ("aws_region", "--region"),
            ("aws_endpoint_url", "--endpoint-url"),
        ):
            value = getattr(settings, name)
            # The AWS CLI reads the same environment variables.
            if value is not None and not settings.origins.get(name, "").startswith("environment"):
                more += [option, str(value)]
        return shlex.join(["aws", *words, *more])

    def set_variable(self, name: str, value: str) -> str:
        """Set an environment variable of saltctl's in this shell."""
        return f"export {name}={shlex.quote(value)}"

    def other_server(self, old: str, new: str) -> str:
        """Put another server's name into SALTCTL_REDIS_URL, keeping whatever else it holds."""
        settings = self._settings
        if settings.origins.get("redis_url", "").startswith("environment"):
            return f'export SALTCTL_REDIS_URL="$(echo "$SALTCTL_REDIS_URL" | sed {shlex.quote(f"s|{old}|{new}|")})"'
        return self.set_variable("SALTCTL_REDIS_URL", f"redis://{new}/0")


def _address(primary: str) -> list[str]:
    if primary.startswith("/"):
        return ["-s", primary]
    host, _, port = primary.rpartition(":")
    return ["-h", host.strip("[]"), "-p", port]
