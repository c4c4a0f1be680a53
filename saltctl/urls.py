"""What a Redis URL says: one server, a cluster, or sentinels that know a server. Pure; nothing is connected.

::

    redis://[user:password@]host[:6379][/database]      rediss:// with TLS
    unix://[user:password@]/path
    redis+cluster://[user:password@]host[:6379],host…   rediss+cluster:// with TLS
    redis+sentinel://[user:password@]host[:26379],host…/service[/database]   rediss+sentinel:// with TLS

What follows a question mark are options of redis-py, for each connection: ``ssl_ca_certs``, ``ssl_cert_reqs``
and so on. Sentinels have credentials of their own: ``sentinel_username``, ``sentinel_password`` and
``sentinel_password_file`` among the options.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Literal, NamedTuple
from urllib.parse import parse_qsl, quote, unquote, unquote_plus, urlencode, urlsplit

Kind = Literal["server", "socket", "cluster", "sentinel"]
_KINDS: dict[str, Kind] = {
    "redis": "server",
    "rediss": "server",
    "unix": "socket",
    "redis+cluster": "cluster",
    "rediss+cluster": "cluster",
    "redis+sentinel": "sentinel",
    "rediss+sentinel": "sentinel",
}
REDIS_SCHEMES = tuple(_KINDS)
_KNOWN_SCHEMES = (*REDIS_SCHEMES, "http", "https")
MASK = "***"
_UNREADABLE = "is no URL that can be taken apart; is a special character in the password unquoted?"
_NO_HOST = "must name a host, such as redis://127.0.0.1:6379/0"
_SENTINELS_OWN = ("sentinel_username", "sentinel_password", "sentinel_password_file")


class Address(NamedTuple):
    """Where a server listens. As text it is a server's name: no user, no password."""

    host: str
    port: int

    def __str__(self) -> str:
        """``host:port``, an IPv6 address in brackets."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True)
class RedisUrl:
    """A URL taken apart. ``addresses`` are those that it names: of servers, of some nodes, or of sentinels.

    ``path`` is a socket's, ``service`` the name that sentinels know the primary by.
    """

    kind: Kind
    tls: bool
    addresses: tuple[Address, ...]
    path: str = ""
    service: str = ""
    database: str = ""
    userinfo: str = field(default="", repr=False)
    query: str = field(default="", repr=False)
    whole: str = field(default="", repr=False)

    def __str__(self) -> str:
        """What is connected to, for messages: addresses or a path, and never a password."""
        return self.path or ",".join(map(str, self.addresses))

    def of_server(self, name: str) -> str:
        """The URL of one server, by its name, with the credentials and options of this one."""
        if self.kind in ("server", "socket"):
            return self.whole
        return _joined(self.tls, self.userinfo, name, self.database, self._options(sentinels_own=False))

    def of_sentinel(self, address: Address) -> str:
        """The URL of one sentinel, with the credentials that sentinels have of their own."""
        own = dict(self._options(sentinels_own=True))
        userinfo = quote(own.get("sentinel_username", ""), safe="")
        if "sentinel_password" in own:
            userinfo += ":" + quote(own["sentinel_password"], safe="")
        return _joined(self.tls, userinfo, str(address), "", self._options(sentinels_own=False))

    @property
    def sentinel_password_file(self) -> str | None:
        """Where the sentinels' password is, if in a file."""
        return dict(self._options(sentinels_own=True)).get("sentinel_password_file")

    def _options(self, *, sentinels_own: bool) -> list[tuple[str, str]]:
        pairs = parse_qsl(self.query, keep_blank_values=True)
        return [(name, value) for name, value in pairs if (name in _SENTINELS_OWN) == sentinels_own]


def _joined(tls: bool, userinfo: str, netloc: str, database: str, options: list[tuple[str, str]]) -> str:
    at = "@" if userinfo else ""
    query = f"?{urlencode(options)}" if options else ""
    return f"{'rediss' if tls else 'redis'}://{userinfo}{at}{netloc}/{database or 0}{query}"


def parse_redis_url(url: str) -> RedisUrl:
    """Take a URL apart.

    Raises:
        ValueError: it cannot be used; the text says why and repeats nothing of it, since it may hold a password.
    """
    scheme, separator, rest = url.partition("://")
    kind = _KINDS.get(scheme.lower())
    if kind is None or not separator:
        raise ValueError(f"must begin with {', '.join(name + '://' for name in REDIS_SCHEMES)}")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    if "@" in rest[len(authority) :]:
        raise ValueError(_UNREADABLE)
    tail = urlsplit(rest[len(authority) :])
    userinfo, _, hosts = authority.rpartition("@")
    common = {"userinfo": userinfo, "query": tail.query, "whole": url}
    tls = scheme.lower().startswith("rediss")
    if kind == "socket":
        if not tail.path:
            raise ValueError("must name a socket, such as unix:///run/redis.sock")
        return RedisUrl(kind, tls, (), path=tail.path, **common)
    addresses = _addresses(hosts, 26379 if kind == "sentinel" else 6379)
    if not addresses:
        raise ValueError(_NO_HOST)
    service, database = _service_and_database(kind, tail.path.strip("/"))
    if kind == "server" and len(addresses) > 1:
        raise ValueError("names several hosts; write redis+cluster:// or redis+sentinel://")
    return RedisUrl(kind, tls, addresses, service=service, database=database, **common)


def _addresses(hosts: str, default_port: int) -> tuple[Address, ...]:
    found = []
    for host in filter(None, hosts.split(",")):
        try:
            parts = urlsplit(f"//{host}")
            port = parts.port or default_port
        except ValueError:
            # The cause may quote the URL, and the URL may hold a password.
            raise ValueError(_UNREADABLE) from None
        if not parts.hostname:
            raise ValueError(_NO_HOST)
        found.append(Address(parts.hostname, port))
    return tuple(found)


def _service_and_database(kind: Kind, path: str) -> tuple[str, str]:
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValueError("must name the service that the sentinels watch, such as redis+sentinel://s1,s2/mymaster")
    if path and not path.isdigit():
        raise ValueError("may end in a database number only, such as /0")
    if kind == "cluster" and path.strip("0"):
        raise ValueError("names a database, and a cluster has number 0 alone")
    return unquote(service), path


def mask_url(url: str) -> str:
    """The URL with its password replaced and nothing else changed; MASK alone where no end of it can be told."""
    scheme, separator, rest = url.partition("://")
    if not separator or scheme.lower() not in _KNOWN_SCHEMES:
        return MASK
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    tail = rest[len(authority) :]
    if "@" in tail:
        # Most likely a password with a / ? or # in it that is not quoted.
        return MASK
    userinfo, at, hosts = authority.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    path, question, query = tail.partition("?")
    shown = "&".join(_mask_parameter(parameter) for parameter in query.split("&"))
    return f"{scheme}://{user}{':' + MASK if colon else ''}{at}{hosts}{path}{question}{shown}"


def _mask_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    secret = "pass" in unquote_plus(name).lower() and name != "sentinel_password_file"
    return f"{name}={MASK}" if equals and secret else parameter


def has_password(redis_url: str) -> bool:
    """Whether the URL carries a password, which must then not come from a flag, where ``ps`` shows it."""
    return mask_url(redis_url) != redis_url


def is_loopback(url: str) -> bool:
    """Whether a URL names this machine by a loopback address."""
    return (urlsplit(url).hostname or "") in ("127.0.0.1", "::1", "localhost")
