"""The servers of the model as values, a Redis process and a DynamoDB item, and the effects of commands on them.

Scripts are run as saltctl sends them, in Lua 5.1 as in Redis. Conditions and updates are evaluated as saltctl sends
them. The state is reduced to that of a single conversation in a single bucket: one hash, whether the lookup script
is in the script cache, the replication id, and the copy of the hash in the AOF.
"""

from __future__ import annotations

import hashlib
import importlib
import operator
import re
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from typing import Any, NamedTuple

from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.redis.scripts import script, script_sha

Bucket = tuple[tuple[bytes, bytes], ...]
"""A Redis hash: (field, value) pairs, sorted by field."""
Item = tuple[tuple[str, Any], ...]
"""The numbers of a DynamoDB item and its map ``cooling``, an Item of numbers and strings, sorted by attribute; empty if
there is no item."""
Words = tuple[str, ...]
"""A Redis command."""

SCRIPTS = ("lookup", "merge", "raise", "mark_buckets", "check_marks", "set_fence")
NEW_IDENTITY = 0xFFFF
"""The replication id of a server that was just started or promoted, until it is renumbered."""
UNUSED_IDENTITY = 0xDEAD
"""Stands for all replication ids that no server has any more: none of them comes back."""


class Refusal(NamedTuple):
    """An answer that is an error: a Redis error reply, a failed condition, or a connection that failed."""

    text: str


UNREACHABLE = Refusal("the connection failed")
CONDITION_FAILED = Refusal("ConditionalCheckFailedException")
NO_SCRIPT = Refusal("NOSCRIPT No matching script.")
READ_ONLY = Refusal("READONLY You can't write against a read only replica.")
READ_ONLY_SCRIPT = Refusal("READONLY this is a replica")
UNVERIFIED = Refusal("UNVERIFIED this bucket was not verified here")
OTHER_IDENTITY = Refusal("BROKEN the primary changed its replication id")
TOKEN_GONE = Refusal("BROKEN the token is gone from bucket")
CHECK_RESULTS = (b"", b"the token is gone from bucket", b"the primary changed its replication id")
"""The answers of the script that checks the marks of a resumed rebuild."""

Reply = Any
"""None, a number, bytes, a tuple of those, an Item, or a Refusal."""


class Redis(NamedTuple):
    """A host on which a Redis process runs, or does not.

    Lag is modelled backwards. Of all the times at which an AOF or a replica was up to date, only the last one before
    a failure matters. So both are in step until one falls behind, and it stays behind until that failure.
    """

    up: bool = True
    replica: bool = False
    knows_lookup: bool = False
    """The script cache: of this process alone, kept through demotion and promotion."""
    identity: int = 0
    """The replication id. A replica has that of its primary after it has synchronised."""
    bucket: Bucket = ()
    durable: Bucket | None = None
    """The bucket after a restart from the AOF; None if it is in step with the bucket."""
    in_step: bool = False
    """Whether a replica has the same bucket as its primary."""
    read_only: bool = True
    """replica-read-only, as it is by default."""
    deposed: bool = False
    """Whether another one was promoted, and this one still takes itself for the primary."""
    named: bool = False
    """Whether it is deposed, and who asks for the primary is still told this one."""
    owed: int = 0
    """The N that was acknowledged when it was deposed."""


def hexadecimal(identity: int) -> bytes:
    """Return a replication id as INFO shows it. Those of the model begin and end with zeros, unlike a SHA-1."""
    return b"%010x" % identity + 30 * b"0"


@cache
def identities(text: bytes) -> frozenset[int]:
    """Return the replication ids in a value, whole or the first 16 digits."""
    return frozenset(int(found, 16) for found in re.findall(rb"0{6}([0-9a-f]{4})0{6}(?:0{24})?", text))


def renumber_identities(servers: tuple[Redis, ...]) -> tuple[Callable[[Reply], Reply], tuple[Redis, ...]]:
    """Renumber replication ids: return a function that does so in remembered values, and the renumbered servers.

    Real replication ids are random. Here they are small numbers, renumbered after each new one, so that states that
    differ only in them are one state: the code only compares them with those of servers. An id that no server has
    never comes back; all of these become one id.
    """
    names: dict[int, int] = {}
    for server in servers:
        names.setdefault(server.identity, len(names))

    def rename(value: Reply) -> Reply:
        if isinstance(value, tuple):
            return tuple(map(rename, value))
        found = identities(value) if isinstance(value, bytes) else ()
        for identity in found:  # there is one at most
            old, new = hexadecimal(identity), hexadecimal(names.get(identity, UNUSED_IDENTITY))
            return value.replace(old[:16], new[:16], 1)
        return value

    def bucket(held: Bucket) -> Bucket:
        return tuple((name, rename(value)) for name, value in held)

    return rename, tuple(
        server._replace(
            identity=names[server.identity],
            bucket=bucket(server.bucket),
            durable=None if server.durable is None else bucket(server.durable),
        )
        for server in servers
    )


# Redis.


def execute(server: Redis, words: Words, patches: Mapping[str, str] | None = None) -> tuple[Redis, Reply]:
    """Run one command atomically. ``patches`` replaces the sources of scripts by name, for mutations."""
    if not server.up:
        return server, UNREACHABLE
    match words:
        case "SCRIPT", "LOAD", text:
            # Also allowed on replicas. Only the lookup script makes a difference.
            is_lookup = text == script("lookup")
            return server._replace(knows_lookup=server.knows_lookup or is_lookup), _sha(text)
        case "EVALSHA", sha, "1", _, *arguments:
            name = _name_of(sha)
            if name == "lookup" and not server.knows_lookup:
                return server, NO_SCRIPT
            return _run(server, (patches or {}).get(name, script(name)), arguments)
        case "EVAL", text, "1", _, *arguments:
            return _run(server, (patches or {}).get(script_of(words), text), arguments)
        case "HGET", _, field:
            return server, dict(server.bucket).get(field.encode())
        case "HMGET", _, field:
            return server, (dict(server.bucket).get(field.encode()),)
        case "HSET" | "HSETNX", *_ if server.replica and server.read_only:
            return server, READ_ONLY
        case "HSETNX", _, field, value:
            held = dict(server.bucket)
            if field.encode() in held:
                return server, 0
            return server._replace(bucket=tuple(sorted((held | {field.encode(): value.encode()}).items()))), 1
        case "HSET", _, *pairs:
            encoded = [word.encode() for word in pairs]
            changed = dict(server.bucket) | dict(zip(encoded[::2], encoded[1::2], strict=True))
            return server._replace(bucket=tuple(sorted(changed.items()))), 1
    raise NotImplementedError(f"the model's Redis does not support {words!r}")


def _run(server: Redis, text: str, arguments: list[str]) -> tuple[Redis, Reply]:
    head, _, body = text.partition("\n")
    if not head.startswith("#!lua"):
        raise NotImplementedError("scripts without a shebang line are not supported")
    # A replica refuses a script that does not declare `no-writes`, even if it would only read.
    if server.replica and server.read_only and "no-writes" not in head:
        return server, READ_ONLY
    words = tuple(word.encode() for word in arguments)
    bucket, reply = _run_lua(body, words, server.bucket, server.identity, server.replica)
    return server._replace(bucket=bucket), reply


class _Lua:
    """A Lua 5.1 runtime with the commands that the scripts call."""

    def __init__(self) -> None:
        # By name, since lupa has no type information.
        self._runtime: Any = importlib.import_module("lupa.lua51").LuaRuntime(encoding=None)
        self._bucket: dict[bytes, bytes] = {}
        self._identity = 0
        self._replica = False
        self._functions: dict[str, Any] = {}
        scope = self._runtime.globals()
        scope[b"redis"] = self._runtime.table_from({b"call": self._call, b"pcall": self._call})
        self._runtime.execute(b"redis.error_reply = function(text) return {err = text} end")

    def run(
        self, body: str, arguments: tuple[bytes, ...], bucket: Bucket, identity: int, replica: bool
    ) -> tuple[Bucket, Reply]:
        self._bucket, self._identity, self._replica = dict(bucket), identity, replica
        scope = self._runtime.globals()
        scope[b"KEYS"] = self._runtime.table_from([b"bucket"])
        scope[b"ARGV"] = self._runtime.table_from(list(arguments))
        if body not in self._functions:
            self._functions[body] = self._runtime.compile(body.encode())
        reply = self._reply(self._functions[body]())
        return tuple(sorted(self._bucket.items())), reply

    def _call(self, command: bytes, *words: Any) -> Any:
        match command, [_bytes(word) for word in words]:
            case b"INFO", [b"replication"]:
                role = b"slave" if self._replica else b"master"
                return b"# Replication\r\nrole:%b\r\nmaster_replid:%b\r\nmaster_replid2:%b\r\n" % (
                    role,
                    hexadecimal(self._identity),
                    hexadecimal(UNUSED_IDENTITY),
                )
            case b"HGET", [_, field]:
                return self._bucket.get(field, False)
            case b"HMGET", [_, *fields]:
                return self._runtime.table_from([self._bucket.get(field, False) for field in fields])
            case b"HSET", [_, *pairs]:
                self._bucket |= zip(pairs[::2], pairs[1::2], strict=True)
                return len(pairs) // 2
            case b"HDEL", [_, field]:
                return int(self._bucket.pop(field, None) is not None)
        raise NotImplementedError(f"the model's Redis does not support {command!r} in scripts")

    def _reply(self, value: Any) -> Reply:
        """Convert the result of a script as Redis does: false is nil, numbers are truncated, tables end at nil."""
        if value is None or value is False:
            return None
        if isinstance(value, bytes):
            return value
        if isinstance(value, int | float):
            return int(value)
        if value[b"err"] is not None:
            return Refusal(value[b"err"].decode())
        return tuple(self._reply(value[i]) for i in range(1, len(value) + 1))


@cache
def _lua() -> _Lua:
    return _Lua()


@cache
def _run_lua(
    body: str, arguments: tuple[bytes, ...], bucket: Bucket, identity: int, replica: bool
) -> tuple[Bucket, Reply]:
    return _lua().run(body, arguments, bucket, identity, replica)


def _bytes(word: Any) -> bytes:
    return word if isinstance(word, bytes) else str(word).encode()


@cache
def _sha(text: str) -> bytes:
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest().encode()


@cache
def _name_of(sha: str) -> str:
    return next(name for name in SCRIPTS if script_sha(name) == sha)


def script_of(words: Words) -> str:
    """Return the name of the script that a command runs or loads, or an empty string."""
    match words:
        case "EVALSHA", sha, *_:
            return _name_of(sha)
        case ("EVAL", text, *_) | ("SCRIPT", "LOAD", text):
            return next((name for name in SCRIPTS if script(name) == text), "")
    return ""


# DynamoDB.

_PARTS = re.compile(r"\s*(\(|\)|<=|>=|<|>|=|[#:.\w]+)")
_COMPARISONS: dict[str, Callable[[Any, Any], bool]] = {
    "<": operator.lt,
    "<=": operator.le,
    "=": operator.eq,
    ">=": operator.ge,
    ">": operator.gt,
}


def update_item(item: Item, condition: str, update: str, values: Mapping[str, Any]) -> tuple[Item, Reply]:
    """Apply a conditional UpdateItem that returns ALL_OLD. Only numbers and ``cooling`` are kept: they decide alone."""
    held = dict(item)
    if not holds_for(item, condition, values):
        return item, CONDITION_FAILED
    action, _, assignments = update.partition(" ")
    if action != "SET":
        raise NotImplementedError(f"the model's DynamoDB does not support {action}")
    for name, value in re.findall(r"([#\w]+)\s*=\s*(:\w+|\w+\(.*\))", assignments):
        if value in values:
            held[name] = values[value]
    return tuple(sorted(held.items())), item


def holds_for(item: Item, condition: str, values: Mapping[str, Any]) -> bool:
    """Return whether a conversation's item meets a ConditionExpression. It has its key if it exists."""
    parts = {f"{name}.{part}": one for name, value in item if isinstance(value, tuple) for part, one in value}
    return holds(condition, {**dict(item), **parts, **({KEY: 0} if item else {})}, values)


def holds(condition: str, held: Mapping[str, Any], values: Mapping[str, Any]) -> bool:
    """Return whether an item with these attributes meets a ConditionExpression."""
    return _Condition(condition, held, values).holds()


class _Condition:
    """A ConditionExpression over numbers and strings, by recursive descent: OR of ANDs of comparisons."""

    def __init__(self, text: str, held: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        self._parts: Iterator[str] = iter([*_PARTS.findall(text), ""])
        self._held = held
        self._values = values
        self._part = next(self._parts)

    def holds(self) -> bool:
        result = self._either()
        if self._part:
            raise NotImplementedError(f"the model's DynamoDB does not understand {self._part!r}")
        return result

    def _take(self) -> str:
        part, self._part = self._part, next(self._parts, "")
        return part

    def _either(self) -> bool:
        result = self._both()
        while self._part == "OR":
            self._take()
            result = self._both() or result
        return result

    def _both(self) -> bool:
        result = self._one()
        while self._part == "AND":
            self._take()
            result = self._one() and result
        return result

    def _one(self) -> bool:
        part = self._take()
        if part == "(":
            result = self._either()
            self._take()
            return result
        if part in ("attribute_not_exists", "attribute_exists"):
            self._take()
            present = self._take() in self._held
            self._take()
            return present == (part == "attribute_exists")
        comparison, value = _COMPARISONS[self._take()], self._values[self._take()]
        # A comparison with a missing attribute is false (documented).
        return part in self._held and comparison(self._held[part], value)
