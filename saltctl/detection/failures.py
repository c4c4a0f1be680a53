"""Failed raises: tells an outage, which every raise waits for, from a conversation whose raise can never be done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from saltctl.errors import RedisUnavailableError, SaltctlError, UnavailableError, WrongTypeError
from saltctl.masking import without_secrets
from saltctl.registry.failures import cause_of, is_outage, is_refused

MAX_TRIES = 10
"""Tries of a raise that fails for a reason of its own, before its reports become dead letters: about half a minute."""
MAX_OUTAGES_IN_A_ROW = 2
"""Raises that meet an outage one after the other, before the rest of the batch is left for later."""
MAX_REMEMBERED = 10_000


def is_waiting_for_a_server(exc: Exception) -> bool:
    """Return whether a server is away, so that nothing but waiting helps: no fault of this process."""
    cause = cause_of(exc)
    if isinstance(cause, RedisUnavailableError):
        return not cause.answered and not isinstance(cause, WrongTypeError)
    return isinstance(cause, UnavailableError)


def _is_of_one_key(exc: Exception) -> bool:
    return isinstance(cause_of(exc), WrongTypeError)


def describe(exc: BaseException) -> dict[str, str]:
    """Return the fields of a log event: ``error`` is the error's code, or the type of an unforeseen exception."""
    if isinstance(exc, SaltctlError):
        return {"error": exc.code, "why": exc.message, "hint": exc.hint}
    return {"error": type(exc).__name__, "why": without_secrets(str(exc))[:500]}


def reason_of(exc: Exception) -> str:
    """Return the reason of a dead letter whose raise cannot be done."""
    why = exc.message if isinstance(exc, SaltctlError) else f"{type(exc).__name__}: {exc}"
    return f"the raise cannot be done: {why}"


@dataclass(slots=True)
class _Failing:
    in_outage: bool
    raises_before: int
    tries: int = 0


class FailedRaises:
    """Counts the tries of each conversation whose raise fails. Not thread-safe.

    Tries in an outage do not count for a failure of the conversation's own that follows it, nor the other way round.
    """

    def __init__(self) -> None:
        self._failing: dict[str, _Failing] = {}
        self._raises = 0

    def __contains__(self, conversation_id: object) -> bool:
        """Return whether the latest raise of the conversation failed."""
        return conversation_id in self._failing

    def succeeded(self, conversation_id: str) -> None:
        """Count a raise that was done."""
        self._raises += 1
        self._failing.pop(conversation_id, None)

    def failed(self, conversation_id: str, exc: Exception) -> bool:
        """Count a failed try. Return whether it is the first of its kind: an outage, or a failure of its own."""
        if len(self._failing) >= MAX_REMEMBERED:
            self._failing.clear()
        found = self._failing.get(conversation_id)
        if found is None or found.in_outage != is_outage(exc):
            found = self._failing[conversation_id] = _Failing(is_outage(exc), self._raises)
        found.tries += 1
        return found.tries == 1

    def is_hopeless(self, conversation_id: str, exc: Exception) -> bool:
        """Return whether to try no more, after :meth:`failed` has counted the latest try.

        An outage is retried without end, unless only this conversation meets it: a server answers it with an error
        while other raises are done. An unforeseen exception is retried without end while several conversations meet
        it and no raise is done at all: then the fault is ours or a server's, not theirs.
        """
        failing = self._failing.get(conversation_id)
        if is_refused(exc) or failing is None:
            return is_refused(exc)
        if failing.tries < MAX_TRIES:
            return False
        others_succeed = self._raises > failing.raises_before
        if is_outage(exc):
            cause = cause_of(exc)
            return isinstance(cause, UnavailableError) and cause.answered and others_succeed
        alone = len(self._failing) == 1
        return others_succeed or alone or _is_of_one_key(exc)


def common_failure(failures: Sequence[Exception]) -> Exception | None:
    """Return the failure that stops every raise, from those of a batch in which no raise was done; None if none does.

    An unforeseen exception counts if two conversations meet it.
    """
    outage = next((exc for exc in failures if is_outage(exc)), None)
    if outage is not None:
        return outage
    unforeseen = [exc for exc in failures if not is_refused(exc) and not _is_of_one_key(exc)]
    return unforeseen[0] if len(unforeseen) > 1 else None
