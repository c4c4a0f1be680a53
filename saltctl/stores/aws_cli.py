"""Commands of the AWS CLI in hints and fixes: for the account, the Region and the endpoint that saltctl uses."""

from __future__ import annotations

import re
from collections.abc import Mapping

from saltctl.commands import join_words
from saltctl.settings import Settings
from saltctl.urls import has_password

_ALL = ("profile", "region", "endpoint-url")
_OPTIONS = {
    "configure": ("profile",),
    "sso": ("profile",),
    "dynamodb": _ALL,
    "cloudwatch": _ALL,
    **dict.fromkeys(("sts", "sns", "kms", "elasticache", "memorydb", "iam"), ("profile", "region")),
}
"""The options that lead a command to where saltctl asks, by its first word. The endpoint is that of two services."""
_QUOTED_OR_AWS = re.compile(
    rf"(?<!\w)'[^']*'|\baws (?P<service>{'|'.join(_OPTIONS)}) (?P<operation>[a-z-]+)(?P<rest>[^\n&;]*)"
)


def aws_options(settings: Settings) -> dict[str, str]:
    """Return the options of the AWS CLI by name. Those of the environment are left out: the AWS CLI reads it, too.

    So is an endpoint with a password.
    """
    values = {name: getattr(settings, f"aws_{name.replace('-', '_')}") for name in _ALL}
    return {
        name: str(value)
        for name, value in values.items()
        if value is not None
        and not (name == "endpoint-url" and has_password(value))
        and not settings.origins.get(f"aws_{name.replace('-', '_')}", "").startswith("environment")
    }


def with_aws_options(text: str, options: Mapping[str, str]) -> str:
    """Put options into every command of the AWS CLI in a text, behind ``aws``, unless it has them already.

    What the text quotes, such as an id, is not changed. A list of the profiles gets none: a wrong one is its reason.
    """

    def replaced(found: re.Match[str]) -> str:
        """Return the command with the options, and anything else unchanged."""
        if not found["service"] or found["operation"] == "list-profiles":
            return found[0]
        names = [name for name in _OPTIONS[found["service"]] if name in options and f"--{name} " not in found["rest"]]
        shown = "".join(f" --{name} {join_words([options[name]])}" for name in names)
        rest = _QUOTED_OR_AWS.sub(replaced, found["rest"])
        return f"aws{shown} {found['service']} {found['operation']}{rest}"

    return _QUOTED_OR_AWS.sub(replaced, text) if options and "aws " in text else text
