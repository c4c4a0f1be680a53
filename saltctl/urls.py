"""URLs: the server, cluster or sentinels of a Redis URL; passwords in URLs; loopback addresses. No connections.

::

    redis://[user:password@]host[:6379][/database]      rediss:// with TLS
    unix://[user:password@]/path
    redis+cluster://[user:password@]host[:6379],host…   rediss+cluster:// with TLS
    redis+sentinel://[user:password@]host[:26379],host…/service[/database]   rediss+sentinel:// with TLS

The query contains options of redis-py for each connection, such as ``ssl_ca_certs`` and ``ssl_cert_reqs``. The options
``sentinel_username``, ``sentinel_password`` and ``sentinel_password_file`` are the credentials for the sentinels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
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
MASK = "***"
_UNREADABLE = "is not a valid URL; does the password contain a special character that is not quoted?"
_NO_HOST = "must name a host, such as redis://127.0.0.1:6379/0"
_SENTINELS_OWN = ("sentinel_username", "sentinel_password", "sentinel_password_file")


class Address(NamedTuple):
    """Address of a server. Its string is the server's name, without user and password."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``host:port``, with an IPv6 address in brackets."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


@dataclass(frozen=True)
class RedisUrl:
    """A parsed Redis URL. ``addresses`` are those of the server, of some cluster nodes, or of the sentinels.

    ``path`` is the path of a socket. ``service`` is the name under which the sentinels watch the primary.
    """

    kind: Kind
    tls: bool
    addresses: tuple[Address, ...] = ()
    path: str = ""
    service: str = ""
    database: str = ""
    userinfo: str = field(default="", repr=False)
    options: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    whole: str = field(default="", repr=False)

    def __str__(self) -> str:
        """Return the addresses or the socket's path, for messages: never a password."""
        return self.path or ",".join(map(str, self.addresses))

    def of_server(self, name: str) -> str:
        """Return the URL of one server with the credentials and options of this URL."""
        if self.kind in ("server", "socket"):
            return self.whole
        return self._of_node(name, self.userinfo, self.database)

    def of_sentinel(self, address: Address) -> str:
        """Return the URL of one sentinel with the sentinels' credentials."""
        own = dict(self.options)
        userinfo = quote(own.get("sentinel_username", ""), safe="")
        if "sentinel_password" in own:
            userinfo += ":" + quote(own["sentinel_password"], safe="")
        return self._of_node(str(address), userinfo, "")

    def _of_node(self, name: str, userinfo: str, database: str) -> str:
        options = [(option, value) for option, value in self.options if option not in _SENTINELS_OWN]
        query = f"?{urlencode(options)}" if options else ""
        return f"{'rediss' if self.tls else 'redis'}://{userinfo}{'@' if userinfo else ''}{name}/{database or 0}{query}"


def _split(url: str) -> tuple[str, str, str]:
    """Split a URL into its scheme, which is empty if there is none, its authority, and the rest."""
    scheme, separator, rest = url.partition("://")
    authority = re.split("[/?#]", rest, maxsplit=1)[0]
    return scheme if separator else "", authority, rest[len(authority) :]


def parse_redis_url(url: str) -> RedisUrl:
    """Parse a Redis URL. The ValueError of an invalid one quotes nothing of it, because it may contain a password."""
    scheme, authority, rest = _split(url)
    kind = _KINDS.get(scheme.lower())
    if kind is None:
        raise ValueError(f"must begin with {', '.join(name + '://' for name in _KINDS)}")
    if "@" in rest:
        raise ValueError(_UNREADABLE)
    tail = urlsplit(rest)
    userinfo, _, hosts = authority.rpartition("@")
    options = tuple(parse_qsl(tail.query, keep_blank_values=True))
    parsed = RedisUrl(kind, scheme.lower().startswith("rediss"), userinfo=userinfo, options=options, whole=url)
    if kind == "socket":
        if not tail.path:
            raise ValueError("must name a socket, such as unix:///run/redis.sock")
        return replace(parsed, path=tail.path)
    addresses = _addresses(hosts, 26379 if kind == "sentinel" else 6379)
    if not addresses:
        raise ValueError(_NO_HOST)
    service, database = _service_and_database(kind, tail.path.strip("/"))
    if kind == "server" and len(addresses) > 1:
        raise ValueError("names several hosts; write redis+cluster:// or redis+sentinel://")
    return replace(parsed, addresses=addresses, service=service, database=database)


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
        raise ValueError("may have only a database number as its path, such as /0")
    if kind == "cluster" and path.strip("0"):
        raise ValueError("names a database, but a cluster has only database 0")
    return unquote(service), path


def mask_url(url: str) -> str:
    """Return the URL with its password masked; only MASK if the end of the password cannot be determined."""
    scheme, authority, tail = _split(url)
    # An @ in the tail is most likely from an unquoted password that contains a slash, a question mark or a hash.
    if scheme.lower() not in (*_KINDS, "http", "https") or "@" in tail:
        return MASK
    userinfo, at, hosts = authority.rpartition("@")
    user, colon, _ = userinfo.partition(":")
    path, question, query = tail.partition("?")
    shown = "&".join(map(_mask_parameter, query.split("&")))
    return f"{scheme}://{user}{':' + MASK if colon else ''}{at}{hosts}{path}{question}{shown}"


def _mask_parameter(parameter: str) -> str:
    name, equals, _ = parameter.partition("=")
    secret = "pass" in unquote_plus(name).lower() and name != "sentinel_password_file"
    return f"{name}={MASK}" if equals and secret else parameter


def has_password(redis_url: str) -> bool:
    """Return whether the URL contains a password. Such a URL must not come from a flag, because ``ps`` shows it."""
    return mask_url(redis_url) != redis_url


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is a loopback address."""
    return (urlsplit(url).hostname or "") in ("127.0.0.1", "::1", "localhost")
