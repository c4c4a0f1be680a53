"""The shared world: states, what can happen next in each, and the promise.

A step is one call of one process, applied atomically; the death of a process between two of its calls; an
acknowledged message; or something that befalls Redis. A process that ended, well or badly, or died, may begin anew:
raises are redelivered, rebuilds repeated, lookups made, for ever. How much may befall Redis on one path is bounded in
some cases.
"""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Generic, NamedTuple, TypeVar

from saltctl.registry.registry import Lookup, RaiseResult
from saltctl.stores.redis.scripts import script_sha
from tests.model.fates import Failure, Servers, applied, beginning, fates
from tests.model.replay import (
    RESUMED,
    Call,
    Code,
    Finished,
    Process,
    Replayer,
    checkpoint_text,
    looker,
    raiser,
    rebuilder,
)
from tests.model.servers import (
    CONDITION_FAILED,
    NO_SCRIPT,
    OTHER_IDENTITY,
    READ_ONLY,
    READ_ONLY_SCRIPT,
    RECOGNISED,
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
    renamed,
    script_of,
    update_item,
)

LOST = -1
"""Where a connection leads whose server process has died."""

State = int
"""Fields of 20 bits side by side, so that a step is an addition: the number of a Shared; what was acknowledged: the
largest N that a raise returned or a message was spread over; N that the writer looked up and has not written with yet,
or 0; and the number of a Local for each process, 0 where it has not begun."""
_BITS = 20
_MASK = (1 << _BITS) - 1
_ACKNOWLEDGED, _PENDING, _PROCESSES = _BITS, 2 * _BITS, 3 * _BITS
"""Where the fields begin, after that of the Shared."""


def acknowledged(state: State) -> int:
    """What everybody who looks must see."""
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
    """What the processes share."""

    item: Item
    servers: tuple[Redis, ...]
    failures_left: int | None
    disk: bytes | None = None
    """The checkpoint of rebuild R."""


class Local(NamedTuple):
    """What one process knows: the answers that it got since it began."""

    replies: tuple[Reply, ...] = ()
    server: int | None = None
    """Where its own connection leads, if it has one and will use it again."""


@dataclass(frozen=True)
class Case:
    """One world to explore, with the code that runs in it.

    ``failures`` bounds the failures on one path, None does not. ``patches`` replaces the texts of scripts by name.
    ``replication_ids`` False: every server shows the same one, always. ``expect`` is how a mutation breaks the promise.
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
    """One call of one process and its answer: how it reads, and what came of it."""

    label: str
    difference: int
    """Between the states, but for what it makes acknowledged or pending."""
    result: Lookup | RaiseResult | None
    broken: Broken | None


Step = tuple[str, State, Broken | None]
"""One thing that can happen: how it reads, the state after it, and what it broke."""


T = TypeVar("T", bound=Hashable)


class Numbers(Generic[T]):
    """Numbers for values, so that a state is a number itself."""

    def __init__(self) -> None:
        self._numbers: dict[T, int] = {}
        self._values: list[T] = []

    def __getitem__(self, number: int) -> T:
        return self._values[number]

    def number(self, value: T) -> int:
        """The number of a value, a new one where it is new."""
        number = self._numbers.setdefault(value, len(self._values))
        if number == len(self._values):
            assert number <= _MASK, "more values than a field of a state can number"
            self._values.append(value)
        return number


class World:
    """What can happen in one case."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self._patches = dict(case.patches)
        self._possible = cache(lambda call: possible_replies(call, case))
        self._replayer = Replayer(case.code, self._possible)
        self._looker = looker()
        rebuilders = [rebuilder("RS"[i]) for i in range(case.rebuilds)]
        # The rebuilds last: they alone have connections of their own, which failures can break.
        processes = (self._looker, *(raiser(n) for n in case.raises), *rebuilders)
        self._processes = [(_PROCESSES + _BITS * at, process) for at, process in enumerate(processes)]
        self._rebuilds_at = _PROCESSES + _BITS * (1 + len(case.raises))
        self._shared = Numbers[Shared]()
        self._locals = Numbers[Local]()
        self._locals.number(Local())
        self._moves: dict[tuple[int, int, int], list[Move]] = {}
        self._fates: dict[tuple[int, int], list[tuple[str, int]]] = {}
        self._fates_of_servers = cache(lambda *key: list(self._find_fates_of_servers(*key)))
        self._sights: dict[int, tuple[int | None, int]] = {}

    def start(self) -> State:
        """All servers up, empty and not verified; nobody has begun."""
        servers = beginning(self.case.servers, self.case.may_fail, self.case.read_only_replicas)
        return self._shared.number(Shared((), servers, self.case.failures)) + (1 << _ACKNOWLEDGED)

    def steps(self, state: State) -> Iterator[Step]:
        """Everything that can happen next."""
        shared, pending = state & _MASK, state >> _PENDING & _MASK
        for at, process in self._processes:
            local = state >> at & _MASK
            if not pending or process is not self._looker:
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
        for label, difference in self._fates_of(shared, state >> self._rebuilds_at):
            yield label, state + difference, None

    def _finished(
        self, label: str, state: State, difference: int, result: Lookup | RaiseResult, broken: Broken | None
    ) -> Step:
        """The step that ends a lookup or a raise."""
        known, pending = acknowledged(state), state >> _PENDING & _MASK
        if isinstance(result, Lookup):
            broken = Broken.LOOKUP if result.max_n < known else broken
            now, after = known, result.write_n
        else:
            now, after = max(known, result.after), pending
        # A message that is spread over no more than is acknowledged already would promise nothing new.
        after = after if after > now else 0
        return label, state + difference + (now - known << _ACKNOWLEDGED) + (after - pending << _PENDING), broken

    def seen(self, state: State) -> tuple[int | None, int]:
        """What whoever looks now learns: in Redis, None where that does not answer lookups; and in the backup."""
        shared = state & _MASK
        if shared not in self._sights:
            self._sights[shared] = self._sight(self._shared[shared])
        return self._sights[shared]

    def _sight(self, shared: Shared) -> tuple[int | None, int]:
        # By the real lookup, on every server; and where Redis does not answer it.
        call = self._next(self._looker, ())
        replies = [self._execute(server, call.words)[1] for server in shared.servers]
        found = [self._replayer.after(self._looker, (reply,)) for reply in replies]
        in_redis = [
            then.result.max_n for then in found if isinstance(then, Finished) and isinstance(then.result, Lookup)
        ]
        fallen_back = self._replayer.after(self._looker, (UNREACHABLE, shared.item))
        assert isinstance(fallen_back, Finished)
        assert isinstance(fallen_back.result, Lookup)
        return min(in_redis, default=None), fallen_back.result.max_n

    # Processes.

    def _next(self, process: Process, replies: tuple[Reply, ...]) -> Call:
        call = self._replayer.after(process, replies)
        assert isinstance(call, Call), f"{process.name} has ended"
        return call

    def _local(self, process: Process, local: Local) -> int:
        """Its number, the same for all that make no difference to what the process does from here on."""
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
        """How the next call may go: how it reads, what is shared after it, what the process knows, and does next."""
        call = self._next(process, local.replies)
        for where, after, reply in self._serve(shared, local, call):
            assert reply in self._possible(call), f"{reply!r} is not among the possible answers to {call!r}"
            replies = (*local.replies, reply)
            then = self._replayer.after(process, replies)
            name = "" if where is None else self._name(where)
            label = f"{call}{name}{_told(reply)}"
            known = Local(replies, where if call.over == "session" and where is not None else local.server)
            if isinstance(then, Call) and self._can_wait(process, call, replies):
                for rest, later, more, end in self._find_calls(process, after, known):
                    yield f"{label}, {rest}", later, more, end
            else:
                yield label, after, known, then

    def _can_wait(self, process: Process, call: Call, replies: tuple[Reply, ...]) -> bool:
        """Whether a call that was refused may as well be made when the one after it is, as one step with it.

        A refusal changes nothing. A condition that fails for max_n goes on failing, since max_n never goes down (or
        else that is found); and a call to Redis may always be in vain.
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
        """Every way in which this call may be answered now: where, what is shared after it, the answer."""
        match call:
            case Call("dynamodb", ("get",) | ("scan",)):
                yield None, shared, shared.item
            case Call("disk", ("read",)):
                yield None, shared, shared.disk
            case Call("disk", ("write", text)):
                yield None, shared._replace(disk=text.encode()), 1
            case Call("disk", _):
                yield None, shared._replace(disk=None), 1
            case Call("dynamodb", ("update", condition, update), values):
                item, reply = update_item(shared.item, condition, update, dict(values))
                yield None, shared._replace(item=item), reply
            case Call("session", words) if local.server == LOST:
                yield None, shared, UNREACHABLE
            case Call("session", words) if local.server is not None:
                yield local.server, *self._serve_at(shared, local.server, words)
            case Call(over, words, _):
                # Clients may reach any server: addresses change late, and connections survive a change of role.
                answers = [(index, *self._serve_at(shared, index, words)) for index in range(len(shared.servers))]
                yield from answers
                if over == "client" and not any(isinstance(reply, Refusal) for _, _, reply in answers):
                    # A time-out; or, for a lookup, an open circuit breaker.
                    yield None, shared, UNREACHABLE

    def _serve_at(self, shared: Shared, index: int, words: Words) -> tuple[Shared, Reply]:
        server, reply = self._execute(shared.servers[index], words)
        return shared._replace(servers=applied(shared.servers, index, server)), reply

    def _execute(self, server: Redis, words: Words) -> tuple[Redis, Reply]:
        return execute(server, words, self._patches)

    # What befalls Redis.

    def _fates_of(self, shared: int, rebuilds: int) -> list[tuple[str, int]]:
        key = (shared, rebuilds)
        if key not in self._fates:
            self._fates[key] = list(self._find_fates(shared, rebuilds))
        return self._fates[key]

    def _find_fates(self, number: int, rebuilds: int) -> Iterator[tuple[str, int]]:
        """How each reads, and its difference to the state."""
        item, servers, failures_left, disk = self._shared[number]
        for label, befallen, failures, kept, difference in self._fates_of_servers(
            servers, failures_left, disk, rebuilds
        ):
            yield label, self._shared.number(Shared(item, befallen, failures, kept)) - number + difference

    def _find_fates_of_servers(
        self, servers: Servers, failures_left: int | None, disk: bytes | None, rebuilds: int
    ) -> Iterator[tuple[str, Servers, int | None, bytes | None, int]]:
        """How each reads; the servers, failures left and disk after it; the difference of the rebuilds' locals."""
        processes = [(at, process) for at, process in self._processes if at >= self._rebuilds_at]
        locals_ = [self._locals[rebuilds >> at - self._rebuilds_at & _MASK] for at, _ in processes]
        for index, label, befallen, failures in fates(servers, failures_left, self.case.may_fail):
            same = tuple(server._replace(identity=0) for server in befallen)
            rename, named = renamed(
                befallen if self.case.replication_ids else same, [*(local.replies for local in locals_), (disk,)]
            )
            difference = 0
            for (at, process), local in zip(processes, locals_, strict=True):
                server = LOST if local.server == index and not befallen[index].up else local.server
                after = self._local(process, Local(tuple(map(rename, local.replies)), server))
                difference += after - self._locals.number(local) << at
            yield f"Redis{self._name(index)} {label}", named, failures, rename(disk), difference

    def _name(self, index: int) -> str:
        return f" on {'AB'[index]}" if self.case.servers > 1 else ""


def possible_replies(call: Call, case: Case) -> Collection[Reply]:
    """Every answer that this call may ever get in a case, and perhaps some more."""
    numbers = [(), *((n,) for n in sorted(set(case.raises)))]
    items: list[Reply] = [
        (*(("max_n", n) for n in max_n), *(("write_n", n) for n in write_n)) for max_n in numbers for write_n in numbers
    ]
    refused = [READ_ONLY, READ_ONLY_SCRIPT, UNREACHABLE]
    entries = [None, *(b"%d" % n for n in case.raises)]
    # Of each server, and what each rebuild remembers; of a resumed one also what it read, and what is on its disk.
    ids = [hexadecimal(i).decode() for i in range(case.servers + case.rebuilds + 2 * case.code.resumes)]
    match call:
        case Call("disk", ("read",)):
            kept = [checkpoint_text(RESUMED, i, n).encode() for i in ids for n in (0, *case.raises)]
            return [None, *kept]
        case Call("disk", _):
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
        case "mark_buckets", _:
            return [*(i.encode() for i in ids), *refused]
        case "check_marks", _:
            return [*RECOGNISED, *refused]
        case "set_fence", _:
            return [1, TOKEN_GONE, OTHER_IDENTITY, *refused]
        case _, "HGET":
            return [*entries, UNREACHABLE]
    return [0, 1, *refused]


def _max_n(item: Item) -> int:
    return dict(item).get("max_n", 1)


def _told(reply: Reply) -> str:
    if not isinstance(reply, Refusal):
        return ""
    return f": {reply.text if reply == UNREACHABLE else reply.text.partition(' ')[0]}"
