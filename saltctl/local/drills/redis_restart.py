"""Redis is killed with SIGKILL under traffic and comes back (a) with its AOF, (b) without, (c) damaged.

Shown with figures: what lookups answered and from where, that no acknowledged message was missing from any
read, and how long it took until Redis was verified again.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from saltctl.local.drills.drill import Step
from saltctl.local.drills.traffic import OpenRegistry, Tally, Traffic
from saltctl.local.environment import LocalEnvironment
from saltctl.registry.registry import Registry

CONVERSATIONS = 6
DAMAGED_BYTES = 60
PHASE_READS = 6
PHASE_LOOKUPS = 40
"""What participants do at least in each phase before the next thing breaks: every conversation is read."""


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
        open_registry: how participants open their registry; tests hand in one without its fence, to prove
            that this drill can fail.
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
                yield from _calm_before(traffic, registry, conversations)
                for number, case in enumerate(_CASES):
                    yield from _kill_and_return(environment, traffic, registry, conversations, case, number)
            finally:
                traffic.stop()
            lost = traffic.read_all()
            yield Step(
                "afterwards every conversation is read once more",
                not lost,
                "; ".join(lost) or f"all {traffic.acknowledged:,} acknowledged messages are there",
            )


def _calm_before(traffic: Traffic, registry: Registry, conversations: list[str]) -> Iterator[Step]:
    _phase(traffic)
    raised = sum(traffic.raise_to(registry, conversation_id, 4) for conversation_id in conversations)
    _phase(traffic)
    tally = traffic.take()
    yield Step(
        f"before: {raised} conversations are raised to 4 salts under traffic",
        raised == len(conversations) and _kept(tally) and tally.lookups["backup"] == 0,
        _figures(tally),
    )


def _kill_and_return(
    environment: LocalEnvironment,
    traffic: Traffic,
    registry: Registry,
    conversations: list[str],
    case: _Case,
    number: int,
) -> Iterator[Step]:
    # A raise right before the kill: within the second of AOF that everysec may lose.
    target = conversations[number]
    traffic.raise_to(registry, target, 8)
    traffic.take()
    environment.redis.kill()
    _phase(traffic)
    refused = not traffic.raise_to(registry, conversations[number - len(_CASES)], 8)
    tally = traffic.take()
    yield Step(
        f"({case.letter}) killed with SIGKILL, right after a raise of {target} to 8",
        _kept(tally) and tally.lookups["backup"] > 0 and refused,
        f"{_figures(tally)}; a raise meanwhile was "
        + ("refused as incomplete, not acknowledged" if refused else "acknowledged without Redis"),
    )
    case.damage(environment)
    environment.redis.start()
    returned = time.monotonic()
    _phase(traffic)
    # Each of them, beside what chance has the participants read: all have lost something, if this one is believed.
    traffic.read_all(errors_allowed=True)
    tally = traffic.take()
    yield Step(
        f"({case.letter}) back {case.name}: it answers, and is not believed",
        _kept(tally) and tally.lookups["backup"] > 0,
        _figures(tally),
    )
    began = time.monotonic()
    environment.rebuild()
    verified = time.monotonic()
    # Breakers close again within breaker_seconds; only then do all lookups come from Redis.
    time.sleep(environment.settings.breaker_seconds)
    between = traffic.take()
    _phase(traffic)
    tally = traffic.take()
    yield Step(
        f"({case.letter}) rebuilt from the backup in {verified - began:.2f} s, "
        f"verified {verified - returned:.2f} s after its return",
        not between.wrong_lookups
        and not between.missing
        and _kept(tally)
        and tally.lookups["redis"] > 0
        and tally.lookups["backup"] == 0,
        _figures(tally),
    )


def _phase(traffic: Traffic) -> None:
    traffic.wait(reads=PHASE_READS, lookups=PHASE_LOOKUPS)


def _kept(tally: Tally) -> bool:
    """The promise: no lookup below what was acknowledged, and no acknowledged message missing from a read."""
    return not tally.wrong_lookups and not tally.missing and _busy(tally)


def _busy(tally: Tally) -> bool:
    """Whether the phase saw traffic at all: a check that nobody put to the test shows nothing."""
    return tally.reads >= PHASE_READS and tally.lookups.total() >= PHASE_LOOKUPS


def _figures(tally: Tally) -> str:
    parts = [
        f"lookups: {tally.lookups['redis']:,} from redis, {tally.lookups['backup']:,} from the backup, "
        f"{len(tally.wrong_lookups)} wrong, slowest {tally.slowest_lookup * 1000:.0f} ms",
        f"complete reads: {tally.reads:,} with {tally.messages_read:,} messages, {len(tally.missing)} incomplete",
    ]
    if tally.errors:
        parts.append("errors: " + ", ".join(f"{code} {count}" for code, count in sorted(tally.errors.items())))
    parts += tally.wrong_lookups[:1] + tally.missing[:1]
    return "\n".join(parts)
