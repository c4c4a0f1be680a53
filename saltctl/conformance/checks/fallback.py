"""Checks of lookups in the backup: a Redis that is not verified, away or foreign, and a backup that is wrong."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from saltctl.conformance.aws_proxy import READS, Action, Request, Response, Rule
from saltctl.conformance.checks.lookups import LARGEST
from saltctl.conformance.judge import AN_ERROR, Judge, answer_of, answer_of_vector
from saltctl.conformance.vectors import vectors
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID


def check_unverified(judge: Judge) -> None:
    """A Redis that has lost entries, its scripts or its process is not used until a rebuild has verified it."""
    stage = judge.stage
    conversation_id = stage.salted(4)
    expected = answer_of(conversation_id, 4)
    judge.step = "a conversation is raised to 4"
    judge.lookup("2.1", conversation_id, expected)
    judge.step = "Redis loses its scripts, by SCRIPT FLUSH, and an entry"
    stage.command("SCRIPT FLUSH")
    stage.command("HDEL", stage.bucket_key(conversation_id), conversation_id)
    _stay_unverified(judge, conversation_id, expected)
    stage.rebuild()
    judge.step = "Redis is emptied, by FLUSHALL"
    stage.command("FLUSHALL")
    judge.lookup("2.3", conversation_id, expected)
    for kept in (True, False):
        judge.step = f"Redis is killed, and starts again {'from its AOF' if kept else 'with nothing'}"
        stage.restart_redis(keep_data=kept)
        _stay_unverified(judge, conversation_id, expected)
    judge.step = "Redis is unverified, and the conversation is raised from 4 to 16"
    stage.registry.raise_to(conversation_id, 16)
    judge.lookup("2.5", conversation_id, answer_of(conversation_id, 16))
    judge.check_commands()
    stage.rebuild()
    judge.step = "a rebuild verified Redis, and the conversation is raised to 32"
    stage.registry.raise_to(conversation_id, 32)
    judge.met("2.5", conversation_id, answer_of(conversation_id, 32), None)


def _stay_unverified(judge: Judge, conversation_id: str, expected: Mapping[str, Any]) -> None:
    for _ in range(2):
        judge.lookup("2.3", conversation_id, expected)
    judge.check_commands()
    if judge.stage.knows_script():
        judge.found("2.2", "two lookups of an unverified Redis", "Redis knows the lookup script", "NOSCRIPT stays")


def check_registry(judge: Judge) -> None:
    """The fence of another registry, a newer format and a table without identity are refused."""
    stage = judge.stage
    judge.step = "Redis has the fence of another registry, as after a rebuild from another table"
    conversation_id = stage.backed(4)
    key = stage.bucket_key(conversation_id)
    ours = stage.command("HGET", key, "#fence")
    ours = ours.decode() if isinstance(ours, bytes) else str(ours)
    stage.command("HSET", key, "#fence", ours.replace(stage.layout, "v2:16:0123456789ab"))
    judge.lookup("3.1", conversation_id, answer_of(conversation_id, 4))
    stage.command("HSET", key, "#fence", ours)
    item = stage.registry_item()
    _check_recovered(judge, conversation_id, item)
    stage.redis_away()
    region = next(iter(item["claimed_tables"]["M"]))
    wrong: dict[str, tuple[str, Mapping[str, Any] | None]] = {
        "#registry has registry_format 3": ("3.3", item | {"registry_format": {"N": "3"}}),
        "#registry is missing": ("3.3", None),
        "#registry has no registry_id": ("3.3", {k: v for k, v in item.items() if k != "registry_id"}),
        "#registry has a registry_id of another form": ("3.3", item | {"registry_id": {"S": "XYZ"}}),
        "#registry has a registry_id of 13 digits": ("3.3", item | {"registry_id": {"S": "0123456789abc"}}),
        "the table was restored: its identity is not that of #registry": (
            "3.4",
            item | {"claimed_tables": {"M": {region: {"S": "00000000-0000-0000-0000-000000000000"}}}},
        ),
    }
    unknown = stage.new_id()
    try:
        for what, (rule, changed) in wrong.items():
            stage.put_registry_item(changed)
            judge.step = f"Redis is away, and {what}"
            for name in (conversation_id, unknown):
                judge.refused(rule, "lookup", conversation_id=name, since=None)
    finally:
        stage.put_registry_item(item)
    judge.step = "Redis is away, and #registry is as before"
    judge.lookup("3.3", conversation_id, answer_of(conversation_id, 4))


def _check_recovered(judge: Judge, conversation_id: str, item: Mapping[str, Any]) -> None:
    """The registry gets a new id, as by a recovery, and Redis is not rebuilt yet: it may lack what the backup has."""
    stage = judge.stage
    stage.put_registry_item({**item, "registry_id": {"S": "feed0123456789ab"}})
    try:
        stage.redis_away()
        judge.step = "Redis is away, and the registry of the table has a new id"
        judge.lookup("3.2", conversation_id, answer_of(conversation_id, 4))
        stage.heal()
        judge.step = "Redis is back, verified for the id that the registry had before"
        judge.lookup("3.2", conversation_id, answer_of(conversation_id, 4))
    finally:
        stage.put_registry_item(item)


def check_backup(judge: Judge) -> None:
    """Without Redis the backup answers, or the lookup is an error."""
    stage = judge.stage
    conversation_id, unknown = stage.salted(4), stage.new_id()
    stage.redis_away()
    stage.aws.take()
    judge.step = "Redis is away"
    judge.lookup("4.1", conversation_id, answer_of(conversation_id, 4))
    _judge_requests(judge, conversation_id)
    judge.lookup("4.4", unknown, answer_of(unknown, 1))
    raised = stage.new_id()
    stage.raise_half(raised, 8)
    judge.step = "Redis is away; a raise from 1 to 8 stopped before its third step"
    judge.lookup("5.1", raised, answer_of(raised, 8, 1))
    described = [request for request in stage.aws.take() if request.operation == "DescribeTable"]
    if len(described) > 1:
        judge.found("3.4", "two lookups", f"DescribeTable, {len(described)} times", "at most once a minute")
    _check_items(judge)
    judge.step = "Redis is away, and DynamoDB returns unprocessed keys at first"
    stage.aws.rule = _unprocessed_once()
    judge.lookup("4.3", conversation_id, answer_of(conversation_id, 4))
    for what, action in {
        "denies access": Response.error("AccessDeniedException"),
        "does not know the table": Response.error("ResourceNotFoundException"),
        "answers {}": Response(200, {}),
        "answers 500": Response(500, {"__type": "com.amazonaws.dynamodb.v20120810#InternalServerError"}),
        "answers 503, without JSON": Response(503, "Service Unavailable"),
    }.items():
        judge.step = f"Redis is away, and DynamoDB {what}"
        stage.aws.rule = _reads_answered_by(action)
        for name in (conversation_id, unknown):
            judge.refused("4.5", "lookup", conversation_id=name, since=None)
    judge.step = "Redis and DynamoDB are both away"
    stage.aws.rule = lambda _: "cut"
    for name in (conversation_id, unknown):
        judge.refused("4.5", "lookup", conversation_id=name, since=None)
    judge.step = "Redis is away, and DynamoDB refuses connections"
    stage.aws.refuse()
    for name in (conversation_id, unknown):
        judge.refused("4.5", "lookup", conversation_id=name, since=None)
    stage.aws.heal()
    judge.step = "Redis is away, and DynamoDB is back"
    judge.lookup("4.5", conversation_id, answer_of(conversation_id, 4))


def _check_items(judge: Judge) -> None:
    """Judge the answers to items of every kind, sound and damaged."""
    stage = judge.stage
    for vector in vectors("backup_items"):
        if (item := vector["item"]) is None or vector.get("max_n", 0) > LARGEST:
            continue
        conversation_id = stage.new_id()
        stage.put_item(conversation_id, **item)
        judge.step = f"Redis is away, and the backup has the item {json.dumps(item)}"
        cooled = "cooling" in item
        if (answer := answer_of_vector(conversation_id, vector)) is None:
            judge.refused("6.3" if cooled else "5.2", "lookup", conversation_id=conversation_id, since=None)
        else:
            judge.lookup("6.4" if cooled else "5.1", conversation_id, answer)


def _judge_requests(judge: Judge, conversation_id: str) -> None:
    """Judge the request that read the item: strongly consistent, with #registry. Not if it is in no known form."""
    for request in judge.stage.aws.take():
        text = json.dumps(request.body)
        if request.operation not in READS or json.dumps(conversation_id) not in text:
            continue
        if request.operation != "TransactGetItems" and '"ConsistentRead": true' not in text:
            judge.found("4.2", f"a lookup of {conversation_id!r}", f"{request.operation} {text}", "ConsistentRead")
        if json.dumps(REGISTRY_ITEM_ID) not in text:
            judge.found("4.2", f"a lookup of {conversation_id!r}", f"{request.operation} {text}", "#registry with it")


def _reads_answered_by(action: Action) -> Rule:
    """Return a rule that answers each read of items."""
    return lambda request: action if request.operation in READS else None


def _unprocessed_once() -> Rule:
    """Return a rule that leaves the keys of the first batch unprocessed."""
    batches: list[Request] = []

    def answer(request: Request) -> Action:
        if request.operation != "BatchGetItem" or batches:
            return None
        batches.append(request)
        return Response(200, {"Responses": {}, "UnprocessedKeys": request.body["RequestItems"]})

    return answer


def check_unprocessed(judge: Judge) -> None:
    """Keys that stay unprocessed are no missing items. A client may ask for them for as long as it waits at all."""
    judge.step = "Redis is away, and DynamoDB returns unprocessed keys each time"
    judge.stage.redis_away()
    batches: list[Request] = []

    def answer(request: Request) -> Action:
        if request.operation != "BatchGetItem":
            return None
        batches.append(request)
        return Response(200, {"Responses": {}, "UnprocessedKeys": request.body.get("RequestItems", {})})

    judge.stage.aws.rule = answer
    asked: dict[str, Any] = {"op": "lookup", "conversation_id": judge.stage.new_id(), "since": None}
    answered = judge.ask(**asked)
    if batches and not answered.get("error"):
        judge.found("4.3", asked, answered, AN_ERROR)
