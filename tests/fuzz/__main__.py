"""``python -m tests.fuzz --inputs 100000``: hostile input, as much as there is time for."""

from __future__ import annotations

import argparse
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.entry_points import ENTRY_POINTS, EntryPoint
from tests.fuzz.world import World

NO_CHECKS = list(HealthCheck)


def fuzz(world: World, point: EntryPoint, inputs: int, first: int, *, shrink: bool = True) -> int:
    """Feed ``inputs`` inputs to an entry point, from a seed on; how many were fed. Raises what an input breaks."""
    fed = 0
    phases = (Phase.generate, Phase.shrink) if shrink else (Phase.generate,)

    @seed(first)
    @settings(max_examples=inputs, deadline=None, database=None, phases=phases, suppress_health_check=NO_CHECKS)
    @given(st.data())
    def feed(data: st.DataObject) -> None:
        nonlocal fed
        fed += 1
        point(world, data)

    feed()
    return fed


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run it; 1 where an input broke something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, spread evenly")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=ENTRY_POINTS, action="append")
    options = parser.parse_args()
    chosen = options.only or list(ENTRY_POINTS)
    broken = 0
    _say(f"seed {options.seed}")
    with World() as world:
        for name in chosen:
            started = time.monotonic()
            try:
                fed = fuzz(world, ENTRY_POINTS[name], -(-options.inputs // len(chosen)), options.seed)
            except Exception as exc:  # whatever an input broke
                broken += 1
                _say("\n  ".join((f"{name}: BROKEN: {exc!r}", *getattr(exc, "__notes__", ()))))
            else:
                _say(f"{name}: {fed:,} inputs, {time.monotonic() - started:.0f} s")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
