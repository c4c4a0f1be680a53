"""AWS credentials within time budgets: a provider that does not answer holds one thread, and nobody else.

botocore loads credentials in the thread that creates a client, and refreshes them in the thread that sends a request:
from STS or SSO with timeouts of a minute, from a ``credential_process`` without any.
"""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Callable
from functools import partial
from math import inf
from typing import Any

from botocore.credentials import (  # noqa: TID253  this module is imported where botocore is needed
    Credentials,
    ReadOnlyCredentials,
    create_credential_resolver,
)
from botocore.exceptions import ClientError  # noqa: TID253

from saltctl.errors import AwsUnavailableError, SaltctlError
from saltctl.stores.bounded.aws_credential_sources import (
    check_keys,
    check_token_file,
    credential_process,
    read_token,
)
from saltctl.stores.bounded.aws_metadata import MetadataNotes, MetadataRequests, NoSourceError
from saltctl.stores.bounded.deadline import SharedCalls, remaining
from saltctl.stores.bounded.errors import (
    CredentialsFailedError,
    MfaRequiredError,
    network_hint,
)

_LEAST_VALIDITY = 60
"""Seconds for which credentials must still be valid if a request does not wait for new ones."""
_RENEWAL_SECONDS = 5.0
"""The least time between two renewals of refused credentials: the new ones may be refused as well."""
_FETCHERS = {"container-role": "_fetcher", "iam-role": "_role_fetcher"}
"""Private attributes of botocore's providers that ask a metadata service. Without them, an outage is not noticed."""

_ARGUMENTS = ("access_key_id", "secret_access_key", "session_token")


def _refuse_to_ask(prompt: str) -> str:
    raise MfaRequiredError("it needs an MFA code, which saltctl does not ask for")


def _load_source(load: Callable[[], Any], provider: str, profile: str) -> Any:
    try:
        return load()
    except Exception as exc:
        raise CredentialsFailedError(provider, profile, exc) from exc


def _build_headers(build: Callable[[], Any]) -> Any:
    if path := os.environ.get("AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE"):
        check_token_file(path)
    return build()


def _adapt(provider: Any) -> None:
    """Replace what botocore's provider asks with: the terminal, processes and STS. The attributes are private."""
    if hasattr(provider, "_prompter"):  # without it, getpass asks on the terminal, in another thread
        provider._prompter = _refuse_to_ask
    if hasattr(provider, "_popen"):
        provider._popen = credential_process
    if hasattr(provider, "_token_loader_cls"):
        provider._token_loader_cls = partial(partial, read_token)
    if (build := getattr(provider, "_build_headers", None)) is not None:
        provider._build_headers = partial(_build_headers, build)
    if (builder := getattr(provider, "_profile_provider_builder", None)) is None:
        return
    create_process, create_client = builder._create_process_provider, provider._client_creator

    def process_provider(profile: str) -> Any:
        """Create the provider of a source profile, whose errors name it: the role's profile has another one."""
        created = create_process(profile)
        _adapt(created)
        created.load = partial(_load_source, created.load, created.METHOD, profile)
        return created

    def checked_client(service: str, **more: Any) -> Any:
        """Create the client that assumes a role with other credentials."""
        key_id, secret, token = (more.get(f"aws_{name}") for name in _ARGUMENTS)
        check_keys(key_id, secret, token, "source's ")
        return create_client(service, **more)

    builder._create_process_provider, provider._client_creator = process_provider, checked_client


class SharedCredentials(Credentials):
    """The credentials of one session, loaded at their first use. Thread-safe.

    One daemon thread loads or refreshes them. Requests wait for it within their budgets, or do not wait at all if the
    credentials are still valid.

    Args:
        session: botocore's session. This object takes the place of its chain of providers, too.
        clock: returns monotonic seconds.
    """

    method = "saltctl"

    def __init__(self, session: Any, clock: Callable[[], float] = time.monotonic) -> None:
        self._session = session
        self._calls: SharedCalls[ReadOnlyCredentials] = SharedCalls("saltctl-credentials", clock)
        self._source: Any = None
        self._asking: Any = None
        self._frozen: ReadOnlyCredentials | None = None
        self.provider = ""
        """botocore's name of the provider that was asked last; empty before."""
        self._clock = clock
        self._lock = threading.Lock()
        self._in_this_thread = threading.local()
        self._refused: ReadOnlyCredentials | None = None
        self._next_renewal = -inf

    def load_credentials(self) -> SharedCredentials:
        """Return itself: to create a client does not wait for a provider."""
        return self

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Return the credentials for one request.

        Raises:
            AwsUnavailableError: the provider did not answer within the budget of this thread.
            CredentialsFailedError: it failed.
            NoSourceError: no provider has any.
        """
        self._in_this_thread.used = used = self._get()
        return used

    def _get(self) -> ReadOnlyCredentials:
        frozen = self._frozen
        if frozen is not None and not self._expires_within(None):
            return frozen
        loading = self._calls.start("", self._load)
        if frozen is not None and not self._expires_within(_LEAST_VALIDITY):
            return frozen
        seconds = remaining()
        try:
            return loading.result(seconds)
        except BlockingIOError as exc:
            raise AwsUnavailableError(f"AWS credentials: {exc.strerror}", hint="lower the load, or ulimit -u") from None
        except TimeoutError:
            if loading.done():
                raise
            known = self.provider  # a busy machine may not have asked any of them yet
            source = f"the AWS credentials provider {known!r}" if known else "the search for AWS credentials"
            raise AwsUnavailableError(
                f"{source} did not answer within {round(seconds or 0, 1):g} s",
                hint=network_hint(self.provider),
            ) from None

    # Refused credentials.

    @property
    def refused(self) -> bool:
        """Whether AWS has refused the credentials that are in use."""
        return self._refused is not None and self._frozen in (None, self._refused)

    def begin_call(self) -> None:
        """Note that this thread begins a call, which has used no credentials yet."""
        self._in_this_thread.used = None

    def renew(self, *, ask: bool = True) -> bool:
        """Replace the credentials that AWS refused in this thread's call; return whether there are other ones.

        The providers are asked anew, by one thread and at most once in some seconds. Without ``ask`` the refusal is
        only noted.

        Raises:
            Exception: as ``get_frozen_credentials``.
        """
        used: ReadOnlyCredentials | None = getattr(self._in_this_thread, "used", None)
        if used is None:  # signed with others, as a request of a provider itself
            return False
        with self._lock:
            if self._frozen == used:
                self._refused, now = used, self._clock()
                if not ask or now < self._next_renewal:
                    return False
                self._next_renewal = now + _RENEWAL_SECONDS
                self._forget_files()
                self._source = self._frozen = None
        return ask and self.get_frozen_credentials() != used

    def _expires_within(self, seconds: int | None) -> bool:
        """Return whether they expire so soon; None means soon enough for botocore to refresh them."""
        refresh_needed = getattr(self._source, "refresh_needed", None)
        return refresh_needed is not None and refresh_needed(seconds)

    def _load(self) -> ReadOnlyCredentials:
        metadata = MetadataNotes()
        try:
            source = self._source
            if source is None or (frozen := self._refresh(source)) is None:
                source = self._find(metadata)
                frozen = source.get_frozen_credentials()
            check_keys(*frozen[:3])
            self._source, self._frozen = source, frozen
        except (SaltctlError, CredentialsFailedError, NoSourceError):
            raise
        except Exception as exc:  # a provider raises what its files, processes and servers cause
            cause = metadata.failures[0] if metadata.failures else exc
            raise CredentialsFailedError(self.provider, self._session.profile, cause) from exc
        return frozen

    def _refresh(self, source: Any) -> ReadOnlyCredentials | None:
        """Refresh a provider's credentials; return None if those that it uses for that were refused."""
        if source is self._asking:  # it hangs in another thread, which holds its lock
            return None
        self._asking = source
        try:
            frozen: ReadOnlyCredentials = source.get_frozen_credentials()
            return frozen
        except ClientError:
            self._forget_files()
            return None
        finally:
            self._asking = None

    def _forget_files(self) -> None:
        # Private attributes of botocore: the files that it has read. Without them, it reads the files again.
        self._session._config = self._session._profile_map = None

    def _find(self, metadata: MetadataNotes) -> Any:
        """Return the credentials of the first provider that has some, as ``CredentialResolver`` does."""
        providers = create_credential_resolver(self._session).providers
        for provider in providers:  # all of them first: a role may use one that comes later
            fetcher: Any = getattr(provider, _FETCHERS.get(provider.METHOD or "", ""), None)
            if hasattr(fetcher, "_session"):
                fetcher._session = MetadataRequests(fetcher._session, metadata)
        for provider in providers:
            self.provider = provider.METHOD or ""
            _adapt(provider)
            if (found := provider.load()) is not None:
                return found
        profile = self._session.profile
        environment = "the environment, nor in " if any(provider.METHOD == "env" for provider in providers) else ""
        places = f"none in {environment}profile {profile or 'default'!r} of the AWS configuration"
        if (outage := metadata.outage()) is not None:
            raise CredentialsFailedError(self.provider, profile, outage, places)
        raise NoSourceError(places=places, metadata=metadata.describe())

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
