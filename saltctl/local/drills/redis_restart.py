"""Redis is killed with SIGKILL under traffic and restarts (a) with its AOF, (b) without it, (c) with a damaged one.

Shown with figures: the source of lookups, that no read missed an acknowledged message, and how long it took
until Redis was verified again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

from saltctl.local.drills.drill import Step
from saltctl.local.drills.timeline import timeline
from saltctl.local.drills.traffic import OpenRegistry, Traffic
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry

CONVERSATIONS = 6
DAMAGED_BYTES = 60
Case = tuple[str, str, Callable[[LocalRedis], None]]
_CASES: tuple[Case, ...] = (
    ("a", "with its AOF", lambda redis: None),
    ("b", "with its AOF directory lost", LocalRedis.delete_aof),
    ("c", "with a damaged AOF tail", lambda redis: redis.truncate_aof(DAMAGED_BYTES)),
)


def run(*, open_registry: OpenRegistry = Registry.open) -> Iterator[Step]:
    """Run the scenario.

    Args:
        open_registry: how participants open their registry. Tests pass one without the fence, to prove that
            this drill can fail.
    """
    started = time.monotonic()
    with LocalEnvironment() as environment:
        environment.rebuild()
        yield Step(
            "a real Valkey with AOF and moto's DynamoDB run on loopback",
            True,
            f"ready in {time.monotonic() - started:.1f} s; {CONVERSATIONS} conversations",
        )
        conversations = [f"conv_drill_{number}" for number in range(CONVERSATIONS)]
        traffic = Traffic(environment.settings, conversations, open_registry)
        with Registry.open(environment.settings) as registry, traffic.running():
            traffic.wait()
            done = sum(traffic.raise_to(registry, conversation_id, 4) for conversation_id in conversations)
            traffic.wait()
            what = f"before: {done} conversations are raised to 4 salts under traffic"
            yield _check(traffic, what, "redis", ok=done == CONVERSATIONS)
            for case, raised, refused in zip(_CASES, conversations[:3], conversations[3:], strict=True):
                yield from _kill_and_restart(environment, traffic, registry, case, raised, refused)
        lost = traffic.read_all()
        yield Step(
            "afterwards every conversation is read once more",
            not lost,
            "; ".join(lost) or f"all {traffic.acknowledged:,} acknowledged messages are there",
        )
        yield timeline(environment, conversations)


def _kill_and_restart(
    environment: LocalEnvironment, traffic: Traffic, registry: Registry, case: Case, raised: str, refused: str
) -> Iterator[Step]:
    """Kill Redis right after a raise of ``raised``, restart it, and rebuild; ``refused`` is to be raised meanwhile."""
    letter, state, damage = case
    # A raise right before the kill is within the second of AOF that everysec may lose.
    traffic.raise_to(registry, raised, 8)
    traffic.pop_stats()
    environment.redis.kill()
    traffic.wait()
    acknowledged = traffic.raise_to(registry, refused, 8)
    what = f"({letter}) killed with SIGKILL, right after a raise of {raised} to 8"
    outcome = "acknowledged without Redis" if acknowledged else "refused as incomplete, not acknowledged"
    more = f"; a raise during the outage was {outcome}"
    yield _check(traffic, what, "backup", ok=not acknowledged, more=more)
    damage(environment.redis)
    environment.redis.start()
    yield from _recover(environment, traffic, letter, state)


def _recover(environment: LocalEnvironment, traffic: Traffic, letter: str, state: str) -> Iterator[Step]:
    """Check lookups before and after a rebuild of the Redis that has just restarted."""
    restarted = time.monotonic()
    traffic.wait()
    # Every conversation is read, not only those that participants happen to read: each has lost an entry.
    traffic.read_all(errors_allowed=True)
    yield _check(traffic, f"({letter}) restarted {state}: not trusted, lookups use the backup", "backup")
    began = time.monotonic()
    environment.rebuild()
    verified = time.monotonic()
    # Breakers close within twice breaker_seconds; only then do all lookups use Redis.
    time.sleep(2 * environment.settings.breaker_seconds)
    no_violation = not traffic.pop_stats().violations
    traffic.wait()
    what = (
        f"({letter}) rebuilt from the backup in {verified - began:.2f} s, "
        f"verified {verified - restarted:.2f} s after its restart"
    )
    yield _check(traffic, what, "redis", ok=no_violation)


def _check(traffic: Traffic, what: str, source: str, *, ok: bool = True, more: str = "") -> Step:
    """Check the promise since the last check: no lookup below an acknowledged N, no acknowledged message missing.

    Also check the source of lookups: all must come from Redis, or at least one from the backup.
    """
    stats = traffic.pop_stats()
    ok &= stats.enough and not stats.violations and (stats.lookups["backup"] > 0) == (source == "backup")
    return Step(what, ok, stats.figures + more)
