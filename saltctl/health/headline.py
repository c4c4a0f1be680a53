"""The headline of a status: do lookups answer rightly, what does not work, and the next command."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from saltctl.commands import commands_in, is_command
from saltctl.errors import ExitCode
from saltctl.stores.contracts.registry import DamagedEntry

State = Literal["OK", "DEGRADED", "BROKEN"]
"""BROKEN: lookups fail, or may be wrong. DEGRADED: lookups are right, and something else does not work."""

WAIT_AND_REBUILD = "saltctl rebuild --wait-redis 15m"
Panel = Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """The worst problem of a status. ``next`` is the command that mends it or leads on; empty without a problem."""

    state: State
    text: str
    next: str = ""

    def __str__(self) -> str:
        return f"{self.state}: {self.text}"


def headline_of(status: Mapping[str, Panel]) -> Headline:
    """Return the headline of the panels that :func:`saltctl.health.status.read_status` reads."""
    found = list(_problems(status))
    broken = [each for each in found if each.state == "BROKEN"]
    if not found:
        return Headline("OK", "lookups, raises and the service work, nothing is throttled")
    worst = (broken or found)[0]
    lines = commands_in(worst.next) or worst.next.splitlines()
    return replace(worst, next=lines[0] if lines else "")


def _problems(status: Mapping[str, Panel]) -> Iterator[Headline]:
    """Yield the problems; a cause comes before what follows from it."""
    yield from _stores(status)
    yield from _drift(status)
    yield from _throttling(status)
    yield from _service(status)
    for name in ("raises", "lease"):
        if status[name]["error"]:
            yield _degraded(f"{name} cannot be read", status[name]["hint"])


def _degraded(text: str, command: str) -> Headline:
    return Headline("DEGRADED", f"answers are right; {text}", command)


def _stores(status: Mapping[str, Panel]) -> Iterator[Headline]:
    """Yield what keeps Redis or the backup from answering lookups. Their panels say why."""
    redis, backup, lookups = status["registry"], status["backup"], status["lookups"]
    if redis["verified"] and backup["error"]:
        # Without the registry's id neither Redis nor the backup answers; only a running server knows it already.
        where = "" if backup["registry_id"] else ", in servers that run already"
        yield Headline("DEGRADED", f"answers are right, from Redis{where}; raises fail", backup["hint"])
    elif lookups["error"]:
        yield Headline("BROKEN", "lookups fail", backup["hint"] or redis["hint"] or lookups["hint"])
    elif not redis["verified"]:
        yield Headline("DEGRADED", "answers are right, from the backup", backup["hint"] or _verifying(status))
    elif redis["evicting"]:
        text = f"entries are lost if the memory is full: maxmemory-policy is {redis['evicting']}"
        yield Headline("BROKEN", text, "saltctl doctor --only redis-eviction")


def _verifying(status: Mapping[str, Panel]) -> str:
    """Return the command that makes Redis verified: a flush took the stream's group, too."""
    redis = status["registry"]
    if redis["error"]:
        return WAIT_AND_REBUILD if redis["exit_code"] == ExitCode.UNAVAILABLE else str(redis["hint"])
    lost_group = status["service"]["error"] is None and status["service"]["pending"] is None
    return "saltctl rebuild && saltctl setup" if lost_group else "saltctl rebuild"


def _drift(status: Mapping[str, Panel]) -> Iterator[Headline]:
    """Yield differences of Redis and the backup. They mean something only in a Redis that is verified."""
    drift = status["drift"]
    if drift["error"]:
        yield _degraded("drift cannot be read", drift["hint"])
    elif drift["damaged"]:
        first = DamagedEntry(**drift["damaged_items"][0])
        count = f"the backup has damaged items: {drift['damaged']:,} in a sample"
        cure = first.cure if is_command(first.cure) else "saltctl compare"
        yield Headline("BROKEN", f"{count}, such as {first.conversation_id!r}: {first.problem}", cure)
    elif drift["found"] and status["registry"]["verified"]:
        differ = f"{drift['found']:,} of {drift['checked']:,} conversations of a sample differ"
        yield Headline("BROKEN", f"answers may be wrong: {differ} in Redis and the backup", "saltctl compare")


def _throttling(status: Mapping[str, Panel]) -> Iterator[Headline]:
    throttles = status["throttles"]
    if throttles["error"]:
        yield _degraded("throttling is unknown", throttles["hint"])
    elif throttles["ongoing"]:
        yield _degraded(f"DynamoDB throttles table {throttles['table']}", "saltctl throttle scan")


def _service(status: Mapping[str, Panel]) -> Iterator[Headline]:
    service = status["service"]
    missed = "hot conversations are not raised"
    if service["error"]:
        yield _degraded("the state of the service is unknown", service["hint"])
    elif service["pending"] is None:
        yield _degraded(f"{missed}: stream not found", "saltctl setup")
    elif service["verdict"] == "stopped":
        yield _degraded(f"{missed}: the service is stopped", "saltctl service run")
    elif service["verdict"] != "ok":
        yield _degraded(f"{missed} in time: the service is {service['verdict']}", "saltctl help service-down")
