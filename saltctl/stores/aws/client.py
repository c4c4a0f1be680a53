"""AWS clients with deadlines and retries that were chosen, and botocore errors → saltctl errors."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from typing import Any

from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    SaltctlError,
    ThrottledError,
)
from saltctl.settings import Settings, mask_url

POOL_SIZE = 72
"""Connections a client keeps; botocore's 10 would make a scatter-gather over many salts wait for itself."""

_making_clients = threading.Lock()
_THROTTLES = {
    "ProvisionedThroughputExceededException",
    "RequestLimitExceeded",
    "ThrottlingException",
    "Throttling",
    "TooManyRequestsException",
}
_DENIED = {
    "AccessDenied",
    "AccessDeniedException",
    "UnrecognizedClientException",
    "InvalidSignatureException",
    "ExpiredTokenException",
    "ExpiredToken",
    "InvalidClientTokenId",
    "MissingAuthenticationTokenException",
    "IncompleteSignature",
    "SignatureDoesNotMatch",
}


def create_client(settings: Settings, service: str, *, attempts: int = 3, timeout: float | None = None) -> Any:
    """A boto3 client for ``service``.

    Every request has ``timeout`` seconds to connect and as much for each read, and up to ``attempts``
    tries in all. botocore's own defaults are 60 s, 4 attempts and 10 connections.

    Raises:
        ConfigurationError: no Region, or a profile that does not exist.
    """
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError

    seconds = settings.aws_timeout if timeout is None else timeout
    config = Config(
        connect_timeout=seconds,
        read_timeout=seconds,
        retries={"mode": "standard", "total_max_attempts": attempts},
        max_pool_connections=POOL_SIZE,
        user_agent_extra="saltctl",
    )
    try:
        endpoint = settings.aws_endpoint_url if _endpoint_is_ours(settings) else None
        with _making_clients:  # a session may not make two clients at once (documented); clients are thread-safe
            session = _session(settings.aws_profile, settings.aws_region, os.environ.get("AWS_ACCESS_KEY_ID"))
            made = session.client(service, config=config, endpoint_url=endpoint)
    except (BotoCoreError, ValueError) as exc:
        raise to_saltctl_error(exc, service) from exc
    if getattr(made.meta.service_model, "resolved_protocol", "json") == "json":
        made.meta.events.register(f"before-parse.{service}", _refuse_what_is_no_answer)
    return made


def _refuse_what_is_no_answer(response_dict: dict[str, Any], customized_response_dict: Any, **_: Any) -> None:
    # botocore takes a 200 whose body is no JSON, such as a proxy's page, for an answer without members: a GetItem
    # of it would find no item, and a lookup call a salted conversation unsalted.
    body = response_dict["body"]
    if customized_response_dict:
        return  # a faster parser has read it, and taken the body away
    if response_dict["status_code"] == 200 and not (body[:1] == b"{" and body.rstrip()[-1:] == b"}"):
        from botocore.exceptions import HTTPClientError

        raise HTTPClientError(error="the answer is no JSON")


def preload_boto3() -> None:
    """Import the driver now, where there is something else to wait for anyway."""
    import boto3  # noqa: F401


@cache
def _session(profile: str | None, region: str | None, access_key_id: str | None) -> Any:
    # Making a session and reading the service's model takes most of a client's 200 ms: kept for the next one.
    # The key id is part of the identity: other credentials are another session.
    import boto3

    return boto3.session.Session(profile_name=profile, region_name=region)


def _endpoint_is_ours(settings: Settings) -> bool:
    # An endpoint from the environment is left to botocore, which also knows AWS_ENDPOINT_URL_DYNAMODB and
    # gives the more specific variable precedence; one from a context or a flag has to be handed over.
    return not settings.origins.get("aws_endpoint_url", "").startswith("environment")


def error_code(exc: Exception) -> str:
    """The service's error code, such as ``ResourceNotFoundException``; empty where there is none."""
    response: dict[str, Any] = getattr(exc, "response", None) or {}
    return str(response.get("Error", {}).get("Code", ""))


def to_saltctl_error(exc: Exception, where: str) -> SaltctlError:
    """The saltctl error for an exception of botocore. ``where`` names the table or service."""
    import botocore.exceptions as driver

    code = error_code(exc)
    if isinstance(exc, driver.ClientError):
        return _from_response(exc, code, where)
    if isinstance(exc, driver.NoRegionError):
        return ConfigurationError("no AWS Region is configured", hint="set AWS_REGION, for example eu-central-1")
    if isinstance(exc, driver.ProfileNotFound):
        return ConfigurationError(str(exc), hint="check AWS_PROFILE and ~/.aws/config")
    if isinstance(
        exc,
        driver.NoCredentialsError
        | driver.PartialCredentialsError
        | driver.CredentialRetrievalError
        | driver.TokenRetrievalError
        | driver.UnauthorizedSSOTokenError,
    ):
        return AccessDeniedError(f"no usable AWS credentials for {where}", hint="aws sts get-caller-identity")
    if isinstance(exc, driver.HTTPClientError | driver.ConnectionError):
        endpoint = mask_url(str(getattr(exc, "kwargs", {}).get("endpoint_url") or ""))
        return AwsUnavailableError(
            f"AWS cannot be reached for {where} ({type(exc).__name__}{' at ' + endpoint if '://' in endpoint else ''})",
            hint="check the network, AWS_REGION and AWS_ENDPOINT_URL (saltctl config show)",
        )
    if isinstance(exc, driver.ParamValidationError):
        return ConfigurationError(f"AWS would refuse this request for {where}", hint="check the table's name")
    if isinstance(exc, ValueError):
        return ConfigurationError(f"AWS cannot be set up for {where}: {exc}", hint="saltctl config show")
    return AwsUnavailableError(f"AWS failed for {where}: {type(exc).__name__}", hint="try again")


def _from_response(exc: Any, code: str, where: str) -> SaltctlError:
    message = str(exc.response.get("Error", {}).get("Message", "")) or "no further message"
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    if code in _THROTTLES:
        return ThrottledError(
            f"AWS throttles requests for {where} ({code})",
            hint="wait, or give the table more capacity; then run it again",
        )
    if code in _DENIED:
        return AccessDeniedError(
            f"AWS does not permit this for {where} ({code}): {message}", hint="aws sts get-caller-identity"
        )
    if code == "ResourceNotFoundException":
        return ConfigurationError(
            f"there is no DynamoDB table {where}",
            hint="saltctl setup creates it; or check its name and AWS_REGION: saltctl config show",
        )
    if code == "ValidationException":
        return ConfigurationError(f"DynamoDB refuses a request for {where}: {message}", hint="check its key schema")
    if status >= 500 or code in ("InternalServerError", "ServiceUnavailable", "InternalFailure"):
        return AwsUnavailableError(f"AWS answered with a server error for {where} ({code})", hint="try again")
    return AwsUnavailableError(f"AWS answered with {code} for {where}: {message}", hint="try again")


@contextmanager
def aws_errors(where: str) -> Iterator[None]:
    """Translate what botocore raises inside the block."""
    import botocore.exceptions as driver

    try:
        yield
    except (driver.BotoCoreError, driver.ClientError, driver.HTTPClientError) as exc:
        raise to_saltctl_error(exc, where) from exc
    except (AttributeError, KeyError, TypeError, ValueError) as exc:
        # botocore's parsers take the shape of an answer for granted. Told by where it was raised, so that a defect
        # of saltctl's own is not passed off as AWS's.
        if not _raised_by_parsers(exc):
            raise
        raise AwsUnavailableError(
            f"what came back for {where} is no answer of AWS",
            hint="is there a proxy in between? saltctl config show",
        ) from exc


def _raised_by_parsers(exc: BaseException) -> bool:
    trace = exc.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and str(trace.tb_frame.f_globals.get("__name__", "")) == "botocore.parsers"


def describe_table(dynamodb: Any, table: str) -> dict[str, Any] | None:
    """The ``Table`` of DescribeTable, or None where the table does not exist."""
    import botocore.exceptions as driver

    with aws_errors(f"{table!r}"):
        try:
            found: dict[str, Any] = dynamodb.describe_table(TableName=table)["Table"]
        except driver.ClientError as exc:
            if error_code(exc) == "ResourceNotFoundException":
                return None
            raise
    return found
