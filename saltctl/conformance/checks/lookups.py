"""Checks of lookups in a Redis that is verified: ids and keys, raises, and answers that must not be used."""

from __future__ import annotations

import time

from saltctl.conformance.judge import OPENING, Judge, answer_of, answer_of_vector, put_request
from saltctl.conformance.redis_proxy import Action
from saltctl.conformance.vectors import vectors

UNUSUAL = ("a b", "\u00fc\u4e16\U0001f600", "e\u0301", "\u00e9", "x:y/z%20", "-", "0", '"\\', "tab\there", "\u00ff")
"""Beginnings of ids: Unicode of each length in UTF-8, composed and not, and what a shell or JSON could change."""
REFUSED = ("", "#", "a#3", "#registry", "x" * 2001, "\u00e9" * 1001, "\ud800")


def check_ids(judge: Judge) -> None:
    """Ids of every kind are in their bucket, and those that are none are refused."""
    stage = judge.stage
    for beginning in UNUSUAL:
        judge.step = "a conversation with an unusual id is raised to 4"
        conversation_id = stage.salted(4, beginning)
        judge.lookup("1.2", conversation_id, answer_of(conversation_id, 4))
        judge.key_of_lookup(conversation_id)
    longest = stage.new_id("\u00e9" * 900)
    longest += "z" * (2000 - len(longest.encode()))
    stage.registry.raise_to(longest, 4)
    judge.step = "an id of 2,000 bytes is raised to 4"
    judge.lookup("1.1", longest, answer_of(longest, 4))
    judge.step = "an id that is not valid"
    stage.redis.take()
    for conversation_id in REFUSED:
        judge.refused("1.1", "lookup", conversation_id=conversation_id, since=None)
    judge.refused("1.1", "read", conversation_id="a#3", since=None)
    judge.refused("1.1", **put_request("a#3", "2026-07-01T08:00:00.000Z#m1"))
    if asked := [command for command in stage.redis.take() if command[0].upper() not in OPENING]:
        judge.found("1.1", "ids that are not valid", f"Redis was asked, {len(asked)} times", "no request")


def check_raises(judge: Judge) -> None:
    """Each lookup sees every raise that was acknowledged before it."""
    stage = judge.stage
    conversation_id = stage.new_id()
    judge.step = "a new conversation"
    judge.lookup("2.3", conversation_id, answer_of(conversation_id, 1))
    for n in (2, 8, 64):
        judge.step = f"the conversation was looked up, and is raised to {n}"
        stage.registry.raise_to(conversation_id, n)
        judge.lookup("2.5", conversation_id, answer_of(conversation_id, n))
    judge.met("2.5", conversation_id, answer_of(conversation_id, n), None)


_ERRORS = (
    *("NOSCRIPT No matching script. Please use EVAL.", "UNVERIFIED this bucket was not verified here"),
    *("LOADING Redis is loading the dataset in memory", "READONLY You can't write against a read only replica."),
    *("NOREPLICAS Not enough good replicas to write.", "MASTERDOWN Link with MASTER is down", "ERR unknown command"),
    *("CLUSTERDOWN The cluster is down", "TRYAGAIN Multiple keys request during rehashing of slot"),
    *("MISCONF Errors writing to the AOF file", "OOM command not allowed", "BUSY Redis is busy running a script."),
    *("WRONGTYPE Operation against a key holding the wrong kind of value", "NOPERM no permissions", "XYZ unknown"),
)
_REPLIES = {
    "an integer": b":1\r\n",
    "a status": b"+OK\r\n",
    "nil": b"$-1\r\n",
    "a string": b"$1\r\n1\r\n",
    "a nil array": b"*-1\r\n",
    "an empty array": b"*0\r\n",
    "two elements": b"*2\r\n$-1\r\n$-1\r\n",
    "an array of an integer": b"*1\r\n:1\r\n",
    "an array of an array": b"*1\r\n*0\r\n",
    "nothing that is RESP": b"HTTP/1.1 400 Bad Request\r\n\r\n",
}
LARGEST = 1000
"""The largest max_n of a vector that a client is asked about: its answer names each partition."""


def check_replies(judge: Judge) -> None:
    """After every reply that is not that of a verified script, the answer is that of the backup."""
    stage = judge.stage
    conversation_id = stage.backed(4)
    expected = answer_of(conversation_id, 4)
    errors = [*_ERRORS, f"MOVED 1 127.0.0.1:{stage.redis.port}", f"ASK 1 127.0.0.1:{stage.redis.port}"]
    cases: list[tuple[str, str, Action]] = [
        *(("4.1", f"Redis answers a lookup by -{error}", f"-{error}\r\n".encode()) for error in errors),
        *(("2.4", f"Redis answers a lookup by {name}", reply) for name, reply in _REPLIES.items()),
        ("4.1", "Redis closes the connection during a lookup", "cut"),
    ]
    stage.rng.shuffle(cases)
    for rule, step, action in cases:
        judge.step = step
        judge.met(rule, conversation_id, expected, action, follow=" -MOVED" in step or " -ASK" in step)
    for vector in vectors("redis_elements"):
        element, answer = vector["element"], answer_of_vector(conversation_id, vector)
        if vector.get("max_n", 0) <= LARGEST:
            judge.step = f"Redis answers a lookup by an array of {'nil' if element is None else repr(element)}"
            cooled = element is not None and " " in element.strip()
            rule = "2.4" if not cooled else "6.4" if answer else "6.2"
            judge.met(rule, conversation_id, answer or expected, _array(element))
    _late(judge)


def _array(element: str | None) -> bytes:
    if element is None:
        return b"*1\r\n$-1\r\n"
    return b"*1\r\n$%d\r\n%b\r\n" % (len(element.encode()), element.encode())


def _late(judge: Judge) -> None:
    """An answer comes too late, or twice, and must not become that of the next lookup."""
    stage = judge.stage
    first, second = stage.salted(8), stage.salted(2)
    judge.step = "Redis answers a lookup too late"
    judge.met("4.1", first, answer_of(first, 8), "hold")
    judge.step = "the answer to an earlier lookup comes after its timeout, before the next lookup"
    stage.redis.release()
    time.sleep(0.1)  # it arrives
    for _ in range(2):
        judge.lookup("2.6", second, answer_of(second, 2))
    judge.step = "Redis answers a lookup twice"
    judge.met("4.1", first, answer_of(first, 8), 2 * _array("8"))
    judge.step = "the answer to an earlier lookup was there twice"
    judge.lookup("2.6", second, answer_of(second, 2))
