"""URLs: the server, cluster or sentinels of a Redis URL; passwords in URLs; loopback addresses. No connections.

::

    redis://[user:password@]host[:6379][/database]      rediss:// with TLS
    unix://[user:password@]/path
    redis+cluster://[user:password@]host[:6379],host…   rediss+cluster:// with TLS
    redis+sentinel://[user:password@]host[:26379],host…/service[/database]   rediss+sentinel:// with TLS

The query contains options of each connection: those of redis-py that do not overrule saltctl, such as
``ssl_ca_certs`` and ``ssl_cert_reqs``. Timeouts are ignored, any other option is refused. The options
``sentinel_username``, ``sentinel_password`` and ``sentinel_password_file`` are the credentials for the sentinels.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field, replace
from ipaddress import ip_address
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
# URLs of applications have these often. The settings lookup_timeout and redis_timeout replace them.
_REPLACED = ("socket_timeout", "socket_connect_timeout")
_BOOLEANS = frozenset({"true", "false", "yes", "no", "1", "0"})
_NUMBERS = re.compile("[0-9]{1,5}")
_WORD = re.compile("[!-~]+")  # CLIENT SETNAME takes no other one
# The options of a query, with their possible values: a set, a pattern, or None for any. Not those of redis-py that do
# nothing in a URL (ssl_validate_ocsp), or that would overrule saltctl: retries, the protocol, the pool.
_OPTIONS: dict[str, frozenset[str] | re.Pattern[str] | None] = {
    "db": _NUMBERS,
    "username": None,
    "password": None,
    "client_name": _WORD,
    "socket_keepalive": _BOOLEANS,
    "ssl_cert_reqs": frozenset({"none", "optional", "required"}),
    "ssl_check_hostname": _BOOLEANS,
    "ssl_min_version": frozenset({"769", "770", "771", "772"}),
    **dict.fromkeys(("ssl_ca_certs", "ssl_ca_path", "ssl_ca_data", "ssl_certfile", "ssl_keyfile", "ssl_password")),
    **dict.fromkeys(("ssl_ciphers", "ssl_include_verify_flags", "ssl_exclude_verify_flags")),
}


class Address(NamedTuple):
    """Address of a server. Its string is the server's name, without user and password."""

    host: str
    port: int

    def __str__(self) -> str:
        """Return ``host:port``, with an IPv6 address in brackets."""
        return f"{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}"


def known_address(host: str, port: int, asked: str = "") -> Address | None:
    """Return the address of a server as another one names it; None if it names no usable one.

    An empty host or ``?`` stands for the host of ``asked``, which is the name of the server that was asked.
    """
    if host in ("", "?"):
        host = urlsplit(f"//{asked}").hostname or ""
    usable = re.fullmatch(r"[A-Za-z0-9_.:%-]+", host) and 0 < port < 65536  # it becomes a part of a URL
    return Address(host, port) if usable else None


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

    def __str__(self) -> str:
        """Return the addresses or the socket's path, for messages: never a password."""
        return self.path or ",".join(map(str, self.addresses))

    def of_server(self, name: str) -> str:
        """Return the URL of one server with the credentials and options of this URL."""
        return self._of_node(name, self.userinfo, self.database)

    def of_sentinel(self, address: Address) -> str:
        """Return the URL of one sentinel with the sentinels' credentials."""
        own = dict(self.options)
        userinfo = quote(own.get("sentinel_username", ""), safe="")
        if "sentinel_password" in own:
            userinfo += ":" + quote(own["sentinel_password"], safe="")
        return self._of_node(str(address), userinfo, "", ("username", "password", "client_name"))

    def _of_node(self, name: str, userinfo: str, database: str, but: tuple[str, ...] = ()) -> str:
        options = [(option, value) for option, value in self.options if option not in ("db", *_SENTINELS_OWN, *but)]
        if self.kind == "socket" and database:
            options.append(("db", database))
        scheme = "unix" if self.kind == "socket" else "rediss" if self.tls else "redis"
        place = self.path if self.kind == "socket" else f"{name}/{database or 0}"
        return f"{scheme}://{userinfo}{'@' if userinfo else ''}{place}{'?' if options else ''}{urlencode(options)}"


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
    userinfo, _, hosts = authority.rpartition("@")
    try:
        tail = urlsplit(rest)
        urlsplit(f"//{userinfo}@h")  # as redis-py does
    except ValueError:
        raise ValueError(_UNREADABLE) from None
    if tail.fragment:
        raise ValueError("has a '#', which must be quoted in a password as %23")
    options = tuple(part for part in parse_qsl(tail.query, keep_blank_values=True) if part[0] not in _REPLACED)
    parsed = RedisUrl(kind, scheme.lower().startswith("rediss"), userinfo=userinfo, options=options)
    _check_options(parsed)
    if kind == "socket":
        if not tail.path:
            raise ValueError("must name a socket, such as unix:///run/redis.sock")
        return replace(parsed, path=tail.path, database=dict(options).get("db", ""))
    addresses = _addresses(hosts, 26379 if kind == "sentinel" else 6379)
    if not addresses:
        raise ValueError(_NO_HOST)
    service, database = _service_and_database(kind, tail.path.strip("/"), dict(options).get("db", ""))
    if kind == "server" and len(addresses) > 1:
        raise ValueError("names several hosts; write redis+cluster:// or redis+sentinel://")
    return replace(parsed, addresses=addresses, service=service, database=database)


def _check_options(url: RedisUrl) -> None:
    given = [name for name, _ in url.options]
    for name, value in url.options:
        if name not in _OPTIONS and not (name in _SENTINELS_OWN and url.kind == "sentinel"):
            raise ValueError(_unknown_option(name, url))
        if name.startswith("ssl_") and not url.tls:
            raise ValueError(f"has the option {name}, but no TLS: write rediss:// or rediss+…://")
        if given.count(name) > 1:
            raise ValueError(f"has the option {name} twice")
        if name in ("username", "password") and url.userinfo:
            raise ValueError(f"names a user or a password before the host, and again in the option {name}")
        possible = _OPTIONS.get(name)
        if isinstance(possible, re.Pattern):
            if not possible.fullmatch(value):
                kind = "a number" if possible is _NUMBERS else "a word of printable ASCII characters"
                raise ValueError(f"has an option {name} that is not {kind}")
        elif not value or (possible and value.lower() not in possible):
            must = f"one of {', '.join(sorted(possible))}" if possible else "not empty"
            must += " (TLS 1.0 to 1.3)" if name == "ssl_min_version" else ""
            raise ValueError(f"has an option {name} that cannot be used; it must be {must}")
    if "ssl_certfile" not in given and (name := next((n for n in ("ssl_keyfile", "ssl_password") if n in given), "")):
        raise ValueError(f"has the option {name}, but ssl_certfile is missing")


def _unknown_option(name: str, url: RedisUrl) -> str:
    """Return why an option is refused. Its name is hidden if it may be the end of a password with an ampersand."""
    hidden = not re.fullmatch("[a-z][a-z_]{,40}", name) or any("pass" in other.lower() for other, _ in url.options)
    instead = "; for TLS, write rediss:// or rediss+…://" if name.startswith("ssl") and not url.tls else ""
    if name in ("user", "auth") and not hidden:
        instead = "; a user belongs before the host, as in redis://user@host, and a password into redis_password_file"
    return (
        f"has {'an option' if hidden else f'the option {name}'} that saltctl does not know or sets itself, as it does "
        f"retries and the protocol{instead}. Remove it; see: saltctl help redis-urls"
    )


def _addresses(hosts: str, default_port: int) -> tuple[Address, ...]:
    found = []
    for host in filter(None, hosts.split(",")):
        try:
            parts = urlsplit(f"//{host}")
            port = default_port if parts.port is None else parts.port
        except ValueError:
            # The cause may quote the URL, and the URL may hold a password.
            raise ValueError(_UNREADABLE) from None
        if not parts.hostname:
            raise ValueError(_NO_HOST)
        if not port:
            raise ValueError("names port 0; the default is chosen by leaving the port out")
        found.append(Address(parts.hostname, port))
    return tuple(found)


def _service_and_database(kind: Kind, path: str, option: str) -> tuple[str, str]:
    service = ""
    if kind == "sentinel":
        service, _, path = path.partition("/")
        if not service:
            raise ValueError("must name the service that the sentinels watch, such as redis+sentinel://s1,s2/mymaster")
    if path and not _NUMBERS.fullmatch(path):
        raise ValueError("may have only a database number as its path, such as /0")
    if path and option and int(path) != int(option):
        raise ValueError("names two databases: one in its path, and another in the option db")
    path = path or option
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


def check_http_url(url: str) -> None:
    """Raise ValueError unless a URL names a host of HTTP or HTTPS. The error quotes nothing of it."""
    try:
        parts = urlsplit(url)
        hostname = parts.hostname
        if parts.port == 0:
            raise ValueError
    except ValueError:
        raise ValueError("is not a valid URL: is its port a number up to 65535?") from None
    if parts.scheme not in ("http", "https") or not hostname:
        raise ValueError("must be an http:// or https:// URL")


def has_password(redis_url: str) -> bool:
    """Return whether the URL contains a password. Such a URL must not come from a flag, because ``ps`` shows it."""
    return mask_url(redis_url) != redis_url


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is a loopback address. A name other than localhost is not."""
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ip_address(host).is_loopback
    except ValueError:
        return False
