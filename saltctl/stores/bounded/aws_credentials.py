"""AWS credentials within time budgets: a provider that does not answer holds one thread, and nobody else.

botocore loads credentials in the thread that creates a client, and refreshes them in the thread that sends a request:
from STS or SSO with timeouts of a minute, from a ``credential_process`` without any.
"""

from __future__ import annotations

from typing import Any

from botocore.credentials import (  # noqa: TID253  this module is imported where botocore is needed
    Credentials,
    ReadOnlyCredentials,
    create_credential_resolver,
)

from saltctl.errors import AwsUnavailableError, SaltctlError
from saltctl.stores.bounded.deadline import SharedCalls, remaining
from saltctl.stores.bounded.errors import CredentialsFailedError, MfaRequiredError

_LEAST_VALIDITY = 60
"""Seconds for which credentials must still be valid if a request does not wait for new ones."""


def _refuse_to_ask(prompt: str) -> str:
    raise MfaRequiredError("it needs an MFA code, which saltctl does not ask for")


class SharedCredentials(Credentials):
    """The credentials of one session, loaded at their first use. Thread-safe.

    One daemon thread loads or refreshes them. Requests wait for it within their budgets, or do not wait at all if the
    credentials are still valid.

    Args:
        session: botocore's session. This object takes the place of its chain of providers, too.
    """

    method = "saltctl"

    def __init__(self, session: Any) -> None:
        self._session = session
        self._calls: SharedCalls[ReadOnlyCredentials | None] = SharedCalls("saltctl-credentials")
        self._source: Any = None
        self._frozen: ReadOnlyCredentials | None = None
        self._provider = ""

    def load_credentials(self) -> SharedCredentials:
        """Return itself: to create a client does not wait for a provider."""
        return self

    def get_frozen_credentials(self) -> ReadOnlyCredentials | None:  # type: ignore[override]  # botocore accepts None
        """Return the credentials for one request; None if no provider has any.

        Raises:
            AwsUnavailableError: the provider did not answer within the budget of this thread.
            CredentialsFailedError: it failed.
        """
        if self._frozen is not None and not self._expires_within(None):
            return self._frozen
        loading = self._calls.start("", self._load)
        if self._frozen is not None and not self._expires_within(_LEAST_VALIDITY):
            return self._frozen
        seconds = remaining()
        try:
            return loading.result(seconds)
        except TimeoutError:
            if loading.done():
                raise
            raise AwsUnavailableError(
                f"the AWS credentials provider {self._provider!r} did not answer within {round(seconds or 0, 1):g} s",
                hint="aws sts get-caller-identity",
            ) from None

    def _expires_within(self, seconds: int | None) -> bool:
        """Return whether they expire so soon; None means soon enough for botocore to refresh them."""
        refresh_needed = getattr(self._source, "refresh_needed", None)
        return refresh_needed is not None and refresh_needed(seconds)

    def _load(self) -> ReadOnlyCredentials | None:
        try:
            if self._source is None:
                self._source = self._find()
            if self._source is None:
                return None
            self._provider = self._source.method
            self._frozen = self._source.get_frozen_credentials()
        except SaltctlError:
            raise
        except Exception as exc:  # a provider raises what its files, processes and servers cause
            raise CredentialsFailedError(self._provider, self._session.profile, exc) from exc
        return self._frozen

    def _find(self) -> Any:
        """Return the credentials of the first provider that has some, as ``CredentialResolver`` does."""
        for provider in create_credential_resolver(self._session).providers:
            self._provider = provider.METHOD or ""
            if hasattr(provider, "_prompter"):  # private; without it, getpass asks on the terminal, in another thread
                provider._prompter = _refuse_to_ask
            if (found := provider.load()) is not None:
                return found
        return None

    # Attributes of credentials that botocore reads.

    @property
    def access_key(self) -> Any:  # type: ignore[override]
        """The id of the access key."""
        return getattr(self.get_frozen_credentials(), "access_key", None)

    @property
    def secret_key(self) -> Any:  # type: ignore[override]
        """The secret access key."""
        return getattr(self.get_frozen_credentials(), "secret_key", None)

    @property
    def token(self) -> Any:  # type: ignore[override]
        """The session token; None for permanent credentials."""
        return getattr(self.get_frozen_credentials(), "token", None)

    @property
    def account_id(self) -> Any:
        """The id of the account, as far as the provider names it."""
        return getattr(self.get_frozen_credentials(), "account_id", None)
