"""The real code, run one call to a server at a time, without threads.

A process (a raise, a lookup, a rebuild) is a deterministic function of the answers that it gets. So its local state
is the tuple of the answers so far, and its next call is found by running it from the start: stubs below the real stores
return the recorded answers, and after the last of them they stop the process and record its call.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Collection, Generator, Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from threading import Event
from types import FrameType
from typing import Any, Literal, NamedTuple, cast

from saltctl.errors import SaltctlError
from saltctl.rebuild.checkpoint import Checkpoint, CheckpointScope, Primary
from saltctl.rebuild.merge_buffer import ScanPosition
from saltctl.rebuild.options import RebuildOptions
from saltctl.rebuild.rebuild import Rebuild
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import RaiseResult, Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_scan import ScanPlan, SegmentReader
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.rebuild_items import CheckpointItem
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID, RegistryItem
from saltctl.stores.contracts.registry import BackupPage, LeaseHolder, RegistryIdentity
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.dedicated_connection import DedicatedConnection
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script_sha
from saltctl.stores.saved_state import decode, encode
from tests.model.servers import CONDITION_FAILED, UNREACHABLE, Item, Refusal, Reply, Words, script_of
from tests.support.registry_item import FakeRegistryItem

CONVERSATION = "conv"
REGISTRY_ID = "feed0123456789ab"
RESUMED = "f" * 32
"""The token of rebuild R, which can save a checkpoint: the decoder of checkpoints refuses other forms of a token."""
SETTINGS = Settings(redis_url="redis://redis:6379", buckets=1, registry_id=REGISTRY_ID, aws_region="us-east-1")
TABLE, OTHER_TABLE = b"table", b"other"
"""The identities of the table that was claimed, and of one that took its place."""
NOT_CLAIMED = b"not claimed"
"""The answer to a read in a table without the registry's item."""
_EPOCH = datetime(2026, 1, 1, tzinfo=UTC)
_CAPACITY = {"ConsumedCapacity": {"TableName": SETTINGS.backup_table, "CapacityUnits": 1.0}}
"""Shows the real BackupTable that a response belongs to its request."""


Over = Literal["client", "told", "session"]


class Call(NamedTuple):
    """A request of a process: its connection and its words."""

    over: Literal["client", "told", "session", "member", "topology", "dynamodb", "checkpoint", "world"]
    """A client may reach any server, "told" is one that has asked which server is the primary; a "member" of a cluster
    is the one that the call names."""
    words: Words
    """A Redis command; "asks"; "get", "scan", or "update" with the condition and the update; "note" with the part that
    is read and the consistency, or with the condition; "load", "save", or "delete"; "clock", or "newest" for the newest
    rows of the messages table."""
    values: tuple[tuple[str, Any], ...] = ()
    """What the condition and the update of an UpdateItem name."""

    @property
    def writes(self) -> bool:
        """Whether the call can have an effect on other processes."""
        reads = (
            self.words[0] in ("get", "scan", "describe", "HGET", "HMGET", "load")
            or script_of(self.words) == "check_marks"
        )
        reads = reads or self.over == "world" or self.words[1:] == ("INFO",)
        reads = reads or self.over == "topology" or (self.words[0] == "note" and not self.values)
        return not reads and not (self.words[0] == "EVALSHA" and script_of(self.words) == "lookup")

    def __str__(self) -> str:
        """Return the call as paths show it."""
        match self:
            case Call("topology", _):
                return "asks for the primary"
            case Call("member", (name, *words)):
                return f"sends {' '.join(words)} to {name}"
            case Call("dynamodb", ("note", *_), values):
                return "writes its note" if values else "reads the note"
            case Call("dynamodb", ("update", *_), values) if ":cooling" in dict(values):
                shown = dict(values) | dict(dict(values)[":cooling"])
                parts = (f"{name.removeprefix(':new_')} {shown[name]}" for name in _SHOWN if name in shown)
                return f"replaces the item: {', '.join(parts)}"
            case Call("world", ("newest",)):
                return "finds the boundary"
            case Call("dynamodb", ("update", _, update), values):
                return f"sets {update.split()[1]} = {dict(values)[':n']} in the backup"
            case Call("dynamodb", (verb,)):
                return f"{verb}s the backup"
            case Call("checkpoint", (verb, *_)):
                return f"{verb}s its checkpoint"
        name = script_of(self.words)
        verb = "loads the script" if self.words[0] == "SCRIPT" else "runs"
        return f"{verb} {name}" if name else f"sends {self.words[0]}"


_SHOWN = (":new_write_n", "target", "epoch", "era", "recent_n", "boundary", "narrowed_at")
"""The parts of an item that paths show."""
_REGISTRY_ITEM: dict[str, Any] = {
    "conversation_id": {"S": REGISTRY_ITEM_ID},
    "registry_id": {"S": REGISTRY_ID},
    "registry_format": {"N": "1"},
    "layout": {"S": SETTINGS.layout},
    "key_prefix": {"S": SETTINGS.key_prefix},
    "claimed_tables": {"M": {"us-east-1": {"S": TABLE.decode()}}},
}
"""The registry's item, without a note."""


_RECORDED = {"M": {"n": {"N": "2"}, "at": {"S": "2026-01-01T00:00:00Z"}, "by": {"S": "unknown"}}}
"""Stands for the raises and cool-downs that an item records: nothing is decided by them."""


class Pause(BaseException):
    """Stops a replay at the call that has no answer yet."""

    def __init__(self, call: Call) -> None:
        super().__init__(call)
        self.call = call
        self.place = _place()
        """Where the code stopped: the same in each round of a loop."""


def _place() -> tuple[tuple[str, int], ...]:
    """Return the functions and lines that are running, the innermost first."""
    frame: FrameType | None = inspect.currentframe()
    place: list[tuple[str, int]] = []
    while frame is not None and frame.f_code is not Replayer.run.__code__:
        place.append((frame.f_code.co_qualname, frame.f_lineno))
        frame = frame.f_back
    return tuple(place)


class Answers:
    """The recorded answers of one process, returned in order."""

    def __init__(self, replies: Sequence[Reply]) -> None:
        self._replies = iter(replies)
        self._pause: Pause | None = None

    def ask(self, call: Call) -> Reply:
        """Return the answer to this call, or stop the replay.

        A call from a `finally` block during a Pause raises the same Pause: it never happens.
        """
        for reply in self._replies:
            return reply
        self._pause = self._pause or Pause(call)
        raise self._pause

    def redis(self, call: Call) -> Reply:
        """Return the answer as :meth:`ask` does, and raise refusals as redis-py does."""
        import redis.exceptions as driver

        reply = self.ask(call)
        if reply == UNREACHABLE:
            raise driver.ConnectionError(reply.text)
        if isinstance(reply, Refusal):
            word, _, rest = reply.text.partition(" ")
            if word == "NOSCRIPT":
                raise driver.NoScriptError(rest)
            if word == "READONLY":
                raise driver.ReadOnlyError(rest)
            raise driver.ResponseError(reply.text)
        return list(reply) if isinstance(reply, tuple) else reply


# Below the real RedisRegistry: the driver.


class StubConnections(Connections):
    """Connections whose clients get recorded answers."""

    def __init__(self, answers: Answers, *, asks: bool = False, clustered: bool = False) -> None:
        super().__init__(SETTINGS, timeout=1.0, retries=0, max_age=math.inf)
        self.clustered = clustered
        self._answers = answers
        self._asks = asks
        self._client = StubClient(answers)

    def _open(self, primary: str, retries: int) -> StubClient:
        """Return the stub client of the only server."""
        return self._client

    def info(self, primary: str, *sections: str) -> dict[str, Any]:
        """Return INFO, so that the preconditions of a rebuild hold."""
        if sections == ("replication",) and self.clustered:
            return {"role": "master", "master_replid": self._answers.redis(Call("member", (primary, "INFO"))).decode()}
        return {"redis_version": "7.0.0", "maxmemory_policy": "noeviction"}

    def ask_all(self, primary: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """Send them; but a batch of lookups is only of ``verified()``, whose result no process uses."""
        if commands[0][:2] == ("SCRIPT", "FLUSH"):
            return [self._answers.redis(Call("member", (primary, "SCRIPT", "FLUSH")))]
        if commands[0][0] != "EVALSHA":
            return super().ask_all(primary, commands)
        return [[None] * len(ids) for _, _, _, _, _, *ids in commands]

    def primaries(self) -> Sequence[str]:
        """Return the only server, or both primaries of a cluster."""
        return ("A", "B") if self.clustered else super().primaries()

    def reconnect(self) -> None:
        """Ask which server is the primary, and use it from now on."""
        if self._asks:
            self._answers.ask(Call("topology", ("ask", "told")))
            self._client = StubClient(self._answers, "told")
        super().reconnect()

    def dedicated(self, primary: str) -> DedicatedConnection:
        """Return a real one, over a stub pool, to the server that is the primary now."""
        if self._asks:
            self._answers.ask(Call("topology", ("ask", "session")))
        return DedicatedConnection(StubPool(self._answers, "session"), primary, timeout=60)


class StubClient:
    """A redis-py client: each command is one call."""

    def __init__(self, answers: Answers, over: Over = "client") -> None:
        self.connection_pool = StubPool(answers, over)
        self._answers = answers
        self._over = over

    def get_retry(self) -> Any:
        """Return a policy without retries."""
        from redis.backoff import NoBackoff
        from redis.retry import Retry

        return Retry(NoBackoff(), 0)

    def execute_command(self, *words: Any) -> Any:
        """Send one command."""
        return self._answers.redis(Call(self._over, normalize(words)))


class StubPool:
    """A redis-py connection pool."""

    def __init__(self, answers: Answers, over: Over) -> None:
        self._answers = answers
        self._over = over

    def get_connection(self) -> StubConnection:
        """Return a new connection. If nothing was asked, its server is decided by its first command."""
        return StubConnection(self._answers, self._over)

    def release(self, connection: StubConnection) -> None:
        """Do nothing."""

    def disconnect(self, inuse_connections: bool = True) -> None:
        """Do nothing."""


class StubConnection:
    """A redis-py connection. Each command of a batch is a call of its own: a batch is not atomic."""

    def __init__(self, answers: Answers, over: Over) -> None:
        self._answers = answers
        self._over: Over = over
        self._sent: Iterator[Words] = iter(())

    def can_read(self, timeout: float = 0) -> bool:
        """Return whether there is a reply to nothing; there is none."""
        return False

    def pack_commands(self, commands: Sequence[Sequence[Any]]) -> Sequence[Words]:
        """Return the commands as they are."""
        return [normalize(words) for words in commands]

    def send_packed_command(self, commands: Sequence[Words | bytes], check_health: bool = True) -> None:
        """Keep the commands until their answers are read: before that, sending them makes no difference."""
        self._sent = iter([unpack_command(words) if isinstance(words, bytes) else words for words in commands])

    def read_response(self) -> Any:
        """Return the next answer.

        Loading a script other than ``lookup`` always succeeds: it changes nothing for other processes, and a lost
        connection fails at the next command.
        """
        words = next(self._sent)
        name = script_of(words)
        if words[:2] == ("SCRIPT", "LOAD") and name not in ("lookup", ""):
            return script_sha(name).encode()
        return self._answers.redis(Call(self._over, words))

    def exchange(self, command: bytes) -> Any:
        """Send one packed command and return its answer."""
        self.send_packed_command([command])
        return self.read_response()

    def disconnect(self) -> None:
        """Do nothing."""


def normalize(words: Sequence[Any]) -> Words:
    """Return a command as strings."""
    return tuple(word.decode() if isinstance(word, bytes) else str(word) for word in words)


def unpack_command(packed: bytes) -> Words:
    """Parse a command of the Redis protocol. No word of the model has a line break."""
    return normalize(packed.split(b"\r\n")[2::2])


# Below the real BackupTable: the driver.


class StubDynamo:
    """A boto3 client of the backup table, with one conversation and the item of the registry."""

    def __init__(self, answers: Answers, *, replaced: bool = False) -> None:
        self._answers = answers
        self._replaced = replaced
        self.reads: Literal["ids", "token"] = "ids"
        """The part of a note that the process uses: a raise the replication ids; a rebuild the token, and whether the
        ids are its own."""
        self._wrote: dict[str, str] = {}

    def batch_get_item(self, *, RequestItems: dict[str, Any], **_: Any) -> dict[str, Any]:  # noqa: N803  boto3's names
        """BatchGetItem, strongly consistent, of the conversation and the registry's item, whose note is left out."""
        ((table, request),) = RequestItems.items()
        if not request["ConsistentRead"]:
            raise NotImplementedError("the model's DynamoDB supports only strongly consistent reads of entries")
        item = self._answers.ask(Call("dynamodb", ("get",)))
        items = [] if item == NOT_CLAIMED else [_REGISTRY_ITEM, *([_attributes(item)] if item else [])]
        return {"Responses": {table: items}}

    def get_item(self, *, Key: dict[str, Any], ConsistentRead: bool, **_: Any) -> dict[str, Any]:  # noqa: N803
        """GetItem of the registry's item."""
        assert Key == {"conversation_id": {"S": REGISTRY_ITEM_ID}}
        consistency = "strongly" if ConsistentRead else "eventually"
        part = self._answers.ask(Call("dynamodb", ("note", self.reads, consistency)))
        if part == NOT_CLAIMED:
            return _CAPACITY
        if part is None:
            return {"Item": _REGISTRY_ITEM} | _CAPACITY
        token, ids = (part.decode(), "of another rebuild") if self.reads == "token" else ("unused", part.decode())
        if token == self._wrote.get(":token"):
            ids = self._wrote[":ids"]
        note = {"rebuild_token": {"S": token}, "verifying": {"SS": [ids]}}
        return {"Item": _REGISTRY_ITEM | note} | _CAPACITY

    def describe_table(self, **_: Any) -> dict[str, Any]:
        """DescribeTable."""
        table = self._answers.ask(Call("dynamodb", ("describe",))) if self._replaced else TABLE
        return {"Table": {"TableName": SETTINGS.backup_table, "TableId": table.decode()}}

    def scan(self, *, ConsistentRead: bool, **_: Any) -> dict[str, Any]:  # noqa: N803  boto3's names
        """Scan, strongly consistent, in one page."""
        if not ConsistentRead:
            raise NotImplementedError("the model's DynamoDB supports only strongly consistent reads")
        item = self._answers.ask(Call("dynamodb", ("scan",)))
        return {"Items": [_attributes(item)] if item else []} | _CAPACITY

    def update_item(
        self,
        *,
        Key: dict[str, Any],  # noqa: N803  boto3's names
        UpdateExpression: str,  # noqa: N803
        ConditionExpression: str,  # noqa: N803
        ExpressionAttributeValues: dict[str, Any],  # noqa: N803
        **_: Any,
    ) -> dict[str, Any]:
        """A conditional UpdateItem with ReturnValues=ALL_OLD."""
        from botocore.exceptions import ClientError

        values = ExpressionAttributeValues.items()
        call = Call(
            "dynamodb",
            ("update", ConditionExpression, UpdateExpression),
            tuple(
                (name, _plain(value))
                for name, value in values
                if "N" in value or "M" in value or name in ConditionExpression
            ),
        )
        if Key["conversation_id"]["S"] == REGISTRY_ITEM_ID:
            assert UpdateExpression == "SET rebuild_token = :token, verifying = :ids"
            self._wrote = {name: value["S"] if "S" in value else " ".join(value["SS"]) for name, value in values}
            call = Call("dynamodb", ("note", ConditionExpression), tuple(sorted(self._wrote.items())))
        old = self._answers.ask(call)
        if old == CONDITION_FAILED:
            raise ClientError({"Error": {"Code": old.text, "Message": ""}}, "UpdateItem")
        return ({"Attributes": _attributes(old)} if old else {}) | _CAPACITY


def _attributes(item: Item) -> dict[str, Any]:
    recorded = {"raises": {"L": [_RECORDED]}} if "cooling" in dict(item) else {}
    return {"conversation_id": {"S": CONVERSATION}} | recorded | {name: _tagged(value) for name, value in item}


def _tagged(value: int | str | Item) -> dict[str, Any]:
    """Return a value as boto3 does."""
    if isinstance(value, tuple):
        return {"M": {name: _tagged(part) for name, part in value}}
    return {"S": value} if isinstance(value, str) else {"N": str(value)}


def _plain(attribute: Mapping[str, Any]) -> int | str | Item:
    """Return a value of boto3 as the model keeps it: the inverse."""
    ((kind, value),) = attribute.items()
    if kind == "M":
        return tuple(sorted((name, _plain(part)) for name, part in value.items()))
    return int(value) if kind == "N" else str(value)


class ModelBackup(BackupTable):
    """The real backup store without threads and without the registry's item, which most cases do not need."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        # The note is that of the rebuild that may be resumed: step 5 alone has to find out that it may not.
        self.registry = cast("RegistryItem", FakeRegistryItem(rebuild_token=RESUMED))

    def scan(
        self,
        segments: int,
        *,
        limit: int | None = None,
        only: int | None = None,
        after: Mapping[int, str | None] | None = None,
        max_rcu: float | None = None,
    ) -> Generator[BackupPage, None, None]:
        """Yield the pages of the real segment reader, in the caller's thread."""
        plan = ScanPlan(segments, limit, only, after or {}, max_rcu)
        reader = SegmentReader(self.scan_client, "backup", plan, stop=Event(), sleep=_no_sleep, clock=lambda: 0.0)
        for segment in plan.unfinished:
            yield from reader.pages(segment)

    def check_registry(self) -> RegistryIdentity:
        """Return the identity: all processes have the same registry and table, and each primary is the noted one."""
        return RegistryIdentity(REGISTRY_ID, frozenset("*"))


class NotedBackup(ModelBackup):
    """The real backup store without threads, with the registry's item and its note."""

    registry_item: type[RegistryItem] = RegistryItem
    """The class of that item, or a mutation of it."""

    def __init__(self, settings: Settings, **options: Any) -> None:
        super().__init__(settings, **options)
        self.registry = self.registry_item(self, lambda: 0.0)

    def check_registry(self) -> RegistryIdentity:
        """Read the item."""
        return BackupTable.check_registry(self)


class ModelCheckpoint(CheckpointItem):
    """A checkpoint that survives its process: the token, the replication id, and raises to complete.

    The backup has one page, so a checkpoint covers all of it.
    """

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    def load(self) -> str | None:
        """Expand the three values to a checkpoint."""
        values = self._answers.ask(Call("checkpoint", ("load",)))
        if values is None:
            return None
        token, replication_id, half_done = values.decode().split(" ", 2)
        return encode(
            Checkpoint(
                scope=CheckpointScope(f"{REGISTRY_ID} table", SETTINGS.key_prefix, SETTINGS.layout, 1),
                token=token,
                primaries={"redis:6379": Primary("", replication_id)},
                merged=ScanPosition(after={0: None}),
                half_done=((CONVERSATION, half_done),) if half_done else (),
                restored=0,
                started=0.0,
                written=0.0,
            )
        )

    def save(self, checkpoint: str) -> None:
        """Reduce the checkpoint to three values."""
        saved = decode(checkpoint, Checkpoint)
        assert saved.merged.after == {0: None}
        ((_, primary),) = saved.primaries.items()
        half_done = next((entry for _, entry in saved.half_done), "")
        self._answers.ask(Call("checkpoint", ("save", checkpoint_text(saved.token, primary.replication_id, half_done))))

    def delete(self) -> None:
        """Delete it."""
        self._answers.ask(Call("checkpoint", ("delete",)))


def checkpoint_text(token: str, replication_id: str, half_done: str) -> str:
    """Return a checkpoint in the form that the model keeps, with the entry of the only raise to complete, or none."""
    return f"{token} {replication_id} {half_done}"


class UncontestedLease:
    """A lease that every process gets at any time: safety must not depend on it."""

    def acquire(self, owner: str, now: float, *, host: str, pid: int, expiry: float) -> LeaseHolder | None:
        """Take the lease; it has no other holder."""
        return None

    def renew(self, owner: str, now: float, progress: str) -> bool:
        """Return that the lease is still held."""
        return True

    def release(self, owner: str) -> None:
        """Do nothing."""

    def holder(self) -> LeaseHolder | None:
        """Return that there is no holder."""
        return None


# The processes.


@dataclass(frozen=True)
class Code:
    """The classes that processes run: the real ones, or subclasses of them as mutations."""

    registry: type[Registry] = Registry
    store: type[RedisRegistry] = RedisRegistry
    backup: type[ModelBackup] = ModelBackup
    rebuild: type[Rebuild] = Rebuild
    resumes: bool = False
    """Whether rebuild R saves a checkpoint and resumes from it. Other rebuilds have none."""
    asks: bool = False
    """Whether processes ask which server is the primary before they connect anew. Otherwise they may reach any."""
    clustered: bool = False
    """Whether the two servers are primaries of a cluster, and clients know that."""
    replaced: bool = False
    """Whether the table may be replaced once, by an empty one or by one that was restored as it was at first."""

    @property
    def notes(self) -> bool:
        """Whether rebuilds write notes."""
        return issubclass(self.backup, NotedBackup)


class Stores:
    """The stores and the registry of one process over recorded answers, created for each replay.

    A new registry has a closed circuit breaker. An open one skips Redis, which has the same effect as a timeout.
    """

    def __init__(self, code: Code, answers: Answers) -> None:
        self._code = code
        self.answers = answers
        self._checkpoint = ModelCheckpoint(answers) if code.resumes else None
        connections = StubConnections(answers, asks=code.asks, clustered=code.clustered)
        self.store = code.store(SETTINGS, lookups=connections, others=connections)
        self._dynamo = StubDynamo(answers, replaced=code.replaced)
        self.backup = code.backup(SETTINGS, client=self._dynamo)

    @cached_property
    def registry(self) -> Registry:
        """The registry, for lookups and raises."""
        return self._code.registry(
            self.store,
            self.backup,
            clock=lambda: 0.0,
            now=lambda: _EPOCH,
        )

    def rebuild(self, token: str) -> Rebuild:
        """Create a rebuild without starting it."""
        self._dynamo.reads = "token"
        return self._code.rebuild(
            SETTINGS,
            self.store,
            self.backup,
            RebuildOptions(segments=1, checkpoint_every=0.0),
            lease=UncontestedLease(),
            token=token,
            checkpoint=self._checkpoint if token == RESUMED else None,
            clock=lambda: 0.0,
            now=lambda: 0.0,
            sleep=_no_sleep,
        )


def _no_sleep(seconds: float) -> None:
    raise NotImplementedError("nothing waits in the model")


@dataclass(frozen=True)
class Finished:
    """A process that returned, or raised an error of saltctl."""

    result: Lookup | RaiseResult | SaltctlError | None

    @property
    def outcome(self) -> tuple[str | int, ...]:
        """The part of the result that matters to other processes."""
        match self.result:
            case Lookup(max_n=max_n, write_n=write_n):
                return ("lookup", max_n, write_n)
            case RaiseResult(after=n):
                return ("raise", n)
            case None:
                return ("done",)
        return ("fails", type(self.result).__name__)

    def __str__(self) -> str:
        """Return the result as paths show it, after the last call."""
        match self.outcome:
            case "lookup", max_n, write_n:
                return f"; max_n {max_n}, write_n {write_n}"
            case "raise", n:
                return f"; acknowledged at {n}"
        return f"; {' with '.join(map(str, self.outcome))}"


@dataclass(frozen=True)
class Process:
    """One kind of process and its name in paths."""

    name: str
    body: Callable[[Stores], Lookup | RaiseResult | None]


def raise_process(n: int) -> Process:
    """Return a process that raises to n by the real protocol."""
    return Process(f"raise to {n}", lambda stores: stores.registry.raise_to(CONVERSATION, n))


def lookup_process() -> Process:
    """Return a process that looks up, as every application server does."""
    return Process("writer", lambda stores: stores.registry.lookup(CONVERSATION))


def token_of(name: str) -> str:
    """Return the token of a rebuild. It must not look like a replication id, 40 hexadecimal digits."""
    return RESUMED if name == "R" else name


def rebuild_process(name: str) -> Process:
    """Return a process that rebuilds."""
    token = token_of(name)

    def body(stores: Stores) -> None:
        for _ in stores.rebuild(token).run():
            pass

    return Process(f"rebuild {name}", body)


class Replayer:
    """Runs processes, remembers their results, and finds the answers that make no difference.

    Args:
        code: the classes that run.
        possible: every answer that a call can get; None if they are too many, so that each makes a difference.
    """

    def __init__(self, code: Code, possible: Callable[[Call], Collection[Reply] | None]) -> None:
        self._code = code
        self._possible = possible
        self._known: dict[tuple[Process, tuple[Reply, ...]], tuple[Call | Finished, Hashable]] = {}
        self._futures: dict[tuple[Process, tuple[Reply, ...], bool], int] = {}
        self._without_effect: set[int] = set()
        self._numbers: dict[Hashable, int] = {}
        self._examples: dict[tuple[Process, int], tuple[Reply, ...]] = {}

    def after(self, process: Process, replies: tuple[Reply, ...]) -> Call | Finished:
        """Return the next call of the process after these answers, or its result."""
        return self._at(process, replies)[0]

    def _at(self, process: Process, replies: tuple[Reply, ...]) -> tuple[Call | Finished, Hashable]:
        """Return the next call or the result, and the place in the code."""
        key = (process, replies)
        if key not in self._known:
            self._known[key] = self.run(process, replies)
        return self._known[key]

    def _without_rounds(self, process: Process, replies: tuple[Reply, ...]) -> tuple[Reply, ...]:
        """Return the answers without those of the rounds of a loop that are over.

        A process is where it was before these rounds if it sends the same call from the same place: no loop of the
        protocol remembers more of a round than its number, or what it reports.
        """
        now = self._at(process, replies)
        if isinstance(now[0], Call):
            for length in range(len(replies)):
                if self._at(process, replies[:length]) == now:
                    return replies[:length]
        return replies

    def example(self, process: Process, replies: tuple[Reply, ...], *, lost: bool) -> tuple[Reply, ...]:
        """Return answers after which the process continues exactly as after these, for all later answers.

        The result is the same for all such answers. So states that differ only in an answer without effect, such as
        the number of entries that a merge changed, are one state. It is empty if the process only ends, without a
        write: this is the same as a process that starts again. ``lost``: its own connection is lost.
        """
        future = self.future(process, replies, lost=lost)
        return () if future in self._without_effect else self._examples.setdefault((process, future), replies)

    def future(self, process: Process, replies: tuple[Reply, ...], *, lost: bool) -> int:
        """Return a number for the future of the process: the tree of its calls, by each possible answer."""
        key = (process, replies, lost)
        if key not in self._futures:
            then = self.after(process, replies)
            branches: list[tuple[Reply, int]] = []
            if isinstance(then, Call):
                possible = (UNREACHABLE,) if lost and then.over in ("told", "session") else self._possible(then)
                if possible is None:
                    same = (process, self._without_rounds(process, replies), lost)
                    number = self._futures[key] = self._numbers.setdefault(same, len(self._numbers))
                    return number
                branches = [(reply, self.future(process, (*replies, reply), lost=lost)) for reply in possible]
                without_effect = not then.writes or possible == (UNREACHABLE,)
            else:
                without_effect = not isinstance(then.result, Lookup | RaiseResult)
            tree = (then if isinstance(then, Call) else then.outcome, *branches)
            number = self._futures[key] = self._numbers.setdefault(tree, len(self._numbers))
            if without_effect and all(branch in self._without_effect for _, branch in branches):
                self._without_effect.add(number)
        return self._futures[key]

    def run(self, process: Process, replies: tuple[Reply, ...]) -> tuple[Call | Finished, Hashable]:
        """Run the process until the call that has no answer yet; return that call, or the result, and the place."""
        try:
            return Finished(process.body(Stores(self._code, Answers(replies)))), None
        except Pause as pause:
            return pause.call, pause.place
        except SaltctlError as exc:
            return Finished(exc), None
