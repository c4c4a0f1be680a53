"""AWS clients with explicit timeouts and retries."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, ClassVar

from saltctl.errors import (
    ConfigurationError,
)
from saltctl.forks import PerProcess, import_whole, importing, this_process
from saltctl.settings import Settings
from saltctl.stores.aws.failures.configuration import check_region, check_values
from saltctl.stores.aws.failures.errors import note_throttles, setup_error
from saltctl.stores.aws.failures.responses import check_responses, create_parser
from saltctl.stores.bounded.aws_endpoints import keep_to_loopback
from saltctl.stores.bounded.tls import check_key_log

POOL_SIZE = 72
"""Connections that a client keeps. With botocore's default of 10, parallel queries of many salts would queue."""


# Clients.


def create_client(settings: Settings, service: str, *, attempts: int = 3) -> Any:
    """Create a boto3 client for ``service``.

    Every request may take ``aws_timeout`` seconds in all (see stores/bounded/aws_requests.py), and is sent at most
    ``attempts`` times. botocore's own defaults are 60 s for each step, 4 attempts and 10 connections.

    Raises:
        ConfigurationError: no Region, a profile that does not exist, or an SSLKEYLOGFILE that cannot be written.
    """
    check_key_log()
    preload_boto3()
    with importing:
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
        # specific. An endpoint from a context or an option must be passed to it; it is that of DynamoDB, and of S3
        # unless there is one for S3 alone.
        from_environment = settings.origins.get("aws_endpoint_url", "").startswith("environment")
        other = service == "s3" and bool(os.environ.get("AWS_ENDPOINT_URL_S3"))
        endpoint = None if from_environment or other else settings.aws_endpoint_url
        with _sessions.get().lock:  # clients are thread-safe, but a session must not create two at once (documented)
            client = _session_of(settings).client(service, config=config, endpoint_url=endpoint)
    except (BotoCoreError, ValueError) as exc:
        raise setup_error(exc, service) from exc
    note_throttles(client)
    return client


def session_of(settings: Settings) -> Any:
    """Return the boto3 session of these settings, whose credentials are loaded within time budgets.

    Raises:
        ConfigurationError: a profile that does not exist, or a damaged file.
    """
    preload_boto3()
    with importing:
        from botocore.exceptions import BotoCoreError

    try:
        with _sessions.get().lock:
            return _session_of(settings)
    except (BotoCoreError, ValueError) as exc:
        raise setup_error(exc, "a session") from exc


def _session_of(settings: Settings) -> Any:
    key = settings.aws_profile, settings.aws_region, os.environ.get("AWS_ACCESS_KEY_ID")
    session = _sessions.get().get(*key, timeout=settings.aws_timeout)
    check_region(session.region_name)
    return session


def preload_boto3() -> None:
    """Import boto3, which takes longer than most commands: callers that wait for something else call it early."""
    import_whole(_import_boto3)


def _import_boto3() -> None:
    import boto3  # noqa: F401

    import saltctl.stores.bounded.aws_requests  # noqa: F401


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

        kept = self._sessions.get(key)
        # A session whose credentials AWS has refused serves no new client: they may have been rotated just now.
        if kept is None or kept.get_credentials().refused:
            core = create_session(timeout)
            keep_to_loopback(core)
            core.register_component("response_parser_factory", SimpleNamespace(create_parser=create_parser))
            session = boto3.session.Session(botocore_session=core, profile_name=key[0], region_name=key[1])
            check_values(core.get_scoped_config())
            core.register_component("data_loader", self._models.setdefault(key, core.get_component("data_loader")))
            self._sessions[key] = session
        return self._sessions[key]


_sessions = PerProcess(_Sessions)


class ClientOfProcess:
    """A boto3 client, which each process creates at first use: importing boto3 takes longer than most commands.

    ``given`` is a client to use instead, in the process that made this object. An application's own client keeps its
    timeouts, its retries and its credentials, which saltctl does not renew if AWS refuses them.
    """

    def __init__(self, create: Callable[[], Any], given: Any = None) -> None:
        self._clients = PerProcess(create)
        self._given = given
        check_responses(given)
        note_throttles(given)
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

    def close(self) -> None:
        """Close the connections of this process's own client, which opens new ones if it is used again."""
        if self._given is None and (client := self._clients.peek()) is not None:
            from saltctl.stores.bounded.aws_connections import close_connections

            close_connections(client)

    def renew(self, old: Any) -> None:
        """Replace a client whose connections may be out of step."""
        self._clients.renew(old)
