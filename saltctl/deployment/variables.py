"""The environment variables of the service and its jobs."""

from __future__ import annotations

from saltctl.settings import SPECS, Settings
from saltctl.urls import has_password

_SERVICE_SETTINGS = (
    *("redis_url", "backup_table", "key_prefix", "buckets", "registry_id", "max_n_cap", "wps_per_salt", "heat_max_age"),
    *("heat_retention", "redis_timeout", "aws_timeout", "aws_region", "aws_endpoint_url", "redis_iam"),
    *(
        "redis_iam_cache",
        "messages_table",
        "message_id_from",
        "sort_key_form",
        "cool_wait",
        "cool_margin",
        "cool_after",
    ),
)


def variables_of(settings: Settings) -> dict[str, str]:
    """Return the value of each variable, without a URL that has a password."""
    found = {}
    for spec in SPECS:
        value = getattr(settings, spec.name)
        secret = spec.secret and (not value or has_password(value))
        if spec.name in _SERVICE_SETTINGS and value is not None and not secret:
            found[spec.environment[0]] = str(value)
    return found
