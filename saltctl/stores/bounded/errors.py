"""Failures that botocore has no exceptions for. stores/aws/failures/ converts them to saltctl's errors."""

from __future__ import annotations


class UnreadableResponseError(Exception):
    """A response of another shape or size than AWS sends, for example from a proxy."""


class OversizedResponseError(UnreadableResponseError):
    """A response has a body that is too long to be read. It is not asked for again."""


class MfaRequiredError(Exception):
    """A role wants a code of multi-factor authentication, which takes longer to type than a time budget."""


class CredentialsFailedError(Exception):
    """A provider of credentials failed.

    Args:
        provider: botocore's name of the provider, such as ``sso``; empty if it is not known.
        profile: the profile in use; None if none was chosen.
        cause: any exception.
    """

    def __init__(self, provider: str, profile: str | None, cause: Exception) -> None:
        super().__init__(f"{provider}: {type(cause).__name__}")
        self.provider = provider
        self.profile = profile
        self.cause = cause
