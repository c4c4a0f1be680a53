"""The sources of failure: for each the environment that leads to it, the exit code, and words of the error."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from tests.cli.faults.servers import Serve, bad_server, drip, hang_up, never_end, stay_silent
from tests.support.aws_stub import GARBAGE, HANG_UP, Answer, AwsStub, refusal, throttled
from tests.support.redis_stub import Command, RedisStub

Variables = Mapping[str, str]
Setup = Callable[[Path, str], AbstractContextManager[Variables]]
"""Starts what a fault needs, and yields the environment variables that lead to it. Gets a directory and moto's URL."""


@dataclass(frozen=True)
class Fault:
    """One source of failure.

    Args:
        name: its name in the tests' ids.
        side: the side that fails.
        code: the exit code of a command that cannot do without this side.
        error: a part of the error of such a command.
        setup: starts it.
        but: exit codes of commands that differ, by the beginning of their line.
    """

    name: str
    side: Literal["redis", "aws"]
    code: int
    error: str
    setup: Setup
    but: Mapping[str, int] = field(default_factory=dict)


# Redis.


def _redis_server(serve: Serve, scheme: str = "redis") -> Setup:
    @contextmanager
    def start(_: Path, __: str) -> Iterator[Variables]:
        with bad_server(serve) as server:
            yield {"SALTCTL_REDIS_URL": f"{scheme}://127.0.0.1:{server.port}/0"}

    return start


def _redis_url(url: str) -> Setup:
    @contextmanager
    def start(directory: Path, _: str) -> Iterator[Variables]:
        yield {"SALTCTL_REDIS_URL": url.format(directory=directory)}

    return start


def _replies(reply: bytes, *, hello: bool = True) -> Setup:
    """Redis answers everything with these bytes, except the commands of a new connection if ``hello`` is set."""

    def answer(_: int, command: Command) -> bytes:
        return RedisStub.OK if hello and command[0].upper() in (b"AUTH", b"CLIENT", b"SELECT") else reply

    @contextmanager
    def start(_: Path, __: str) -> Iterator[Variables]:
        with RedisStub(answer) as stub:
            yield {"SALTCTL_REDIS_URL": stub.url}

    return start


# AWS.


def _aws_server(serve: Serve, scheme: str = "http") -> Setup:
    @contextmanager
    def start(_: Path, __: str) -> Iterator[Variables]:
        with bad_server(serve) as server:
            yield {"AWS_ENDPOINT_URL": f"{scheme}://127.0.0.1:{server.port}"}

    return start


def _answers(answer: Answer) -> Setup:
    @contextmanager
    def start(_: Path, moto: str) -> Iterator[Variables]:
        with AwsStub(moto) as stub:
            stub.rule = lambda operation, request: answer
            yield {"AWS_ENDPOINT_URL": stub.url}

    return start


# Credentials. Each has a profile of its own.

_NO_KEYS = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_EC2_METADATA_DISABLED": "true"}
_SSO = (
    "[profile p]\nsso_session = s\nsso_account_id = 111122223333\nsso_role_name = r\nregion = us-east-1\n"
    "[sso-session s]\nsso_region = us-east-1\nsso_start_url = https://x.awsapps.com/start\n"
)
_ROLE = (
    "[profile base]\naws_access_key_id = a\naws_secret_access_key = b\n"
    "[profile p]\nrole_arn = arn:aws:iam::111122223333:role/x\nsource_profile = base\nregion = us-east-1\n"
)


def _profile(config: str) -> Setup:
    @contextmanager
    def start(directory: Path, _: str) -> Iterator[Variables]:
        (directory / "config").write_text(config)
        (directory / "credentials").write_text("")
        yield {
            **_NO_KEYS,
            "AWS_PROFILE": "p",
            "HOME": str(directory),
            "AWS_CONFIG_FILE": str(directory / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(directory / "credentials"),
        }

    return start


@contextmanager
def _silent_sts(directory: Path, moto: str) -> Iterator[Variables]:
    with bad_server(stay_silent) as server, _profile(_ROLE)(directory, moto) as variables:
        yield {**variables, "AWS_ENDPOINT_URL_STS": f"http://127.0.0.1:{server.port}"}


@contextmanager
def _sts_page(directory: Path, moto: str) -> Iterator[Variables]:
    with AwsStub(moto) as stub, _profile(_ROLE)(directory, moto) as variables:
        stub.rule = lambda operation, request: GARBAGE
        yield {**variables, "AWS_ENDPOINT_URL_STS": stub.url}


@contextmanager
def _silent_metadata(directory: Path, moto: str) -> Iterator[Variables]:
    with bad_server(stay_silent) as server, _profile("[profile p]\nregion = us-east-1\n")(directory, moto) as variables:
        endpoint = f"http://127.0.0.1:{server.port}"
        yield {**variables, "AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": endpoint}


@contextmanager
def _damaged_sso_cache(directory: Path, moto: str) -> Iterator[Variables]:
    cache = directory / ".aws" / "sso" / "cache"
    cache.mkdir(parents=True)
    (cache / f"{hashlib.sha1(b's').hexdigest()}.json").write_text('{"startUrl": "https')  # noqa: S324  botocore's name
    with _profile(_SSO)(directory, moto) as variables:
        yield variables


_OK_PAGE = json.dumps({"status": "ok"}).encode()
_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/x-amz-json-1.0\r\n"
_SERVER_ERROR = refusal("InternalServerError", 500)

FAULTS = (
    Fault("redis-refused", "redis", 69, "", _redis_url("redis://127.0.0.1:1/0")),
    Fault("redis-silent", "redis", 69, "did not answer in time", _redis_server(stay_silent)),
    Fault("redis-hangs-up", "redis", 69, "cannot be reached", _redis_server(hang_up)),
    Fault("redis-drips", "redis", 69, "did not answer in time", _redis_server(drip(b"$1000\r\nx"))),
    Fault("redis-says-ok", "redis", 69, "", _replies(b"+OK\r\n")),
    Fault("redis-says-nil", "redis", 69, "", _replies(b"*-1\r\n")),
    Fault("redis-loading", "redis", 69, "loading", _replies(b"-LOADING Redis is loading the dataset in memory\r\n")),
    Fault("redis-readonly", "redis", 69, "replica", _replies(b"-READONLY You can't write against a replica.\r\n")),
    Fault(
        "redis-wrong-password", "redis", 77, "credentials", _replies(b"-WRONGPASS invalid password\r\n", hello=False)
    ),
    Fault("redis-no-permission", "redis", 77, "permission", _replies(b"-NOPERM User x has no permission\r\n")),
    Fault("redis-no-command", "redis", 78, "command", _replies(b"-ERR unknown command 'X', with args beginning\r\n")),
    Fault(
        "redis-not-in-scripts",
        "redis",
        78,
        "script",
        _replies(b"-ERR This Redis command is not allowed from script script: 53aa, on @user_script:13.\r\n"),
    ),
    Fault("redis-is-http", "redis", 78, "", _redis_server(drip(b"HTTP/1.1 400 Bad Request\r\n\r\n"))),
    Fault(
        "redis-option",
        "redis",
        78,
        "decode_responses",
        _redis_url("redis://127.0.0.1:1/0?decode_responses=true"),
        but={"": 78, "doctor": 3},
    ),
    Fault(
        "redis-no-ca",
        "redis",
        78,
        "ssl_ca_certs",
        _redis_url("rediss://127.0.0.1:1/0?ssl_ca_certs={directory}/no"),
        but={"history": 78, "registry discover": 78, "registry import": 78, "incident": 78, "heat": 78},
    ),
    Fault("redis-tls-silent", "redis", 69, "", _redis_server(stay_silent, "rediss")),
    Fault("cluster-says-ok", "redis", 69, "", _redis_server(drip(b"+OK\r\n"), "redis+cluster")),
    Fault("aws-refused", "aws", 69, "cannot be reached", _aws_server(hang_up)),
    Fault("aws-silent", "aws", 69, "", _aws_server(stay_silent)),
    Fault("aws-tls-silent", "aws", 69, "", _aws_server(stay_silent, "https")),
    Fault("aws-drips", "aws", 69, "", _aws_server(drip(_HEAD + b"Content-Length: 100000\r\n\r\n{ "))),
    Fault("aws-never-ends", "aws", 69, "", _aws_server(never_end(_HEAD + b"\r\n{"))),
    Fault("aws-page", "aws", 69, "", _answers(GARBAGE)),
    Fault("aws-json", "aws", 69, "", _answers((200, _OK_PAGE))),
    Fault("aws-list", "aws", 69, "", _answers((200, b"[]"))),
    Fault("aws-hangs-up", "aws", 69, "cannot be reached", _answers(HANG_UP)),
    Fault("aws-500", "aws", 69, "server error", _answers(_SERVER_ERROR)),
    Fault(
        "aws-throttles",
        "aws",
        69,
        "",
        _answers(throttled("ThrottlingException")),
        but={"registry list --source backup": 124},
    ),
    Fault("aws-expired", "aws", 77, "Expired", _answers(refusal("ExpiredTokenException"))),
    Fault("aws-denies", "aws", 77, "permit", _answers(refusal("AccessDeniedException"))),
    Fault(
        "aws-no-table",
        "aws",
        78,
        "",
        _answers(refusal("ResourceNotFoundException")),
        but={"setup": 6, "recover": 0},
    ),
    Fault("aws-kms", "aws", 78, "", _answers(refusal("KMSAccessDeniedException"))),
    Fault("aws-invalid", "aws", 78, "", _answers(refusal("ValidationException"))),
    Fault("no-credentials", "aws", 77, "credentials", _profile("[profile p]\nregion = us-east-1\n")),
    Fault("sso-no-login", "aws", 77, "aws sso login", _profile(_SSO)),
    Fault("sso-cache-damaged", "aws", 77, "aws sso login", _damaged_sso_cache),
    Fault("process-junk", "aws", 77, "credential_process", _profile("[profile p]\ncredential_process = echo hello\n")),
    Fault("process-silent", "aws", 69, "", _profile("[profile p]\ncredential_process = sleep 600\n")),
    Fault("role-mfa", "aws", 77, "MFA", _profile(_ROLE + "mfa_serial = arn:aws:iam::111122223333:mfa/me\n")),
    Fault("sts-silent", "aws", 69, "", _silent_sts),
    Fault("sts-page", "aws", 69, "", _sts_page),
    Fault("metadata-silent", "aws", 69, "", _silent_metadata),
    Fault("no-profile", "aws", 78, "profile", _profile("[profile q]\nregion = us-east-1\n")),
    Fault("config-damaged", "aws", 78, "config", _profile("[profile p\nregion\n")),
    Fault("process-missing", "aws", 77, "/no/such", _profile("[profile p]\ncredential_process = /no/such\n")),
    Fault("redis-cluster-node", "redis", 78, "redis+cluster://", _replies(b"-MOVED 3999 127.0.0.1:1\r\n")),
)
