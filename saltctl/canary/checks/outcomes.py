"""Why a check says nothing in a round."""

from __future__ import annotations

HOST_ERRORS = (OSError, MemoryError, RuntimeError)
"""What a host raises that has no memory, threads, processes or files left: it says nothing about the promise."""


class Unjudged(Exception):  # noqa: N818  nothing failed
    """A check cannot be judged in this round, for this reason."""


class Skipped(Exception):  # noqa: N818  nothing failed
    """A check has nothing to judge in this round, and no outage is the reason."""


class Broken(Exception):  # noqa: N818  it is the result of a check
    """A check found by itself, without the judges, that the promise is broken."""
