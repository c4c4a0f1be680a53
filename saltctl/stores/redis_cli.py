"""Commands of redis-cli for hints and fixes: for the server in question, without its password."""

from __future__ import annotations

import shlex
from urllib.parse import unquote

from saltctl.settings import Settings
from saltctl.urls import RedisUrl, parse_redis_url

_TLS_FLAGS = (
    ("ssl_ca_certs", "--cacert"),
    ("ssl_ca_path", "--cacertdir"),
    ("ssl_certfile", "--cert"),
    ("ssl_keyfile", "--key"),
)
"""Options of a Redis URL, and those of redis-cli."""
_OF_VARIABLE = (
    "python3 -c 'import os, sys, urllib.parse as u; print(u.unquote(u.urlsplit(os.environ[sys.argv[1]]).password))'"
    " SALTCTL_REDIS_URL"
)
"""Prints the password of the URL in the environment, which no list of processes shows."""


def redis_cli(settings: Settings, primary: str, *words: str | int) -> str:
    """Build a redis-cli command for one server. Its environment gets the password from the place that saltctl uses.

    The password is in no argument, which any user of the machine can read. redis-cli asks for one that only a context
    or the query of the URL has.

    ``primary`` is its ``host:port``, or the path of its socket.
    """
    url = parse_redis_url(settings.redis_url) if settings.redis_url else RedisUrl("server", tls=False)
    host, _, port = primary.rpartition(":")
    options = ["-s", primary] if primary.startswith("/") else ["-h", host.strip("[]"), "-p", port]
    if url.database.strip("0"):
        options += ["-n", url.database]
    given = dict(url.options)
    if url.tls:
        options.append("--tls")
        options += [word for name, flag in _TLS_FLAGS if name in given for word in (flag, given[name])]
        options += ["--insecure"] if given.get("ssl_cert_reqs") == "none" else []
    source, login = _login(settings, url)
    password = f'REDISCLI_AUTH="$({source})" ' if source else ""
    return f"{password}redis-cli {shlex.join([*options, *login, *map(str, words)])}"


def _login(settings: Settings, url: RedisUrl) -> tuple[str, list[str]]:
    """Return the command that prints the password, which is empty if there is none, and the options of the login."""
    given = dict(url.options)
    user, _, in_url = url.userinfo.partition(":")
    user = unquote(user) or given.get("username", "")
    options = ["--user", user] if user else []
    if settings.redis_password_file is not None:
        return f"cat {shlex.quote(str(settings.redis_password_file))}", options
    if in_url and settings.origins.get("redis_url") == "environment SALTCTL_REDIS_URL":
        return _OF_VARIABLE, options
    if in_url or "password" in given:
        return "", [*options, "--askpass"]
    # redis-cli logs in without a password only if an empty one is given.
    return "", [*options, "--no-auth-warning", "--pass", ""] if user and settings.redis_iam is None else options
