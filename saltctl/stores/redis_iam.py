"""IAM authentication for ElastiCache and MemoryDB: a signed token instead of a password, new for each connection.

The token is a presigned URL without its scheme. It is valid for 15 minutes and checked by AUTH alone; a connection that
was authenticated with one lives for at most 12 hours (AWS' documentation of both services).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote, urlencode

from saltctl.errors import ConfigurationError
from saltctl.forks import importing
from saltctl.settings import REDIS_IAM, Settings
from saltctl.stores.bounded.errors import NO_REGION_HINT

if TYPE_CHECKING:
    from saltctl.urls import RedisUrl

IAM_AGE = 11 * 3600.0
"""Seconds after which a connection is opened anew, or logs in anew: an hour before AWS closes it."""
_VALIDITY = 900
_SCHEME = "https://"


def check_iam(settings: Settings, url: RedisUrl, session: Callable[[], Any]) -> None:
    """Raise ConfigurationError unless the settings of IAM authentication are complete and fit the URL.

    ``session`` returns the boto3 session, which is asked for the Region if the settings name none.
    """
    if settings.redis_iam is None:
        if settings.redis_iam_cache is not None:
            raise ConfigurationError(
                "redis_iam_cache is set and redis_iam is not", hint=f"set it: {', '.join(REDIS_IAM)}"
            )
        return
    user, colon, _ = url.userinfo.partition(":")
    names = {name for name, _ in url.options}
    problem, hint = "", ""
    if not url.tls:
        problem, hint = "IAM authentication needs TLS", "write rediss:// or rediss+cluster:// in SALTCTL_REDIS_URL"
    elif url.kind == "sentinel":
        problem, hint = (
            "sentinels have no IAM authentication",
            "write rediss:// or rediss+cluster:// in SALTCTL_REDIS_URL",
        )
    elif "username" in names:
        problem, hint = "a user is not an option of the URL", "write it before the host: rediss://USER@HOST:6379"
    elif colon or settings.redis_password_file is not None or "password" in names:
        problem, hint = "redis_iam and a password exclude each other", "remove the password, or unset SALTCTL_REDIS_IAM"
    elif not user:
        problem, hint = "IAM authentication needs a user", "write the user's name in the URL: rediss://USER@HOST:6379"
    elif settings.redis_iam_cache is None:
        problem, hint = "IAM authentication needs the name of the cache or cluster", "set SALTCTL_REDIS_IAM_CACHE"
    elif settings.aws_region is None and not session().region_name:
        problem, hint = "IAM authentication needs an AWS Region", NO_REGION_HINT
    if problem:
        raise ConfigurationError(problem, hint=hint)


def sign(credentials: Any, settings: Settings, user: str, region: str) -> str:
    """Return a token for one connection.

    Args:
        credentials: botocore's, frozen.
        settings: name the service and the cache.
        user: the user's name.
        region: the Region of the cache.
    """
    from botocore.auth import SigV4QueryAuth
    from botocore.awsrequest import AWSRequest

    service, _, serverless = str(settings.redis_iam).partition("-")
    query = {"Action": "connect", "User": user} | ({"ResourceType": "ServerlessCache"} if serverless else {})
    request = AWSRequest("GET", f"{_SCHEME}{str(settings.redis_iam_cache).lower()}/?{urlencode(query)}")
    SigV4QueryAuth(credentials, service, region, expires=_VALIDITY).add_auth(request)
    return str(request.url).removeprefix(_SCHEME)


def credential_provider(settings: Settings, userinfo: str, session: Callable[[], Any]) -> Any:
    """Create redis-py's provider of the user and a new token, which each new connection asks.

    ``session`` returns the boto3 session. The provider raises a RedisError, whose ``cause`` is the error to raise
    instead. redis-py would keep a connection after any other exception, without a login, and would retry after an
    AuthenticationError, which hides the cause once the time is over.
    """
    from redis.credentials import CredentialProvider
    from redis.exceptions import RedisError

    user = unquote(userinfo)

    class TokenError(RedisError):
        """No token can be signed."""

        def __init__(self, cause: Exception) -> None:
            super().__init__("no token for IAM authentication")
            self.cause = cause

    class IamProvider(CredentialProvider):
        """Signs at each connection."""

        def get_credentials(self) -> tuple[str, str]:
            """Return the user and a token."""
            try:
                return user, _token(settings, user, session())
            except Exception as exc:
                raise TokenError(exc) from exc

    return IamProvider()


def _token(settings: Settings, user: str, session: Any) -> str:
    with importing:
        from saltctl.stores.aws.failures.errors import aws_errors

    with aws_errors("the IAM authentication of Redis"):
        frozen = session.get_credentials().get_frozen_credentials()
        return sign(frozen, settings, user, session.region_name)
