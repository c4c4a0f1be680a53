"""Parsing of Redis URLs: servers, credentials, and masked passwords."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from saltctl.errors import ConfigurationError
from saltctl.settings import Settings, load_settings
from saltctl.stores.redis.connections import Connections
from saltctl.urls import MASK, Address, has_password, is_loopback, mask_url, parse_redis_url

SECRET = "hunter2"  # noqa: S105  opens nothing


@pytest.mark.parametrize(
    ("url", "kind", "tls", "shown"),
    [
        ("redis://h", "server", False, "h:6379"),
        ("rediss://h:1/3", "server", True, "h:1"),
        ("unix:///run/redis.sock", "socket", False, "/run/redis.sock"),
        ("redis+cluster://a,b:7001", "cluster", False, "a:6379,b:7001"),
        ("rediss+cluster://[::1]:7000,[2001:db8::1]", "cluster", True, "[::1]:7000,[2001:db8::1]:6379"),
        ("redis+sentinel://s1,s2:5/mymaster", "sentinel", False, "s1:26379,s2:5"),
        ("rediss+sentinel://s1/mymaster/2", "sentinel", True, "s1:26379"),
        ("REDIS+CLUSTER://a", "cluster", False, "a:6379"),
    ],
)
def test_every_kind_of_url(url: str, kind: str, tls: bool, shown: str) -> None:
    """Default ports, several hosts and IPv6; the string of a URL is its servers."""
    parsed = parse_redis_url(url)
    assert (parsed.kind, parsed.tls, str(parsed)) == (kind, tls, shown)


def test_credentials_and_options_go_to_every_node() -> None:
    """The URL of a node has the TLS, user, password and options of the cluster's URL."""
    parsed = parse_redis_url(
        f"rediss+cluster://app:{SECRET}%40@a,b:2/0?ssl_ca_certs=/etc/ca%201.pem&ssl_cert_reqs=none"
    )
    assert (
        parsed.of_server(str(Address("::2", 7)))
        == f"rediss://app:{SECRET}%40@[::2]:7/0?ssl_ca_certs=%2Fetc%2Fca+1.pem&ssl_cert_reqs=none"
    )


def test_sentinels_have_credentials_of_their_own() -> None:
    """Sentinels do not get the servers' password or database; servers do not get the sentinels' credentials."""
    url = f"redis+sentinel://app:{SECRET}@s/m/2?sentinel_username=u%40&sentinel_password=p%2Fw&socket_keepalive=1"
    parsed = parse_redis_url(url)
    assert parsed.service == "m"
    assert parsed.of_sentinel(parsed.addresses[0]) == "redis://u%40:p%2Fw@s:26379/0?socket_keepalive=1"
    assert parsed.of_server("h:1") == f"redis://app:{SECRET}@h:1/2?socket_keepalive=1"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+cluster://", "must name a host"),
        ("redis+cluster://a/1", "only database 0"),
        ("redis+cluster://a/x", "database number"),
        ("redis+cluster://a:x,b", "not a valid URL"),
        (f"redis+cluster://:{SECRET}/x@a", "not a valid URL"),
        ("redis+sentinel://s", "must name the service"),
        ("redis+sentinel://s/m/db", "database number"),
        ("redis://a,b/0", "several hosts"),
        ("redis+clusters://a", "must begin with"),
        ("redis://h/0#x", "%23"),
        ("unix:///s#x", "%23"),
        ("redis://h:0", "port 0"),
        ("redis+cluster://a,b:0", "port 0"),
        ("redis://h/1?db=2", "two databases"),
        ("redis+cluster://h?db=2", "only database 0"),
        ("redis://h/123456", "database number"),
        ("redis://h/\u00b2", "database number"),
        (f"redis://u:[{SECRET}@h", "not a valid URL"),
        (f"redis://u:{SECRET}]@h", "not a valid URL"),
        ("redis://h//[x", "not a valid URL"),
        ("redis://h?client_name=a%20b", "client_name that is not a word"),
        ("redis://h?client_name=a+b", "client_name that is not a word"),
        ("redis+cluster://h?client_name=caf%C3%A9", "client_name that is not a word"),
        ("redis://h?db=-1", "db that is not a number"),
        ("redis://h?db=1&db=1", "db twice"),
        (f"redis://:{SECRET}@h?password=x", "again in the option password"),
        ("redis://h?ssl_ca_certs=/ca.pem", "ssl_ca_certs, but no TLS: write rediss://"),
        ("redis://h?ssl=true", "ssl .*write rediss://"),
        ("rediss://h?ssl_cert_reqs=CERT_NONE", "ssl_cert_reqs .* none, optional, required"),
        ("rediss://h?ssl_check_hostname=off", "ssl_check_hostname .*false"),
        ("rediss://h?ssl_ca_certs=", "ssl_ca_certs .*not empty"),
        ("rediss://h?ssl_keyfile=/k.pem", "ssl_keyfile, but ssl_certfile is missing"),
        (f"rediss+cluster://h?ssl_password={SECRET}", "ssl_password, but ssl_certfile is missing"),
        ("rediss://h?ssl_validate_ocsp=true", "option ssl_validate_ocsp that saltctl does not know"),
        ("redis://h?user=app", "before the host, as in redis://user@host, and a password into redis_password_file"),
        ("redis+cluster://h?sentinel_password=x", "an option that saltctl does not know"),
        (f"redis://h?ssl_x&password=a&{SECRET}", "an option that"),
    ],
)
def test_invalid_urls_are_refused(url: str, says: str) -> None:
    """The message names the fault, and quotes nothing that may be a password."""
    with pytest.raises(ValueError, match=says) as refused:
        parse_redis_url(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize(
    "option",
    [
        "decode_responses=true",
        "protocol=3",
        "timeout=1",
        "retry=3",
        "retry_on_timeout=true",
        "retry_on_error=x",
        "health_check_interval=1",
        "max_connections=1",
        "encoding=latin-1",
        "connection_class=x",
        "single_connection_client=true",
        "legacy_responses=false",
    ],
)
@pytest.mark.parametrize("url", ["rediss://:pw@h/0", "unix:///s", "redis+cluster://h", "redis+sentinel://h/m"])
def test_options_cannot_overrule_saltctl(url: str, option: str) -> None:
    """They are refused by name, as a matter of configuration, whichever kind of URL has them."""
    with pytest.raises(ConfigurationError, match=f"redis_url has the option {option.partition('=')[0]} "):
        Connections(Settings(redis_url=f"{url}?{option}"), timeout=1.0, retries=0)
    with pytest.raises(ConfigurationError, match=f"has the option {option.partition('=')[0]} "):
        load_settings(flags={}, environ={"SALTCTL_REDIS_URL": f"{url}?{option}"})


@pytest.mark.parametrize("url", ["redis://h/0", "unix:///s", "redis+cluster://h", "redis+sentinel://h/m"])
def test_timeouts_are_those_of_the_settings(url: str) -> None:
    """URLs of applications have them often; here they are without effect."""
    parsed = parse_redis_url(f"{url}?socket_timeout=8&client_name=x&socket_connect_timeout=8")
    assert parsed.of_server("h:6379").endswith("?client_name=x")
    assert "timeout" not in parsed.of_server("h:6379")


def test_a_database_may_be_an_option() -> None:
    """It is that of the servers, and not of the sentinels."""
    parsed = parse_redis_url("redis+sentinel://s/m?db=2&username=app")
    assert parsed.of_server("h:1") == "redis://h:1/2?username=app"
    assert parsed.of_sentinel(parsed.addresses[0]) == "redis://s:26379/0"
    socket = parse_redis_url("UNIX://:pw@/run/redis.sock?db=1&client_name=x")
    assert socket.of_server(str(socket)) == "unix://:pw@/run/redis.sock?client_name=x&db=1"


@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"])
def test_no_password_is_shown(scheme: str) -> None:
    """A masked URL and a repr show hosts and service, but no password."""
    url = f"{scheme}://app:{SECRET}@h1:1,h2/m?sentinel_password={SECRET}&client_name=x"
    if "cluster" in scheme:
        url = url.replace("/m?sentinel_", "?").replace("app:" + SECRET + "@", "")
    settings = load_settings(flags={}, environ={"SALTCTL_REDIS_URL": url})
    assert settings.redis_url == url
    shown = mask_url(url)
    assert SECRET not in f"{shown} {settings!r} {parse_redis_url(url)!r} {parse_redis_url(url)}"
    assert shown.startswith(f"{scheme}://{'' if 'cluster' in scheme else f'app:{MASK}@'}h1:1,h2")
    assert f"password={MASK}&client_name=x" in shown
    assert Settings(redis_url=url).require_redis_url() == url


# Secrets.

hosts = st.sampled_from(["h", "redis.example.com", "10.0.0.1:6379", "[::1]:6379"])
schemes = st.sampled_from(["redis", "rediss", "unix", "http", "https"])
passwords = st.text(st.characters(exclude_categories=["Cs"]), min_size=6, max_size=40)


@given(
    schemes, st.sampled_from(["", "user"]), passwords, hosts, st.sampled_from(["", "/0", "/run/redis.sock", "?db=1"])
)
@example("redis", "", "pa/ss@", "h", "/0")
@example("redis", "", "pass#word", "h", "/0")
@example("redis", "", "a?b=cdef", "h", "/0")
@example("redis", "user", "1234/5678", "h", "/0")
@example("unix", "", "@@@@@@", "", "/run/redis.sock")
def test_a_password_is_never_shown(scheme: str, user: str, password: str, host: str, tail: str) -> None:
    """A password with any characters is masked, quoted or not. A URL that cannot be parsed is masked as a whole."""
    # A password such as "redis:" or "/0:***" is also a part of the masked URL.
    assume(password not in f"{scheme}://{user}:{MASK}@{host}{tail}")
    for typed in {password, quote(password, safe="")}:
        shown = mask_url(f"{scheme}://{user}:{typed}@{host}{tail}")
        assert typed not in shown
        assert password not in shown
        assert MASK in shown


@given(schemes, st.sampled_from(["password", "PASSWORD", "ssl_password", "p%61ssword"]), passwords)
def test_a_password_in_the_query_is_never_shown(scheme: str, key: str, password: str) -> None:
    """redis-py accepts a password in the query, too."""
    quoted = quote(password, safe="")
    assume(quoted not in f"{scheme}://h/0?db=1&{key}={MASK}&x=1")
    shown = mask_url(f"{scheme}://h/0?db=1&{key}={quoted}&x=1")
    assert quoted not in shown
    assert "db=1" in shown


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://user@h/0", "redis://user@h/0"),
        ("redis://user:pw@h/0", "redis://user:***@h/0"),
        ("redis://:pw@h", "redis://:***@h"),
        ("unix:///run/redis.sock", "unix:///run/redis.sock"),
        ("unix:///run/redis.sock?db=1", "unix:///run/redis.sock?db=1"),
        ("unix://:pw@/run/redis.sock", "unix://:***@/run/redis.sock"),
        ("rediss://h/0?ssl_ca_certs=/etc/ca:1.pem", "rediss://h/0?ssl_ca_certs=/etc/ca:1.pem"),
        ("redis://[::1]:6379/0", "redis://[::1]:6379/0"),
        ("http://127.0.0.1:8000", "http://127.0.0.1:8000"),
        ("not a url", MASK),
        ("ftp://user:pw@h", MASK),
        ("redis:pw@h", MASK),
        ("", MASK),
    ],
)
def test_only_passwords_are_masked(url: str, shown: str) -> None:
    """Everything else stays, so that an operator can compare it with the URL that was typed."""
    assert mask_url(url) == shown


@pytest.mark.parametrize(
    ("url", "has"),
    [
        ("redis://h:6379/0", False),
        ("redis://user@h", False),
        ("unix:///run/redis.sock", False),
        ("redis://h/0?client_name=a:b", False),
        ("redis://:pw@h", True),
        ("redis://user:pw@h", True),
        ("redis://h/0?password=pw", True),
        ("redis://:p/w@h", True),
    ],
)
def test_which_urls_have_a_password(url: str, has: bool) -> None:
    """Such a URL must not come from a flag, because ``ps`` shows flags."""
    assert has_password(url) is has


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("http://127.0.0.1:8000", True),
        ("http://localhost", True),
        ("http://127.8.9.10:1", True),
        ("http://[fe80::1", False),
        ("http://127.1", False),
        ("redis://:pw@[::1]:6379/0", True),
        ("https://dynamodb.us-east-1.amazonaws.com", False),
        ("http://127.0.0.1.example.com", False),
        ("unix:///run/redis.sock", False),
        ("", False),
    ],
)
def test_loopback_addresses_are_recognized_by_their_host(url: str, expected: bool) -> None:
    """The drills and `local` refuse every other endpoint."""
    assert is_loopback(url) is expected
