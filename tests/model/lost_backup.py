"""The backup goes back, explored: its table is deleted, restored to an earlier time, or replaced by an empty one.

The backup has an identity: a registry id, and the id of the table in which that was claimed. Who looks up, raises or
rebuilds refuses a table without it or with that of another table. ``setup`` claims a table only if neither messages
nor buckets in Redis show an earlier registry. ``recover`` makes the union of the table, Redis and the
messages, and then claims the table.

The model is abstract: one conversation and one Redis. It leaves out replication ids and notes (``woken_primary``).

Two reductions keep the search small. Neither changes a verdict: the ids of tables are only compared with the id of the
present one, so they are booleans; and a job that can do nothing but die has died, and is as one that never started.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import NamedTuple

from tests.model.search import Found, search

OTHER = 8
"""The registry id of another environment's table."""
RECOVERING = 9
"""Stands in a fence for the id that a recovery has not claimed yet: no lookup and no merge accepts it."""


class Table(NamedTuple):
    """The backup table: ``registry`` is 0 if it was never claimed, ``home`` whether it was claimed as this table."""

    registry: int = 0
    home: bool = False
    max_n: int = 1
    write_n: int = 1


class Redis(NamedTuple):
    """The only Redis. It answers the lookups of clients whose registry id is in the fence."""

    entry: int = 1
    fence: int = 0
    mark: str = ""
    """The rebuild or recovery that marked the bucket."""


class Raise(NamedTuple):
    """A raise in progress; ``at`` is its next step, and ``registry`` the id that its process knows."""

    at: int = 0
    registry: int = 1


class Phase(IntEnum):
    """The next step of a rebuild or a recovery. A rebuild has some of them."""

    START, MARK, READ_REDIS, READ_MESSAGES, WRITE, CLAIM, SCAN, CHECK, MERGE, FENCE, ENDED = range(11)


class Job(NamedTuple):
    """A rebuild or a recovery in progress.

    ``n`` is the largest N that it has read, ``home`` whether the table that it began on is still there.
    """

    phase: Phase = Phase.START
    registry: int = 0
    n: int = 1
    home: bool = False


class State(NamedTuple):
    """The state that all processes share, and the states of the processes."""

    losses: int
    """How often the table may still be lost."""
    redis_losses: int
    recoveries: int
    table: Table | None = Table(1, True)
    redis: Redis = Redis(fence=1)
    newest_registry: int = 1
    raising: Raise = Raise()
    rebuild: Job = Job()
    recovery: Job = Job()
    writer: int = 0
    acknowledged: int = 1
    messages: int = 1


RECOVERY = (
    *(Phase.START, Phase.MARK, Phase.READ_REDIS, Phase.READ_MESSAGES, Phase.WRITE, Phase.CLAIM),
    *(Phase.SCAN, Phase.CHECK, Phase.MERGE, Phase.FENCE, Phase.ENDED),
)
REBUILD = (Phase.START, Phase.MARK, Phase.SCAN, Phase.CHECK, Phase.MERGE, Phase.FENCE, Phase.ENDED)


@dataclass(frozen=True)
class Protocol:
    """What is explored: the protocol; or with one field changed, a mutation of it."""

    losses: int = 1
    redis_losses: int = 1
    recoveries: int = 1

    recovery: tuple[Phase, ...] = RECOVERY
    new_id: bool = True
    """Whether a recovery claims the table under a new registry id."""
    claims_own_table: bool = True
    """Whether a recovery claims the table that it began on, and not one that took its place since."""
    fences_out: bool = True
    """Whether the marks of a recovery replace the fences of the former registry id."""
    setup_looks: bool = True
    setup_looks_for_buckets: bool = True
    """Whether buckets in Redis without entries, with a fence or a mark alone, show an earlier registry, too."""
    fences_name_registry: bool = True
    lookups_check_claim: bool = True
    """Whether lookups in the backup refuse a table that was not claimed."""
    lookups_check_home: bool = True
    """Whether lookups in the backup refuse a table that was claimed as another one: a restored one."""
    raises_check: bool = True
    rebuilds_check: bool = True
    """Whether a rebuild refuses a table that was not claimed, or that was claimed as another one."""
    rebuilds_check_again: bool = True
    """Whether a rebuild, and a recovery, checks after its scan that the table is still the one that it accepted."""


def explore(protocol: Protocol) -> Found:
    """Visit every state of the protocol until one breaks the promise."""
    start = State(protocol.losses, protocol.redis_losses, protocol.recoveries)

    def steps(state: State) -> Iterator[tuple[str, State]]:
        return ((label, _without_ended_jobs(after)) for label, after in _steps(protocol, state))

    return search(start, steps, lambda state: _broken(protocol, state))


def _without_ended_jobs(state: State) -> State:
    """Return the state after the jobs that can only die have died."""
    rebuild, recovery, mark = state.rebuild, state.recovery, state.redis.mark
    if rebuild.phase >= Phase.FENCE and (rebuild.phase is Phase.ENDED or mark != "rebuild"):
        state = state._replace(rebuild=Job())
    if recovery.phase >= Phase.FENCE and (recovery.phase is Phase.ENDED or mark != "recover"):
        state = state._replace(recovery=Job())
    return state


def _claimed(table: Table) -> bool:
    return table.registry > 0 and table.home


def _is_claimed_as(table: Table | None, registry: int) -> bool:
    return table is not None and _claimed(table) and table.registry == registry


def _answers(protocol: Protocol, state: State) -> dict[str, tuple[int, int]]:
    """Return max_n and write_n from each source that answers lookups."""
    answers = {}
    table, redis = state.table, state.redis
    if redis.fence not in (0, RECOVERING) and (redis.fence != OTHER or not protocol.fences_name_registry):
        answers["Redis"] = redis.entry, redis.entry
    if table is not None:
        claimed = table.registry > 0 or not protocol.lookups_check_claim
        home = table.home or not protocol.lookups_check_home or not table.registry
        if claimed and home:
            answers["the backup"] = table.max_n, min(table.write_n, table.max_n)
    return answers


def _broken(protocol: Protocol, state: State) -> str:
    """Return how a reader misses what was acknowledged, or an empty string."""
    for where, (max_n, _) in _answers(protocol, state).items():
        if max_n < state.messages:
            return f"a reader on {where} misses an acknowledged message"
        if max_n < state.acknowledged:
            return f"a lookup in {where} misses an acknowledged raise"
    return ""


def _steps(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    yield from _raise_steps(protocol, state)
    yield from _rebuild_steps(protocol, state)
    yield from _recovery_steps(protocol, state)
    yield from _setup_steps(protocol, state)
    yield from _losses(protocol, state)
    if state.writer:
        label = f"writer: a message at N={state.writer} is acknowledged"
        yield label, state._replace(messages=max(state.messages, state.writer), writer=0)
        return
    for where, (_, write_n) in _answers(protocol, state).items():
        if write_n > state.messages:
            yield f"writer: looks up {write_n} in {where}", state._replace(writer=write_n)


def _raise_steps(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    """Yield the steps of a raise to 2: the backup, the check of its identity, Redis, the commit."""
    raising, table, redis = state.raising, state.table, state.redis
    known = table.registry if table is not None and _claimed(table) else raising.registry
    if raising.at:
        yield "raise: dies or fails, and starts over", state._replace(raising=Raise(0, known))
    elif known != raising.registry:
        yield f"raise: reads the registry id {known}", state._replace(raising=Raise(0, known))
    on = raising._replace(at=raising.at + 1)
    match raising.at:
        case 0 if table is not None:
            yield "raise: writes 2 to the backup", state._replace(raising=on, table=table._replace(max_n=2))
        case 1 if table is not None:
            if _is_claimed_as(table, raising.registry) or not protocol.raises_check:
                yield "raise: reads the note, and the registry id with it", state._replace(raising=on)
        case 2 if redis.fence in (0, raising.registry):
            yield "raise: merges 2 into Redis", state._replace(raising=on, redis=redis._replace(entry=2))
        case 3 if table is not None and table.max_n >= 2:
            done = table._replace(write_n=2)
            yield (
                "raise: commits and is acknowledged",
                state._replace(raising=Raise(0, raising.registry), table=done, acknowledged=2),
            )


def _rebuild_steps(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    job, table, redis = state.rebuild, state.table, state.redis
    if job.phase is not Phase.START:
        yield "rebuild: dies", state._replace(rebuild=Job())
    if job.phase is Phase.START:
        if redis.fence not in (0, RECOVERING) or table is None:
            return  # Redis is verified
        if _claimed(table) or not protocol.rebuilds_check:
            started = Job(Phase.MARK, table.registry or state.newest_registry)
            yield "rebuild: starts, and accepts the table", state._replace(rebuild=started)
        # Somebody else's, by a wrong name.
        if redis.fence == 0:
            yield "rebuild: starts, and accepts another table", state._replace(rebuild=Job(Phase.MARK, OTHER))
        return
    if job.phase is Phase.SCAN and job.registry != OTHER and table is None:
        return
    n = 1 if job.registry == OTHER or table is None else table.max_n
    for label, after, now in _fill(protocol, state, job, "rebuild", n, REBUILD):
        yield label, now._replace(rebuild=after)


def _fill(
    protocol: Protocol, state: State, job: Job, name: str, scanned: int, order: tuple[Phase, ...]
) -> Iterator[tuple[str, Job, State]]:
    """Yield the steps that rebuild and recovery share."""
    redis = state.redis
    on = job._replace(phase=order[order.index(job.phase) + 1])
    match job.phase:
        case Phase.MARK if redis.fence in (0, job.registry):
            yield f"{name}: marks", on, state._replace(redis=redis._replace(mark=name))
        case Phase.SCAN:
            yield f"{name}: scans max_n {scanned}", on._replace(n=scanned), state
        case Phase.CHECK:
            same = job.registry == OTHER or _is_claimed_as(state.table, job.registry)
            if same or not protocol.rebuilds_check_again:
                yield f"{name}: checks the identity again", on, state
        case Phase.MERGE:
            merged = redis._replace(entry=max(redis.entry, job.n))
            yield f"{name}: merges {job.n}", on._replace(n=1), state._replace(redis=merged)
        case Phase.FENCE if redis.mark == name:
            fenced = redis._replace(fence=job.registry, mark="")
            yield f"{name}: sets the fence of registry {job.registry}", Job(Phase.ENDED), state._replace(redis=fenced)


def _recovery_steps(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    job, table, redis, order = state.recovery, state.table, state.redis, protocol.recovery
    if table is None:
        return
    if job.phase is Phase.START:
        if state.recoveries and not _claimed(table):
            started = Job(order[1], RECOVERING, home=True)
            yield "recover: starts", state._replace(recovery=started, recoveries=state.recoveries - 1)
        return
    if state.recoveries:
        yield "recover: dies", state._replace(recovery=Job())
    on = job._replace(phase=order[order.index(job.phase) + 1])
    match job.phase:
        case Phase.MARK:
            fence = RECOVERING if protocol.fences_out else redis.fence
            marked = redis._replace(mark="recover", fence=fence)
            yield "recover: marks", state._replace(recovery=on, redis=marked)
        case Phase.READ_REDIS:
            read = on._replace(n=max(job.n, redis.entry))
            yield f"recover: reads {redis.entry} in Redis", state._replace(recovery=read)
        case Phase.READ_MESSAGES:
            read = on._replace(n=max(job.n, state.messages))
            yield f"recover: finds messages up to {state.messages}", state._replace(recovery=read)
        case Phase.WRITE:
            merged = table._replace(max_n=max(table.max_n, job.n))
            yield f"recover: merges {job.n} into the backup", state._replace(recovery=on._replace(n=1), table=merged)
        case Phase.CLAIM:
            registry = state.newest_registry + protocol.new_id
            claimed = state._replace(
                recovery=on._replace(registry=registry, home=False),
                table=table._replace(registry=registry, home=job.home or not protocol.claims_own_table),
                newest_registry=registry,
            )
            yield f"recover: claims the table as registry {registry}", claimed
        case _:
            for label, after, now in _fill(protocol, state, job, "recover", table.max_n, order):
                yield label, now._replace(recovery=after)


def _setup_steps(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    """Yield the steps of ``setup`` on a table that is missing or was never claimed."""
    table = state.table
    if (table is not None and table.registry) or state.newest_registry > 2:
        return
    traces = state.messages > 1 or state.redis.entry > 1
    buckets = bool(state.redis.fence or state.redis.mark)
    if protocol.setup_looks and (traces or (buckets and protocol.setup_looks_for_buckets)):
        return  # it names `recover`
    registry = state.newest_registry + 1
    claimed = (table or Table())._replace(registry=registry, home=True)
    label = f"setup: claims the table as registry {registry}"
    yield label, state._replace(table=claimed, newest_registry=registry)


def _losses(protocol: Protocol, state: State) -> Iterator[tuple[str, State]]:
    table = state.table
    if state.losses:
        left = state._replace(losses=state.losses - 1, recovery=state.recovery._replace(home=False))
        yield "the table is deleted, and created by hand", _forget(protocol, left._replace(table=Table()))
        if table is not None:
            yield "the table is deleted", _forget(protocol, left._replace(table=None))
        restored = left._replace(table=Table(1))
        yield "the table is deleted, and restored as it was at first", _forget(protocol, restored)
    if state.redis_losses:
        lost = state._replace(redis_losses=state.redis_losses - 1, redis=Redis())
        yield "Redis loses everything", _forget(protocol, lost)


def _forget(protocol: Protocol, state: State) -> State:
    """Drop from the promise what neither the table nor Redis holds any more; messages are still there to be found.

    A limit: a raise, a writer, a rebuild or a recovery that knows of it must not outlive both.
    """
    held = max(state.redis.entry, state.messages, 1 if state.table is None else state.table.max_n)
    if held > 1 or state.redis_losses == protocol.redis_losses:
        return state
    return state._replace(
        acknowledged=1,
        writer=0,
        raising=state.raising._replace(at=0),
        rebuild=Job() if state.rebuild.n > 1 else state.rebuild,
        recovery=Job() if state.recovery.n > 1 else state.recovery,
    )
