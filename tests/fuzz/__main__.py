"""``python -m tests.fuzz --inputs 100000``: hostile input, as much as there is time for."""

from __future__ import annotations

import argparse
import os
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.entry_points import ENTRY_POINTS, EntryPoint
from tests.fuzz.world import World

NO_CHECKS = list(HealthCheck)
PHASES = (Phase.generate, Phase.shrink)


def fuzz(world: World, point: EntryPoint, inputs: int, first: int) -> int:
    """Feed ``inputs`` inputs to an entry point, from a seed on; how many were fed. Raises what an input breaks."""
    fed = 0

    @seed(first)
    @settings(max_examples=inputs, deadline=None, database=None, phases=PHASES, suppress_health_check=NO_CHECKS)
    @given(st.data())
    def feed(data: st.DataObject) -> None:
        nonlocal fed
        fed += 1
        point(world, data)

    feed()
    return fed


def fuzz_by_coverage(world: World, point: EntryPoint, inputs: int, first: int) -> int:
    """The same, led by what code an input reaches: by atheris, where that is installed. 0 where nothing broke."""

    @settings(deadline=None, database=None, suppress_health_check=NO_CHECKS)
    @given(st.data())
    def feed(data: st.DataObject) -> None:
        point(world, data)

    child = os.fork()  # atheris ends its process, and the servers are to be ended by this one
    if child == 0:
        import atheris

        atheris.instrument_all()
        # Long inputs from the start: an input is a sequence of choices, and the first bytes alone make none.
        options = [f"-runs={inputs}", f"-seed={first}", "-len_control=0", "-max_len=2048", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options], feed.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
        atheris.Fuzz()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run it; 1 where an input broke something."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=10_000, help="in all, spread evenly")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=ENTRY_POINTS, action="append")
    parser.add_argument("--atheris", choices=ENTRY_POINTS, help="one entry point, led by coverage")
    options = parser.parse_args()
    if options.atheris:
        with World() as world:
            return fuzz_by_coverage(world, ENTRY_POINTS[options.atheris], options.inputs, options.seed)
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
