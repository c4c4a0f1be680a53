"""Errors of DynamoDB that ask for more salts."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

KEY_RANGE_REASONS = frozenset({"TableWriteKeyRangeThroughputExceeded", "TableReadKeyRangeThroughputExceeded"})
"""Reasons that salting helps against. ``Index…`` names a hot secondary index, which more salts do not help."""


def throttled_by_key_range(error: object) -> bool:
    """Return whether a botocore ClientError says that a key range of the table was throttled.

    Reads ``ThrottlingReasons`` (ProvisionedThroughputExceededException, RequestLimitExceeded) and
    ``throttlingReasons`` (ThrottlingException), as DynamoDB documents them. Returns False for any other error:
    salting does not help a hot index, exceeded provisioned throughput or an account limit.
    """
    response = getattr(error, "response", None)
    for parent in (response, response.get("Error")) if isinstance(response, Mapping) else ():
        for spelling in ("ThrottlingReasons", "throttlingReasons"):
            reasons = parent.get(spelling) if isinstance(parent, Mapping) else None
            for reason in reasons if isinstance(reasons, Iterable) else ():
                if isinstance(reason, Mapping) and (reason.get("reason") or reason.get("Reason")) in KEY_RANGE_REASONS:
                    return True
    return False
