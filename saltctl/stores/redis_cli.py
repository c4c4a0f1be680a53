"""Commands of redis-cli for hints and fixes: for the server in question, without its password."""

from __future__ import annotations

import shlex
from urllib.parse import parse_qsl, unquote, urlsplit

from saltctl.settings import Settings

_TLS_FLAGS = (
    ("ssl_ca_certs", "--cacert"),
    ("ssl_ca_path", "--cacertdir"),
    ("ssl_certfile", "--cert"),
    ("ssl_keyfile", "--key"),
)
"""Options of a Redis URL, and those of redis-cli."""


def redis_cli(settings: Settings, primary: str, *words: str | int) -> str:
    """Build a redis-cli command for one server. It reads the password from the place that saltctl uses.

    ``primary`` is its ``host:port``, or the path of its socket.
    """
    command = shlex.join(str(word) for word in words)
    url = settings.redis_url or ""
    parts = urlsplit(url)
    if (
        settings.origins.get("redis_url") == "environment SALTCTL_REDIS_URL"
        and settings.redis_password_file is None
        and parts.scheme in ("redis", "rediss")
        and not parts.query
        and primary == f"{parts.hostname}:{parts.port or 6379}"
    ):
        # Without a user name redis-cli would log in as a user with an empty name (seen with 7.0.15).
        unnamed = parts.password and not parts.username
        source = """$(echo "$SALTCTL_REDIS_URL" | sed 's|//:|//default:|')""" if unnamed else "$SALTCTL_REDIS_URL"
        return f'redis-cli -u "{source}" {command}'
    host, _, port = primary.rpartition(":")
    options = ["-s", primary] if primary.startswith("/") else ["-h", host.strip("[]"), "-p", port]
    query = dict(parse_qsl(parts.query))
    if parts.scheme.startswith("rediss"):
        options.append("--tls")
        options += [word for name, flag in _TLS_FLAGS if name in query for word in (flag, query[name])]
    if user := unquote(parts.username or "") or query.get("username"):
        options += ["--user", user]
    password = ""
    if settings.redis_password_file is not None:
        password = f'REDISCLI_AUTH="$(cat {shlex.quote(str(settings.redis_password_file))})" '
    elif parts.password or "password" in query:
        options.append("--askpass")
    return f"{password}redis-cli {shlex.join(options)} {command}"
