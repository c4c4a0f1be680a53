"""Doctor: one function for each check, all of them at once, and none that can take the others down."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from difflib import get_close_matches

from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    RedisUnavailableError,
    SaltctlError,
    UsageError,
)
from saltctl.health.checks import access as access_checks
from saltctl.health.checks import dynamodb as table_checks
from saltctl.health.checks import redis as redis_checks
from saltctl.health.checks import registry as drift_checks
from saltctl.health.checks import stream as stream_checks
from saltctl.health.checks import throttling as throttle_checks
from saltctl.health.facts import Facts
from saltctl.health.findings import CheckResult, Finding, fail, skip
from saltctl.health.parallel import call_in_parallel

TIMEOUT_SECONDS = 10.0
"""Seconds for all checks together; each request has two, and most of them run at once."""


@dataclass(frozen=True, slots=True)
class Check:
    """One check. Where it cannot be made, ``needs`` names the check that fails for the same reason."""

    name: str
    run: Callable[[Facts], Finding]
    needs: str = ""

    @property
    def about(self) -> str:
        """What is true where all is well."""
        return (self.run.__doc__ or "").splitlines()[0]


_REDIS, _BACKUP = "redis-reachable", "backup-table"
CHECKS: tuple[Check, ...] = (
    Check("settings", access_checks.settings),
    Check("redis-reachable", redis_checks.reachable),
    Check("redis-version", redis_checks.version, _REDIS),
    Check("redis-tls", redis_checks.tls, _REDIS),
    Check("redis-role", redis_checks.role, _REDIS),
    Check("redis-eviction", redis_checks.eviction, _REDIS),
    Check("redis-memory", redis_checks.memory, _REDIS),
    Check("redis-aof", redis_checks.aof, _REDIS),
    Check("redis-fsync", redis_checks.fsync, _REDIS),
    Check("redis-persistence", redis_checks.persistence, _REDIS),
    Check("redis-min-replicas", redis_checks.min_replicas, _REDIS),
    Check("redis-verified", redis_checks.verified, _REDIS),
    Check("redis-permissions", access_checks.redis_permissions, _REDIS),
    Check("redis-clock", redis_checks.clock, _REDIS),
    Check("backup-table", table_checks.backup_table),
    Check("backup-layout", redis_checks.layout, _BACKUP),
    Check("backup-recovery", table_checks.backup_recovery, _BACKUP),
    Check("backup-protection", table_checks.backup_protection, _BACKUP),
    Check("backup-billing", table_checks.backup_billing, _BACKUP),
    Check("backup-replication", table_checks.backup_replication, _BACKUP),
    Check("messages-table", table_checks.messages_table),
    Check("aws-permissions", table_checks.permissions, _BACKUP),
    Check("aws-clock", table_checks.clock, _BACKUP),
    Check("lease", table_checks.lease, _BACKUP),
    Check("stream-group", stream_checks.group, _REDIS),
    Check("stream-consumers", stream_checks.consumers, _REDIS),
    Check("stream-lag", stream_checks.lag, _REDIS),
    Check("stream-dead-letters", stream_checks.dead_letters, _REDIS),
    Check("throttles", throttle_checks.throttles, "messages-table"),
    Check("drift", drift_checks.drift, "backup-layout"),
)


def select_checks(names: Iterable[str], checks: Sequence[Check] = CHECKS) -> list[Check]:
    """The checks of these names, in their own order; all where none is named. ``redis`` is all of ``redis-…``.

    Raises:
        UsageError: a name is unknown; the hint has those that are like it.
    """
    wanted = list(names)
    groups = {check.name.split("-")[0] for check in checks}
    known = [*dict.fromkeys([*(check.name for check in checks), *sorted(groups)])]
    for name in wanted:
        if name not in known:
            close = get_close_matches(name, known, 3, 0.5)
            raise UsageError(
                f"there is no check {name!r}",
                hint=f"did you mean {' or '.join(close)}?" if close else f"checks: {', '.join(known)}",
            )
    return [check for check in checks if not wanted or check.name in wanted or check.name.split("-")[0] in wanted]


def run_checks(
    facts: Facts, checks: Sequence[Check] = CHECKS, *, timeout: float = TIMEOUT_SECONDS
) -> Iterator[CheckResult]:
    """Make the checks, all at once, and yield what each found, in their order."""
    names = {check.name for check in checks}
    found: dict[str, Finding] = {}
    for name, answer in call_in_parallel({check.name: _bound(check, facts) for check in checks}, timeout):
        found[name] = answer if isinstance(answer, Finding) else _unanswered(_of(checks, name), answer, names, facts)
    for check in checks:
        finding = found[check.name]
        yield CheckResult(check.name, finding.status, finding.detail, finding.fix, finding.measures)


def _bound(check: Check, facts: Facts) -> Callable[[], Finding]:
    return lambda: check.run(facts)


def _of(checks: Sequence[Check], name: str) -> Check:
    return next(check for check in checks if check.name == name)


def _unanswered(check: Check, exc: Exception, asked: set[str], facts: Facts) -> Finding:
    """What a check is worth that ended with an exception.

    An outage is told once, by the check that is about it. Where that one was not asked for, this one must not
    pass over it in silence.
    """
    again = facts.fix_commands.saltctl("doctor", "--only", check.name)
    if isinstance(exc, AccessDeniedError):
        return skip(exc.message)
    if isinstance(exc, SaltctlError | TimeoutError):
        cause = _cause(check, exc)
        if cause in asked:
            return skip(f"see {cause}")
        message = exc.message if isinstance(exc, SaltctlError) else str(exc)
        return fail(message, facts.fix_commands.saltctl("doctor", "--only", cause) if cause else again)
    detail = f"a defect of saltctl's own, which says nothing about your servers: {type(exc).__name__}: {exc}"
    return fail(detail, again)


def _cause(check: Check, exc: Exception) -> str:
    """The check that is about this outage."""
    if isinstance(exc, RedisUnavailableError):
        cause = _REDIS
    elif isinstance(exc, AwsUnavailableError):
        cause = _BACKUP
    else:
        cause = check.needs
    return "" if cause == check.name else cause


def settings_error_results(problem: ConfigurationError, checks: Sequence[Check] = CHECKS) -> Iterator[CheckResult]:
    """The results where the settings cannot even be read."""
    for check in checks:
        if check.name == "settings":
            fix = problem.hint if problem.hint.startswith("saltctl ") else "saltctl config path"
            yield CheckResult(check.name, "fail", problem.message, fix, {})
        else:
            yield CheckResult(check.name, "skip", "see settings", "", {})
