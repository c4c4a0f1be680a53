"""Redis URLs taken apart: which servers, with which credentials, and no password in what is shown."""

from __future__ import annotations

import pytest

from saltctl.settings import MASK, Settings, load_settings, mask_url
from saltctl.urls import Address, parse_redis_url

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
    """Default ports, several hosts, IPv6; a URL is shown as what it connects to."""
    parsed = parse_redis_url(url)
    assert (parsed.kind, parsed.tls, str(parsed)) == (kind, tls, shown)


def test_credentials_and_options_go_to_every_node() -> None:
    """A node of a cluster is connected to as the URL says: TLS, user, password, options."""
    parsed = parse_redis_url(
        f"rediss+cluster://app:{SECRET}%40@a,b:2/0?ssl_ca_certs=/etc/ca%201.pem&ssl_cert_reqs=none"
    )
    assert (
        parsed.of_server(str(Address("::2", 7)))
        == f"rediss://app:{SECRET}%40@[::2]:7/0?ssl_ca_certs=%2Fetc%2Fca+1.pem&ssl_cert_reqs=none"
    )


def test_sentinels_have_credentials_of_their_own() -> None:
    """They get neither the servers' password nor their database, and the servers get none of theirs."""
    url = f"redis+sentinel://app:{SECRET}@s/m/2?sentinel_username=u%40&sentinel_password=p%2Fw&socket_keepalive=1"
    parsed = parse_redis_url(url)
    assert parsed.service == "m"
    assert parsed.of_sentinel(parsed.addresses[0]) == "redis://u%40:p%2Fw@s:26379/0?socket_keepalive=1"
    assert parsed.of_server("h:1") == f"redis://app:{SECRET}@h:1/2?socket_keepalive=1"


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+cluster://", "must name a host"),
        ("redis+cluster://a/1", "number 0 alone"),
        ("redis+cluster://a/x", "database number"),
        ("redis+cluster://a:x,b", "taken apart"),
        (f"redis+cluster://:{SECRET}/x@a", "taken apart"),
        ("redis+sentinel://s", "must name the service"),
        ("redis+sentinel://s/m/db", "database number"),
        ("redis://a,b/0", "several hosts"),
        ("redis+clusters://a", "must begin with"),
    ],
)
def test_what_cannot_be_meant(url: str, says: str) -> None:
    """Says what is wrong, and repeats nothing of what may be a password."""
    with pytest.raises(ValueError, match=says) as refused:
        parse_redis_url(url)
    assert SECRET not in str(refused.value)


@pytest.mark.parametrize("scheme", ["redis+cluster", "rediss+cluster", "redis+sentinel", "rediss+sentinel"])
def test_no_password_is_shown(scheme: str) -> None:
    """Neither by ``config show`` nor by a repr; hosts and service are."""
    url = f"{scheme}://app:{SECRET}@h1:1,h2/m?sentinel_password={SECRET}&ssl_ca_certs=x"
    if "cluster" in scheme:
        url = url.replace("/m?", "?")
    settings = load_settings(flags={}, environ={"SALTCTL_REDIS_URL": url})
    assert settings.redis_url == url
    shown = mask_url(url)
    assert SECRET not in f"{shown} {settings!r} {parse_redis_url(url)!r} {parse_redis_url(url)}"
    assert shown.startswith(f"{scheme}://app:{MASK}@h1:1,h2")
    assert f"sentinel_password={MASK}&ssl_ca_certs=x" in shown
    assert Settings(redis_url=url).require_redis_url() == url
