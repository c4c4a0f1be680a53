"""Doctor: runs all checks in parallel. A check that fails or hangs does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from difflib import get_close_matches

from saltctl.commands import commands_in, is_command
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    RedisUnavailableError,
    SaltctlError,
    UsageError,
)
from saltctl.health.checks import access, audit, cooling, dynamodb, redis, stream
from saltctl.health.checks.redis import each_primary
from saltctl.health.facts import Facts
from saltctl.health.findings import Finding, fail, skip

TIMEOUT_SECONDS = 10.0
"""Timeout of all checks together. A request has 2 s, and most of them run at the same time."""


@dataclass(frozen=True, slots=True)
class Check:
    """A check. If it cannot be made, the check ``depends_on`` fails for the same reason.

    The docstring of ``run`` begins with the condition that the check verifies.
    """

    name: str
    run: Callable[[Facts], Finding]
    depends_on: str = ""


_REDIS, _BACKUP = "redis-reachable", "backup-table"
CHECKS: tuple[Check, ...] = (
    Check("settings", access.settings),
    Check("redis-reachable", redis.reachable),
    Check("redis-version", each_primary(redis.version), _REDIS),
    Check("redis-tls", redis.tls, _REDIS),
    Check("redis-role", each_primary(redis.role), _REDIS),
    Check("redis-eviction", each_primary(redis.eviction), _REDIS),
    Check("redis-memory", each_primary(redis.memory), _REDIS),
    Check("redis-aof", each_primary(redis.aof), _REDIS),
    Check("redis-fsync", each_primary(redis.fsync), _REDIS),
    Check("redis-persistence", each_primary(redis.persistence), _REDIS),
    Check("redis-min-replicas", each_primary(redis.min_replicas), _REDIS),
    Check("redis-verified", redis.verified, _REDIS),
    Check("redis-permissions", access.redis_permissions, _REDIS),
    Check("redis-clock", each_primary(redis.clock), _REDIS),
    Check("backup-table", dynamodb.backup_table),
    Check("backup-registry", dynamodb.registry, _BACKUP),
    Check("backup-layout", dynamodb.layout, "backup-registry"),
    Check("backup-recovery", dynamodb.backup_recovery, _BACKUP),
    Check("backup-protection", dynamodb.backup_protection, _BACKUP),
    Check("backup-billing", dynamodb.backup_billing, _BACKUP),
    Check("backup-replication", dynamodb.backup_replication, _BACKUP),
    Check("messages-table", dynamodb.messages_table),
    Check("aws-permissions", dynamodb.permissions, _BACKUP),
    Check("aws-clock", dynamodb.clock, _BACKUP),
    Check("lease", dynamodb.lease, _BACKUP),
    Check("stream-group", stream.group, _REDIS),
    Check("stream-consumers", stream.consumers, _REDIS),
    Check("stream-lag", stream.lag, _REDIS),
    Check("stream-dead-letters", stream.dead_letters, _REDIS),
    Check("throttles", dynamodb.throttles, "messages-table"),
    Check("drift", dynamodb.drift, "backup-layout"),
    Check("boundaries", cooling.boundaries, "messages-table"),
    Check("audit", audit.audit, "backup-registry"),
)


def check_names() -> list[str]:
    """Return the names of the checks, then those of their groups, such as ``redis`` for all of ``redis-…``."""
    every = [check.name for check in CHECKS]
    return [*dict.fromkeys([*every, *sorted({name.split("-")[0] for name in every})])]


def select_checks(names: Iterable[str]) -> list[Check]:
    """Select checks by name, or by group such as ``redis`` for all of ``redis-…``. Without names select all.

    One string may have several names, separated by commas.

    Raises UsageError if a name is unknown; the hint has a similar name.
    """
    wanted = [part.strip() for name in names for part in name.split(",")]
    known = check_names()
    for name in wanted:
        if name not in known:
            close = get_close_matches(name, known, 1, 0.5)
            raise UsageError(
                f"cannot run the check {name!r:.60}: it must be one of {', '.join(known)}",
                hint=f"saltctl doctor --only {close[0]}" if close else "saltctl doctor --only redis",
            )
    return [check for check in CHECKS if not wanted or {check.name, check.name.split("-")[0]} & set(wanted)]


def run_checks(
    facts: Facts, checks: Sequence[Check] = CHECKS, *, timeout: float = TIMEOUT_SECONDS
) -> Iterator[Finding]:
    """Run the checks in parallel, and yield their findings in the given order."""
    answers = facts.call_in_parallel({check.name: check.run for check in checks}, timeout)
    refusals: dict[str, str] = {}
    for check in checks:
        answer = answers[check.name]
        if isinstance(answer, AccessDeniedError):
            finding = _refusal_finding(check, answer, answers, refusals)
        else:
            finding = _error_finding(check, answer, answers, facts) if isinstance(answer, Exception) else answer
        yield replace(finding, check=check.name)


def _refusal_finding(
    check: Check, exc: AccessDeniedError, answers: Mapping[str, Finding | Exception], refusals: dict[str, str]
) -> Finding:
    """Convert a refusal, which skips the check, and tell it once: ``refusals`` has the checks that told one."""
    server = answers.get(check.depends_on)
    if isinstance(server, Finding) and server.status == "fail" and exc.message in server.detail:
        return skip(f"see {check.depends_on}")
    first = refusals.setdefault(exc.message, check.name)
    return skip(exc.message if first == check.name else f"see {first}")


def _error_finding(check: Check, exc: Exception, answers: Mapping[str, Finding | Exception], facts: Facts) -> Finding:
    """Convert an exception of a check to a finding.

    An outage is reported once, by the check for that server. If that check is not selected or did not fail, this one
    reports it.
    """
    detail, reporter = str(exc), check.name
    if isinstance(exc, RedisUnavailableError):
        reporter = _REDIS
    elif isinstance(exc, AwsUnavailableError):
        reporter = _BACKUP
    elif isinstance(exc, SaltctlError | TimeoutError):
        reporter = check.depends_on or check.name
    else:
        detail = f"internal error, not a fault of your servers: {type(exc).__name__}: {exc}"
    reported = answers.get(reporter)
    if reporter != check.name and reported is not None and getattr(reported, "status", "") != "ok":
        return skip(f"see {reporter}")
    if isinstance(exc, ConfigurationError):
        fix = next(iter(commands_in(exc.hint)), facts.fix_commands.saltctl("config", "show"))
        sentences = [line for line in exc.hint.splitlines() if not is_command(line)]
        return fail(": ".join([detail, *sentences]), fix)
    return fail(detail, facts.fix_commands.saltctl("doctor", "--only", reporter))


def settings_error_findings(problem: ConfigurationError, checks: Sequence[Check] = CHECKS) -> Iterator[Finding]:
    """Yield the findings of all checks if the settings cannot be read."""
    fix = next(iter(commands_in(problem.hint)), "saltctl config path")
    for check in checks:
        finding = fail(problem.message, fix) if check.name == "settings" else skip("see settings")
        yield replace(finding, check=check.name)
