"""Commands of fixes: ready to paste, for the servers and the context in force, without secrets."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from saltctl.settings import Settings
from saltctl.stores.aws_cli import aws_options, with_aws_options
from saltctl.stores.redis.replies.platforms import Platform
from saltctl.stores.redis_cli import redis_cli


@dataclass(frozen=True)
class FixCommands:
    """Builder of commands. ``root`` has the root options for saltctl commands, such as ``--context prod``."""

    settings: Settings
    root: Sequence[str] = ()

    def saltctl(self, *words: str) -> str:
        """Build a saltctl command with the root options."""
        return shlex.join(["saltctl", *self.root, *words])

    def redis_cli(self, primary: str, *words: str | int) -> str:
        """Build a redis-cli command for one server. It reads the password from the place that saltctl uses."""
        return redis_cli(self.settings, primary, *words)

    def config_set(self, primary: str, info: Mapping[str, Any], platform: Platform | None, **values: str | int) -> str:
        """Build CONFIG SET, and CONFIG REWRITE if the server has a configuration file (see ``info``).

        A managed server refuses both: the result is the command of its ``platform``.
        """
        parameters = {name.replace("_", "-"): str(value) for name, value in values.items()}
        if platform is not None:
            return platform.set_parameters(parameters)
        words = [word for parameter in parameters.items() for word in parameter]
        command = self.redis_cli(primary, "CONFIG", "SET", *words)
        if info.get("config_file"):
            command += " && " + self.redis_cli(primary, "CONFIG", "REWRITE")
        return command

    def acl_setuser(self, primary: str, platform: Platform | None, user: str, rules: Sequence[str]) -> str:
        """Build ACL SETUSER, which adds rules to those of a user; on a managed server the command of its platform."""
        if platform is not None:
            return platform.set_user(user, rules)
        return self.redis_cli(primary, "ACL", "SETUSER", user, *rules)

    def aws(self, *words: str) -> str:
        """Build an AWS CLI command for the account, Region and endpoint that saltctl uses."""
        return with_aws_options(shlex.join(["aws", *words]), aws_options(self.settings))

    def export(self, **variables: str) -> str:
        """Build an export of environment variables."""
        return " ".join(["export", *(f"{name}={shlex.quote(value)}" for name, value in variables.items())])

    def replace_server(self, old: str, new: str) -> str:
        """Build an export that replaces a server's name in SALTCTL_REDIS_URL and keeps the rest of the URL."""
        if self.settings.origins.get("redis_url", "").startswith("environment"):
            return f'export SALTCTL_REDIS_URL="$(echo "$SALTCTL_REDIS_URL" | sed {shlex.quote(f"s|{old}|{new}|")})"'
        return self.export(SALTCTL_REDIS_URL=f"redis://{new}/0")
