"""Clients that must not be served, and an entry that comes too late."""

from __future__ import annotations

from contextlib import ExitStack, closing

from saltctl.canary.checks.outcomes import Broken, Skipped
from saltctl.canary.round import Round
from saltctl.errors import AccessDeniedError, BackupLostError, UnverifiedError


def foreign_client(on: Round) -> str:
    """Look up as a client of another registry does, and as one that finds an empty backup table."""
    if on.servers.foreign is None or on.servers.check_lost is None:
        raise Skipped("these stores have no other registries")
    conversation = on.steady
    with ExitStack() as stack:
        store = on.servers.foreign()
        stack.callback(getattr(store, "close", lambda: None))
        for primary, ids in store.by_primary([conversation]).items():
            try:
                found = store.lookup(primary, ids)
            except UnverifiedError:
                continue
            raise Broken(f"Redis at {primary} answered a client of another registry: {found[0]} for {conversation}")
    try:
        on.servers.check_lost()
    except BackupLostError:
        return "neither Redis nor an empty table answers"
    raise Broken("an empty backup table was taken for the right one")


def late_merge(on: Round) -> str:
    """Merge an older entry, as a slow rebuild does over its own session; it must not lower the newer one."""
    sessions = getattr(on.servers.store, "sessions", None)
    if sessions is None:
        raise Skipped("these stores have no rebuilds")
    conversation = on.use(on.raised or on.steady)
    entry = on.entry(conversation)
    if entry.max_n == 1:
        raise Skipped(f"{conversation} was not raised yet")
    [primary] = on.servers.store.by_primary([conversation])
    try:
        with ExitStack() as stack:
            opened = [stack.enter_context(closing(session)) for session in sessions()]
            for session in opened:
                if session.primary == primary:
                    session.begin_merge([(conversation, 1)])
                    session.end_merge()
    except AccessDeniedError as exc:
        raise Skipped(f"this user cannot rebuild: {exc.message}") from None
    for client in on.clients:
        client.lookups.lookup(conversation)
        client.read(conversation)
    return f"an entry of N 1 after that of {entry.max_n} in {conversation}"
