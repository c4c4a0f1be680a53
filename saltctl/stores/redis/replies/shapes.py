"""The shape of the reply to each command. A reply of another shape belongs to another command, and becomes no value.

A proxy that mixes connections up, or a connection whose replies are one off, answers with any reply of any command.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from typing import Any

from saltctl.stores.redis.scripts import script, script_sha

Shape = Callable[[Any, Sequence[Any]], bool]
"""Returns whether a reply has the shape of the reply to a command."""
_ID = re.compile(rb"[0-9]{1,20}-[0-9]{1,20}")
_HEX = re.compile(rb"[0-9A-Fa-f]+")


def _whole(reply: Any, _: Sequence[Any] = ()) -> bool:
    return type(reply) is int and reply >= 0


def _string(reply: Any, _: Sequence[Any] = ()) -> bool:
    return type(reply) is bytes


def _string_or_nil(reply: Any, _: Sequence[Any] = ()) -> bool:
    return reply is None or type(reply) is bytes


def _id(reply: Any, _: Sequence[Any] = ()) -> bool:
    return type(reply) is bytes and _ID.fullmatch(reply) is not None


def _replication_id(reply: Any, _: Sequence[Any] = ()) -> bool:
    return type(reply) is bytes and _HEX.fullmatch(reply) is not None


def _list_of(shape: Shape) -> Shape:
    return lambda reply, command: type(reply) is list and all(shape(one, command) for one in reply)


def _tuple_of(*shapes: Shape) -> Shape:
    def matches(reply: Any, command: Sequence[Any]) -> bool:
        if type(reply) is not list or len(reply) != len(shapes):
            return False
        return all(shape(one, command) for shape, one in zip(shapes, reply, strict=True))

    return matches


def _pairs(reply: Any, _: Sequence[Any] = ()) -> bool:
    return type(reply) is list and len(reply) % 2 == 0 and all(type(part) is bytes for part in reply)


def _or_nil(shape: Shape) -> Shape:
    return lambda reply, command: reply is None or shape(reply, command)


def _fields(shapes: Mapping[bytes, Shape]) -> Shape:
    """Return the shape of a flat list of names and values, some of which have shapes of their own."""

    def matches(reply: Any, command: Sequence[Any]) -> bool:
        if type(reply) is not list or len(reply) % 2 or not all(map(_string, reply[::2])):
            return False
        values = dict(zip(reply[::2], reply[1::2], strict=True))
        return all(name in values and shape(values[name], command) for name, shape in shapes.items())

    return matches


def _entries(reply: Any, _: Sequence[Any] = ()) -> bool:
    # Not combined from the shapes above: the service checks one for each heat report (measured: 0.3 µs instead of 1.4).
    if type(reply) is not list:
        return False
    try:
        for entry_id, fields in reply:
            if not _ID.fullmatch(entry_id):
                return False
            if fields is None:  # a pending entry that was trimmed
                continue
            if type(fields) is not list or len(fields) % 2:
                return False
            b"".join(fields)
    except (TypeError, ValueError):  # not two elements, or one that is not of bytes
        return False
    return True


def _entry(reply: Any, _: Sequence[Any] = ()) -> bool:
    return _entries([reply])


_STREAM = _fields(
    {
        b"length": _whole,
        b"entries-added": _whole,
        b"last-generated-id": _id,
        b"first-entry": _or_nil(_entry),
        b"last-entry": _or_nil(_entry),
    }
)
_GROUPS = _list_of(_fields({b"name": _string, b"pending": _whole, b"last-delivered-id": _id}))
_CONSUMERS = _list_of(_fields({b"name": _string, b"pending": _whole, b"idle": _whole}))


def _values_of_names(reply: Any, command: Sequence[Any]) -> bool:
    return type(reply) is list and len(reply) == len(command) - 2 and all(map(_string_or_nil, reply))


def _claimed(reply: Any, command: Sequence[Any]) -> bool:
    shapes = (_id, _list_of(_or_nil(_entry)), _list_of(_id))
    return type(reply) is list and len(reply) >= 2 and _tuple_of(*shapes[: len(reply)])(reply[:3], command)


def _pending(reply: Any, command: Sequence[Any]) -> bool:
    if len(command) > 3:
        return _list_of(_tuple_of(_id, _string, _whole, _whole))(reply, command)
    return _tuple_of(_whole, _or_nil(_id), _or_nil(_id), _or_nil(_list_of(_list_of(_string))))(reply, command)


def _x_info(reply: Any, command: Sequence[Any]) -> bool:
    return {"STREAM": _STREAM, "GROUPS": _GROUPS, "CONSUMERS": _CONSUMERS}[command[1]](reply, command)


def _of_script_command(reply: Any, command: Sequence[Any]) -> bool:
    if command[1] == "LOAD":
        sha = hashlib.sha1(command[2].encode(), usedforsecurity=False).hexdigest()
        return _string(reply) and reply.lower() == sha.encode()
    if command[1] == "FLUSH":
        return bool(reply == b"OK")
    return _list_of(_whole)(reply, command) and len(reply) == len(command) - 2


def _merged(reply: Any, command: Sequence[Any]) -> bool:
    return (
        _tuple_of(_whole, _string, _string, _string)(reply, command)
        and reply[1] in (b"noted", b"unverified", b"deposed")
        and (reply[2] + reply[3]).isascii()
    )


def _sums(reply: Any, command: Sequence[Any]) -> bool:
    return type(reply) is list and 3 * len(reply) == len(command) - 5 and all(type(n) is int and n >= 0 for n in reply)


def _looked_up(reply: Any, command: Sequence[Any]) -> bool:
    return type(reply) is list and len(reply) == len(command) - 5 and all(map(_string_or_nil, reply))


@cache
def _of_scripts() -> Mapping[str, Shape]:
    """Return the shape of the reply of each script, by its content or its SHA-1, as EVAL and EVALSHA name it."""
    return {
        script("raise"): _merged,
        script("count_entries"): _tuple_of(_whole, _whole, _whole, _whole, _list_of(_string)),
        script("add_reports", "heat"): _sums,
        script("trim_stream", "heat"): _whole,
        script("delete_idle_consumers", "heat"): _list_of(_string),
        script("note_raise", "heat"): _whole,
        script_sha("lookup"): _looked_up,
        script_sha("mark_buckets"): _replication_id,
        script_sha("check_marks"): lambda reply, _: _string(reply) and reply.isascii(),
        script_sha("set_fence"): lambda reply, command: reply == command[2],  # the number of fenced buckets
    }


def _evaluated(reply: Any, command: Sequence[Any]) -> bool:
    name = command[1].decode() if isinstance(command[1], bytes) else command[1]
    shape = _of_scripts().get(name)
    return shape is None or shape(reply, command)


_SHAPES: Mapping[str, Shape] = {
    **dict.fromkeys(("EXISTS", "HLEN", "HSET", "HSETNX", "HDEL", "XLEN", "XACK", "XDEL", "WAIT"), _whole),
    "HMGET": _values_of_names,
    "HGETALL": _pairs,
    "EVAL": _evaluated,
    "EVALSHA": _evaluated,
    "SCRIPT": _of_script_command,
    "XADD": _id,
    "XRANGE": _entries,
    "XREVRANGE": _entries,
    "XREADGROUP": _or_nil(_tuple_of(_tuple_of(_string, _entries))),
    "XAUTOCLAIM": _claimed,
    "XPENDING": _pending,
    "XINFO": _x_info,
    "XGROUP": lambda reply, _: reply == b"OK",
    "CONFIG": _pairs,
    "ACL": _string,
    "INFO": lambda reply, _: _string(reply) and b":" in reply,
}


def has_shape(command: Sequence[Any], reply: Any) -> bool:
    """Return whether a reply that is no error may be that of a command; True if the command has no known shape."""
    shape = _SHAPES.get(command[0])
    return shape is None or shape(reply, command)
