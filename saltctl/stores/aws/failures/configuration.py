"""The AWS configuration: files, profiles and variables that cannot be used."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path

from saltctl.errors import ConfigurationError
from saltctl.stores.bounded.errors import NO_REGION_HINT
from saltctl.urls import check_http_url

_BOOLEAN = "true|false|"
_NUMBER = r"[0-9]+"
_POSITIVE = r"0*[1-9][0-9]*"
_CHECKSUMS = "when_supported|when_required"
_VALUES = {
    "account_id_endpoint_mode": "preferred|disabled|required",
    "defaults_mode": "legacy|auto|standard|in-region|cross-region|mobile",
    "disable_host_prefix_injection": _BOOLEAN,
    "disable_request_compression": _BOOLEAN,
    "ec2_metadata_disabled": _BOOLEAN,
    "ec2_metadata_service_endpoint_mode": "ipv4|ipv6|",
    "ec2_metadata_v1_disabled": _BOOLEAN,
    "endpoint_discovery_enabled": "auto|true|false",
    "ignore_configured_endpoint_urls": _BOOLEAN,
    "imds_use_ipv6": _BOOLEAN,
    "max_attempts": _NUMBER,
    "metadata_service_num_attempts": _NUMBER,
    "metadata_service_timeout": _POSITIVE,
    "request_checksum_calculation": _CHECKSUMS,
    "request_min_compression_size_bytes": _NUMBER,
    "response_checksum_validation": _CHECKSUMS,
    "retry_mode": "legacy|standard|adaptive",
    "sts_regional_endpoints": "legacy|regional",
    "use_dualstack_endpoint": _BOOLEAN,
    "use_fips_endpoint": _BOOLEAN,
}
"""Settings of the AWS SDKs, and what each may be. botocore takes other words for "false", or fails when it needs it."""

_URLS = (
    *("AWS_CONTAINER_CREDENTIALS_FULL_URI", "AWS_EC2_METADATA_SERVICE_ENDPOINT"),
    *(f"AWS_ENDPOINT_URL_{service}" for service in ("CLOUDWATCH", "SSO", "SSO_OIDC", "STS")),
)


def check_region(region: str | None) -> None:
    """Refuse a Region that is empty; None means that none is set.

    Raises:
        ConfigurationError: it is empty: botocore would ask for a host without a name, or ask any endpoint.
    """
    if region is None or region.strip():
        return
    empty = [name for name in ("AWS_REGION", "AWS_DEFAULT_REGION") if not os.environ.get(name, "-").strip()]
    place = ", ".join(empty) or f"region in {_existing()}"
    raise ConfigurationError(f"the AWS Region is empty ({place})", hint=NO_REGION_HINT)


def check_values(profile: Mapping[str, object]) -> None:
    """Check the settings of the environment and of a profile that botocore reads later, or as another value.

    Raises:
        ConfigurationError: one has a value that is not valid.
    """
    for name, allowed in _VALUES.items():
        variable = f"AWS_{name.upper()}"
        value = os.environ.get(variable, profile.get(name))
        if value is None or re.fullmatch(allowed, str(value), re.IGNORECASE):
            continue
        place = variable if variable in os.environ else f"{name} in {_existing()}"
        words = {_NUMBER: "a number", _POSITIVE: "a number above 0"}.get(allowed, allowed.strip("|").replace("|", ", "))
        raise ConfigurationError(
            f"{place} is {str(value)[:60]!r}, which is not valid", hint=f"remove it, or set it to: {words}"
        )
    for variable in _URLS:
        try:
            check_http_url(os.environ.get(variable) or "http://unset")
        except ValueError as exc:
            hint = f"remove it, or correct it\necho ${variable}"
            raise ConfigurationError(f"{variable} is not usable: it {exc}", hint=hint) from None


def invalid_profile(problem: str, profile: str = "") -> ConfigurationError:
    """Return the error for a profile that cannot be used. ``profile``: the one in use; empty if it is not known."""
    named = f"profile {profile!r}" if profile else "a profile"
    hint = f"correct {named}, or choose another one (AWS_PROFILE)\naws configure list-profiles"
    if "sso" in problem.lower():
        hint = f"aws configure sso{f' --profile {shlex.quote(profile)}' if profile else ''}"
    return ConfigurationError(f"{named} in {_existing()} cannot be used: {problem}", hint=hint)


def _files() -> Iterator[tuple[Path, str]]:
    """Yield each file, and the variable that names it, in parentheses."""
    for variable, default in (("AWS_CONFIG_FILE", "config"), ("AWS_SHARED_CREDENTIALS_FILE", "credentials")):
        path = os.path.expanduser(os.environ.get(variable) or f"~/.aws/{default}")  # noqa: PTH111  without HOME
        yield Path(path), f" ({variable})" if variable in os.environ else ""


def _existing() -> str:
    found = [f"{str(path)!r}{variable}" for path, variable in _files() if path.exists()]
    return " or ".join(found) or "the AWS configuration"


def unreadable_files(*, missing: bool) -> str:
    """Return which AWS configuration files cannot be read; empty if none.

    ``missing``: include files that a variable names and that do not exist. Devices such as /dev/null count as empty.
    """
    found = []
    for path, variable in _files():
        exists = path.exists()
        unreadable = path.is_dir() or not os.access(path, os.R_OK)
        if (exists and unreadable) or (missing and variable and not exists):
            found.append(f"{str(path)!r}{variable} is not a file that can be read")
    return "; ".join(found)
