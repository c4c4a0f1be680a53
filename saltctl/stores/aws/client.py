"""AWS clients with explicit timeouts and retries, and the conversion of botocore's errors to saltctl's."""

from __future__ import annotations

import os
import threading
from binascii import crc32
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, ClassVar

from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    SaltctlError,
    ThrottledError,
)
from saltctl.forks import PerProcess, importing, this_process
from saltctl.settings import Settings
from saltctl.stores.aws.failures.refusals import refusal_error
from saltctl.stores.bounded.aws_loopback import keep_to_loopback
from saltctl.stores.bounded.errors import UnreadableResponseError
from saltctl.urls import mask_url

POOL_SIZE = 72
"""Connections that a client keeps. With botocore's default of 10, parallel queries of many salts would queue."""

# fmt: off
_THROTTLES = {
    "ProvisionedThroughputExceededException", "RequestLimitExceeded", "ThrottlingException", "Throttling",
    "TooManyRequestsException",
}
# fmt: on


EMPTY = b"{}"
"""The body of a response without members, and of one that ScanClient has parsed."""


# Clients.


def create_client(settings: Settings, service: str, *, attempts: int = 3) -> Any:
    """Create a boto3 client for ``service``.

    Every request may take ``aws_timeout`` seconds in all (see stores/bounded/aws_requests.py), and is sent at most
    ``attempts`` times. botocore's own defaults are 60 s for each step, 4 attempts and 10 connections.

    Raises:
        ConfigurationError: no Region, or a profile that does not exist.
    """
    with importing:
        import boto3  # noqa: F401
        from botocore.config import Config
        from botocore.exceptions import BotoCoreError

    config = Config(
        connect_timeout=settings.aws_timeout,
        read_timeout=settings.aws_timeout,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=POOL_SIZE,
        user_agent_extra="saltctl",
    )
    try:
        # botocore itself reads an endpoint from the environment, and prefers AWS_ENDPOINT_URL_DYNAMODB, which is more
        # specific. An endpoint from a context or an option must be passed to it.
        from_environment = settings.origins.get("aws_endpoint_url", "").startswith("environment")
        endpoint = None if from_environment else settings.aws_endpoint_url
        sessions = _sessions.get()
        with sessions.lock:  # clients are thread-safe, but a session must not create two at once (documented)
            key = settings.aws_profile, settings.aws_region, os.environ.get("AWS_ACCESS_KEY_ID")
            session = sessions.get(*key, timeout=settings.aws_timeout)
            return session.client(service, config=config, endpoint_url=endpoint)
    except (BotoCoreError, ValueError) as exc:
        raise to_saltctl_error(exc, service) from exc


def _create_parser(protocol: str) -> Any:
    """Create a parser of a protocol, such as ``json``. It raises UnreadableResponseError; botocore's own does not."""
    from botocore.parsers import create_parser

    parser = create_parser(protocol)

    def parse(response: Any, shape: Any) -> Any:
        """Parse a response, unless its body cannot be one."""
        body = response["body"]
        check_crc(body, response["headers"])
        # botocore reads a 200 whose body is not JSON, such as a proxy's page, as a response without members. A GetItem
        # would then find no item, and a lookup would call a salted conversation unsalted.
        if protocol == "json" and response["status_code"] == 200 and body[:1] + body.rstrip()[-1:] != b"{}":
            raise UnreadableResponseError("the body is not JSON")
        try:
            return parser.parse(response, shape)
        # The parser does not check the shape of a response, and fails with the error that an unexpected shape causes.
        except (AttributeError, KeyError, TypeError, ValueError) as exc:
            raise UnreadableResponseError(str(exc)) from exc

    return SimpleNamespace(parse=parse)


def preload_boto3() -> None:
    """Import boto3 now, while the caller waits for something else."""
    with importing:
        import boto3  # noqa: F401


class _Sessions:
    """The boto3 sessions of one process, by profile, Region and key id: other credentials need another session.

    Creating a session and reading the service's model takes most of a client's 200 ms, so sessions are kept. The
    child of a fork makes new ones, since their credentials have locks, and takes over the models that were read.
    """

    _models: ClassVar[dict[tuple[str | None, ...], Any]] = {}

    def __init__(self) -> None:
        self.lock = threading.Lock()
        self._sessions: dict[tuple[str | None, ...], Any] = {}

    def get(self, *key: str | None, timeout: float) -> Any:
        """Return the session of a profile, a Region and a key id; only while the lock is held."""
        import boto3

        from saltctl.stores.bounded.aws_requests import create_session

        if key not in self._sessions:
            core = create_session(timeout)
            keep_to_loopback(core)
            core.register_component("response_parser_factory", SimpleNamespace(create_parser=_create_parser))
            session = boto3.session.Session(botocore_session=core, profile_name=key[0], region_name=key[1])
            core.register_component("data_loader", self._models.setdefault(key, core.get_component("data_loader")))
            self._sessions[key] = session
        return self._sessions[key]


_sessions = PerProcess(_Sessions)


class ClientOfProcess:
    """A boto3 client, which each process creates at first use: importing boto3 takes longer than most commands.

    ``given`` is a client to use instead, in the process that made this object.
    """

    def __init__(self, create: Callable[[], Any], given: Any = None) -> None:
        self._clients = PerProcess(create)
        self._given = given
        self._process = this_process()

    def get(self) -> Any:
        """Return the client. Raises ConfigurationError if it was given to the parent of this process."""
        if self._given is None:
            return self._clients.get()
        if self._process != this_process() and hasattr(self._given, "meta"):  # a substitute in a test has none
            raise ConfigurationError(
                "this boto3 client belongs to the process that this one was forked from",
                hint="open the table in the child, or let saltctl create the client",
            )
        return self._given

    def renew(self, old: Any) -> None:
        """Replace a client whose connections may be out of step."""
        self._clients.renew(old)


# Errors.


def error_code(exc: Exception) -> str:
    """Return the service's error code, such as ``ResourceNotFoundException``; empty if there is none."""
    response: dict[str, Any] = getattr(exc, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def is_throttling(exc: Exception) -> bool:
    """Return whether an exception of botocore says that AWS throttles."""
    return error_code(exc) in _THROTTLES


def to_saltctl_error(exc: Exception, where: str) -> SaltctlError:
    """Convert an exception of botocore. ``where`` names the table or service in the message."""
    import botocore.exceptions as driver

    code = error_code(exc)
    if isinstance(exc, driver.ClientError):
        return _from_response(exc, code, where)
    if isinstance(exc, driver.NoRegionError):
        return ConfigurationError("no AWS Region is configured", hint="set AWS_REGION, for example eu-central-1")
    if isinstance(exc, driver.ProfileNotFound):
        return ConfigurationError(str(exc), hint="check AWS_PROFILE and ~/.aws/config")
    credentials = driver.NoCredentialsError | driver.PartialCredentialsError | driver.CredentialRetrievalError
    if isinstance(exc, credentials | driver.TokenRetrievalError | driver.UnauthorizedSSOTokenError):
        return AccessDeniedError(f"no usable AWS credentials for {where}", hint="aws sts get-caller-identity")
    if isinstance(exc, driver.HTTPClientError | driver.ConnectionError):
        return _unreachable(exc, where)
    if isinstance(exc, UnreadableResponseError):
        return AwsUnavailableError(
            f"the response for {where} does not come from AWS", hint="is there a proxy in between? saltctl config show"
        )
    if isinstance(exc, driver.ParamValidationError):
        return ConfigurationError(f"AWS would refuse this request for {where}", hint="check the table's name")
    if isinstance(exc, ValueError):
        return ConfigurationError(f"cannot set up AWS for {where}: {exc}", hint="saltctl config show")
    return AwsUnavailableError(f"AWS failed for {where}: {type(exc).__name__}", hint="try again")


def _unreachable(exc: Exception, where: str) -> AwsUnavailableError:
    endpoint = mask_url(str(getattr(exc, "kwargs", {}).get("endpoint_url") or ""))
    return AwsUnavailableError(
        f"AWS cannot be reached for {where} ({type(exc).__name__}{' at ' + endpoint if '://' in endpoint else ''})",
        hint="check the network, AWS_REGION and AWS_ENDPOINT_URL (saltctl config show)",
    )


def _from_response(exc: Any, code: str, where: str) -> SaltctlError:
    message = str(exc.response.get("Error", {}).get("Message", "")) or "no further message"
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLES:
        return ThrottledError(
            f"AWS throttles requests for {where} ({code})",
            hint="wait, or give the table more capacity; then run it again",
        )
    if (refusal := refusal_error(code, message, where)) is not None:
        return refusal
    if code == "ResourceNotFoundException":
        return missing_table(where, MISSING_HINT)
    if status >= 500 or code in ("InternalServerError", "ServiceUnavailable", "InternalFailure"):
        return AwsUnavailableError(
            f"AWS answered with a server error for {where} ({code})", hint="try again", answered=True
        )
    return AwsUnavailableError(f"AWS answered with {code} for {where}: {message}", hint="try again", answered=True)


NEW_OR_LOST = "saltctl recover --dry-run, if it was lost; saltctl setup, if the registry is new"
"""The hint if the backup table is missing, or is that of no registry."""
MISSING_HINT = f"{NEW_OR_LOST}; or check its name: saltctl config show"


def missing_table(where: str, hint: str) -> ConfigurationError:
    """Return the error for a table that does not exist."""
    return ConfigurationError(f"there is no DynamoDB table {where}", hint=hint)


@contextmanager
def aws_errors(where: str) -> Iterator[None]:
    """Convert botocore's errors that are raised inside the block. ``where`` names the table or service."""
    import botocore.exceptions as driver

    try:
        yield
    except (driver.BotoCoreError, driver.ClientError, driver.HTTPClientError, UnreadableResponseError) as exc:
        raise to_saltctl_error(exc, where) from exc


def none_if_condition_fails(write: Callable[[], dict[str, Any]]) -> dict[str, Any] | None:
    """Send a conditional write; return its response, or None if the condition failed."""
    import botocore.exceptions as driver

    try:
        return write()
    except driver.ClientError as exc:
        if error_code(exc) == "ConditionalCheckFailedException":
            return None
        raise


# Tables.


def check_crc(body: bytes, headers: Mapping[str, str]) -> None:
    """Compare DynamoDB's checksum. botocore's retry mode ``standard`` does not (read in botocore 1.44).

    A response that a proxy has compressed is not checked: the checksum is that of the uncompressed body.

    Raises:
        UnreadableResponseError: they differ.
    """
    expected = headers.get("x-amz-crc32")
    if expected is None or headers.get("content-encoding") or body == EMPTY:
        return
    if not expected.isdigit() or int(expected) != crc32(body):
        raise UnreadableResponseError("its checksum differs")
