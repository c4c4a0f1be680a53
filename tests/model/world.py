"""The shared world: its states, the steps that are possible in each, and the promise.

A step is one call of one process, applied atomically; the death of a process between two of its calls; an
acknowledged message; or a failure of Redis. A process that succeeded, failed or died may start again, without limit:
raises are redelivered, rebuilds and lookups repeated. Some cases bound the number of failures on one path.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator
from dataclasses import dataclass, field
from enum import StrEnum
from functools import cache
from typing import Generic, NamedTuple, TypeVar

from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import RaiseResult
from tests.model.answers import FIRST, note_text, possible_replies, serve_backup, token_in, without_token
from tests.model.failures import Failure, Servers, initial_servers, server_events, with_change
from tests.model.replay import (
    OTHER_TABLE,
    REGISTRY_ID,
    SETTINGS,
    TABLE,
    Call,
    Code,
    Finished,
    Process,
    Replayer,
    lookup_process,
    raise_process,
    rebuild_process,
)
from tests.model.servers import (
    CONDITION_FAILED,
    UNREACHABLE,
    Item,
    Redis,
    Refusal,
    Reply,
    Words,
    execute,
    hexadecimal,
    renumber_identities,
    script_of,
)

DEPOSING = {Failure.DEPOSE, Failure.DEPOSE_LATE}
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
    DEPOSED = "a deposed primary misses what was acknowledged before it was deposed"
    LOOKUP = "a lookup returned less than was acknowledged"
    LOWERED = "max_n went down in the backup"


class Shared(NamedTuple):
    """The state that the processes share."""

    item: Item
    servers: tuple[Redis, ...]
    failures_left: int | None
    checkpoint: bytes | None = None
    """The checkpoint of rebuild R."""
    note: bytes | None = None
    """The note of the newest rebuild: its token and a replication id."""
    older_note: bytes | None = None
    """What an eventually consistent read may still return."""
    table: bytes = TABLE
    """The identity of the backup table."""
    claimed: bool = True
    """Whether the backup table has the registry's item."""


class Local(NamedTuple):
    """The state of one process: the answers that it got since it started."""

    replies: tuple[Reply, ...] = ()
    server: int | None = None
    """The server of its own connection, if it has one and will use it again."""


@dataclass(frozen=True)
class Case:
    """One world to explore, with the code that runs in it.

    ``failures`` bounds the failures on one path; None is no bound. ``patches`` replaces the sources of scripts by name.
    ``replication_ids`` False: all servers always show the same one. ``verified``: the primary is at first. With
    ``stale_answers`` a raise that asks for the primary may be told any server that takes itself for it. ``eventual``: a
    read that is not strongly consistent may return the older note. With ``keeps_fences`` a server that starts again has
    at least what it had when a rebuild set the fence there. ``expect`` is how a mutation breaks the promise.
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
    verified: bool = False
    stale_answers: bool = False
    eventual: bool = False
    keeps_fences: bool = False
    expect: Broken | None = None


class Move(NamedTuple):
    """One call of one process and its answer, with a label and the result."""

    label: str
    difference: int
    """Between the states, except for their acknowledged and pending fields."""
    result: Lookup | RaiseResult | None
    broken: Broken | None
    exempt: bool
    """Whether a deposed primary answered, whose lookups may be stale until it learns of its successor."""
    noted: str
    """The token that was written to the note, or an empty string."""


class Results(NamedTuple):
    """The max_n that lookups return in one state: in Redis, None if no server answers, and in the backup."""

    redis: int | None
    backup: int | None
    """None if the table is refused."""
    deposed: int = 0
    """On a deposed primary, if it answers."""
    owed: int = 0
    """The least that this has to be."""


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
        # Raises remember replication ids if there are notes, or what a bucket of a cluster names.
        remembers = case.code.notes or case.code.clustered
        self._remembering_at = _PROCESSES + _BITS if remembers else self._rebuilds_at
        self._shared = Numbers[Shared]()
        self._locals = Numbers[Local]()
        self._locals.number(Local())
        self._moves: dict[tuple[int, int, int], list[Move]] = {}
        self._server_events: dict[tuple[int, int, int], list[tuple[str, int]]] = {}
        self._events_of_servers = cache(lambda *key: list(self._find_events_of_servers(*key)))
        self._lookup_results: dict[int, Results] = {}
        self._forgotten: dict[tuple[int, int, str], int] = {}

    def start(self) -> State:
        """Return the first state: all servers up, empty and not verified, and no process started."""
        servers = initial_servers(self.case.servers, self.case.may_fail, self.case.read_only_replicas)
        note = None
        if self.case.verified:
            fence = f"{SETTINGS.layout}:{REGISTRY_ID}:".encode() + hexadecimal(0)
            servers = tuple(
                server
                if server.replica and not server.in_step  # a primary of other slots
                else server._replace(bucket=((b"#fence", fence),), knows_lookup=not server.replica)
                for server in servers
            )
            note = note_text(FIRST, hexadecimal(0))
        return self._shared.number(Shared((), servers, self.case.failures, None, note, note)) + (1 << _ACKNOWLEDGED)

    def steps(self, state: State) -> Iterator[Step]:
        """Yield every possible next step."""
        shared, pending = state & _MASK, state >> _PENDING & _MASK
        for at, process in self._processes:
            local = state >> at & _MASK
            if not pending or process is not self._lookup_process:
                moves = self._moves.get((at, shared, local))
                if moves is None:
                    moves = self._moves[at, shared, local] = list(self._find_moves(at, process, shared, local))
                for move in moves:
                    if move.noted:
                        after = state + move.difference + self._forget_token(state, at, move.noted)
                        yield move.label, after, move.broken
                    elif move.result is None:
                        yield move.label, state + move.difference, move.broken
                    else:
                        yield self._finished(state, move, move.result)
            if local:
                yield f"{process.name}: dies", state - (local << at), None
        if pending:
            label = f"writer: a message at N={pending} is acknowledged"
            yield label, state - (pending << _PENDING) + (pending - acknowledged(state) << _ACKNOWLEDGED), None
        promised = acknowledged(state) if DEPOSING & set(self.case.may_fail) else 0
        for label, difference in self._events_of(shared, state >> self._remembering_at, promised):
            yield label, state + difference, None

    def _finished(self, state: State, move: Move, result: Lookup | RaiseResult) -> Step:
        """Return the step that ends a lookup or a raise."""
        known, pending, broken = acknowledged(state), state >> _PENDING & _MASK, move.broken
        if isinstance(result, Lookup):
            broken = Broken.LOOKUP if result.max_n < known and not move.exempt else broken
            now, after = known, result.write_n
        else:
            now, after = max(known, result.after), pending
        # A message that is spread over no more than is acknowledged already promises nothing new.
        after = after if after > now else 0
        changed = (now - known << _ACKNOWLEDGED) + (after - pending << _PENDING)
        return move.label, state + move.difference + changed, broken

    def _forget_token(self, state: State, noting_at: int, token: str) -> int:
        """Return the difference that a new note makes to the other rebuilds, which may remember an older one.

        Tokens are unique, and those of the model are not: each run of a rebuild has the same one.
        """
        difference = 0
        for at, process in self._processes:
            if at < self._rebuilds_at or at == noting_at:
                continue
            number = state >> at & _MASK
            key = at, number, token
            if key not in self._forgotten:
                local = self._locals[number]
                replies = tuple(without_token(reply, token) for reply in local.replies)
                self._forgotten[key] = self._local(process, Local(replies, local.server)) - number << at
            difference += self._forgotten[key]
        return difference

    def lookup_results(self, state: State) -> Results:
        """Return the results of lookups in this state."""
        shared = state & _MASK
        if shared not in self._lookup_results:
            self._lookup_results[shared] = self._find_lookup_results(self._shared[shared])
        return self._lookup_results[shared]

    def _find_lookup_results(self, shared: Shared) -> Results:
        # By the real lookup, on every server, and as if Redis did not answer.
        call = self._next(self._lookup_process, ())
        in_redis, results = [], Results(None, 0)
        for server in shared.servers:
            _, reply = self._execute(server, call.words)
            then = self._replayer.after(self._lookup_process, (reply,))
            if isinstance(then, Finished) and isinstance(then.result, Lookup):
                if server.deposed:
                    results = Results(None, 0, then.result.max_n, server.owed)
                else:
                    in_redis.append(then.result.max_n)
        replies: tuple[Reply, ...] = (UNREACHABLE,)
        while isinstance(fallen_back := self._replayer.after(self._lookup_process, replies), Call):
            replies = (*replies, *(reply for _, reply in serve_backup(shared, fallen_back, keep_older=False)))
        backup = fallen_back.result.max_n if isinstance(fallen_back.result, Lookup) else None
        return results._replace(redis=min(in_redis, default=None), backup=backup)

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
        for label, after, local, then, where in self._find_calls(process, shared, self._locals[local_number]):
            ended = then if isinstance(then, Finished) else None
            on = self._local(process, local) if ended is None else 0
            result = ended.result if ended and not isinstance(ended.result, Exception) else None
            broken = Broken.LOWERED if _max_n(after.item) < _max_n(shared.item) else None
            difference = self._shared.number(after) - number + (on - local_number << at)
            in_redis = isinstance(result, Lookup) and result.source == "redis"
            exempt = in_redis and where is not None and shared.servers[where].deposed
            noted = "" if after.note == shared.note else token_in(after.note)
            yield Move(f"{process.name}: {label}{ended or ''}", difference, result, broken, exempt, noted)

    def _find_calls(
        self, process: Process, shared: Shared, local: Local
    ) -> Iterator[tuple[str, Shared, Local, Call | Finished, int | None]]:
        """Yield the outcomes of the next call: label, shared and local state, next call, and the server."""
        call = self._next(process, local.replies)
        for where, after, answer in self._serve(shared, local, call):
            # Whether the entry was raised makes no difference to a raise; neither does, without a cluster, what the
            # bucket names.
            named = answer[2:] if self.case.code.clustered and isinstance(answer, tuple) else (b"", b"")
            raised = script_of(call.words) == "raise" and not isinstance(answer, Refusal)
            reply = (0, answer[1], *named) if raised else answer
            assert reply in self._possible(call), f"{reply!r} is not among the possible answers to {call!r}"
            replies = (*local.replies, reply)
            then = self._replayer.after(process, replies)
            name = "" if where is None else self._name(where)
            label = f"{call}{name}{_describe(reply)}"
            keeps = where is not None and call.over in ("session", "topology")
            known = Local(replies, where if keeps else local.server)
            if isinstance(then, Call) and self._can_wait(process, call, replies, then):
                for rest, later, more, end, last in self._find_calls(process, after, known):
                    yield f"{label}, {rest}", later, more, end, last
            else:
                yield label, after, known, then, where

    def _can_wait(self, process: Process, call: Call, replies: tuple[Reply, ...], then: Call) -> bool:
        """Return whether a call that changed nothing and the call after it can be one step.

        So it is with a read whose answer makes no difference, and with a refusal: a call to Redis may always fail. A
        condition that fails for max_n keeps failing, since max_n never goes down (a mutation that lowers it is found).
        """
        *before, reply = replies
        if then.words[0] == "describe":
            return True  # a table that is replaced between a read and this is refused, and it never comes back
        if call.over == "dynamodb" and not call.writes:
            futures = {self._replayer.future(process, (*before, one), lost=False) for one in self._possible(call)}
            return len(futures) == 1
        if call.over == "client" and isinstance(reply, Refusal):
            in_vain = (*before, UNREACHABLE)
            return self._replayer.future(process, replies, lost=False) == self._replayer.future(
                process, in_vain, lost=False
            )
        return bool(reply == CONDITION_FAILED and call.words[0] == "update")

    # Servers answer.

    def _serve(self, shared: Shared, local: Local, call: Call) -> Iterator[tuple[int | None, Shared, Reply]]:
        """Yield every possible answer to a call: the server, the shared state after it, and the answer."""
        match call:
            case Call("dynamodb" | "checkpoint"):
                for after, reply in serve_backup(shared, call, keep_older=self.case.eventual):
                    yield None, after, reply
            case Call("member", (name, command, *_)):
                index = "AB".index(name)
                server = shared.servers[index]
                flushed = server._replace(knows_lookup=False) if server.up and command == "SCRIPT" else server
                reply = (hexadecimal(server.identity) if command == "INFO" else 1) if server.up else UNREACHABLE
                yield index, shared._replace(servers=with_change(shared.servers, index, flushed)), reply
            case Call("topology", (_, over)):
                for index in self._named_primaries(shared.servers, stale=over == "told" and self.case.stale_answers):
                    yield index, shared, 1
            case Call("session", words) if local.server == LOST:
                yield None, shared, UNREACHABLE
            case Call("session" | "told", words) if local.server is not None:
                yield local.server, *self._serve_at(shared, local.server, words)
            case Call(over, words, _):
                # A client may reach any server: addresses change late, and connections survive a change of role.
                answers = [(index, *self._serve_at(shared, index, words)) for index in range(len(shared.servers))]
                yield from answers
                if over == "client" and not any(isinstance(reply, Refusal) for _, _, reply in answers):
                    # A timeout; or, for a lookup, an open circuit breaker.
                    yield None, shared, UNREACHABLE

    @staticmethod
    def _named_primaries(servers: Servers, *, stale: bool) -> list[int]:
        """Return the servers that may be named as the primary to who asks."""
        primaries = [index for index, server in enumerate(servers) if not server.replica]
        old = [index for index in primaries if servers[index].named]
        return primaries if stale else old or [index for index in primaries if not servers[index].deposed]

    def _serve_at(self, shared: Shared, index: int, words: Words) -> tuple[Shared, Reply]:
        server, reply = self._execute(shared.servers[index], words)
        if self.case.keeps_fences and reply == 1 and script_of(words) == "set_fence":
            server = server._replace(durable=None)
        return shared._replace(servers=with_change(shared.servers, index, server)), reply

    def _execute(self, server: Redis, words: Words) -> tuple[Redis, Reply]:
        return execute(server, words, self._patches)

    # Failures of Redis.

    def _events_of(self, shared: int, locals_: int, promised: int) -> list[tuple[str, int]]:
        key = (shared, locals_, promised)
        if key not in self._server_events:
            self._server_events[key] = list(self._find_server_events(shared, locals_, promised))
        return self._server_events[key]

    def _find_server_events(self, number: int, locals_: int, promised: int) -> Iterator[tuple[str, int]]:
        """Yield the label of each event, and the difference that it makes to the state."""
        shared = self._shared[number]
        values = (shared.checkpoint, shared.note, shared.older_note)
        for label, failed, failures, kept, difference in self._events_of_servers(
            shared.servers, shared.failures_left, values, locals_, promised
        ):
            checkpoint, note, older_note = kept
            after = shared._replace(
                servers=failed, failures_left=failures, checkpoint=checkpoint, note=note, older_note=older_note
            )
            yield label, self._shared.number(after) - number + difference
        if self.case.code.replaced and shared.table == TABLE:
            # The newest note in an older table is the worst case: no note shows that the table was replaced.
            lost = shared._replace(item=(), table=OTHER_TABLE, checkpoint=None)
            yield "the table is restored as it was at first", self._shared.number(lost) - number
            empty = lost._replace(note=None, older_note=None, claimed=False)
            yield "the table is replaced by an empty one", self._shared.number(empty) - number

    def _find_events_of_servers(
        self, servers: Servers, failures_left: int | None, values: tuple[bytes | None, ...], numbers: int, promised: int
    ) -> Iterator[tuple[str, Servers, int | None, tuple[bytes | None, ...], int]]:
        """Yield the label, servers, failures left, the checkpoint and the notes, and the difference of the locals."""
        processes = [(at, process) for at, process in self._processes if at >= self._remembering_at]
        locals_ = [self._locals[numbers >> at - self._remembering_at & _MASK] for at, _ in processes]
        for index, label, failed, failures in server_events(servers, failures_left, self.case.may_fail, promised):
            same = tuple(server._replace(identity=0) for server in failed)
            rename, named = renumber_identities(failed if self.case.replication_ids else same)
            difference = 0
            for (at, process), local in zip(processes, locals_, strict=True):
                # A rebuild's own connection is broken. A raise connects to the same address again.
                lost = local.server == index and not failed[index].up and at >= self._rebuilds_at
                server = LOST if lost else local.server
                after = self._local(process, Local(tuple(map(rename, local.replies)), server))
                difference += after - self._locals.number(local) << at
            yield f"Redis{self._name(index)} {label}", named, failures, tuple(map(rename, values)), difference

    def _name(self, index: int) -> str:
        return f" on {'AB'[index]}" if self.case.servers > 1 else ""


def _max_n(item: Item) -> int:
    found: int = dict(item).get("max_n", 1)
    return found


def _describe(reply: Reply) -> str:
    if isinstance(reply, tuple) and reply[1:2] in ((b"unverified",), (b"deposed",)):
        return f": {reply[1].decode()}"
    if not isinstance(reply, Refusal):
        return ""
    return f": {reply.text if reply == UNREACHABLE else reply.text.partition(' ')[0]}"
