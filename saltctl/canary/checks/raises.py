"""Raises, also some that stop half-way, and cool-downs: messages stay readable in every state between."""

from __future__ import annotations

from datetime import datetime, timedelta

from saltctl.canary.checks.outcomes import Skipped, Unjudged
from saltctl.canary.checks.substitutes import Changes, Stopped, StoppingBackup, StoppingStore
from saltctl.canary.clients import Client
from saltctl.canary.conversations import BOUND, RESERVED
from saltctl.canary.round import Round
from saltctl.salting import power_of_two_at_least
from saltctl.stores.contracts.registry import BackupEntry
from saltctl.times import parse_iso

_STEP = 4
"""The factor of a raise: two raises of a sealed conversation reach BOUND."""
_CHANGES = (1, 2, 3)
_NEVER_COOLED = (
    "no conversation of this registry was ever cooled, and the first cool-down refuses older releases: "
    f"saltctl registry cool {RESERVED[0]} --to 1"
)
"""Why a raise at BOUND cannot be undone, so that after some rounds there is none to stop."""
_MOST_COOLED = 2
"""Conversations that are cooled in one round."""


def unfinished_raise(on: Round) -> str:
    """Stop a raise before each of its three changes; write and read by both clients in each state."""
    if on.raised in on.missed:
        on.raised = None
        raise Unjudged("readers miss messages of the conversation, and a raise would hide that")
    conversation = on.raised
    if conversation is None:
        raise Skipped("all conversations wait for the end of a cool-down" if on.may_cool else _NEVER_COOLED)
    on.use(conversation)
    n = next_n(on.entry(conversation))
    for change in _CHANGES:
        _raise_partly(on, on.by_redis, conversation, n, Changes(change))
        write_and_read(on, conversation)
    return f"{conversation} to {n}, stopped before each of three changes"


def raise_(on: Round) -> str:
    """Complete the raise that was stopped before; if none was, repeat one that is done, which changes nothing."""
    conversation = on.use(on.raised or on.steady)
    entry = on.entry(conversation)
    n = 1 if on.raised is None else entry.target if entry.half_done else next_n(entry)
    on.by_redis.raise_to(conversation, min(power_of_two_at_least(n), BOUND))
    for client in on.clients:
        client.lookups.lookup(conversation)
    write_and_read(on, conversation)
    on.entry(conversation)
    return f"{conversation} stays at {entry.target}" if on.raised is None else f"{conversation} to {n}"


def _raise_partly(on: Round, client: Client, conversation: str, n: int, changes: Changes) -> None:
    store, backup = StoppingStore(on.servers.store, changes), StoppingBackup(on.servers.backup, changes)
    registry = on.servers.classes.registry.over(on.servers.settings, store, backup)
    try:
        client.raise_to(conversation, n, registry)
    except Stopped:
        on.entry(conversation)


def write_and_read(on: Round, conversation: str) -> None:
    """Write a message by each client, not below the boundary, and then read all by each client."""
    for client in on.clients:
        client.put(conversation, on.row(conversation, recent=True))
    for client in on.clients:
        client.read(conversation)


def cool(on: Round) -> str:
    """Take the cool-downs of reserved conversations further: narrow those at BOUND, seal those whose wait is over."""
    if not on.may_cool:
        raise Skipped(_NEVER_COOLED)
    done = list[str]()
    for conversation in RESERVED:
        if len(done) == _MOST_COOLED:
            break
        if conversation in on.missed:
            continue
        entry = on.held.get(conversation)
        if entry is not None and entry.cooling is not None and entry.cooling.unsealed:
            if _is_ready(on, entry):
                done.append(_cool(on, conversation))
        elif entry is not None and entry.target >= BOUND:
            done.append(_cool(on, conversation, writes=True))
    if not done:
        raise Skipped("no conversation can be cooled now")
    return ", ".join(done)


def _is_ready(on: Round, entry: BackupEntry) -> bool:
    """Return whether a cool-down can go on: its first phase is not complete, or its wait is over."""
    assert entry.cooling is not None
    if not entry.cooling.narrowed_at:
        return True
    narrowed: datetime = parse_iso(entry.cooling.narrowed_at)
    return on.now() >= narrowed + timedelta(seconds=on.servers.settings.cool_wait)


def _cool(on: Round, conversation: str, *, writes: bool = False) -> str:
    """Do one phase; before the first one write messages on salts that new ones leave, also for a later time."""
    on.use(conversation)
    if writes:
        settings = on.servers.settings
        for ahead in (0.0, max(settings.cool_wait, settings.cool_margin)):
            for client in on.clients:
                client.put(conversation, on.row(conversation, ahead=ahead, recent=True))
    result = on.by_redis.cool(conversation, on.now)
    write_and_read(on, conversation)
    on.entry(conversation)
    return f"{conversation} is {result.phase or 'as it was'}"


def next_n(entry: BackupEntry) -> int:
    """Return the N of the next raise of a conversation."""
    return min(entry.target * _STEP, BOUND)


def can_be_raised(entry: BackupEntry | None) -> bool:
    """Return whether a raise is a change that readers have to follow: not before a cool-down is sealed."""
    if entry is None:
        return True
    sealed = entry.cooling is None or (entry.cooling.boundary is not None and not entry.cooling.unsealed)
    return sealed and entry.target < BOUND
