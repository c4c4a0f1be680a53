"""Checks of clients that have just been started: what they know by then, and a DynamoDB that does not answer."""

from __future__ import annotations

import json

from saltctl.conformance.client import Answer
from saltctl.conformance.judge import Judge, answer_of
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID

TIMEOUT = 1.0
"""Seconds that a request to AWS of these clients may take: one of them waits so long for a hanging server."""


def check_starts(judge: Judge) -> None:
    """A new client knows nothing: what it cannot read is an error, and what it reads is strongly consistent."""
    stage = judge.stage
    conversation_id, unknown = stage.salted(4), stage.new_id()
    stage.aws.take()
    judge.step = "a client is started"
    with judge.fresh(TIMEOUT) as (fresh, _):
        fresh.lookup("2.3", conversation_id, answer_of(conversation_id, 4))
        _judge_first_read(fresh)
        stage.redis_away()
        fresh.step = "Redis is away, and DynamoDB does not answer"
        stage.aws.rule = lambda _: "hold"
        fresh.refused("4.5", "lookup", conversation_id=unknown, since=None)
    stage.heal()
    names = (conversation_id, unknown)
    judge.step = "a client is started, and #registry is missing"
    item = stage.registry_item()
    stage.put_registry_item(None)
    try:
        with judge.fresh(TIMEOUT) as opened:
            _refused(*opened, "3.3", names)
    finally:
        stage.put_registry_item(item)
    judge.step = "a client is started, and DynamoDB refuses connections"
    stage.aws.refuse()
    with judge.fresh(TIMEOUT) as opened:
        _refused(*opened, "3.1", names)


def _refused(judge: Judge, opened: Answer, rule: str, conversation_ids: tuple[str, ...]) -> None:
    """Judge lookups that have to be errors, unless ``open`` was one already."""
    if not opened.get("error"):
        for conversation_id in conversation_ids:
            judge.refused(rule, "lookup", conversation_id=conversation_id, since=None)


def _judge_first_read(judge: Judge) -> None:
    """Judge how #registry was read. Other requests, and those in no known form, are not judged."""
    for request in judge.stage.aws.take():
        text = json.dumps(request.body)
        consistent = request.operation == "TransactGetItems" or '"ConsistentRead": true' in text
        if json.dumps(REGISTRY_ITEM_ID) in text and not consistent:
            judge.found("3.1", "the first lookup of a client", f"{request.operation} {text}", "ConsistentRead")
