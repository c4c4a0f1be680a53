"""TLS with a certificate authority of the test's own: one server, a cluster, and sentinels."""

from __future__ import annotations

import shutil
import socket
import ssl
import threading
import uuid
from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest

from saltctl.errors import ConfigurationError, RedisUnavailableError, SaltctlError, UnavailableError
from saltctl.local.servers import LocalMoto, LocalRedis, free_port
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.bounded.deadline import BoundedTlsSocket
from saltctl.stores.heat.report import HeatReport
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry
from tests.support import rebuild_job
from tests.support.clusters import SERVICE, LocalCluster, LocalSentinels
from tests.support.redis_servers import find_engine
from tests.support.tls import create_authority

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A directory with a certificate authority, and a certificate by it for 127.0.0.1."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("openssl is not installed, so there are no certificates to test TLS with")
    directory = tmp_path_factory.mktemp("authority")
    create_authority(directory, openssl)
    return directory


@pytest.fixture(scope="module")
def options(authority: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """Options that enable TLS; skips if no installed server supports it."""
    found = {
        "tls-cert-file": str(authority / "tls.crt"),
        "tls-key-file": str(authority / "tls.key"),
        "tls-ca-cert-file": str(authority / "ca.crt"),
        "tls-auth-clients": "no",
    }
    probe = LocalRedis(
        tmp_path_factory.mktemp("probe"), binary=find_engine("redis"), options={**found, "tls-port": str(free_port())}
    )
    try:
        probe.start()
    except UnavailableError:
        pytest.skip("this redis-server was built without TLS")
    finally:
        probe.kill()
    return found


Opened = tuple[str, Settings]


@pytest.fixture(params=["server", "cluster", "sentinel"])
def opened(
    request: pytest.FixtureRequest, options: dict[str, str], tmp_path: Path, moto: LocalMoto
) -> Iterator[Settings]:
    """Settings for each kind of Redis in turn; the URL says rediss and names no authority yet."""
    binary = find_engine("redis")
    port = {"tls-port": str(free_port())}
    settings = Settings(
        registry_id="feed0123456789ab",
        buckets=64,
        backup_table=f"backup-{uuid.uuid4().hex[:8]}",
        aws_region="us-east-1",
        aws_endpoint_url=moto.url,
        lookup_timeout=5.0,
        breaker_seconds=0.0,
    )
    if request.param == "server":
        server = LocalRedis(tmp_path / "tls", binary=binary, options={**options, **port})
        server.start()
        yield replace(settings, redis_url=f"rediss://127.0.0.1:{port['tls-port']}/0")
        server.kill()
    elif request.param == "cluster":
        cluster = LocalCluster(
            tmp_path / "cluster", binary, primaries=1, replicas=False, options={**options, **port, "tls-cluster": "yes"}
        )
        cluster.start()
        yield replace(settings, redis_url=f"rediss+cluster://127.0.0.1:{port['tls-port']}")
        cluster.stop()
    else:
        sentinels = LocalSentinels(
            tmp_path / "sentinels", binary, options={**options, "tls-replication": "yes"}, tls=True
        )
        sentinels.start()
        hosts = ",".join(f"127.0.0.1:{node.server.options['tls-port']}" for node in sentinels.sentinels)
        yield replace(settings, redis_url=f"rediss+sentinel://{hosts}/{SERVICE}")
        sentinels.stop()


def test_every_kind_of_redis_by_tls(opened: Settings, authority: Path) -> None:
    """Registry, rebuild and stream work with a trusted certificate; with another one nothing is sent."""
    backup = BackupTable(opened)
    backup.create()
    trusted = replace(opened, redis_url=f"{opened.redis_url}?ssl_ca_certs={authority / 'ca.crt'}")
    store = RedisRegistry(trusted)
    list(rebuild_job(trusted, store, backup).run())
    with Registry.over(trusted, store, backup) as registry:
        registry.raise_to("conv", 4)
        assert registry.lookup("conv")[:4] == ("conv", 4, 4, "redis")
    stream = HeatStream(trusted)
    stream.append_reports([HeatReport("conv", "app", 1, 2000)])
    assert stream.info().length == 1
    stream.close()
    with Registry.over(opened, RedisRegistry(opened), backup) as distrusted:
        assert distrusted.lookup("conv")[:4] == ("conv", 4, 4, "backup")
        assert isinstance(distrusted.last_failure, ConfigurationError)
        assert "certificate that cannot be verified" in distrusted.last_failure.message
        assert "ssl_ca_certs" in distrusted.last_failure.hint
    unchecked = replace(opened, redis_url=f"{opened.redis_url}?ssl_cert_reqs=none&ssl_check_hostname=false")
    with Registry.over(unchecked, RedisRegistry(unchecked), backup) as registry:
        assert registry.lookup("conv").source == "redis"


def test_tls_on_one_side(options: dict[str, str], authority: Path, tmp_path: Path) -> None:
    """A client without a certificate is refused after its handshake (TLS 1.3), and one without TLS by a reset."""
    port = free_port()
    own = {"tls-port": str(port), "tls-auth-clients": "yes"}
    server = LocalRedis(tmp_path / "tls", binary=find_engine("redis"), options={**options, **own})
    server.start()
    cases: list[tuple[str, str, type[SaltctlError], str]] = [
        ("rediss", f"?ssl_ca_certs={authority / 'ca.crt'}", ConfigurationError, "ssl_certfile"),
        ("redis", "", RedisUnavailableError, "rediss://"),
    ]
    for scheme, query, error, hint in cases:
        url = f"{scheme}://127.0.0.1:{port}/0{query}"
        with closing(RedisRegistry(Settings(redis_url=url, registry_id="0" * 16, lookup_timeout=30.0))) as store:
            with pytest.raises(error) as refused:
                store.lookup(f"127.0.0.1:{port}", ["conv"])
            assert hint in refused.value.hint
    server.kill()


def test_the_alert_of_a_server_that_closed_is_the_error(authority: Path) -> None:
    """A client that writes too late to be answered must not call the refusal a lost connection."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(authority / "tls.crt", authority / "tls.key")
    server.load_verify_locations(authority / "ca.crt")
    server.verify_mode = ssl.CERT_REQUIRED
    client = ssl.create_default_context(cafile=str(authority / "ca.crt"))
    near, far = socket.socketpair()

    def serve() -> None:
        with far, pytest.raises(ssl.SSLError):
            server.wrap_socket(far, server_side=True)

    thread = threading.Thread(target=serve)
    thread.start()
    with client.wrap_socket(near, server_hostname="127.0.0.1") as wrapped:
        wrapped.__class__ = BoundedTlsSocket
        thread.join()
        with pytest.raises(ssl.SSLError, match="certificate required"):
            wrapped.sendall(b"PING")
