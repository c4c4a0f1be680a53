"""Failures that have the same cause in Redis, AWS and local files."""

from __future__ import annotations

import errno

import botocore.exceptions  # noqa: TID253
import pytest
import redis.exceptions  # noqa: TID253

from saltctl.cli.failures import failure_of
from saltctl.stores.aws.failures.errors import to_saltctl_error
from saltctl.stores.bounded.errors import open_files_problem
from saltctl.stores.redis.errors import translate


def _raised_from(exc: Exception) -> Exception:
    """Return the exception as a driver raises it while it handles one of the system."""
    try:
        try:
            raise OSError(errno.EMFILE, "Too many open files")
        except OSError:
            raise exc  # noqa: B904  as the drivers do it
    except type(exc) as raised:
        return raised


@pytest.mark.parametrize("source", ["aws", "redis", "file"])
def test_too_many_open_files_are_named(source: str) -> None:
    """Neither the network nor a Region is to blame, and the hint names the limit."""
    if source == "aws":
        url = "http://127.0.0.1:1"
        failed = _raised_from(botocore.exceptions.EndpointConnectionError(endpoint_url=url, error=OSError()))
        failure = failure_of(to_saltctl_error(failed, "'table'"))
    elif source == "redis":
        failure = failure_of(translate(_raised_from(redis.exceptions.ConnectionError("Error 24")), "localhost"))
    else:
        failure = failure_of(OSError(errno.EMFILE, "Too many open files"))
    assert "too many open files" in failure.message
    assert "ulimit -n" in failure.hint
    assert failure.exit_code == (78 if source == "file" else 69)


def test_a_chain_of_exceptions_may_be_a_circle() -> None:
    """Some of those that botocore raises are."""
    first, second = TimeoutError("first"), TimeoutError("second")
    first.__cause__, second.__cause__ = second, first
    assert open_files_problem(first) is None
