"""The shared world: its states, the steps that are possible in each, and the promise.

A step is one call of one process, applied atomically; the death of a process between two of its calls; an
acknowledged message; or a failure of Redis. A process that succeeded, failed or died may start again, without limit:
raises are redelivered, rebuilds and lookups repeated. Some cases bound the number of failures on one path.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Generic, NamedTuple, TypeVar

from saltctl.registry.registry import Lookup, RaiseResult
from saltctl.stores.redis.scripts import script_sha
from tests.model.failures import Failure, Servers, initial_servers, server_events, with_change
from tests.model.replay import (
    RESUMED,
    Call,
    Code,
    Finished,
    Process,
    Replayer,
    checkpoint_text,
    lookup_process,
    raise_process,
    rebuild_process,
)
from tests.model.servers import (
    CHECK_RESULTS,
    CONDITION_FAILED,
    NO_SCRIPT,
    OTHER_IDENTITY,
    READ_ONLY,
    READ_ONLY_SCRIPT,
    TOKEN_GONE,
    UNREACHABLE,
    UNVERIFIED,
    Item,
    Redis,
    Refusal,
    Reply,
    Words,
    execute,
    hexadecimal,
    renumber_identities,
    script_of,
    update_item,
)

LOST = -1
"""The server of a connection whose server process has died."""

State = int
"""Fields of 20 bits side by side, so that a step is an addition. They are: the number of a Shared; the acknowledged N,
which is the largest that a raise returned or a message was spread over; the N that the writer looked up and has not
written with yet, or 0; and for each process the number of a Local, 0 if it has not started."""
_BITS = 20
_MASK = (1 << _BITS) - 1
_ACKNOWLEDGED, _PENDING, _PROCESSES = _BITS, 2 * _BITS, 3 * _BITS
"""The offsets of the fields after that of the Shared."""


def acknowledged(state: State) -> int:
    """Return the acknowledged N: every lookup must return at least this."""
    return state >> _ACKNOWLEDGED & _MASK


class Broken(StrEnum):
    """The ways to break the promise."""

    REDIS_MESSAGE = "a reader on Redis misses an acknowledged message"
    BACKUP_MESSAGE = "a reader on the backup misses an acknowledged message"
    REDIS_RAISE = "a lookup in Redis returns less than an acknowledged raise"
    BACKUP_RAISE = "the backup does not hold an acknowledged raise"
    LOOKUP = "a lookup returned less than was acknowledged"
    LOWERED = "max_n went down in the backup"


class Shared(NamedTuple):
    """The state that the processes share."""

    item: Item
    servers: tuple[Redis, ...]
    failures_left: int | None
    checkpoint: bytes | None = None
    """The checkpoint of rebuild R."""


class Local(NamedTuple):
    """The state of one process: the answers that it got since it started."""

    replies: tuple[Reply, ...] = ()
    server: int | None = None
    """The server of its own connection, if it has one and will use it again."""


@dataclass(frozen=True)
class Case:
    """One world to explore, with the code that runs in it.

    ``failures`` bounds the failures on one path; None is no bound. ``patches`` replaces the sources of scripts by name.
    ``replication_ids`` False: all servers always show the same one. ``expect`` is how a mutation breaks the promise.
    """

    name: str
    code: Code = field(default_factory=Code)
    raises: tuple[int, ...] = (2, 4)
    rebuilds: int = 1
    servers: int = 1
    may_fail: tuple[Failure, ...] = (Failure.KILL, Failure.LOSE, Failure.FLUSH, Failure.RENAME)
    failures: int | None = None
    patches: tuple[tuple[str, str], ...] = ()
    replication_ids: bool = True
    read_only_replicas: bool = True
    expect: Broken | None = None


class Move(NamedTuple):
    """One call of one process and its answer, with a label and the result."""

    label: str
    difference: int
    """Between the states, except for their acknowledged and pending fields."""
    result: Lookup | RaiseResult | None
    broken: Broken | None


Step = tuple[str, State, Broken | None]
"""One possible step: its label, the state after it, and how it broke the promise."""


T = TypeVar("T", bound=Hashable)


class Numbers(Generic[T]):
    """Numbers for values, so that a state is itself a number."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def number(self, value: T) -> int:
        """Return the number of a value; a new value gets a new one."""
        number = self._numbers.setdefault(value, len(self._values))
        if number == len(self._values):
            assert number <= _MASK, "more values than a field of a state can number"
            self._values.append(value)
        return number


class World:
    """The steps that are possible in one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._patches = dict(case.patches)
        self._possible = cache(lambda call: possible_replies(call, case))
        self._replayer = Replayer(case.code, self._possible)
        self._lookup_process = lookup_process()
        rebuilders = [rebuild_process("RS"[i]) for i in range(case.rebuilds)]
        # The rebuilds last: only they have connections of their own, which failures can break.
        processes = (self._lookup_process, *(raise_process(n) for n in case.raises), *rebuilders)
        self._processes = [(_PROCESSES + _BITS * at, process) for at, process in enumerate(processes)]
        self._rebuilds_at = _PROCESSES + _BITS * (1 + len(case.raises))
        self._shared = Numbers[Shared]()
        self._locals = Numbers[Local]()
        self._locals.number(Local())
        self._moves: dict[tuple[int, int, int], list[Move]] = {}
        self._server_events: dict[tuple[int, int], list[tuple[str, int]]] = {}
        self._events_of_servers = cache(lambda *key: list(self._find_events_of_servers(*key)))
        self._lookup_results: dict[int, tuple[int | None, int]] = {}

    def start(self) -> State:
        """Return the first state: all servers up, empty and not verified, and no process started."""
        servers = initial_servers(self.case.servers, self.case.may_fail, self.case.read_only_replicas)
        return self._shared.number(Shared((), servers, self.case.failures)) + (1 << _ACKNOWLEDGED)

    def steps(self, state: State) -> Iterator[Step]:
        """Yield every possible next step."""
        shared, pending = state & _MASK, state >> _PENDING & _MASK
        for at, process in self._processes:
            local = state >> at & _MASK
            if not pending or process is not self._lookup_process:
                moves = self._moves.get((at, shared, local))
                if moves is None:
                    moves = self._moves[at, shared, local] = list(self._find_moves(at, process, shared, local))
                for label, difference, result, broken in moves:
                    if result is None:
                        yield label, state + difference, broken
                    else:
                        yield self._finished(label, state, difference, result, broken)
            if local:
                yield f"{process.name}: dies", state - (local << at), None
        if pending:
            label = f"writer: a message at N={pending} is acknowledged"
            yield label, state - (pending << _PENDING) + (pending - acknowledged(state) << _ACKNOWLEDGED), None
        for label, difference in self._events_of(shared, state >> self._rebuilds_at):
            yield label, state + difference, None

    def _finished(
        self, label: str, state: State, difference: int, result: Lookup | RaiseResult, broken: Broken | None
    ) -> Step:
        """Return the step that ends a lookup or a raise."""
        known, pending = acknowledged(state), state >> _PENDING & _MASK
        if isinstance(result, Lookup):
            broken = Broken.LOOKUP if result.max_n < known else broken
            now, after = known, result.write_n
        else:
            now, after = max(known, result.after), pending
        # A message that is spread over no more than is acknowledged already promises nothing new.
        after = after if after > now else 0
        return label, state + difference + (now - known << _ACKNOWLEDGED) + (after - pending << _PENDING), broken

    def lookup_results(self, state: State) -> tuple[int | None, int]:
        """Return the max_n of a lookup in Redis, None if no server answers it, and of a lookup in the backup."""
        shared = state & _MASK
        if shared not in self._lookup_results:
            self._lookup_results[shared] = self._find_lookup_results(self._shared[shared])
        return self._lookup_results[shared]

    def _find_lookup_results(self, shared: Shared) -> tuple[int | None, int]:
        # By the real lookup, on every server, and as if Redis did not answer.
        call = self._next(self._lookup_process, ())
        replies = [self._execute(server, call.words)[1] for server in shared.servers]
        found = [self._replayer.after(self._lookup_process, (reply,)) for reply in replies]
        in_redis = [
            then.result.max_n for then in found if isinstance(then, Finished) and isinstance(then.result, Lookup)
        ]
        fallen_back = self._replayer.after(self._lookup_process, (UNREACHABLE, shared.item))
        assert isinstance(fallen_back, Finished)
        assert isinstance(fallen_back.result, Lookup)
        return min(in_redis, default=None), fallen_back.result.max_n

    # Processes.

    def _next(self, process: Process, replies: tuple[Reply, ...]) -> Call:
        call = self._replayer.after(process, replies)
        assert isinstance(call, Call), f"{process.name} has ended"
        return call

    def _local(self, process: Process, local: Local) -> int:
        """Return the number of a Local, the same for all after which the process continues in the same way."""
        lost = local.server == LOST
        replies = self._replayer.example(process, local.replies, lost=lost)
        indifferent = not replies or self._replayer.future(process, replies, lost=not lost) == self._replayer.future(
            process, replies, lost=lost
        )
        return self._locals.number(Local(replies, None if indifferent else local.server))

    def _find_moves(self, at: int, process: Process, number: int, local_number: int) -> Iterator[Move]:
        shared = self._shared[number]
        for label, after, local, then in self._find_calls(process, shared, self._locals[local_number]):
            ended = then if isinstance(then, Finished) else None
            on = self._local(process, local) if ended is None else 0
            result = ended.result if ended and not isinstance(ended.result, Exception) else None
            broken = Broken.LOWERED if _max_n(after.item) < _max_n(shared.item) else None
            difference = self._shared.number(after) - number + (on - local_number << at)
            yield Move(f"{process.name}: {label}{ended or ''}", difference, result, broken)

    def _find_calls(
        self, process: Process, shared: Shared, local: Local
    ) -> Iterator[tuple[str, Shared, Local, Call | Finished]]:
        """Yield the outcomes of the next call: label, shared state, local state, and the next call of the process."""
        call = self._next(process, local.replies)
        for where, after, reply in self._serve(shared, local, call):
            assert reply in self._possible(call), f"{reply!r} is not among the possible answers to {call!r}"
            replies = (*local.replies, reply)
            then = self._replayer.after(process, replies)
            name = "" if where is None else self._name(where)
            label = f"{call}{name}{_describe(reply)}"
            known = Local(replies, where if call.over == "session" and where is not None else local.server)
            if isinstance(then, Call) and self._can_wait(process, call, replies):
                for rest, later, more, end in self._find_calls(process, after, known):
                    yield f"{label}, {rest}", later, more, end
            else:
                yield label, after, known, then

    def _can_wait(self, process: Process, call: Call, replies: tuple[Reply, ...]) -> bool:
        """Return whether a refused call and the call after it can be one step.

        A refusal changes nothing. A condition that fails for max_n keeps failing, since max_n never goes down (a
        mutation that lowers it is found). A call to Redis may always fail.
        """
        *before, reply = replies
        if call.over == "client" and isinstance(reply, Refusal):
            in_vain = (*before, UNREACHABLE)
            return self._replayer.future(process, replies, lost=False) == self._replayer.future(
                process, in_vain, lost=False
            )
        return bool(reply == CONDITION_FAILED)

    # Servers answer.

    def _serve(self, shared: Shared, local: Local, call: Call) -> Iterator[tuple[int | None, Shared, Reply]]:
        """Yield every possible answer to a call: the server, the shared state after it, and the answer."""
        match call:
            case Call("dynamodb", ("get",) | ("scan",)):
                yield None, shared, shared.item
            case Call("checkpoint", ("load",)):
                yield None, shared, shared.checkpoint
            case Call("checkpoint", ("save", text)):
                yield None, shared._replace(checkpoint=text.encode()), 1
            case Call("checkpoint", _):
                yield None, shared._replace(checkpoint=None), 1
            case Call("dynamodb", ("update", condition, update), values):
                item, reply = update_item(shared.item, condition, update, dict(values))
                yield None, shared._replace(item=item), reply
            case Call("session", words) if local.server == LOST:
                yield None, shared, UNREACHABLE
            case Call("session", words) if local.server is not None:
                yield local.server, *self._serve_at(shared, local.server, words)
            case Call(over, words, _):
                # A client may reach any server: addresses change late, and connections survive a change of role.
                answers = [(index, *self._serve_at(shared, index, words)) for index in range(len(shared.servers))]
                yield from answers
                if over == "client" and not any(isinstance(reply, Refusal) for _, _, reply in answers):
                    # A timeout; or, for a lookup, an open circuit breaker.
                    yield None, shared, UNREACHABLE

    def _serve_at(self, shared: Shared, index: int, words: Words) -> tuple[Shared, Reply]:
        server, reply = self._execute(shared.servers[index], words)
        return shared._replace(servers=with_change(shared.servers, index, server)), reply

    def _execute(self, server: Redis, words: Words) -> tuple[Redis, Reply]:
        return execute(server, words, self._patches)

    # Failures of Redis.

    def _events_of(self, shared: int, rebuilds: int) -> list[tuple[str, int]]:
        key = (shared, rebuilds)
        if key not in self._server_events:
            self._server_events[key] = list(self._find_server_events(shared, rebuilds))
        return self._server_events[key]

    def _find_server_events(self, number: int, rebuilds: int) -> Iterator[tuple[str, int]]:
        """Yield the label of each event, and the difference that it makes to the state."""
        item, servers, failures_left, checkpoint = self._shared[number]
        for label, failed, failures, kept, difference in self._events_of_servers(
            servers, failures_left, checkpoint, rebuilds
        ):
            yield label, self._shared.number(Shared(item, failed, failures, kept)) - number + difference

    def _find_events_of_servers(
        self, servers: Servers, failures_left: int | None, checkpoint: bytes | None, rebuilds: int
    ) -> Iterator[tuple[str, Servers, int | None, bytes | None, int]]:
        """Yield the label, the servers, failures left, the checkpoint, and the difference of the rebuilds' locals."""
        processes = [(at, process) for at, process in self._processes if at >= self._rebuilds_at]
        locals_ = [self._locals[rebuilds >> at - self._rebuilds_at & _MASK] for at, _ in processes]
        for index, label, failed, failures in server_events(servers, failures_left, self.case.may_fail):
            same = tuple(server._replace(identity=0) for server in failed)
            rename, named = renumber_identities(
                failed if self.case.replication_ids else same, [*(local.replies for local in locals_), (checkpoint,)]
            )
            difference = 0
            for (at, process), local in zip(processes, locals_, strict=True):
                server = LOST if local.server == index and not failed[index].up else local.server
                after = self._local(process, Local(tuple(map(rename, local.replies)), server))
                difference += after - self._locals.number(local) << at
            yield f"Redis{self._name(index)} {label}", named, failures, rename(checkpoint), difference

    def _name(self, index: int) -> str:
        return f" on {'AB'[index]}" if self.case.servers > 1 else ""


def possible_replies(call: Call, case: Case) -> Collection[Reply]:
    """Return every answer that this call can get in a case, and possibly some more."""
    numbers = [(), *((n,) for n in sorted(set(case.raises)))]
    items: list[Reply] = [
        (*(("max_n", n) for n in max_n), *(("write_n", n) for n in write_n)) for max_n in numbers for write_n in numbers
    ]
    refused = [READ_ONLY, READ_ONLY_SCRIPT, UNREACHABLE]
    entries = [None, *(b"%d" % n for n in case.raises)]
    # One for each server and each rebuild; two more for a resumed rebuild: the loaded one, and the saved one.
    ids = [hexadecimal(i).decode() for i in range(case.servers + case.rebuilds + 2 * case.code.resumes)]
    match call:
        case Call("checkpoint", ("load",)):
            kept = [checkpoint_text(RESUMED, i, n).encode() for i in ids for n in (0, *case.raises)]
            return [None, *kept]
        case Call("checkpoint", _):
            return [1]
        case Call("dynamodb", ("get",) | ("scan",)):
            return items
        case Call("dynamodb", _):
            return [*items, CONDITION_FAILED]
    match script_of(call.words), call.words[0]:
        case "lookup", "SCRIPT":
            return [script_sha("lookup").encode(), UNREACHABLE]
        case "lookup", _:
            return [*((entry,) for entry in entries), NO_SCRIPT, UNVERIFIED, *refused]
        case "raise", _:
            return [(0, b"noted"), (1, b"noted"), *refused]
        case "mark_buckets", _:
            return [*(i.encode() for i in ids), *refused]
        case "check_marks", _:
            return [*CHECK_RESULTS, *refused]
        case "set_fence", _:
            return [1, TOKEN_GONE, OTHER_IDENTITY, *refused]
        case _, "HMGET":
            return [*((entry,) for entry in entries), UNREACHABLE]
    return [0, 1, *refused]


def _max_n(item: Item) -> int:
    return dict(item).get("max_n", 1)


def _describe(reply: Reply) -> str:
    if not isinstance(reply, Refusal):
        return ""
    return f": {reply.text if reply == UNREACHABLE else reply.text.partition(' ')[0]}"
