"""The note of a rebuild, explored: raises while a deposed primary still takes itself for the primary.

A primary that was paused or cut off past its failover keeps its fence, its scripts and its replication id, and answers
until it learns of its successor. So a raise may merge into a primary that is none any more. Before a rebuild scans, it
notes in the backup which replication id it is going to verify. A raise reads that note after its first step, and the
merge refuses a primary that is fenced but not noted.

The model is abstract: one conversation, two servers, and steps that the real code does in one or in several calls. The
fence, the tokens and the lookup script are explored with the real code in ``cases``.

Three reductions keep the search small. None changes a verdict:

- A replication id that no server has any more never comes back, and ids are only compared. So an id is the index of the
  server that has it, or GONE.
- A writer's lookup and the acknowledgement of its message are one step. If a message is acknowledged later than at its
  lookup, no other step depends on that, and the promise is the larger the earlier it is made.
- States that differ only in values that nothing reads any more are one state (``_canonical``).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from functools import cache, partial
from typing import NamedTuple

from tests.model.search import Found, search

GONE = -1
"""A replication id that no server has; a server that is not known; the mark of no rebuild."""


class Server(NamedTuple):
    """A Redis server. It gets a new replication id at each start and each promotion."""

    primary: bool
    """Whether it takes itself for the primary. It may be wrong."""
    entry: int = 1
    fenced: bool = False
    """Whether its fence names its replication id: it answers lookups."""
    mark: int = GONE
    """The rebuild in progress that marked its bucket."""
    owed: int = 1
    """The N that was promised when it was deposed."""


class At(IntEnum):
    """The next step of a raise."""

    BACKUP, NOTE, PRIMARY, MERGE, COMPARE, COMMIT = range(6)


class Raise(NamedTuple):
    """A raise in progress."""

    at: At
    note: int = GONE
    """The replication id in the note that it read."""
    server: int = GONE
    """Before its merge, the server that it was told is the primary; GONE if it uses the connection that it has. After a
    merge that does not depend on the note, the replication id that it merged on."""
    again: bool = False
    """Whether this is a further try, so that it asks which server is the primary."""


class Phase(IntEnum):
    """The next step of a rebuild."""

    READ, MARK, NOTE, SCAN, CHECK, MERGE, FENCE, ENDED = range(8)


class Rebuild(NamedTuple):
    """A rebuild in progress."""

    phase: Phase = Phase.READ
    alone: bool = False
    """Whether nobody else has written a note since this rebuild read it."""
    server: int = GONE
    """The replication id that it marked, and so its server while that has this id."""
    scanned: int = 0


_ENDED = Rebuild(Phase.ENDED)


class State(NamedTuple):
    """The state that all processes share, and the states of the processes."""

    failures: int
    """How many failures may still happen."""
    raises: tuple[Raise, ...]
    rebuilds: tuple[Rebuild, ...]
    note: int
    """The replication id that the newest rebuild noted; GONE before the first one, too."""
    older_note: int
    """What an eventually consistent read may still return."""
    servers: tuple[Server, ...]
    max_n: int = 1
    write_n: int = 1
    current: int = 0
    """The server that is the primary."""
    promised: int = 1
    """The largest N of an acknowledged raise, or that an acknowledged message was spread over."""


@dataclass(frozen=True)
class Protocol:
    """What is explored: the protocol; or with one field changed, a mutation of it."""

    targets: tuple[int, ...] = (2,)
    """The N of each raise."""
    failures: int = 1
    rebuilds: int = 2
    """How many rebuilds run on one path, at once or one after the other."""
    verified: bool = True
    """Whether the primary is verified and noted at first."""
    restarts: bool = True
    """Whether servers restart and are flushed, besides failovers."""

    order: tuple[At, ...] = (At.BACKUP, At.NOTE, At.MERGE, At.COMMIT)
    reads_note: bool = True
    eventual: bool = False
    """Whether a raise reads the note by an eventually consistent read."""
    conditional: bool = True
    """Whether the merge itself refuses a primary that is fenced but not noted; if not, the raise compares later."""
    refuses_fenced: bool = True
    """Whether a raise never accepts a primary that is fenced but not noted, however often it is told so."""
    asks_again: bool = True
    """Whether a raise accepts a primary that is not noted only after it asked which server is the primary."""
    merges_at_once: bool = False
    """Whether a raise merges into a primary that is not noted before it asks, too."""

    compares: bool = True
    """Whether a rebuild writes its note only if nobody else wrote one since it read the note."""
    reads_first: bool = True
    """Whether a rebuild reads the note before it asks which server is the primary."""
    notes: bool = True
    notes_first: bool = True
    """Whether a rebuild writes its note before it scans."""
    checks: bool = True
    """Whether a rebuild checks between scanning and merging that its note is still the newest."""

    stale_for_raises: bool = False
    """Whether a raise that asks which server is the primary may be told any that takes itself for one."""
    stale_for_rebuilds: bool = False


def explore(protocol: Protocol) -> Found:
    """Visit every state of the protocol until one breaks the promise."""
    start = State(
        protocol.failures,
        raises=(Raise(protocol.order[0]),) * len(protocol.targets),
        rebuilds=(_unstarted(protocol),) * protocol.rebuilds,
        note=0 if protocol.verified else GONE,
        older_note=0 if protocol.verified else GONE,
        servers=(Server(True, fenced=protocol.verified), Server(False)),
    )
    canonical = _canonical(protocol)

    def steps(state: State) -> Iterator[tuple[str, State]]:
        return ((label, canonical(after)) for label, after in _steps(protocol, state))

    return search(canonical(start), steps, _broken)


def _canonical(protocol: Protocol) -> Callable[[State], State]:
    """Return a function that returns one state for all from which the same happens.

    It drops the values that no later step reads. An older note is read only if reads are eventually consistent.
    """
    raises_of, rebuilds_of = cache(partial(_canonical_raises, protocol)), cache(partial(_canonical_rebuilds, protocol))

    def canonical(state: State) -> State:
        failures, raises, rebuilds, note, older_note, servers, max_n, *rest = state
        rebuilds, servers = rebuilds_of(rebuilds, servers)
        older_note = older_note if protocol.eventual else GONE
        return State(failures, raises_of(raises, max_n), rebuilds, note, older_note, servers, max_n, *rest)

    return canonical


def _canonical_raises(protocol: Protocol, raises: tuple[Raise, ...], max_n: int) -> tuple[Raise, ...]:
    """Do the first step of raises if it changes nothing: max_n never goes down, so it never will."""
    first = Raise(protocol.order[0])
    if first.at is not At.BACKUP:
        return raises
    done, targets = _next(protocol, first), zip(raises, protocol.targets, strict=True)
    return tuple(done if raising == first and n <= max_n else raising for raising, n in targets)


def _canonical_rebuilds(
    protocol: Protocol, rebuilds: tuple[Rebuild, ...], servers: tuple[Server, ...]
) -> tuple[tuple[Rebuild, ...], tuple[Server, ...]]:
    """End rebuilds that cannot change anything any more, and sort all: they are alike, but for their marks."""
    jobs = [_without_dead_values(protocol, servers, slot, job) for slot, job in enumerate(rebuilds)]
    order = sorted(range(len(jobs)), key=jobs.__getitem__)
    marks = {slot: GONE if jobs[slot] == _ENDED else at for at, slot in enumerate(order)} | {GONE: GONE}
    marked = tuple(server._replace(mark=marks[server.mark]) for server in servers)
    return tuple(jobs[slot] for slot in order), marked


def _without_dead_values(protocol: Protocol, servers: tuple[Server, ...], slot: int, job: Rebuild) -> Rebuild:
    if job.phase <= Phase.MARK or job.phase is Phase.ENDED:
        return job
    if job.phase >= Phase.MERGE:
        lost = job.server == GONE or (job.phase is Phase.FENCE and servers[job.server].mark != slot)
        return _ENDED if lost else job._replace(alone=False)
    to_note = job.phase is Phase.NOTE or (job.phase is Phase.SCAN and not protocol.notes_first)
    lost = job.server == GONE and not to_note
    refused = not job.alone and (protocol.compares if to_note else protocol.checks)
    return _ENDED if lost or refused else job


def _broken(state: State) -> str:
    """Return how a reader misses what was acknowledged, or an empty string.

    A deposed server that does not know it owes only what was acknowledged before. Its lookups may miss the rest until
    it learns of its successor.
    """
    if any(server.fenced and server.entry < server.owed for server in state.servers):
        return "a deposed server misses what was acknowledged before it was deposed"
    if state.max_n < state.promised:
        return "a reader on the backup misses an acknowledged raise or message"
    primary = state.servers[state.current]
    if primary.fenced and primary.entry < state.promised:
        return "a reader on the primary misses an acknowledged raise or message"
    return ""


def _steps(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    for at, n in enumerate(protocol.targets):
        yield from ((f"raise to {n}: {label}", after) for label, after in _raise_steps(protocol, state, at, n))
    for slot in range(protocol.rebuilds):
        server = state.rebuilds[slot].server
        name = "a rebuild" if server == GONE else f"the rebuild of {'AB'[server]}"
        yield from ((f"{name}: {label}", after) for label, after in _rebuild_steps(protocol, state, slot))
    yield from _writer_steps(state)
    yield from _failures(protocol, state)


def _server(state: State, index: int, changed: Server) -> State:
    return state._replace(servers=(*state.servers[:index], changed, *state.servers[index + 1 :]))


def _with_new_id(state: State, index: int, changed: Server) -> State:
    """Return the state after a server started, was promoted or demoted: its former replication id is gone."""

    def rename(known: int) -> int:
        return GONE if known == index else known

    raises = tuple(
        raising._replace(
            note=rename(raising.note),
            server=raising.server if raising.at is At.MERGE else rename(raising.server),
        )
        for raising in state.raises
    )
    rebuilds = tuple(job._replace(server=rename(job.server)) for job in state.rebuilds)
    renamed = state._replace(
        raises=raises, rebuilds=rebuilds, note=rename(state.note), older_note=rename(state.older_note)
    )
    return _server(renamed, index, changed)


def _primaries(state: State, *, stale: bool) -> list[int]:
    """Return the servers that may be named as the primary."""
    return [index for index, server in enumerate(state.servers) if server.primary] if stale else [state.current]


# Raises.


def _raise_steps(protocol: Protocol, state: State, at: int, n: int) -> Iterator[tuple[str, State]]:
    raising = state.raises[at]
    first = Raise(protocol.order[0])

    def then(changed: Raise, now: State = state) -> State:
        return now._replace(raises=(*now.raises[:at], changed, *now.raises[at + 1 :]))

    if raising != first:
        yield "dies or fails, and starts over", then(first)
    match raising.at:
        case At.BACKUP:
            yield f"writes {n} to the backup", then(_next(protocol, raising), state._replace(max_n=max(state.max_n, n)))
        case At.NOTE:
            for note in {state.note, state.older_note} if protocol.eventual else {state.note}:
                yield f"reads that {_id(note)} is noted", then(_next(protocol, raising._replace(note=note)))
        case At.PRIMARY:
            for index in _primaries(state, stale=protocol.stale_for_raises):
                asked = raising._replace(at=At.MERGE, server=index)
                yield f"is told that {'AB'[index]} is the primary", then(asked)
        case At.MERGE:
            for index, server in enumerate(state.servers):
                # Its first connection may be to any server that takes itself for the primary.
                if server.primary and raising.server in (GONE, index):
                    label, changed, now = _merge(protocol, state, raising, n, index)
                    yield f"{label} {'AB'[index]}", then(changed, now)
        case At.COMPARE:
            known = (raising.server == raising.note != GONE) or not protocol.reads_note
            accepted = known or (raising.again and not protocol.refuses_fenced)
            changed = Raise(At.COMMIT) if accepted else Raise(At.MERGE, again=True)
            yield f"finds the id {'as' if known else 'not'} noted", then(changed)
        case At.COMMIT:
            now = state._replace(write_n=max(state.write_n, min(n, state.max_n)), promised=max(state.promised, n))
            yield "commits and is acknowledged", then(first, now)


def _next(protocol: Protocol, raising: Raise) -> Raise:
    """Return the raise at its next step: a further try asks for the primary before it merges."""
    if raising.at is protocol.order[-1]:
        return Raise(protocol.order[0])
    after = protocol.order[protocol.order.index(raising.at) + 1]
    if after is At.COMMIT:
        return Raise(after)
    return raising._replace(at=At.PRIMARY if after is At.MERGE and raising.again else after)


def _merge(protocol: Protocol, state: State, raising: Raise, n: int, index: int) -> tuple[str, Raise, State]:
    server = state.servers[index]
    merged = _server(state, index, server._replace(entry=max(server.entry, n)))
    if not protocol.conditional:
        return "merges into", _next(protocol, raising._replace(server=index)), merged
    if raising.note == index or not protocol.reads_note:
        return "merges into", _next(protocol, raising), merged
    if server.fenced and protocol.refuses_fenced:
        return "is refused by", Raise(At.NOTE, again=True), state
    if raising.again or not protocol.asks_again:
        return "merges into", _next(protocol, raising), merged
    return "is not sure about", Raise(At.NOTE, again=True), merged if protocol.merges_at_once else state


# Rebuilds. One that has died is one that takes no further step.


def _rebuild_steps(protocol: Protocol, state: State, slot: int) -> Iterator[tuple[str, State]]:
    job, unstarted = state.rebuilds[slot], _unstarted(protocol)
    if job == unstarted and unstarted in state.rebuilds[:slot]:
        return  # rebuilds are alike: they start in order

    def then(changed: Rebuild, now: State = state) -> State:
        return now._replace(rebuilds=(*now.rebuilds[:slot], changed, *now.rebuilds[slot + 1 :]))

    on = job._replace(phase=_phase_after(protocol, job.phase))
    match job.phase:
        case Phase.READ:
            yield "starts and reads the note", then(on._replace(alone=True))
        case Phase.MARK:
            for index in _primaries(state, stale=protocol.stale_for_rebuilds):
                found = state.servers[index]
                label = f"is told that {'AB'[index]} is the primary, and marks it"
                yield label, then(on._replace(server=index), _server(state, index, found._replace(mark=slot)))
        case Phase.NOTE if job.alone or not protocol.compares:
            now = _noted(state, job.server) if protocol.notes else state
            yield f"notes {_id(job.server)}", then(on._replace(alone=True), now)
        case Phase.SCAN:
            yield f"scans max_n {state.max_n}", then(on._replace(scanned=state.max_n))
        case Phase.CHECK if job.alone or not protocol.checks:
            yield "checks that its note is the newest", then(on)
        case Phase.MERGE:
            server = state.servers[job.server]
            merged = _server(state, job.server, server._replace(entry=max(server.entry, job.scanned)))
            yield f"merges {job.scanned}", then(on._replace(scanned=0), merged)
        case Phase.FENCE:
            fenced = state.servers[job.server]._replace(fenced=True)
            yield "sets the fence", then(_ENDED, _server(state, job.server, fenced))


def _unstarted(protocol: Protocol) -> Rebuild:
    return Rebuild(Phase.READ if protocol.reads_first else Phase.MARK)


def _phase_after(protocol: Protocol, phase: Phase) -> Phase:
    order = [Phase.READ, Phase.MARK] if protocol.reads_first else [Phase.MARK, Phase.READ]
    order += [Phase.NOTE, Phase.SCAN] if protocol.notes_first else [Phase.SCAN, Phase.NOTE]
    order += [Phase.CHECK, Phase.MERGE, Phase.FENCE, Phase.ENDED]
    return order[order.index(phase) + 1] if phase in order[:-1] else phase


def _id(known: int) -> str:
    return "an id that is gone" if known == GONE else f"the id of {'AB'[known]}"


def _noted(state: State, note: int) -> State:
    """Return the state with a new note. The rebuild that wrote it goes on with a state of its own."""
    rebuilds = tuple(other._replace(alone=False) for other in state.rebuilds)
    return state._replace(note=note, older_note=state.note, rebuilds=rebuilds)


# Writers and failures.


def _writer_steps(state: State) -> Iterator[tuple[str, State]]:
    found = [(f"on {'AB'[at]}", server.entry) for at, server in enumerate(state.servers) if server.fenced]
    for where, n in [*found, ("in the backup", state.write_n)]:
        if n > state.promised:
            label = f"writer: looks up {n} {where}, and its message is acknowledged"
            yield label, state._replace(promised=n)


def _failures(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    for index, server in enumerate(state.servers):
        name = "AB"[index]
        if server.primary and index != state.current:
            yield f"{name} learns that it is a replica", _with_new_id(state, index, Server(False))
        if not state.failures:
            continue
        left = state._replace(failures=state.failures - 1)
        if not server.primary:
            left = _server(left, state.current, state.servers[state.current]._replace(owed=state.promised))
            held = state.servers[state.current].entry
            for entry in sorted({1, *(n for n in protocol.targets if n <= held)}):
                label = f"{'AB'[state.current]} is paused or cut off; {name} is promoted and holds {entry}"
                yield label, _with_new_id(left._replace(current=index), index, Server(True, entry))
        elif protocol.restarts:
            for entry in sorted({1, server.entry}):
                yield f"{name} restarts and holds {entry}", _with_new_id(left, index, Server(True, entry))
            flushed = server._replace(entry=1, fenced=False, mark=GONE)
            yield f"{name} is flushed", _server(left, index, flushed)
