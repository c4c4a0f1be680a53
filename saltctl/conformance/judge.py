"""The judge of a trial: asks the client, compares its answers with what the rules say, and keeps the findings."""

from __future__ import annotations

import json
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import accumulate
from typing import Any

from saltctl.conformance.client import SHOWN, Answer, Client, ClientGoneError
from saltctl.conformance.redis_proxy import Action, Command
from saltctl.conformance.stage import Stage
from saltctl.conformance.vectors import ANSWER
from saltctl.stores.redis.scripts import script_sha

MOST_FINDINGS = 2
"""Findings of one rule in one check: the others are alike."""
MOST_CHARACTERS = 4000
"""Characters of a value in a finding: a client may answer a megabyte."""
DEEPEST = 20
"""Objects and lists in one another in such a value."""
SECONDS_AFTER = 20.0
"""Time that a check may take after its first finding: a slow client that is wrong is not asked everything."""
_TRIES = 5
OPENING = {b"AUTH", b"HELLO", b"CLIENT", b"SELECT", b"PING", b"ECHO", b"QUIT", b"RESET", b"COMMAND", b"INFO"}
"""Commands that say nothing about the registry."""
_LOADING = {b"EVAL", b"SCRIPT", b"FUNCTION"}
AN_ERROR = "an error"
Since = str | Mapping[str, str] | None
"""The lowest sort key of a read: a string, or a number as {"N": "DIGITS"}; None is none."""


@dataclass(frozen=True, slots=True)
class Finding:
    """A rule that the client broke: in which step, what it was asked, what it answered, and what was expected.

    The three values are JSON or text.
    """

    step: str
    rule: str
    asked: Any
    answered: Any
    expected: Any
    cut: tuple[str, ...] = ()
    """The names of those values that were too long, and are the beginning of their text instead."""

    @classmethod
    def of(cls, step: str, rule: str, **values: object) -> Finding:
        """Return a finding whose values ``asked``, ``answered`` and ``expected`` are bounded."""
        kept = {name: bounded(value) for name, value in values.items()}
        return cls(step, rule, **kept, cut=tuple(name for name in values if kept[name] is not values[name]))


class EnoughError(Exception):
    """The check has findings, and takes too long."""


@dataclass
class Judge:
    """Asks one client during one check, and keeps the findings.

    ``step`` says what the check has just done; findings quote it. ``closed``: the client has ended, as it was asked to.
    ``note``: what could not be judged.
    """

    stage: Stage
    client: Client
    findings: list[Finding] = field(default_factory=list)
    step: str = ""
    closed: bool = False
    note: str = ""
    clock: Callable[[], float] = time.monotonic
    start: Callable[[], Client] | None = None
    """Starts one more client."""
    counts: Counter[str] = field(default_factory=Counter)
    """Findings by rule, with those that were not kept."""
    _until: float = math.inf

    @property
    def more(self) -> int:
        """Findings that were not kept."""
        return sum(max(0, count - MOST_FINDINGS) for count in self.counts.values())

    def ask(self, op: str, **fields: Any) -> Answer:
        """Return the answer to a request.

        Raises:
            ClientGoneError: there is none, which is a finding of its own.
            EnoughError: the check has findings, and takes too long.
        """
        if self.clock() > self._until:
            raise EnoughError
        request = {"op": op, **fields}
        with self.telling({"op": op} if op == "open" else request):  # it has a password
            return self.client.ask(request)

    @contextmanager
    def telling(self, request: Mapping[str, Any], expected: str = "an answer") -> Iterator[None]:
        """Keep the end of the client, or its silence, as a finding about this request."""
        try:
            yield
        except ClientGoneError as exc:
            self.findings.append(
                Finding.of(self.step, exc.rule, asked=request, answered=exc.problem, expected=expected)
            )
            raise

    @contextmanager
    def fresh(self, aws_timeout: float) -> Iterator[tuple[Judge, Answer]]:
        """Start one more client for the block; return its judge, with the same findings, and its answer to ``open``.

        Args:
            aws_timeout: seconds that its requests to AWS may take.
        """
        assert self.start is not None
        client = self.start()
        try:
            judge = replace(self, client=client)
            yield judge, judge.ask(**self.stage.opening(aws_timeout))
        finally:
            client.kill()

    def found(self, rule: str, asked: object, answered: object, expected: object) -> None:
        """Keep a finding, unless there are enough of its rule."""
        self.counts[rule] += 1
        if self.counts[rule] <= MOST_FINDINGS:
            self.findings.append(Finding.of(self.step, rule, asked=asked, answered=answered, expected=expected))
        self._until = min(self._until, self.clock() + SECONDS_AFTER)

    # Lookups.

    def lookup(self, rule: str, conversation_id: str, expected: Mapping[str, Any], since: Since = None) -> Answer:
        """Ask for a lookup, whose answer must have these values."""
        answer = self.ask("lookup", conversation_id=conversation_id, since=since)
        self._compare(rule, {"op": "lookup", "conversation_id": conversation_id, "since": since}, answer, expected)
        return answer

    def _compare(self, rule: str, request: Mapping[str, Any], answer: Answer, expected: Mapping[str, Any]) -> None:
        wrong = [n for n in expected if n not in answer or canonical(answer[n]) != canonical(expected[n])]
        if wrong:
            self.found("8.1" if wrong == ["read_set"] and rule != "8.2" else rule, request, answer, expected)

    def met(
        self, rule: str, conversation_id: str, expected: Mapping[str, Any], action: Action, *, follow: bool = False
    ) -> None:
        """Look up while Redis answers as given. A client that skips Redis, as after a failure, is asked again.

        ``follow``: it may ask more than once, as after a redirection.
        """
        seen: list[Command] = []

        def answer(command: Command) -> Action:
            """Answer lookups, whatever command they use, and leave the rest to the server."""
            if command[0].upper() in OPENING:
                return None
            seen.append(command)
            return action

        self.stage.redis.rule = answer
        for attempt in range(_TRIES):
            self.lookup(rule, conversation_id, expected)
            if len(seen) > 1 and not follow:
                asked = {"op": "lookup", "conversation_id": conversation_id}
                self.found("4.1", asked, f"{len(seen)} commands to Redis", "one, and then the backup")
            if seen:
                break
            time.sleep(0.3 * attempt)
        else:
            self.found("2.1", {"op": "lookup", "conversation_id": conversation_id}, "Redis was not asked", "EVALSHA")
        self.stage.redis.rule = None

    def refused(self, rule: str, op: str, **fields: Any) -> None:
        """Ask for what has to be an error."""
        answer = self.ask(op, **fields)
        if not answer.get("error"):
            self.found(rule, {"op": op, **fields}, answer, AN_ERROR)

    # Messages.

    def put(self, rule: str, conversation_id: str, sort_key: str, expected: str) -> None:
        """Ask for a write, and check the answer, and that the row is where it has to be."""
        request = put_request(conversation_id, sort_key)
        answer = self.ask(**request)
        self._compare(rule, request, answer, {"partition_key": expected})
        if self.stage.messages.get(expected, sort_key) is None:
            self.found(rule, request, f"{shown(answer)}; there is no such row", f"a row in {expected!r}")

    def read(self, rule: str, conversation_id: str, expected: list[str], since: str | None = None) -> None:
        """Ask for a history, which must have these sort keys in this order."""
        answer = self.ask("read", conversation_id=conversation_id, since=since)
        request = {"op": "read", "conversation_id": conversation_id, "since": since}
        self._compare(rule, request, answer, {"sort_keys": expected})

    # What the proxies saw.

    def check_commands(self) -> None:
        """Judge the commands that the client sent to Redis since the last time."""
        allowed = OPENING | {b"EVALSHA"}
        wrong = {c[0].upper(): c for c in self.stage.redis.take() if c and c[0].upper() not in allowed}
        for name, command in wrong.items():
            sent = " ".join(word.decode(errors="replace")[:40] for word in command[:3])
            rule = "2.2" if name in _LOADING else "2.1"
            self.found(rule, "a lookup", f"it sent to Redis: {sent}", f"EVALSHA {script_sha('lookup')[:8]}… alone")

    def key_of_lookup(self, conversation_id: str) -> None:
        """Judge the key and the layout of the lookup that the client has just sent."""
        expected = [b"1", self.stage.bucket_key(conversation_id).encode(), self.stage.layout.encode()]
        expected.append(conversation_id.encode())
        for command in self.stage.redis.take():
            if command[0].upper() == b"EVALSHA" and list(command[2:]) != expected:
                answered, wanted = ([part.decode(errors="replace") for part in c] for c in (command[2:], expected))
                rule = "1.2" if answered[1:2] != wanted[1:2] else "2.1"
                self.found(rule, {"op": "lookup", "conversation_id": conversation_id}, answered, wanted)


def message_id_of(sort_key: str) -> str:
    """Return the message id of a sort key: the part after the first #, or all of it without a #."""
    _, mark, rest = sort_key.partition("#")
    return rest if mark else sort_key


def put_request(conversation_id: str, sort_key: str) -> dict[str, Any]:
    """Return the request to write a message, whose id is in its sort key."""
    message_id = message_id_of(sort_key)
    names = {"op": "put", "conversation_id": conversation_id, "sort_key": sort_key}
    return {**names, "message_id": message_id, "text": "hello"}


def answer_of(
    conversation_id: str, max_n: int, write_n: int | None = None, recent_n: int | None = None, boundary: Any = None
) -> dict[str, Any]:
    """Return the answer to a lookup of the whole history."""
    return {
        "max_n": max_n,
        "write_n": max_n if write_n is None else write_n,
        "recent_n": max_n if recent_n is None else recent_n,
        "boundary": boundary,
        "read_set": partitions(conversation_id, max_n),
    }


def answer_of_vector(conversation_id: str, vector: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the answer to a lookup that a vector stands for; None if it has to be refused."""
    return None if vector.get("refused") else answer_of(conversation_id, *(vector[name] for name in ANSWER))


def partitions(conversation_id: str, n: int) -> list[str]:
    """Return the base partition and n salts."""
    return [conversation_id, *(f"{conversation_id}#{salt}" for salt in (range(n) if n > 1 else ()))]


def canonical(value: object) -> str:
    """Return a value as JSON that is equal for equal values: true is not 1 there."""
    return json.dumps(value, sort_keys=True)


def bounded(value: object) -> Any:
    """Return a value itself if it is short JSON, or short text; otherwise the beginning of its text."""
    if isinstance(value, str):
        return value if len(value) <= MOST_CHARACTERS else value[:MOST_CHARACTERS]
    try:
        text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError, RecursionError):
        return repr(value)[:MOST_CHARACTERS]
    # The output walks through it, a function call or two for each level.
    depth = max(accumulate((c in "[{") - (c in "]}") for c in text[:MOST_CHARACTERS]))
    return value if len(text) <= MOST_CHARACTERS and depth <= DEEPEST else text[:MOST_CHARACTERS]


def shown(value: object) -> str:
    """Return a value for a message, cut to a length; control characters are left to the output."""
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}…"


Check = Callable[[Judge], None]
