"""Checks of writes and reads: the salt of a message, writers during a raise, and complete histories."""

from __future__ import annotations

import json
import time
from binascii import crc32

from saltctl.conformance.aws_proxy import READS, Action, Request, Response, Rule
from saltctl.conformance.judge import AN_ERROR, Judge, answer_of, message_id_of, partitions, put_request
from saltctl.conformance.stage import COOL_WAIT

BIG = 300_000
"""Bytes of a row of which four fill more than one page of a query."""
_AT = "2026-07-01T08:{:02d}:{:02d}.000Z#m{}{}"


def sort_keys(count: int, name: str = "", first: int = 0) -> list[str]:
    """Return sort keys, a second apart, whose message ids are on all salts."""
    return [_AT.format(n // 60, n % 60, n, name) for n in range(first, first + count)]


def partition_of(conversation_id: str, sort_key: str, n: int) -> str:
    """Return where a message belongs if writers spread over n salts."""
    message_id = message_id_of(sort_key)
    return conversation_id if n == 1 else f"{conversation_id}#{crc32(message_id.encode()) % n}"


def check_writes(judge: Judge) -> None:
    """Messages go to the salt of their id, and writers that fell back never spread wider than readers look."""
    stage = judge.stage
    conversation_id = stage.new_id()
    for n in (1, 4, 8):
        judge.step = f"a conversation has {n} salt{'s' if n > 1 else ''}"
        if n > 1:
            stage.registry.raise_to(conversation_id, n)
        others = [f"2026-07-01T09#a{n}#b", f"2026-07-01T09#a{n}#c", f"2026-07-01T09-{n}"]
        for key in [*others, *sort_keys(6, f"x{n}"), *sort_keys(2, f"\u00fc\U0001f600{n}", 6)]:
            judge.put("7.1", conversation_id, key, partition_of(conversation_id, key, n))
    judge.step = "the same message is written again"
    judge.put("7.2", conversation_id, key, partition_of(conversation_id, key, 8))
    _check_taken(judge, conversation_id, partition_of(conversation_id, "2026-07-01T10#taken", 8))
    judge.step = "the client wrote to a conversation of 8 salts, and it is raised to 32"
    stage.registry.raise_to(conversation_id, 32)
    for key in sort_keys(4, "y"):
        judge.put("2.5", conversation_id, key, partition_of(conversation_id, key, 32))
    conversation_id = stage.salted(2)
    stage.raise_half(conversation_id, 16)
    judge.step = "a raise from 2 to 16 stopped before the commit, and Redis is away"
    stage.redis_away()
    for key in sort_keys(6):
        judge.put("5.1", conversation_id, key, partition_of(conversation_id, key, 2))
    judge.step = "Redis is away, and DynamoDB denies access"
    stage.backup_denies()
    judge.refused("4.5", **put_request(conversation_id, key))


def _check_taken(judge: Judge, conversation_id: str, partition: str) -> None:
    """A row that exists is never replaced. An answer or an error: clients differ in what they compare."""
    judge.step = "a row with this key exists, with another text"
    stage, request = judge.stage, put_request(conversation_id, "2026-07-01T10#taken")
    stage.put_row(partition, request["sort_key"], "another text")
    answer = judge.ask(**request)
    row = stage.messages.get(partition, request["sort_key"])
    if row is None or row["text"] != {"S": "another text"}:
        judge.found("7.2", request, answer, "the row stays as it was")


def check_reads(judge: Judge) -> None:
    """A read has every message once, in order, or is an error."""
    stage = judge.stage
    conversation_id = stage.new_id()
    keys = sort_keys(12)
    for key in keys[:4]:
        stage.put_row(conversation_id, key)
    stage.registry.raise_to(conversation_id, 4)
    for key in keys[4:8]:
        stage.put_row(partition_of(conversation_id, key, 4), key)
    judge.step = "a conversation was raised to 4; its first messages are in the base partition"
    judge.read("8.1", conversation_id, keys[7::-1])
    stage.registry.raise_to(conversation_id, 16)
    for key in keys[8:]:
        stage.put_row(partition_of(conversation_id, key, 16), key)
    judge.step = "the conversation was read, and is raised to 16"
    judge.read("8.1", conversation_id, keys[::-1])
    judge.step = "a message is in two partitions, as after a retry across a raise"
    stage.put_row(partition_of(conversation_id, keys[2], 16), keys[2])
    judge.read("8.5", conversation_id, keys[::-1])
    judge.step = "a read begins at a sort key"
    judge.read("8.1", conversation_id, keys[:4:-1], since=keys[5])
    judge.step = "two messages have one sort key, in two partitions"
    stage.put_row(conversation_id, keys[11], "another text")
    keys.append(keys[11])
    judge.read("8.5", conversation_id, keys[::-1])
    judge.step = "sort keys whose order as UTF-8 is not that as UTF-16"
    unicode_id = stage.salted(2)
    unusual = ["a\uff5e#m", "a\U0001f600#m", "a\U0001f601#n"]
    for number, key in enumerate(unusual):
        stage.put_row(partitions(unicode_id, 2)[number % 3], key)
    judge.read("8.5", unicode_id, unusual[::-1])
    _check_queries(judge, conversation_id, keys)
    judge.step = "one partition has more rows than a page of a query"
    large = stage.new_id()
    big = sort_keys(5)
    for key in big:
        stage.put_row(large, key, "x" * BIG)
    judge.read("8.3", large, big[::-1])
    for partition in (conversation_id, f"{conversation_id}#3"):
        judge.step = f"the partition {partition!r} cannot be read"
        stage.aws.rule = _denies(partition)
        judge.refused("8.4", "read", conversation_id=conversation_id, since=None)
    stage.aws.rule = None
    judge.step = "Redis is away"
    stage.redis_away()
    judge.read("4.1", conversation_id, keys[::-1])


def _check_queries(judge: Judge, conversation_id: str, keys: list[str]) -> None:
    """Judge that queries are strongly consistent, and go on after an empty page."""
    stage, empty = judge.stage, list[Request]()

    def answer(request: Request) -> Action:
        """Answer each first page by an empty one, as a filter or a limit of bytes can."""
        if request.operation != "Query" or "ExclusiveStartKey" in request.body:
            return None
        empty.append(request)
        values = request.body.get("ExpressionAttributeValues", {}).values()
        of = next((value for value in values if str(value.get("S", "")).startswith(conversation_id)), None)
        start = "\U0010ffff" if request.body.get("ScanIndexForward") is False else " "
        last = {"conversation_id": of, "sort_key": {"S": start}}
        return of and Response(200, {"Items": [], "Count": 0, "ScannedCount": 0, "LastEvaluatedKey": last})

    judge.step = "each partition has an empty page with a LastEvaluatedKey first"
    stage.aws.take()
    stage.aws.rule = answer
    judge.read("8.3", conversation_id, keys[::-1])
    stage.aws.rule = None
    for request in stage.aws.take():
        if request.operation == "Query" and request.body.get("ConsistentRead") is not True:
            judge.found("8.3", f"a read of {conversation_id!r}", f"Query {json.dumps(request.body)}", "ConsistentRead")


def _denies(partition: str) -> Rule:
    """Return a rule that denies queries of one partition."""

    def answer(request: Request) -> Action:
        values = request.body.get("ExpressionAttributeValues", {})
        asks = request.operation == "Query" and {"S": partition} in values.values()
        return Response.error("AccessDeniedException") if asks else None

    return answer


def check_stall(judge: Judge) -> None:
    """A write that was stopped after its lookup does not go where readers have looked away from."""
    stage = judge.stage
    conversation_id = stage.salted(8)
    key = next(key for key in sort_keys(50) if partition_of(conversation_id, key, 8) != conversation_id)
    wide = partition_of(conversation_id, key, 8)
    judge.step = f"the client is stopped between its lookup and its write for {COOL_WAIT:g} s; meanwhile N goes to 1"
    # In the fallback, whose time limit does not pass meanwhile: after one the client would look up again.
    stage.redis_away()
    judge.lookup("4.1", conversation_id, answer_of(conversation_id, 8))  # from now on it knows the registry
    stage.aws.rule = lambda request: "hold" if request.operation in READS else None
    request = put_request(conversation_id, key)
    with judge.telling(request):
        judge.client.send(request)
        stopped = stage.aws.held.wait(5.0) and judge.client.pause()
        try:
            if stopped:
                stage.narrow(conversation_id, 1)
                stage.aws.release()
                time.sleep(COOL_WAIT)
                # A row shows that it was not stopped, as in a container: a cool-down would see the row, too.
                stopped = stage.messages.get(wide, key) is None
            if stopped:
                stage.seal(conversation_id, "2026-07-01T08")
        finally:
            stage.aws.release()
            judge.client.resume()
        answer = judge.client.receive()
    if not stopped:
        judge.note = "rule 7.3 was not judged: the client could not be stopped"
        return
    written = answer.get("error") or answer.get("partition_key") == conversation_id
    if not written or stage.messages.get(wide, key) is not None:
        judge.found("7.3", request, answer, f"{AN_ERROR}, or the partition of a new lookup, {conversation_id!r}")


def check_close(judge: Judge) -> None:
    """The client ends by itself."""
    judge.step = "the client is closed"
    answer = judge.ask("close")
    if answer.get("error"):
        judge.found("9.2", {"op": "close"}, answer, {})
    with judge.telling({"op": "close"}, "the end, with exit code 0: see saltctl help client-conformance"):
        try:
            judge.client.end()
        finally:
            judge.closed = True
