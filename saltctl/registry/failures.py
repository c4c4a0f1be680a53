"""Failures of one conversation, which must stop no other, and failures that every conversation meets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from saltctl.errors import (
    AccessDeniedError,
    ConfigurationError,
    DamagedEntryError,
    RaiseIncompleteError,
    RefusedError,
    UnavailableError,
    WrongTypeError,
)
from saltctl.stores.contracts.registry import BackupEntry, BackupStore

_Entries = dict[str, BackupEntry]


def cause_of(exc: BaseException) -> BaseException:
    """Return the error of the step at which a raise stopped; the error itself if it is no such error."""
    while isinstance(exc, RaiseIncompleteError) and exc.__cause__ is not None:
        exc = exc.__cause__
    return exc


def is_refused(exc: Exception) -> bool:
    """Return whether the raise can never be done as things are: the item is damaged, or the raise is not allowed."""
    return isinstance(cause_of(exc), DamagedEntryError | RefusedError)


def is_outage(exc: Exception) -> bool:
    """Return whether other raises fail, too: a server, the network, credentials or the configuration."""
    cause = cause_of(exc)
    if isinstance(cause, DamagedEntryError | WrongTypeError):
        return False
    return isinstance(cause, UnavailableError | AccessDeniedError | ConfigurationError | OSError | MemoryError)


def read_undamaged(
    backup: BackupStore,
    conversation_ids: Sequence[str],
    retry: Callable[[Callable[[], _Entries]], _Entries] = lambda read: read(),
) -> tuple[_Entries, dict[str, str]]:
    """Return the entries by strongly consistent reads, and the problems of damaged items, by conversation id.

    ``retry`` calls a function, again if needed. Raises as ``BackupStore.get_many``, except DamagedEntryError.
    """
    try:
        return (retry(lambda: backup.get_many(conversation_ids)) if conversation_ids else {}), {}
    except DamagedEntryError as exc:
        if len(conversation_ids) == 1:
            return {}, {conversation_ids[0]: exc.message}
    # Each half by itself, to find out which are damaged in few requests.
    half = len(conversation_ids) // 2
    entries, damaged = read_undamaged(backup, conversation_ids[:half], retry)
    more, others = read_undamaged(backup, conversation_ids[half:], retry)
    return entries | more, damaged | others
