"""Cooling, explored: the real code of cool-downs, raises, rebuilds and lookups, through every state that it can reach.

One conversation is salted already. Coolers, raisers and rebuilds run the real code (``replay``); each may die between
any two calls, and start again. Redis fails as in ``failures``. A step lets an hour pass, of a few. A writer looks up,
and a message with the time of that lookup as its sort key is acknowledged later, however late, on the last of its
salts. So a message reaches a boundary only if its writer looked up in the hour of that boundary or later: a margin of
an hour is what the protocol assumes. A ``scheduled`` message has a later sort key. It is written in the hour of the
lookup, as the wait of an hour assumes, on the first or the last salt.

In each state, whoever reads, in Redis or in the backup, looks on the partition of every acknowledged message.

Bounds: the hours, the cool-downs (``epochs``), the failures of Redis, and one message in flight. The newest rows of all
salts are read in one step. A process reads the time as soon as it has the answer before that.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from saltctl.registry.lookups import Lookup
from saltctl.salting import partition_key
from saltctl.stores.redis.scripts import script_sha
from tests.model.cooling_processes import (
    CLOCK,
    NEWEST,
    CoolingCode,
    Rows,
    complete_process,
    cool_process,
    older_raise_process,
)
from tests.model.failures import Failure, server_events
from tests.model.replay import (
    CONVERSATION,
    REGISTRY_ID,
    SETTINGS,
    Call,
    Finished,
    Process,
    Replayer,
    lookup_process,
    raise_process,
    rebuild_process,
)
from tests.model.search import Found, search
from tests.model.servers import (
    CHECK_RESULTS,
    CONDITION_FAILED,
    OTHER_IDENTITY,
    TOKEN_GONE,
    UNREACHABLE,
    UNVERIFIED,
    Item,
    Redis,
    Refusal,
    Reply,
    execute,
    hexadecimal,
    renumber_identities,
    script_of,
    update_item,
)
from tests.model.world import Numbers

_BITS = 20
_MASK = (1 << _BITS) - 1
_ROWS, _PENDING, _PROCESSES = _BITS, 2 * _BITS, 3 * _BITS
"""The offsets of the fields of a state after the number of its Shared: the rows, the lookup of the writer that has not
written yet (hour * 16 + N, or 0), and for each process the number of the answers that it got."""
MISSES_IN_REDIS = "a reader on Redis misses an acknowledged message"
MISSES_IN_BACKUP = "a reader on the backup misses an acknowledged message"
HOUR_PASSES = "an hour passes"
REFUSES = "the backup refuses a lookup"


@dataclass(frozen=True)
class CoolingCase:
    """One world to explore.

    ``start`` is the N at first; the last salt has a message. ``raises`` and ``cools`` have one process for each number,
    ``epochs`` bounds the cool-downs, ``hours`` the hours that pass. ``older`` are raises by clients that know no cooled
    entries. ``completes``: a process completes raises that it finds. ``deposed``: a primary was replaced before the
    first step, does not learn of it, and goes on to answer lookups. ``expect`` is how a mutation breaks the promise.
    """

    name: str
    code: CoolingCode = field(default_factory=CoolingCode)
    start: int = 4
    raises: tuple[int, ...] = (4,)
    cools: tuple[int, ...] = (1,)
    epochs: int = 1
    hours: int = 1
    rebuilds: int = 1
    may_fail: tuple[Failure, ...] = (Failure.KILL, Failure.LOSE)
    failures: int | None = 1
    older: tuple[int, ...] = ()
    completes: bool = False
    deposed: bool = False
    scheduled: bool = False
    patches: tuple[tuple[str, str], ...] = ()
    expect: str = ""


class Shared(NamedTuple):
    """What processes share, except for messages."""

    item: Item
    server: Redis
    hour: int
    failures_left: int | None
    checkpoint: bytes | None = None
    """That of a rebuild that can be resumed."""


Moves = list[tuple[str, int]]
"""The label of each possible next step of a process, and the difference that it makes to the state."""


class CoolingWorld:
    """The steps that are possible in one case."""

    def __init__(self, case: CoolingCase) -> None:
        self.case = case
        self._patches = dict(case.patches)
        self._rows = Rows(case.hours)
        self._replayer = Replayer(case.code, self._possible)
        self._lookup_process = lookup_process()
        raisers = {n: raise_process(n) for n in case.raises}
        coolers = {n: cool_process(case.code, n) for n in case.cools}
        processes = (
            *(raisers[n] for n in case.raises),
            *(coolers[n] for n in case.cools),
            *([complete_process()] if case.completes else []),
            *(older_raise_process(n) for n in case.older),
            *(rebuild_process("RS"[i]) for i in range(case.rebuilds)),
        )
        self._processes = [(_PROCESSES + _BITS * at, process) for at, process in enumerate(processes)]
        self._older = [at for at, process in self._processes if process.name.startswith("older")]
        self._rebuilds = self._processes[len(processes) - case.rebuilds :]
        self._alike = [
            (at, at + _BITS)
            for (at, process), (_, other) in zip(self._processes, self._processes[1:], strict=False)
            if process is other
        ]
        self._shared = Numbers[Shared]()
        self._locals = Numbers[tuple[Reply, ...]]()
        self._locals.number(())
        for process in processes:
            self._local(process, ())
        self._moves: dict[tuple[int, int, int, int], Moves] = {}
        self._events: dict[tuple[int, int], Moves] = {}
        self._lookups: dict[int, dict[str, Lookup]] = {}
        self._broken: dict[int, str] = {}

    def start(self) -> int:
        """Return the first state: Redis is verified, the conversation has N salts, and messages on the last of them."""
        case = self.case
        fence = f"{SETTINGS.layout}:{REGISTRY_ID}:".encode() + hexadecimal(0)
        bucket = tuple(sorted({b"#fence": fence, CONVERSATION.encode(): b"%d" % case.start}.items()))
        item = (("max_n", case.start), ("write_n", case.start))
        shared = Shared(item, Redis(bucket=bucket, knows_lookup=True), 0, case.failures)
        return self._shared.number(shared) + (self._rows.with_row(0, 0, case.start - 1) << _ROWS)

    def without_processes(self, state: int) -> tuple[Shared, int]:
        """Return what processes share, and the messages."""
        return self._shared[state & _MASK], state >> _ROWS & (1 << _PROCESSES - _ROWS) - 1

    def broken(self, state: int) -> str:
        """Return how a reader misses an acknowledged message; empty if none does."""
        key = state & (1 << _PENDING) - 1
        if key not in self._broken:
            self._broken[key] = self._find_broken(state & _MASK, state >> _ROWS & _MASK)
        return self._broken[key]

    def _find_broken(self, shared: int, rows: int) -> str:
        lookups = self._lookups_in(shared)
        if "the backup" not in lookups:
            return REFUSES
        for where, lookup in lookups.items():
            for sort_key, salt in self._rows.salts(rows):
                if partition_key(CONVERSATION, salt) not in lookup.read_set(sort_key):
                    return MISSES_IN_REDIS if where == "Redis" else MISSES_IN_BACKUP
        return ""

    def _lookups_in(self, number: int) -> dict[str, Lookup]:
        """Return what the real lookup returns, in Redis if it answers, and in the backup."""
        if number not in self._lookups:
            shared, process = self._shared[number], self._lookup_process
            call = self._replayer.after(process, ())
            assert isinstance(call, Call)
            _, reply = execute(shared.server, call.words, self._patches)
            found = {}
            for where, replies in (("Redis", (reply,)), ("the backup", (UNVERIFIED, shared.item))):
                then = self._replayer.after(process, replies)
                if isinstance(then, Finished) and isinstance(then.result, Lookup):
                    found[where] = then.result
            self._lookups[number] = found
        return self._lookups[number]

    def steps(self, state: int) -> Iterator[tuple[str, int]]:
        """Yield every possible next step: its label, and the state after it."""
        return (
            ((label, self._sorted(after)) for label, after in self._steps(state)) if self._alike else self._steps(state)
        )

    def _sorted(self, state: int) -> int:
        """Return the same for states that differ in the order of two processes that do the same."""
        for low, high in self._alike:
            first, second = state >> low & _MASK, state >> high & _MASK
            if first > second:
                state += (second - first << low) + (first - second << high)
        return state

    def _steps(self, state: int) -> Iterator[tuple[str, int]]:
        shared, rows = state & _MASK, state >> _ROWS & _MASK
        for at, process in self._processes:
            local = state >> at & _MASK
            for label, difference in self._moves_of(at, process, shared, local, rows):
                yield label, state + difference
            if local:
                yield f"{process.name}: dies", state - (local << at)
        yield from self._writes(state, shared, rows)
        key = shared, state >> self._rebuilds[0][0] if self._rebuilds else 0
        if key not in self._events:
            self._events[key] = list(self._find_events(*key))
        for label, difference in self._events[key]:
            after = state + difference
            if label == HOUR_PASSES:
                after -= sum(state & _MASK << at for at in self._older)
            yield label, after

    def _writes(self, state: int, shared: int, rows: int) -> Iterator[tuple[str, int]]:
        pending, hour = state >> _PENDING & _MASK, self._shared[shared].hour
        if not pending:
            deposed = {"a deposed Redis": self._lookups_in(0)["Redis"]} if self.case.deposed else {}
            for where, lookup in (self._lookups_in(shared) | deposed).items():
                n = lookup.write_n
                if n > 1:
                    yield f"a writer looks up {n} in {where}", state + (hour * 16 + n << _PENDING)
            return
        looked_up, n = divmod(pending, 16)
        keys = [looked_up + 1]
        if self.case.scheduled and looked_up == hour:
            keys.append(len(self._rows.sort_keys) - 1)
        for key in keys:
            for salt in (0, n - 1) if self.case.scheduled else (n - 1,):
                after = self._rows.with_row(rows, key, salt)
                label = f"a message of {self._rows.sort_keys[key]} on salt {salt} is acknowledged"
                yield label, state - (pending << _PENDING) + (after - rows << _ROWS)

    # Processes.

    def _moves_of(self, at: int, process: Process, shared: int, local: int, rows: int) -> Moves:
        call = self._replayer.after(process, self._locals[local])
        key = at, shared, local, rows if call == NEWEST else 0
        if key not in self._moves:
            self._moves[key] = list(self._find_moves(at, process, shared, local, rows))
        return self._moves[key]

    def _find_moves(self, at: int, process: Process, number: int, local: int, rows: int) -> Moves:
        shared, replies = self._shared[number], self._locals[local]
        call = self._replayer.after(process, replies)
        assert isinstance(call, Call), f"{process.name} has ended"
        if self._is_too_many(call):
            return []
        after, reply = self._serve(shared, call, rows)
        if process.name.startswith("raise") and script_of(call.words) == "raise" and not isinstance(reply, Refusal):
            reply = (0, reply[1], b"", b"")  # see World
        replies = (*replies, reply)
        then = self._replayer.after(process, replies)
        while then == CLOCK:
            replies = (*replies, shared.hour)
            then = self._replayer.after(process, replies)
        ended = f"; {' with '.join(map(str, then.outcome))}" if isinstance(then, Finished) else ""
        refused = f": {reply.text}" if isinstance(reply, Refusal) else ""
        on = 0 if isinstance(then, Finished) else self._local(process, replies)
        return [(f"{process.name}: {call}{refused}{ended}", self._shared.number(after) - number + (on - local << at))]

    def _local(self, process: Process, replies: tuple[Reply, ...]) -> int:
        return self._locals.number(self._replayer.example(process, replies, lost=False))

    def _is_too_many(self, call: Call) -> bool:
        """Return whether a call would begin more cool-downs than are explored."""
        cooling = dict(dict(call.values).get(":cooling", ()))
        return bool(cooling.get("epoch", 0) > self.case.epochs)

    def _serve(self, shared: Shared, call: Call, rows: int) -> tuple[Shared, Reply]:
        match call:
            case Call("world", ("newest",)):
                return shared, self._rows.newest(rows)
            case Call("dynamodb", ("get",) | ("scan",)):
                return shared, shared.item
            case Call("checkpoint", ("load",)):
                return shared, shared.checkpoint
            case Call("checkpoint", (_, *text)):
                return shared._replace(checkpoint=text[0].encode() if text else None), 1
            case Call("dynamodb", ("update", condition, update), values):
                item, reply = update_item(shared.item, condition, update, dict(values))
                # How the item was before makes no difference.
                return shared._replace(item=item), reply if reply == CONDITION_FAILED else ()
        server, reply = execute(shared.server, call.words, self._patches)
        return shared._replace(server=server), reply

    def _possible(self, call: Call) -> Collection[Reply] | None:
        """Return every answer that this call can get; None if they are many."""
        match call:
            case Call("world", ("clock",)):
                return range(self.case.hours + 1)
            case Call("world" | "dynamodb" | "checkpoint", ("newest" | "get" | "scan" | "load",)):
                return None
            case Call("checkpoint"):
                return [1]
            case Call("dynamodb"):
                return [(), CONDITION_FAILED]
        match script_of(call.words), call.words[0]:
            case "lookup", "SCRIPT":
                return [script_sha("lookup").encode(), UNREACHABLE]
            case "raise", _:
                return [(0, b"noted", b"", b""), (1, b"noted", b"", b""), UNREACHABLE]
            case "mark_buckets", _:
                return [hexadecimal(0), UNREACHABLE]
            case "check_marks", _:
                return [*CHECK_RESULTS, UNREACHABLE]
            case "set_fence", _:
                return [1, TOKEN_GONE, OTHER_IDENTITY, UNREACHABLE]
            case ("merge", _) | (_, "HSETNX"):
                return [0, 1, UNREACHABLE]
        return None

    # Time and failures.

    def _find_events(self, number: int, rebuilds: int) -> Iterator[tuple[str, int]]:
        shared = self._shared[number]
        if shared.hour < self.case.hours:
            yield HOUR_PASSES, self._shared.number(shared._replace(hour=shared.hour + 1)) - number
        for _, label, servers, left in server_events((shared.server,), shared.failures_left, self.case.may_fail, 0):
            rename, (server,) = renumber_identities(servers)
            after = shared._replace(server=server, failures_left=left, checkpoint=rename(shared.checkpoint))
            difference = 0 if server.up and shared.server.up else self._broken_rebuilds(rebuilds)
            yield f"Redis {label}", self._shared.number(after) - number + difference

    def _broken_rebuilds(self, rebuilds: int) -> int:
        """Return the difference that the death or the start of Redis makes to rebuilds: their connections are lost."""
        difference = 0
        for at, process in self._rebuilds:
            local = rebuilds >> at - self._rebuilds[0][0] & _MASK
            call = self._replayer.after(process, self._locals[local])
            # After its last call to Redis, a rebuild completes raises.
            if local and not (isinstance(call, Call) and call.words[0] in ("update", "get")):
                difference -= local << at
        return difference


def explore(case: CoolingCase) -> Found:
    """Visit every state of the case until one breaks the promise."""
    world = CoolingWorld(case)
    return search(world.start(), world.steps, world.broken)
