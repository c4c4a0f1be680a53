"""Redis is killed with SIGKILL under traffic and restarts (a) with its AOF, (b) without it, (c) with a damaged one.

Shown with figures: the source of lookups, that no read missed an acknowledged message, and how long it took
until Redis was verified again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saltctl.local.drills.drill import Step
from saltctl.local.drills.traffic import OpenRegistry, Traffic, TrafficStats
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry

CONVERSATIONS = 6
DAMAGED_BYTES = 60
PHASE_READS = 6
PHASE_LOOKUPS = 40
"""The least that participants do before the next failure: every conversation is read."""


@dataclass(frozen=True, slots=True)
class _Case:
    letter: str
    name: str
    damage: Callable[[LocalEnvironment], None]


_CASES = (
    _Case("a", "with its AOF", lambda environment: None),
    _Case("b", "with its AOF directory lost", lambda environment: environment.redis.delete_aof()),
    _Case("c", "with a damaged AOF tail", lambda environment: environment.redis.truncate_aof(DAMAGED_BYTES)),
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
        settings = environment.settings
        conversations = [f"conv_drill_{number}" for number in range(CONVERSATIONS)]
        traffic = Traffic(settings, conversations, open_registry)
        with Registry.open(settings) as registry:
            yield Step(
                "a real Valkey with AOF and moto's DynamoDB run on loopback",
                True,
                f"ready in {time.monotonic() - started:.1f} s; {CONVERSATIONS} conversations",
            )
            traffic.start()
            try:
                yield from _before(traffic, registry, conversations)
                for number, case in enumerate(_CASES):
                    raised, refused = conversations[number], conversations[number - len(_CASES)]
                    yield from _kill_and_restart(environment, traffic, registry, case, raised, refused)
            finally:
                traffic.stop()
            lost = traffic.read_all()
            yield Step(
                "afterwards every conversation is read once more",
                not lost,
                "; ".join(lost) or f"all {traffic.acknowledged:,} acknowledged messages are there",
            )


def _before(traffic: Traffic, registry: Registry, conversations: list[str]) -> Iterator[Step]:
    _run_traffic(traffic)
    raised = sum(traffic.raise_to(registry, conversation_id, 4) for conversation_id in conversations)
    _run_traffic(traffic)
    stats = traffic.pop_stats()
    yield Step(
        f"before: {raised} conversations are raised to 4 salts under traffic",
        raised == len(conversations) and _promise_kept(stats) and stats.lookups["backup"] == 0,
        _figures(stats),
    )


def _kill_and_restart(
    environment: LocalEnvironment, traffic: Traffic, registry: Registry, case: _Case, raised: str, refused: str
) -> Iterator[Step]:
    """Kill Redis right after a raise of ``raised``, restart it, and rebuild; ``refused`` is to be raised meanwhile."""
    # A raise right before the kill is within the second of AOF that everysec may lose.
    traffic.raise_to(registry, raised, 8)
    traffic.pop_stats()
    environment.redis.kill()
    yield _while_down(traffic, registry, case, raised, refused)
    case.damage(environment)
    environment.redis.start()
    restarted = time.monotonic()
    yield _while_unverified(traffic, case)
    began = time.monotonic()
    environment.rebuild()
    verified = time.monotonic()
    yield _after_rebuild(
        traffic,
        environment.settings.breaker_seconds,
        f"({case.letter}) rebuilt from the backup in {verified - began:.2f} s, "
        f"verified {verified - restarted:.2f} s after its restart",
    )


def _while_down(traffic: Traffic, registry: Registry, case: _Case, raised: str, refused: str) -> Step:
    _run_traffic(traffic)
    acknowledged = traffic.raise_to(registry, refused, 8)
    stats = traffic.pop_stats()
    return Step(
        f"({case.letter}) killed with SIGKILL, right after a raise of {raised} to 8",
        _promise_kept(stats) and stats.lookups["backup"] > 0 and not acknowledged,
        f"{_figures(stats)}; a raise during the outage was "
        + ("acknowledged without Redis" if acknowledged else "refused as incomplete, not acknowledged"),
    )


def _while_unverified(traffic: Traffic, case: _Case) -> Step:
    _run_traffic(traffic)
    # Every conversation is read, not only those that participants happen to read: each has lost an entry.
    traffic.read_all(errors_allowed=True)
    stats = traffic.pop_stats()
    return Step(
        f"({case.letter}) restarted {case.name}: not trusted, lookups use the backup",
        _promise_kept(stats) and stats.lookups["backup"] > 0,
        _figures(stats),
    )


def _after_rebuild(traffic: Traffic, breaker_seconds: float, what: str) -> Step:
    # Breakers close within breaker_seconds; only then do all lookups use Redis.
    time.sleep(breaker_seconds)
    between = traffic.pop_stats()
    _run_traffic(traffic)
    stats = traffic.pop_stats()
    no_violation = not between.wrong_lookups and not between.missing and _promise_kept(stats)
    return Step(what, no_violation and stats.lookups["redis"] > 0 and stats.lookups["backup"] == 0, _figures(stats))


def _run_traffic(traffic: Traffic) -> None:
    traffic.wait_for(reads=PHASE_READS, lookups=PHASE_LOOKUPS)


def _promise_kept(stats: TrafficStats) -> bool:
    """Return whether the promise was kept: no lookup below an acknowledged N, no acknowledged message missing."""
    # A check without enough traffic shows nothing.
    exercised = stats.reads >= PHASE_READS and stats.lookups.total() >= PHASE_LOOKUPS
    return exercised and not stats.wrong_lookups and not stats.missing


def _figures(stats: TrafficStats) -> str:
    parts = [
        f"lookups: {stats.lookups['redis']:,} from redis, {stats.lookups['backup']:,} from the backup, "
        f"{len(stats.wrong_lookups)} wrong, slowest {stats.slowest_lookup * 1000:.0f} ms",
        f"complete reads: {stats.reads:,} with {stats.messages_read:,} messages, {len(stats.missing)} incomplete",
    ]
    if stats.errors:
        parts.append("errors: " + ", ".join(f"{code} {count}" for code, count in sorted(stats.errors.items())))
    parts += stats.wrong_lookups[:1] + stats.missing[:1]
    return "\n".join(parts)
