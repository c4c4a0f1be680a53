"""Which failures stop every raise, and when a conversation's raise is given up."""

from __future__ import annotations

import pytest

from saltctl.detection.failures import (
    MAX_TRIES,
    FailedRaises,
    common_failure,
    describe,
    is_waiting_for_a_server,
)
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    DamagedEntryError,
    InvalidSaltCountError,
    RaiseIncompleteError,
    RedisUnavailableError,
    ThrottledError,
    UnverifiedError,
    WrongTypeError,
)
from saltctl.registry.failures import is_outage


def incomplete(cause: Exception) -> RaiseIncompleteError:
    """The error of a raise that stopped after its first step."""
    exc = RaiseIncompleteError("stopped", step="backup")
    exc.__cause__ = cause
    return exc


@pytest.mark.parametrize("wrap", [lambda exc: exc, incomplete], ids=["itself", "incomplete"])
@pytest.mark.parametrize(
    ("exc", "outage", "waiting"),
    [
        (RedisUnavailableError("away"), True, True),
        (UnverifiedError("restarted"), True, True),
        (AwsUnavailableError("away"), True, True),
        (AwsUnavailableError("500", answered=True), True, True),
        (ThrottledError("slow down"), True, True),
        (AccessDeniedError("expired"), True, False),
        (ConfigurationError("no table"), True, False),
        (RedisUnavailableError("ERR", answered=True), True, False),
        (FileNotFoundError("token"), True, False),
        (DamagedEntryError("no number"), False, False),
        (InvalidSaltCountError("too many"), False, False),
        (WrongTypeError("a string"), False, False),
        (TypeError("a defect"), False, False),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_an_error_of_every_raise_is_an_outage(wrap: object, exc: Exception, outage: bool, waiting: bool) -> None:
    """The step at which a raise stopped makes no difference; only servers that are away are waited for."""
    assert callable(wrap)
    assert is_outage(wrap(exc)) is outage
    assert is_waiting_for_a_server(wrap(exc)) is waiting


def tried(exc: Exception, times: int, *conversations: str, failed: FailedRaises | None = None) -> FailedRaises:
    """Failed tries of these conversations."""
    failed = failed or FailedRaises()
    for _ in range(times):
        for conversation_id in conversations:
            failed.failed(conversation_id, exc)
    return failed


def test_a_damaged_item_is_given_up_at_once() -> None:
    """A retry does not help."""
    exc = DamagedEntryError("no number")
    assert tried(exc, 1, "a").is_hopeless("a", exc)


@pytest.mark.parametrize("exc", [WrongTypeError("a string"), TypeError("a defect")], ids=["wrong type", "defect"])
def test_a_failure_of_one_conversation_is_given_up_after_some_tries(exc: Exception) -> None:
    """Those of an outage before it do not count."""
    assert not tried(exc, MAX_TRIES - 1, "a").is_hopeless("a", exc)
    assert tried(exc, MAX_TRIES, "a").is_hopeless("a", exc)
    failed = tried(AwsUnavailableError("away"), 10 * MAX_TRIES, "a")
    assert not tried(exc, MAX_TRIES - 1, "a", failed=failed).is_hopeless("a", exc)
    assert tried(exc, 1, "a", failed=failed).is_hopeless("a", exc)


@pytest.mark.parametrize(
    "exc", [AwsUnavailableError("away"), AwsUnavailableError("500", answered=True), AccessDeniedError("expired")]
)
def test_an_outage_is_never_given_up(exc: Exception) -> None:
    """However long it lasts."""
    assert not tried(exc, 100 * MAX_TRIES, "a").is_hopeless("a", exc)


def test_a_server_error_for_one_conversation_is_given_up_while_others_are_raised() -> None:
    """The others prove that the server works; a connection error of one server of several proves nothing."""
    failed = tried(AwsUnavailableError("500", answered=True), MAX_TRIES, "a")
    failed.succeeded("b")
    assert failed.is_hopeless("a", AwsUnavailableError("500", answered=True))
    assert failed.is_hopeless("a", RedisUnavailableError("ERR", answered=True))
    assert not failed.is_hopeless("a", RedisUnavailableError("away"))


def test_a_defect_that_every_raise_meets_is_not_given_up() -> None:
    """Until one raise is done: then the others are at fault."""
    failed = tried(TypeError("a defect"), 2 * MAX_TRIES, "a", "b")
    assert not failed.is_hopeless("a", TypeError("a defect"))
    assert failed.is_hopeless("a", WrongTypeError("a string"))
    failed.succeeded("c")
    assert failed.is_hopeless("a", TypeError("a defect"))


def test_the_common_failure_is_an_outage_or_a_defect_that_two_meet() -> None:
    """One conversation's defect stops no other."""
    away = AwsUnavailableError("away")
    assert common_failure([TypeError("one"), away]) is away
    assert common_failure([TypeError("one"), WrongTypeError("a string"), DamagedEntryError("x")]) is None
    assert str(common_failure([TypeError("one"), KeyError("two")])) == "one"
    assert common_failure([]) is None


def test_an_unforeseen_exception_is_described_by_its_type() -> None:
    """A known one by its code."""
    assert describe(TypeError("a defect")) == {"error": "TypeError", "why": "a defect"}
    assert describe(AwsUnavailableError("away", hint="wait"))["error"] == "aws_unavailable"
