"""The rule of the local environment: a process inside it reaches nothing else.

``saltctl local shell`` and ``local run`` set the variable SALTCTL_LOCAL for the command. Each Redis, sentinel, cluster
node and AWS endpoint is checked when a client for it is made, whatever named it: a variable, an option, a context, a
profile, or another server.
"""

from __future__ import annotations

import os
from urllib.parse import urlsplit

from saltctl.errors import ConfigurationError
from saltctl.urls import is_loopback

INSIDE = "SALTCTL_LOCAL"
"""The variable that is set inside the local environment."""


def require_loopback(url: str) -> str:
    """Return the URL if it names this machine by a loopback address; raise ConfigurationError otherwise."""
    if not is_loopback(url):
        raise ConfigurationError(f"the local environment refuses the endpoint {_host(url)!r}: it is not on loopback")
    return url


def check_endpoint(url: str) -> None:
    """Refuse a URL that is not on loopback if this process runs inside the local environment.

    Raises:
        ConfigurationError: the hint says how to leave the local environment.
    """
    if os.environ.get(INSIDE) and not is_loopback(url):
        raise ConfigurationError(
            f"the local environment refuses the endpoint {_host(url)!r}: it is not on loopback ({INSIDE} is set)",
            hint="nothing was sent; exit leaves the local environment",
        )


def _host(url: str) -> str:
    try:
        parts = urlsplit(url)
        return parts.hostname or parts.path
    except ValueError:
        return ""
