"""The endpoints and proxies of botocore's clients, also of those for credentials.

Endpoints on loopback are treated in a way of their own.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any
from urllib.request import getproxies

from saltctl.errors import ConfigurationError
from saltctl.stores.loopback import INSIDE, check_endpoint
from saltctl.urls import check_http_url, is_loopback, mask_url

_SERVICES = ("dynamodb", "monitoring", "oidc", "portal.sso", "s3", "signin", "sts")
"""The services that saltctl and its credentials use, by the names that botocore's list of endpoints has for them."""
_CONTAINER = "http://169.254.170.2"
_ENDPOINT_HINT = (
    "correct AWS_ENDPOINT_URL_DYNAMODB, AWS_ENDPOINT_URL, or endpoint_url in the profile\nsaltctl config show"
)
_PROXY_HINT = "correct or unset the variable (in lower case, too): only HTTP proxies are used"


def keep_to_loopback(core: Any) -> None:
    """Change a botocore session before its first client.

    Its clients reach an endpoint on loopback without the proxies of the environment, whatever NO_PROXY says. Inside the
    local environment it creates no other clients, and asks no metadata service elsewhere for credentials.
    """
    from botocore.config import Config

    create = core.create_client

    def create_client(*args: Any, **options: Any) -> Any:
        """Create a client; raise ConfigurationError if its endpoint may not be reached."""
        if os.environ.get(INSIDE):
            _check_credential_endpoints(core)
        _check_ca_bundle(core, empty=True)
        client = create(*args, **options)
        endpoint = client.meta.endpoint_url
        check_endpoint(endpoint)
        _check_urls(endpoint)
        if endpoint.startswith("https:"):
            _check_ca_bundle(core)
        if is_loopback(endpoint) and getproxies():
            direct = Config(proxies={})
            given = options.get("config")
            client = create(*args, **options | {"config": given.merge(direct) if given else direct})
        _forget_other_services(core)
        return client

    core.create_client = create_client


def _forget_other_services(core: Any) -> None:
    """Remove 300 services from the list of endpoints that botocore has read and keeps: they take 7 MB."""
    for partition in core.get_component("data_loader").load_data("endpoints")["partitions"]:
        services = partition["services"]
        partition["services"] = {name: services[name] for name in _SERVICES if name in services}


def _check_urls(endpoint: str) -> None:
    """Refuse an endpoint, or the proxy to it, that no request could be sent to: botocore notices at each request."""
    try:
        check_http_url(endpoint)
    except ValueError as exc:
        raise ConfigurationError(f"the AWS endpoint {mask_url(endpoint)} {exc}", hint=_ENDPOINT_HINT) from None
    if proxy := proxy_of(endpoint):
        try:
            check_http_url(proxy)
        except ValueError as exc:
            variable = f"{endpoint.partition(':')[0].upper()}_PROXY"
            raise ConfigurationError(f"the proxy in {variable} {exc}", hint=_PROXY_HINT) from None


def proxy_of(endpoint: str) -> str:
    """Return the URL of the proxy through which an endpoint is reached; empty if it is reached directly."""
    from botocore.utils import get_environ_proxies

    if not endpoint or is_loopback(endpoint):
        return ""
    proxy = str(get_environ_proxies(endpoint).get(endpoint.partition(":")[0], ""))
    return f"http://{proxy}" if proxy and "://" not in proxy else proxy


def _check_ca_bundle(core: Any, *, empty: bool = False) -> None:
    """Refuse a file of certificates that cannot be read. Only HTTPS reads it; with ``empty`` only its name counts."""
    path, variable = core.get_config_variable("ca_bundle"), "REQUESTS_CA_BUNDLE"
    if path is not None:
        variable = "AWS_CA_BUNDLE" if "AWS_CA_BUNDLE" in os.environ else "ca_bundle in the AWS configuration"
    elif (path := os.environ.get(variable)) is None:
        return
    if (empty and path.strip()) or (os.access(path, os.R_OK) and not Path(path).is_dir()):
        return
    raise ConfigurationError(
        f"{variable} is {path[:200]!r}, which is not a file that can be read",
        hint="remove it, or set it to a file of PEM certificates",
    )


def _check_credential_endpoints(core: Any) -> None:
    """Keep the credential providers that use no client from asking servers that are not on loopback."""
    if not is_loopback(core.get_config_variable("ec2_metadata_service_endpoint") or ""):
        os.environ["AWS_EC2_METADATA_DISABLED"] = "true"
    for name in ("AWS_CONTAINER_CREDENTIALS_RELATIVE_URI", "AWS_CONTAINER_CREDENTIALS_FULL_URI"):
        if os.environ.get(name):
            check_endpoint(_CONTAINER if "RELATIVE" in name else os.environ[name])
