"""Credentials: a provider that does not answer holds one thread, and a request ends within aws_timeout."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from botocore.awsrequest import AWSResponse  # noqa: TID253  the parts of the chain that are replaced
from botocore.credentials import ReadOnlyCredentials  # noqa: TID253
from botocore.httpsession import URLLib3Session  # noqa: TID253
from botocore.utils import ContainerMetadataFetcher, JSONFileCache  # noqa: TID253

from saltctl.errors import AccessDeniedError, AwsUnavailableError, SaltctlError
from saltctl.local.servers import LocalMoto
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.failures.errors import aws_errors
from saltctl.stores.aws.failures.responses import create_parser
from saltctl.stores.bounded import aws_credential_sources as sources
from saltctl.stores.bounded import aws_credentials as module
from saltctl.stores.bounded.aws_credential_sources import (
    LONGEST_KEY,
    LONGEST_PROCESS,
    LONGEST_TOKEN,
    credential_process,
    end_processes,
)
from saltctl.stores.bounded.aws_credentials import SharedCredentials
from saltctl.stores.bounded.aws_requests import create_session
from saltctl.stores.bounded.deadline import PATIENCE, TimeBudget
from saltctl.stores.bounded.errors import UnusableCredentialsError
from tests.support.forked import in_child
from tests.support.inline_pool import ManualClock
from tests.support.redis_servers import eventually
from tests.support.slow_servers import SlowServer

pytestmark = pytest.mark.slow

TIMEOUT = 0.5
BOUND = 60.0
"""Seconds: many times TIMEOUT, for a busy machine, and less than any provider's own timeouts and retries take."""
STATIC = "aws_access_key_id = a\naws_secret_access_key = b\n"
ROLE = "role_arn = arn:aws:iam::111122223333:role/x\n"
SLEEP = "import os, sys, time; open(sys.argv[1], 'w').write(str(os.getpid())); time.sleep(300)"


def is_running(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


@contextmanager
def silent_provider(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[str]:
    """A profile whose credentials come from a server or a command that does not answer."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    name = kind.replace(" ", "-")
    with SlowServer(b"", b"H" if kind.startswith("dripping") else b"") as server:
        url = f"http://127.0.0.1:{server.port}"
        profile = ""
        if kind.endswith("STS"):
            profile = ROLE + "source_profile = base\n"
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        elif kind == "web identity":
            (tmp_path / "token").write_text("token")
            profile = ROLE + f"web_identity_token_file = {tmp_path / 'token'}\n"
            monkeypatch.setenv("AWS_ENDPOINT_URL_STS", url)
        elif kind == "process":
            command = shlex.join([sys.executable, "-c", SLEEP, str(tmp_path / "pid")])
            profile = f"credential_process = {command}\n"
        elif kind.endswith("container"):
            monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", url)
        elif kind.endswith("IMDS"):
            monkeypatch.setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", url)
        (tmp_path / "config").write_text(f"[profile base]\n{STATIC}\n[profile {name}]\nregion = us-east-1\n{profile}")
        monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
        yield name
    end_processes()
    if (pid := tmp_path / "pid").exists():
        eventually(lambda: not is_running(int(pid.read_text())), "the process has ended")


PROVIDERS = {
    "STS": "assume-role",
    "dripping STS": "assume-role",
    "web identity": "assume-role-with-web-identity",
    "process": "custom-process",
    "container": "container-role",
    "dripping container": "container-role",
    "IMDS": "iam-role",
    "dripping IMDS": "iam-role",
}


@pytest.mark.parametrize("kind", PROVIDERS)
def test_a_silent_provider_is_named_in_time(
    kind: str, moto: LocalMoto, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Many callers at once wait for one attempt, each for its own time; one thread is left, not one for each."""
    with silent_provider(kind, monkeypatch, tmp_path) as profile:
        settings = Settings(aws_endpoint_url=moto.url, aws_region="us-east-1", aws_profile=profile, aws_timeout=1.5)
        table = BackupTable(settings)
        others = set(threading.enumerate())
        began = time.monotonic()
        _ = table.client  # does not wait for credentials

        problem = rf"provider '{PROVIDERS[kind]}' did not answer within 1\.[45] s"

        def get(number: int) -> None:
            with pytest.raises(AwsUnavailableError, match=problem):
                table.get(f"conv-{number}")

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(get, range(8)))
        assert time.monotonic() - began < BOUND
        loading = {thread for thread in threading.enumerate() if thread.name == "saltctl-credentials"}
        assert len(loading - others) <= 1


class Source:
    """Refreshable credentials that a test expires."""

    method = "test"

    def __init__(self) -> None:
        self.seconds_left = 3600.0
        self.refreshes = 0
        self.answers = threading.Event()
        self.answers.set()

    def refresh_needed(self, refresh_in: int | None = None) -> bool:
        """Return whether they expire so soon."""
        return self.seconds_left < (900 if refresh_in is None else refresh_in)

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """Refresh them; their number is the session token."""
        self.answers.wait()
        if self.refresh_needed():
            self.refreshes += 1
            self.seconds_left = 3600.0
        return ReadOnlyCredentials("k", "s", str(self.refreshes))


class Session:
    """Answers what botocore's chain of providers asks a session."""


@pytest.fixture
def source() -> Iterator[Source]:
    """Credentials that answer, until a test stops them."""
    source = Source()
    yield source
    source.answers.set()


class Provider:
    """Returns the sources in turn, the last one again and again."""

    METHOD = "test"

    def __init__(self, *sources: Source) -> None:
        self.sources = list(sources)
        self.providers = [self]

    def load(self) -> Source:
        """Return the next source."""
        return self.sources.pop(0) if len(self.sources) > 1 else self.sources[0]


@pytest.fixture
def credentials(source: Source, monkeypatch: pytest.MonkeyPatch) -> SharedCredentials:
    """Shared credentials from that source."""
    monkeypatch.setattr(module, "create_credential_resolver", lambda session: Provider(source))
    return SharedCredentials(Session())


def frozen(credentials: SharedCredentials, seconds: float = 60.0) -> Any:
    """The number of the credentials, within so many seconds."""
    with TimeBudget(seconds):
        return int(getattr(credentials.get_frozen_credentials(), "token", "-1"))


def test_a_refresh_holds_no_request_while_they_are_valid(credentials: SharedCredentials, source: Source) -> None:
    """The old ones are used meanwhile; once they are about to expire, requests wait for the new ones."""
    assert frozen(credentials) == 0
    source.answers.clear()
    source.seconds_left = 600
    assert [frozen(credentials, 0.1) for _ in range(3)] == [0, 0, 0]
    source.seconds_left = 30
    with pytest.raises(AwsUnavailableError, match="provider 'test'"):
        frozen(credentials, 0.1)
    source.answers.set()
    eventually(lambda: frozen(credentials) == 1, "the refresh is done")
    assert source.refreshes == 1


def test_a_refresh_that_hangs_is_started_anew(source: Source, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its thread holds the lock of its source, so the providers are asked for another one."""
    clock = ManualClock()
    provider = Provider(source, Source())
    monkeypatch.setattr(module, "create_credential_resolver", lambda session: provider)
    credentials = SharedCredentials(Session(), clock)
    assert frozen(credentials) == 0
    source.answers.clear()
    source.seconds_left = 0
    for _ in range(2):
        with pytest.raises(AwsUnavailableError):
            frozen(credentials, 0)
    clock.now += PATIENCE
    assert frozen(credentials) == 0
    assert provider.load() is not source
    assert source.refreshes == 0


def test_a_forked_child_loads_credentials_itself(credentials: SharedCredentials, source: Source) -> None:
    """It does not wait for a thread that only its parent has."""
    source.answers.clear()
    with pytest.raises(AwsUnavailableError):
        frozen(credentials, 0)

    def child() -> bool:
        source.answers = threading.Event()
        source.answers.set()
        return bool(frozen(credentials) == 0)

    assert in_child(child)


def test_no_credentials_are_access_denied(moto: LocalMoto, monkeypatch: pytest.MonkeyPatch) -> None:
    """A chain without any is not an outage."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    settings = Settings(aws_endpoint_url=moto.url, aws_region="us-east-1")
    with pytest.raises(AccessDeniedError):
        BackupTable(settings).get("conv")


END = """
import os, subprocess, sys
from saltctl.stores.bounded.aws_credential_sources import credential_process
process = credential_process(["sh", "-c", "sleep 300 & wait"])
if os.fork() == 0:
    sys.exit()
os.wait()
print(process.poll())
"""


def test_processes_end_with_this_one() -> None:
    """With those that they have started; a forked child that ends leaves them to its parent."""
    ended = subprocess.run([sys.executable, "-c", END], check=True, capture_output=True, timeout=BOUND)
    assert ended.stdout == b"None\n"


def test_a_process_that_hangs_ends_when_a_later_one_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that asks anew has few of them. One that callers may wait for is left."""
    clock = ManualClock()
    monkeypatch.setattr(sources, "monotonic", clock)
    first = credential_process(["sleep", "300"])
    clock.now += LONGEST_PROCESS
    second = credential_process(["sleep", "300"])
    assert first.poll() is None
    clock.now += 1
    third = credential_process(["true"])
    assert first.wait(BOUND) < 0
    assert second.poll() is None
    end_processes()
    second.wait(BOUND)
    third.wait(BOUND)


FLOOD = """
import os, subprocess, sys
held = os.open(sys.argv[1], os.O_WRONLY)
subprocess.Popen(["sleep", "300"], pass_fds=[held])
while True:
    os.write(int(sys.argv[2]), b" " * 65536)
"""
"""Holds a FIFO open, in two processes."""


@pytest.mark.parametrize("kind", ["process", "role's process"])
@pytest.mark.parametrize("pipe", [1, 2])
def test_a_process_that_never_stops_printing_is_ended(
    kind: str, pipe: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """With the processes that it started. Exit 77, and the hint names the profile that has the command."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    script = tmp_path / "flood.py"
    script.write_text(FLOOD)
    process = f"credential_process = {shlex.join([sys.executable, str(script), str(tmp_path / 'fifo'), str(pipe)])}\n"
    role = f"{ROLE}source_profile = base\n" if kind != "process" else process
    (tmp_path / "config").write_text(f"[default]\nregion = us-east-1\n{role}[profile base]\n{process}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    os.mkfifo(tmp_path / "fifo")
    held = os.open(tmp_path / "fifo", os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(AccessDeniedError) as caught, aws_errors("t"):
        SharedCredentials(create_session(5.0)).get_frozen_credentials()
    os.set_blocking(held, True)
    assert os.read(held, 1) == b""  # once nobody holds it
    os.close(held)
    assert "'custom-process' failed: credential_process printed more than 1,048,576 bytes" in caught.value.message
    assert f"profile {'default' if kind == 'process' else 'base'!r}" in caught.value.hint


@pytest.mark.parametrize("left", [0, 1])
def test_a_process_may_print_much(left: int) -> None:
    """Up to the bound, in both pipes at once, and of either result."""
    code = f"import os; os.write(2, b' ' * 300_000); os.write(1, b'{{}}'.rjust(700_000)); raise SystemExit({left})"
    process = credential_process([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    if left == 0:
        with pytest.raises(UnusableCredentialsError, match="no AccessKeyId"):
            process.communicate()
    else:
        assert [len(part) for part in process.communicate()] == [700_000, 300_000]
    assert process.returncode == left


@pytest.mark.parametrize("variable", ["AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE", "AWS_WEB_IDENTITY_TOKEN_FILE"])
@pytest.mark.parametrize("kind", ["device", "pipe", "long"])
def test_a_token_without_an_end_is_not_read(
    variable: str, kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit 77, which names the file. A pipe that nobody writes to would hang, and a device fill the memory."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("AWS_ROLE_ARN", "arn:aws:iam::111122223333:role/x")
    if "CONTAINER" in variable:
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1")
    path = tmp_path / "token"
    if kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "pipe":
        os.mkfifo(path)
    else:
        path.write_bytes(b"a" * (LONGEST_TOKEN + 1))
    monkeypatch.setenv(variable, str(path))
    with pytest.raises(AccessDeniedError) as caught, aws_errors("t"):
        SharedCredentials(create_session(5.0)).get_frozen_credentials()
    assert f"{str(path)!r} is not a token" in caught.value.message
    assert variable in caught.value.hint


LATER = "2999-01-01T00:00:00Z"
DOCUMENT = {"Version": 1, "AccessKeyId": "a", "SecretAccessKey": "s3cret", "Token": "t", "Expiration": LATER}
VARIABLES = {
    "AccessKeyId": "AWS_ACCESS_KEY_ID",
    "SecretAccessKey": "AWS_SECRET_ACCESS_KEY",
    "SessionToken": "AWS_SESSION_TOKEN",
}


@pytest.mark.parametrize(
    ("kind", "change", "words"),
    [
        ("env", {"AccessKeyId": "a\r"}, "'env' failed: the access key id holds a line break"),
        ("env", {"SecretAccessKey": "s3cret\n"}, "'env' failed: the secret access key holds a line break"),
        ("env", {"SessionToken": "s3cret\u00e9"}, "'env' failed: the session token holds a line break"),
        ("env", {"SessionToken": "s3cret t"}, "'env' failed: the session token holds a line break"),
        ("file", {"SecretAccessKey": "s3cret\t1"}, "'shared-credentials-file' failed: the secret access key holds"),
        ("role", {"SecretAccessKey": "s3cret 1"}, "'assume-role' failed: the source's secret access key"),
        ("process", {"SessionToken": "s3cret\n"}, "the session token holds a line break"),
        ("process", {"SessionToken": "t" * (LONGEST_KEY + 1)}, "the session token has more than 65,536 characters"),
        ("process", {"SecretAccessKey": 5}, "its SecretAccessKey is not a string"),
        ("process", {"Expiration": 5}, "its Expiration is not a string"),
        ("process", {"Expiration": "2030-01-01T00:00:00"}, "its Expiration is not a time with a time zone"),
        ("process", {"AccessKeyId": None}, "its AccessKeyId is not a string"),
        ("process", {"Expiration": "2020-01-01T00:00:00Z"}, "have expired"),
        ("process", [], "other JSON than an object"),
        ("process", "", "credential_process has no command"),
        ("role's process", {"SecretAccessKey": []}, "its SecretAccessKey is not a string"),
        ("container", {"AccessKeyId": 5}, "its AccessKeyId is not a string"),
        ("container", {"Token": None}, "its Token is not a string"),
        ("container", {"Expiration": "tomorrow"}, "its Expiration is not a time"),
        ("container", {"SecretAccessKey": "s3cret\n"}, "failed: the secret access key holds"),
        ("container", [1], "other JSON than an object"),
        ("container", {"Expiration": 5}, "its Expiration is not a string"),
        ("IMDS", {"AccessKeyId": 5}, "its AccessKeyId is not a string"),
        ("IMDS", {"Expiration": "tomorrow"}, "its Expiration is not a time"),
        ("IMDS", {"Token": ...}, "its credentials have no Token"),
        (
            "IMDS",
            {"SecretAccessKey": ..., "Code": "AssumeRoleUnauthorizedAccess", "Message": f"EC2 cannot\x1b{'a' * 999}"},
            f"no SecretAccessKey (AssumeRoleUnauthorizedAccess: EC2 cannot {'a' * 109})",
        ),
        ("process", {"SecretAccessKey": ..., "Code": "s3cret"}, "its credentials have no SecretAccessKey"),
        ("IMDS", [], "other JSON than an object"),
    ],
)
def test_damaged_credentials(
    kind: str, change: Any, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit 77, which names what is damaged, and quotes none of it."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    document = change
    if isinstance(change, dict):
        document = {name: value for name, value in (DOCUMENT | change).items() if value is not ...}
    command = f"credential_process = {shlex.join(['printf', '%s', json.dumps(document)]) if document != '' else ''}\n"
    keys = command if "process" in kind else ""
    if kind == "env":
        for name in document.keys() & VARIABLES.keys():
            monkeypatch.setenv(VARIABLES[name], document[name])
    elif kind in ("file", "role"):
        keys = f"aws_access_key_id = a\naws_secret_access_key = {document['SecretAccessKey']}\n"
    elif kind == "container":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1")
    profile = f"{ROLE}source_profile = base\n" if "role" in kind else keys
    (tmp_path / "config").write_text(f"[default]\n{profile}[profile base]\nregion = us-east-1\n")
    (tmp_path / "credentials").write_text(f"[base]\n{keys}[default]\n{keys if kind == 'file' else ''}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    headers: Any = {}
    response = AWSResponse("http://127.0.0.1:1", 200, headers, Body(json.dumps(document).encode()))
    monkeypatch.setattr(URLLib3Session, "send", lambda *_: response)
    with pytest.raises(AccessDeniedError) as caught, aws_errors("t"):
        SharedCredentials(create_session(5.0)).get_frozen_credentials()
    assert words in caught.value.message
    assert "s3cret" not in caught.value.message
    assert caught.value.hint


PAGE = b"<!DOCTYPE html><html><head><title>502<br></head></html>"
XHTML = b"<html xmlns='http://www.w3.org/1999/xhtml'><body><p>Log in</p></body></html>"
PAGES = (
    (200, PAGE),
    (200, XHTML),
    (200, b""),
    (200, b'{"status": "ok"}'),
    (403, PAGE),
    (403, XHTML),
    (502, XHTML),
    (503, b""),
)
"""What a proxy or a captive portal answers with."""
SSO = "sso_start_url = u\nsso_region = us-east-1\nsso_account_id = 111122223333\nsso_role_name = r\n"
SOURCES = {"STS": ROLE + "source_profile = base\n", "SSO": SSO, "container": "", "IMDS": ""}


class Body:
    """The body of a response."""

    def __init__(self, body: bytes) -> None:
        self.body = body

    def stream(self, *_: Any, **__: Any) -> Iterator[bytes]:
        """Yield it."""
        yield self.body


@pytest.mark.parametrize("kind", SOURCES)
def test_a_page_is_no_statement_about_credentials(kind: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A proxy's page in place of a provider's response is an outage; so is a server error. A refusal is not."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
        monkeypatch.delenv(name, raising=False)
    if kind == "container":
        monkeypatch.setenv("AWS_CONTAINER_CREDENTIALS_FULL_URI", "http://127.0.0.1:1")
        monkeypatch.setattr(ContainerMetadataFetcher, "RETRY_ATTEMPTS", 1)
        monkeypatch.setattr(ContainerMetadataFetcher, "SLEEP_TIME", 0)
    monkeypatch.setattr(JSONFileCache, "__contains__", lambda *_: True)
    token = {"accessToken": "a", "expiresAt": LATER}
    monkeypatch.setattr(JSONFileCache, "__getitem__", lambda *_: token)
    monkeypatch.setenv("AWS_MAX_ATTEMPTS", "1")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    (tmp_path / "config").write_text(f"[profile base]\n{STATIC}[default]\nregion = us-east-1\n{SOURCES[kind]}")
    refusal = b"<ErrorResponse><Error><Code>AccessDenied</Code></Error></ErrorResponse>" if kind == "STS" else b"{}"
    # A metadata service refuses with pages of its own, and each of its steps has another form.
    pages = PAGES if kind in ("STS", "SSO") else [page for page in PAGES if page[0] != 403 and page[1][:1] != b"{"]
    models = create_session(5.0).get_component("data_loader")
    for status, body in (*pages, (403, refusal)):
        headers: Any = {"x-amzn-errortype": "ForbiddenException"} if body == b"{}" else {}
        response = AWSResponse("http://127.0.0.1:1", status, headers, Body(body))
        monkeypatch.setattr(URLLib3Session, "send", lambda *_, response=response: response)
        session = create_session(5.0)
        session.register_component("data_loader", models)
        session.register_component("response_parser_factory", SimpleNamespace(create_parser=create_parser))
        with pytest.raises(SaltctlError) as caught, aws_errors("t"):
            SharedCredentials(session).get_frozen_credentials()
        refused = body == refusal and status == 403
        assert type(caught.value) is (AccessDeniedError if refused else AwsUnavailableError), (status, body)
        assert refused or "proxy" in caught.value.hint


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("AT-s3cret\nX", "a token or a key holds a line break"),
        (["AT-s3cret"], "the parameter accessToken is not valid"),
    ],
)
def test_a_cached_token_that_cannot_be_sent_is_not_quoted(
    token: Any, words: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Exit 77. The error of Python's HTTP client has the whole token, and was an outage."""
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(JSONFileCache, "__contains__", lambda *_: True)
    monkeypatch.setattr(JSONFileCache, "__getitem__", lambda *_: {"accessToken": token, "expiresAt": LATER})
    (tmp_path / "config").write_text(f"[default]\nregion = us-east-1\n{SSO}")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    with SlowServer() as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL_SSO", f"http://127.0.0.1:{server.port}")
        with pytest.raises(AccessDeniedError) as caught, aws_errors("t"):
            SharedCredentials(create_session(5.0)).get_frozen_credentials()
    assert words in caught.value.message
    assert "s3cret" not in caught.value.message + caught.value.hint
    assert caught.value.hint == "aws sso login"
