"""The headline of a status: the causes of what does not work, whether lookups are right, and the next command."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap
from typing import Any, Literal

from saltctl.commands import commands_in, is_command
from saltctl.errors import ExitCode
from saltctl.stores.contracts.registry import DamagedEntry

State = Literal["OK", "DEGRADED", "BROKEN"]
"""BROKEN: lookups fail, or may be wrong. DEGRADED: lookups are right, and something else does not work."""

WAIT_AND_REBUILD = "saltctl rebuild --wait-redis 15m"
WIDTH, MOST_LINES = 80, 2
"""The headline, with its state, fits on so many lines of a terminal. Causes that do not fit are left out."""
_LONGEST_CAUSE = 100
Panel = Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """What is wrong: causes, what lookups answer, and what else does not work.

    ``next`` is the command that mends the worst problem or leads on; empty without a problem.
    """

    state: State
    text: str
    next: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.text}"


@dataclass(frozen=True)
class _Problem:
    """A problem: its cause, what lookups answer while it lasts (empty: the same as without it), and its effect."""

    state: State
    cause: str
    next: str
    answers: str = ""
    effect: str = ""


def headline_of(status: Mapping[str, Panel]) -> Headline:
    """Return the headline of the panels that :func:`saltctl.health.status.read_status` reads."""
    found = sorted(_problems(status), key=lambda problem: problem.state != "BROKEN")
    if not found:
        return Headline("OK", "lookups, raises and the service work, nothing is throttled")
    lines = commands_in(found[0].next) or found[0].next.splitlines()
    return Headline(found[0].state, _text_of(found), lines[0] if lines else "")


def _text_of(found: Sequence[_Problem]) -> str:
    """Return the causes, the worst one first, then what lookups answer, and then the effects, as far as they fit."""
    worst, *others = found
    answers = worst.answers
    if worst.state == "DEGRADED":
        answers = next((problem.answers for problem in found if problem.answers), "answers are right")
    causes, effects = [_shortened(worst.cause)], [worst.effect]
    for problem in others:
        for effect in dict.fromkeys((problem.effect, "")):
            longer = "; ".join(filter(None, [*causes, problem.cause, answers, *effects, effect]))
            if len(wrap(f"{worst.state}: {longer}", WIDTH, break_long_words=False)) <= MOST_LINES:
                causes.append(problem.cause)
                effects.append(effect)
                break
    return "; ".join(filter(None, [*causes, answers, *effects]))


def _shortened(cause: str) -> str:
    return cause if len(cause) <= _LONGEST_CAUSE else f"{cause[: _LONGEST_CAUSE - 1]}…"


def _cause_of(error: str, side: str) -> str:
    """Return an error in a few words. The panel has all of it, with the server or the table."""
    if error.startswith("no answer within"):
        return f"{side} does not answer"
    clause = re.split(r"(?<!refuses): | \(", re.sub(r"^Redis at \S+", "Redis", error))[0]
    return re.sub(r"^(AWS .*) (?:for|of) '.*", r"\1", clause)


def _problems(status: Mapping[str, Panel]) -> Iterator[_Problem]:
    """Yield the problems; a cause comes before what follows from it."""
    yield from _stores(status)
    yield from _drift(status)
    yield from _audit(status)
    yield from _throttling(status)
    yield from _service(status)
    for name in ("raises", "lease"):
        yield from _unread(status, name, f"{name} cannot be read")


def _unread(status: Mapping[str, Panel], name: str, text: str) -> Iterator[_Problem]:
    """Yield that a panel cannot be read, unless Redis or the backup does not answer either: that says it already."""
    error = status[name]["error"]
    stores = (("registry", "Redis"), ("backup", "AWS"))
    told = [_cause_of(status[store]["error"], side) for store, side in stores if status[store]["error"]]
    if error and not any(_is_same(_cause_of(error, ""), cause) for cause in told):
        yield _Problem("DEGRADED", f"{text}: {_cause_of(error, 'a server')}", status[name]["hint"])


def _is_same(cause: str, other: str) -> bool:
    """Return whether two causes are of one kind: both of Redis or of AWS, a timeout, or alike but for the table."""
    kind = cause.partition(" ")[0]
    return kind in ("", other.partition(" ")[0]) or re.sub("'.*?'", "", cause) == re.sub("'.*?'", "", other)


def _stores(status: Mapping[str, Panel]) -> Iterator[_Problem]:
    """Yield what keeps Redis or the backup from answering lookups. Their panels say more."""
    redis, backup, lookups = status["registry"], status["backup"], status["lookups"]
    of_redis = _cause_of(redis["error"] or _unverified(redis), "Redis")
    of_backup = _cause_of(backup["error"] or "", "AWS")
    if misplaced := redis["verified_from"] if backup["exit_code"] == ExitCode.CONFIGURATION else None:
        of_backup = f"Redis was verified from {misplaced}, not from here"
    both = " and ".join([*([] if redis["verified"] else [of_redis]), *([of_backup] if of_backup else [])])
    if misplaced and lookups["error"]:
        yield _Problem("BROKEN", both or of_backup, redis["hint"] or backup["hint"], "lookups fail with these settings")
    elif redis["verified"] and backup["error"]:
        # Without the registry's id neither Redis nor the backup answers; only a running server knows it already.
        where = "" if backup["registry_id"] else ", in servers that run already"
        command = redis["hint"] or backup["hint"] if misplaced else backup["hint"]
        yield _Problem("DEGRADED", both, command, f"answers are right, from Redis{where}", "raises fail")
    elif lookups["error"]:
        command = (misplaced and redis["hint"]) or backup["hint"] or redis["hint"] or lookups["hint"]
        order = ""
        if redis["error"] and backup["exit_code"] == ExitCode.CONFIGURATION:
            command, order = _verifying(status), "first mend Redis, which a recovery needs"
        yield _Problem("BROKEN", both or _cause_of(lookups["error"], "AWS"), command, "lookups fail", order)
    elif 0 < (lookups["unverified_buckets"] or 0) < lookups["buckets"]:
        cause = f"{lookups['unverified_buckets']:,} of {lookups['buckets']:,} buckets of Redis are not verified"
        yield _Problem("DEGRADED", cause, _verifying(status), "answers are right, from Redis and the backup")
    elif not redis["verified"]:
        command = backup["hint"] or _verifying(status)
        yield _Problem("DEGRADED", both, command, "answers are right, from the backup")
    elif redis["evicting"]:
        text = f"entries are lost if the memory is full: maxmemory-policy is {redis['evicting']}"
        yield _Problem("BROKEN", text, "saltctl doctor --only redis-eviction")
    if backup["recovery_began"]:
        yield _Problem("DEGRADED", "a recovery was interrupted", backup["hint"])


def _unverified(redis: Panel) -> str:
    """Return why Redis is not verified, if it has another owner."""
    if not redis["other_registry"]:
        return "Redis is not verified"
    origin = f", verified from {redis['verified_from']}" if redis["verified_from"] else ""
    return f"Redis holds another registry{origin}"


def _verifying(status: Mapping[str, Panel]) -> str:
    """Return the command that makes Redis verified: a flush took the stream's group, too."""
    redis = status["registry"]
    if redis["error"]:
        return WAIT_AND_REBUILD if redis["exit_code"] == ExitCode.UNAVAILABLE else str(redis["hint"])
    if redis["hint"] and redis["other_registry"]:
        return str(redis["hint"])
    lost_group = status["service"]["error"] is None and status["service"]["pending"] is None
    return "saltctl rebuild && saltctl setup" if lost_group else "saltctl rebuild"


def _drift(status: Mapping[str, Panel]) -> Iterator[_Problem]:
    """Yield differences of Redis and the backup. They mean something only in a Redis that is verified."""
    drift = status["drift"]
    if drift["error"]:
        yield from _unread(status, "drift", "drift cannot be read")
    elif drift["damaged"]:
        first = DamagedEntry(**drift["damaged_items"][0])
        count = f"the backup has damaged items: {drift['damaged']:,} in a sample"
        cure = first.cure if is_command(first.cure) else "saltctl compare"
        yield _Problem("BROKEN", f"{count}, such as {first.conversation_id!r}: {first.problem}", cure)
    elif drift["found"] and status["registry"]["verified"]:
        if drift["found"] == drift["interrupted"]:
            raises = f"raises of {drift['found']:,} of {drift['checked']:,} conversations of a sample are incomplete"
            yield _Problem("DEGRADED", raises, "saltctl compare")
            return
        differ = f"{drift['found']:,} of {drift['checked']:,} conversations of a sample differ"
        yield _Problem("BROKEN", f"answers may be wrong: {differ} in Redis and the backup", "saltctl compare")


def _audit(status: Mapping[str, Panel]) -> Iterator[_Problem]:
    """Yield that readers miss messages. What else an audit found is in its panel."""
    audit = status["audit"]
    if audit["error"]:
        yield from _unread(status, "audit", "the audit cannot be read")
    elif audit["missed"]:
        first = audit["findings"][0]
        many = "1 conversation" if audit["missed"] == 1 else f"{audit['missed']:,} conversations"
        cause = f"readers miss messages of {many}, such as {first['conversation_id']!r}"
        yield _Problem("BROKEN", cause, first["command"])


def _throttling(status: Mapping[str, Panel]) -> Iterator[_Problem]:
    throttles = status["throttles"]
    if throttles["error"]:
        yield from _unread(status, "throttles", "throttling is unknown")
    elif throttles["ongoing"]:
        yield _Problem("DEGRADED", f"DynamoDB throttles table {throttles['table']}", "saltctl throttle scan")


def _service(status: Mapping[str, Panel]) -> Iterator[_Problem]:
    service = status["service"]
    missed = "hot conversations are not raised"
    if service["error"]:
        yield from _unread(status, "service", "the state of the service is unknown")
    elif service["pending"] is None:
        yield _Problem("DEGRADED", "stream not found", "saltctl setup", effect=missed)
    elif service["verdict"] == "stopped":
        yield _Problem("DEGRADED", "the service is stopped", "saltctl service run", effect=missed)
    elif service["verdict"] != "ok":
        cause, late = f"the service is {service['verdict']}", f"{missed} in time"
        yield _Problem("DEGRADED", cause, "saltctl help service-down", effect=late)
