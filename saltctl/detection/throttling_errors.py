"""Recognise the DynamoDB errors that salting helps against."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

KEY_RANGE_REASONS = frozenset({"TableWriteKeyRangeThroughputExceeded", "TableReadKeyRangeThroughputExceeded"})
"""Reasons that salting helps against. ``Index…`` names a hot secondary index, which more salts do not help."""


def throttled_by_key_range(error: object) -> bool:
    """Return whether a botocore ClientError says that a key range of the table was throttled.

    Reads ``ThrottlingReasons`` (ProvisionedThroughputExceededException, RequestLimitExceeded) and
    ``throttlingReasons`` (ThrottlingException), as DynamoDB documents them. Returns False for any other error:
    salting does not help a hot index, exceeded provisioned throughput or an account limit.
    """
    response = getattr(error, "response", None)
    if not isinstance(response, Mapping):
        return False
    for parent in (response, response.get("Error")):
        if not isinstance(parent, Mapping):
            continue
        for spelling in ("ThrottlingReasons", "throttlingReasons"):
            reasons = parent.get(spelling)
            if isinstance(reasons, Iterable) and any(_is_key_range(reason) for reason in reasons):
                return True
    return False


def _is_key_range(reason: Any) -> bool:
    return isinstance(reason, Mapping) and (reason.get("reason") or reason.get("Reason")) in KEY_RANGE_REASONS
