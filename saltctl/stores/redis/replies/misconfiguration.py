"""Failures of Redis that no retry helps: a command that the server lacks, a wrong port, a certificate, a database."""

from __future__ import annotations

import re

from saltctl.stores.bounded.reply_limit import FIRST_REPLY

_ABSENT = re.compile(
    r"unknown (redis )?(sub-?)?command|not allowed from script"
    r"|wrong number of arg|syntax error|command is (not available|disabled)|unsupported command"
    r"|command (is )?not supported|'[a-z|]+' is not supported",
    re.IGNORECASE,
)
_NAME = re.compile(r"(?:command|subcommand|available|for)[ :]+['`\"]([A-Za-z|._-]{1,40})['`\"]", re.IGNORECASE)
_NEEDED_BY = {
    **dict.fromkeys(("EVALSHA", "INFO", "HMGET"), "lookups need"),
    **dict.fromkeys(("EVAL", "WAIT"), "raises need"),
    **dict.fromkeys(("SCRIPT", "LOAD", "HSETNX", "HGET", "HGETALL", "HDEL"), "rebuilds need"),
    **dict.fromkeys(("XADD",), "heat reports need"),
    **dict.fromkeys(("XREADGROUP", "XAUTOCLAIM", "XACK", "XPENDING", "XGROUP", "XINFO", "XTRIM"), "the service needs"),
}
_SERVER_HINT = (
    "use Redis 7 or newer, or Valkey, without rename-command for it and without a proxy that lacks it; a retry does "
    "not help. A sentinel needs redis+sentinel:// in SALTCTL_REDIS_URL"
)
_ADDRESS_HINT = "check the host and the port in SALTCTL_REDIS_URL\nsaltctl doctor --only redis"
_PLAIN_HINT = "if this port has no TLS, write redis:// in SALTCTL_REDIS_URL (redis+… for a cluster or sentinels)"
_TLS_HINT = "check that it runs; if this port has TLS, write rediss:// in SALTCTL_REDIS_URL (rediss+… for the others)"
_VERSION_HINT = "check ssl_min_version and ssl_ciphers\nsaltctl help redis-urls"
_CERTIFICATE_HINT = "check ssl_certfile in SALTCTL_REDIS_URL"
# A part of the message in lower case, then what is wrong, and a hint.
_OTHERS: tuple[tuple[str, str, str], ...] = (
    ("db index", "does not have this database", "correct the number at the end of SALTCTL_REDIS_URL"),
    ("select is not allowed in cluster", "is a node of a cluster", "write redis+cluster:// in SALTCTL_REDIS_URL"),
    (
        "unknown command 'sentinel'",
        "is not a sentinel",
        "correct the port, which is 26379 by default; for the server itself, write redis:// in SALTCTL_REDIS_URL",
    ),
    ("cluster support disabled", "is not a cluster", "write redis:// in SALTCTL_REDIS_URL"),
    (
        "certificate has expired",
        "has a certificate that has expired: {text}",
        "have it renewed; and check the clock of this machine",
    ),
    ("not yet valid", "has a certificate that is not valid yet: {text}", "check the clocks of both machines"),
    (
        "certificate is not valid for",
        "has a certificate for another name: {text}",
        "use the name of the certificate in SALTCTL_REDIS_URL, or have one issued for this name; ?ssl_check_hostname="
        "false accepts any name of a certificate by its authority",
    ),
    (
        "certificate_verify_failed",
        "has a certificate that cannot be verified: {text}",
        "name its authority: ?ssl_ca_certs=/path/ca.pem in SALTCTL_REDIS_URL\nsaltctl help redis-urls",
    ),
    (
        "certificate required",
        "wants a certificate of the client",
        "name it: ?ssl_certfile=…&ssl_keyfile=… in SALTCTL_REDIS_URL\nsaltctl help redis-urls",
    ),
    ("wrong_version_number", "does not speak TLS", _PLAIN_HINT),
    ("wrong version number", "does not speak TLS", _PLAIN_HINT),
    ("record layer failure", "does not speak TLS", _PLAIN_HINT),
    ("alert protocol version", "accepts no TLS version of this client", _VERSION_HINT),
    ("unsupported_protocol", "accepts no TLS version of this client", _VERSION_HINT),
    ("handshake failure", "shares no TLS version or cipher with this client", _VERSION_HINT),
    ("alert unknown ca", "does not accept the client's certificate", _CERTIFICATE_HINT),
    ("alert bad certificate", "does not accept the client's certificate", _CERTIFICATE_HINT),
    ("alert certificate", "does not accept the client's certificate: {text}", _CERTIFICATE_HINT),
)  # fmt: skip
_FIRST_BYTE = re.compile(r"protocol error(?:, got |: b)[\"'](\\x[0-9a-f]{2}|.)", re.IGNORECASE)
_NO_HOST = ("name or service not known", "nodename nor servname", "no address associated", "no such host is known")


def misconfiguration(text: str) -> tuple[str, str] | None:
    """Return the problem and a hint, from the message of an exception; None if a retry may help."""
    lower = text.lower()
    for part, problem, hint in _OTHERS:
        if part in lower.replace("`", "'"):
            return problem.format(text=text.rstrip(".")), hint
    if _ABSENT.search(text):
        return _absent(text), _SERVER_HINT
    if (found := _FIRST_BYTE.search(text)) is None:
        return None
    first = (FIRST_REPLY in text and ("does not speak the protocol of Redis", _ADDRESS_HINT)) or None
    return _other_protocol(found[1]) or first


def _absent(text: str) -> str:
    """Name the command, and the part of saltctl that needs it. The arguments may be a script or a conversation."""
    short = re.split(r",? with args|\. Try ", text)[0][:200]
    name = _NAME.search(text)
    command = name[1].upper().split("|")[0] if name else ""
    needed = f"{_NEEDED_BY.get(command, 'saltctl needs')} {command}" if command else "saltctl needs it"
    if "from script" in text.lower():
        return f"refuses a command inside scripts, which lookups and rebuilds need there: {short}"
    return f"lacks a command or a form of it; {needed}: {short}"


def _other_protocol(first: str) -> tuple[str, str] | None:
    if first in ("\\x15", "\\x16"):
        return "speaks TLS", "write rediss:// in SALTCTL_REDIS_URL (rediss+… for a cluster or sentinels)"
    name = {"H": "HTTP", "S": "SSH"}.get(first)
    return (f"speaks {name}, so it is not Redis", _ADDRESS_HINT) if name else None


def hint_of_outage(exc: BaseException, text: str, where: str) -> str:
    """Return a better hint for an outage that is often a matter of configuration; empty if there is none."""
    if any(part in text.lower() for part in _NO_HOST):
        return f"the name in {where} does not resolve: check its spelling, the DNS, and SALTCTL_REDIS_URL"
    if "handshake operation timed out" in str(exc.__context__):
        return f"check that it runs; {_PLAIN_HINT}"
    if "eof occurred" in text.lower():
        return f"check that it runs; {_PLAIN_HINT}"
    if FIRST_REPLY in text:
        return _TLS_HINT
    if "max number of clients" in text:
        return "close connections of other clients, or raise maxclients; on a managed service its size sets the limit"
    return ""
