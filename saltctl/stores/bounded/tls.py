"""TLS: whether the options of a Redis URL can be used, without connecting; and the start of a connection."""

from __future__ import annotations

import os
import ssl
import sys
from collections.abc import Callable, Mapping
from typing import Any

from saltctl.errors import ConfigurationError
from saltctl.urls import RedisUrl

_Use = Callable[[ssl.SSLContext, Mapping[str, str]], None]


def _load_authorities(context: ssl.SSLContext, options: Mapping[str, str]) -> None:
    files = (options.get(f"ssl_ca_{name}") for name in ("certs", "path", "data"))
    context.load_verify_locations(*files)
    if "ssl_ca_path" in options:  # OpenSSL reads it only when it looks for an authority
        os.scandir(options["ssl_ca_path"]).close()


def _load_certificate(context: ssl.SSLContext, options: Mapping[str, str]) -> None:
    # Without the password an encrypted key would be asked for on the terminal.
    certificate, password = options.get("ssl_certfile"), options.get("ssl_password", "")
    context.load_cert_chain(certificate or "", options.get("ssl_keyfile"), password)


def _set_minimum(context: ssl.SSLContext, options: Mapping[str, str]) -> None:
    context.minimum_version = ssl.TLSVersion(int(options["ssl_min_version"]))


def _check_flags(_: ssl.SSLContext, options: Mapping[str, str]) -> None:
    for name in ("ssl_include_verify_flags", "ssl_exclude_verify_flags"):
        for flag in filter(None, options.get(name, "").strip("[]").split(",")):
            ssl.VerifyFlags[flag.strip()]


_USES: dict[_Use, tuple[str, ...]] = {
    _load_authorities: ("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data"),
    _load_certificate: ("ssl_certfile", "ssl_keyfile", "ssl_password"),
    _set_minimum: ("ssl_min_version",),
    lambda context, options: context.set_ciphers(options["ssl_ciphers"]): ("ssl_ciphers",),
    _check_flags: ("ssl_include_verify_flags", "ssl_exclude_verify_flags"),
}
_FILE_HINT = "check the file's path, its permissions, and that it is PEM\nsaltctl help redis-urls"
_FLAG_HINT = "name flags as Python's ssl.VerifyFlags does, such as VERIFY_X509_STRICT"
_HINTS = {
    "ssl_min_version": "name a version that this machine's OpenSSL has",
    "ssl_ciphers": "name ciphers that `openssl ciphers` lists",
    "ssl_include_verify_flags": _FLAG_HINT,
    "ssl_exclude_verify_flags": _FLAG_HINT,
}


def check_tls(url: RedisUrl) -> None:
    """Raise ConfigurationError if a TLS option cannot be used, such as a file that is missing or not PEM."""
    if url.tls:
        check_key_log()
    options = dict(url.options)
    for use, names in _USES.items():
        given = [name for name in names if name in options]
        if not given:
            continue
        try:
            use(ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT), options)
        except (OSError, ValueError, KeyError) as exc:  # ssl.SSLError is an OSError
            # Paths may be shown, the password not; an error of ssl quotes neither.
            shown = ", ".join(name if "pass" in name or "data" in name else f"{name}={options[name]}" for name in given)
            why = exc.strerror if isinstance(exc, OSError) and not isinstance(exc, ssl.SSLError) else "not usable"
            raise ConfigurationError(
                f"redis_url has a TLS option that cannot be used: {shown}: {why or 'not usable'}",
                hint=_HINTS.get(given[0], _FILE_HINT),
            ) from None


def check_key_log() -> None:
    """Raise ConfigurationError if the file for TLS keys cannot be written: TLS contexts of Redis and AWS open it."""
    file = os.environ.get("SSLKEYLOGFILE")
    if not file or sys.flags.ignore_environment:
        return
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).keylog_filename = file
    except OSError as exc:
        raise ConfigurationError(
            f"SSLKEYLOGFILE names {file!r}, which cannot be written: {exc.strerror or exc}",
            hint="name a file in a directory that exists, or none:\nunset SSLKEYLOGFILE",
        ) from None


def greet(connection: Any) -> None:
    """Set up a new TLS connection of redis-py: credentials and database, then a command with any reply.

    A server of TLS 1.3 sends session tickets before its first reply. redis-py's pool refuses a new connection that has
    something to read.
    """
    import redis.exceptions as driver

    connection.on_connect()
    connection.send_command("PING", check_health=False)
    try:
        connection.read_response()
    except driver.AuthenticationError:
        raise
    except driver.ResponseError:
        pass  # the command is not permitted, or absent
