"""A trial: every check with a client, on real servers under faults, and the verdict."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field

from saltctl.conformance.checks.cooled import check_cooled
from saltctl.conformance.checks.fallback import check_backup, check_registry, check_unprocessed, check_unverified
from saltctl.conformance.checks.lookups import check_ids, check_raises, check_replies
from saltctl.conformance.checks.messages import check_close, check_reads, check_stall, check_writes
from saltctl.conformance.checks.starts import check_starts
from saltctl.conformance.client import Client, ClientGoneError
from saltctl.conformance.judge import Check, EnoughError, Finding, Judge, answer_of, shown
from saltctl.conformance.stage import Stage

CHECKS: Mapping[str, Check] = {
    "ids": check_ids,
    "raises": check_raises,
    "replies": check_replies,
    "unverified": check_unverified,
    "registry": check_registry,
    "backup": check_backup,
    "unprocessed": check_unprocessed,
    "starts": check_starts,
    "writes": check_writes,
    "reads": check_reads,
    "cooled": check_cooled,
    "stall": check_stall,
    "close": check_close,
}
"""The checks by name, in their order. Each uses conversations of its own."""
MOST_STARTS = 3
"""How often a client is started: one that ended or hung is started again for the next check."""


@dataclass(slots=True)
class Checked:
    """The outcome of one check.

    ``ran`` is False if the client was not started any more. ``note`` is what could not be judged, or empty.
    """

    name: str
    passed: bool
    seconds: float = 0.0
    findings: list[Finding] = field(default_factory=list)
    ran: bool = True
    note: str = ""
    more: int = 0
    """Findings of the same rules that are not in ``findings``."""


def run_trial(stage: Stage, start: Callable[[], Client], names: Iterable[str] | None = None) -> Iterator[Checked]:
    """Run the checks of these names, or all, and yield each outcome. The client is killed at the end.

    Args:
        stage: the servers.
        start: starts a client.
        names: keys of CHECKS.
    """
    client: Client | None = None
    starts = 0
    try:
        for name in CHECKS if names is None else names:
            if client is None and starts == MOST_STARTS:
                yield Checked(name, passed=False, ran=False)
                continue
            began = time.monotonic()
            findings: list[Finding] = []
            alive = True
            if client is None:
                starts += 1
                client = start()
                alive = _open(Judge(stage, client, findings, "the client is started"))
                if alive and starts == 1 and not _can_look_up(Judge(stage, client, findings, "the client is started")):
                    alive, starts = False, MOST_STARTS
            judge = Judge(stage, client, findings, start=start)
            if not (alive and _run(CHECKS[name], judge)):
                client.kill()
                client = None
            stage.heal()
            if findings:
                stage.rebuild()  # the check may have ended before its own
            seconds = round(time.monotonic() - began, 3)
            yield Checked(name, not findings, seconds, findings, note=judge.note, more=judge.more)
    finally:
        if client is not None:
            client.kill()


def _open(judge: Judge) -> bool:
    """Open the client; return whether it can be asked."""
    try:
        answer = judge.ask(**judge.stage.opening())
    except ClientGoneError:
        return False
    if answer.get("error"):
        judge.found("9.1", {"op": "open"}, answer, {})
        return False
    return True


def _can_look_up(judge: Judge) -> bool:
    """Return whether one plain lookup of two has an answer: without, all findings would be this one."""
    for _ in range(2):
        conversation_id = judge.stage.new_id()
        try:
            answer = judge.ask("lookup", conversation_id=conversation_id, since=None)
        except ClientGoneError:
            return False
        if not answer.get("error"):
            return True
    asked = {"op": "lookup", "conversation_id": conversation_id, "since": None}
    judge.found("2.3", asked, f"every lookup is an error: {shown(answer['error'])}", answer_of(conversation_id, 1))
    return False


def _run(check: Check, judge: Judge) -> bool:
    """Run a check; return whether the client can be asked again."""
    judge.stage.heal()
    with suppress(EnoughError):
        try:
            check(judge)
            judge.check_commands()
        except ClientGoneError:
            return False
    return not judge.closed
