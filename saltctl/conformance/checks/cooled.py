"""Checks of cooled conversations: the boundary, and how far readers and writers go on each side of it."""

from __future__ import annotations

from typing import Any

from saltctl.conformance.checks.messages import partition_of, sort_keys
from saltctl.conformance.judge import Judge, Since, answer_of, partitions
from saltctl.conformance.stage import Stage

_BOUNDARY = 20
_KEYS = 40


def check_cooled(judge: Judge) -> None:
    """Readers cover max_n below the boundary and recent_n from it on, by Redis and by the backup."""
    for recent_n in (1, 2):
        _cool(judge, recent_n)
    _compare(judge)


_ORDER: tuple[tuple[str, Since, bool | None], ...] = (
    ("S\uff5e", "\U0001f600", True),
    ("S\U0001f600", "\uff5e", False),
    ("N10", {"N": "9"}, False),
    ("N9", {"N": "10"}, True),
    ("N-5", {"N": "-10"}, False),
    ("N0.25", {"N": "0.5"}, True),
    ("N12345678901234567891", {"N": "12345678901234567890"}, False),
    ("N10", "9", None),
    ("S10", {"N": "9"}, None),
)
"""A boundary in Redis, the lowest sort key of a read, and whether that is at or above it; None is an error."""


def _compare(judge: Judge) -> None:
    """Strings are compared as UTF-8, numbers by their value, and a string and a number not at all."""
    stage, conversation_id = judge.stage, judge.stage.new_id()
    key = stage.bucket_key(conversation_id)
    for text, since, above in _ORDER:
        stage.command("HSET", key, conversation_id, f"8 2 1 1 2 {text}")
        judge.step = f"a conversation of 8 salts, of which 2 are recent, has the boundary {text[1:]!r} ({text[0]})"
        if above is None:
            judge.refused("8.2", "lookup", conversation_id=conversation_id, since=since)
        else:
            known = answer_of(conversation_id, 8, 2, 2, {text[0]: text[1:]})
            known["read_set"] = partitions(conversation_id, 2 if above else 8)
            judge.lookup("8.2", conversation_id, known, since=since)
    stage.command("HDEL", key, conversation_id)


def _cool(judge: Judge, recent_n: int) -> None:
    stage, keys = judge.stage, sort_keys(_KEYS)
    conversation_id, boundary = stage.salted(8), keys[_BOUNDARY]
    _write(stage, conversation_id, keys[:_BOUNDARY], 8)
    stage.narrow(conversation_id, recent_n)
    for away in (False, True):
        judge.step = f"a conversation of 8 salts is cooled to {recent_n}, first phase{_by(stage, away=away)}"
        # The second step of the cool-down reached Redis, and the item is committed with the first.
        judge.lookup("6.4", conversation_id, answer_of(conversation_id, 8, recent_n))
        stage.heal()
    stage.seal(conversation_id, boundary)
    _write(stage, conversation_id, keys[_BOUNDARY:], recent_n)
    for away in (False, True):
        step = f"a conversation of 8 salts is cooled to {recent_n}, with a boundary{_by(stage, away=away)}"
        judge.step = step
        _sides(judge, conversation_id, keys, recent_n)
        stage.heal()
    judge.step = f"a cooled conversation gets messages, N {recent_n}"
    key = sort_keys(1, "new", _KEYS)[0]
    judge.put("6.4", conversation_id, key, partition_of(conversation_id, key, recent_n))
    stage.registry.raise_to(conversation_id, 4)
    for away in (False, True):
        judge.step = f"a conversation that was cooled from 8 to {recent_n} is raised to 4{_by(stage, away=away)}"
        expected = answer_of(conversation_id, 8, 4, 4, {"S": boundary})
        judge.lookup("6.4", conversation_id, expected)
        recent = {"read_set": partitions(conversation_id, 4)}
        judge.lookup("8.2", conversation_id, recent, since=boundary)
        stage.heal()


def _sides(judge: Judge, conversation_id: str, keys: list[str], recent_n: int) -> None:
    """Judge lookups and reads below, at and above the boundary."""
    boundary = keys[_BOUNDARY]
    known: dict[str, Any] = answer_of(conversation_id, 8, recent_n, recent_n, {"S": boundary})
    for since in (None, "", keys[0], keys[_BOUNDARY - 1], boundary[:-1]):
        judge.lookup("8.2", conversation_id, known, since=since or None)
    known["read_set"] = partitions(conversation_id, recent_n)
    for since in (boundary, f"{boundary}x", keys[-1], "\uff5e", "\U0001f600"):
        judge.lookup("8.2", conversation_id, known, since=since)
    judge.read("8.2", conversation_id, keys[::-1])
    judge.read("8.2", conversation_id, keys[: _BOUNDARY - 3 : -1], since=keys[_BOUNDARY - 2])
    judge.read("8.2", conversation_id, keys[: _BOUNDARY - 1 : -1], since=boundary)


def _by(stage: Stage, *, away: bool) -> str:
    if away:
        stage.redis_away()
    return "; Redis is away" if away else ""


def _write(stage: Stage, conversation_id: str, keys: list[str], n: int) -> None:
    stage.put_rows((partition_of(conversation_id, key, n), key) for key in keys)
