"""``python -m tests.fuzz --inputs 100000``: a long run with hostile input."""

from __future__ import annotations

import argparse
import os
import sys
import time

from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

from tests.fuzz.command_runner import CommandRunner
from tests.fuzz.entry_points import ENTRY_POINTS, EntryPoint

NO_CHECKS = list(HealthCheck)
PHASES = (Phase.generate, Phase.shrink)


def fuzz(runner: CommandRunner, point: EntryPoint, inputs: int, first: int) -> int:
    """Feed ``inputs`` inputs, drawn from a seed, to an entry point; return their number.

    Raises the error of an input that the entry point does not handle as documented.
    """
    fed = 0

    @seed(first)
    @settings(max_examples=inputs, deadline=None, database=None, phases=PHASES, suppress_health_check=NO_CHECKS)
    @given(st.data())
    def feed(data: st.DataObject) -> None:
        nonlocal fed
        fed += 1
        point(runner, data)

    feed()
    return fed


def fuzz_by_coverage(runner: CommandRunner, point: EntryPoint, inputs: int, first: int) -> int:
    """Feed inputs guided by coverage, with atheris; return 0 if the commands handled all of them."""

    @settings(deadline=None, database=None, suppress_health_check=NO_CHECKS)
    @given(st.data())
    def feed(data: st.DataObject) -> None:
        point(runner, data)

    child = os.fork()  # atheris ends its process, and this process has to stop the servers
    if child == 0:
        import atheris

        atheris.instrument_all()
        # Long inputs from the start: an input is a sequence of choices, and a few bytes are not enough for one.
        options = [f"-runs={inputs}", f"-seed={first}", "-len_control=0", "-max_len=2048", "-verbosity=0"]
        atheris.Setup([sys.argv[0], *options], feed.hypothesis.fuzz_one_input)  # type: ignore[attr-defined]
        atheris.Fuzz()
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main() -> int:
    """Run the fuzzer; return 1 if an input was not handled as documented."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz")
    parser.add_argument("--inputs", type=int, default=10_000, help="the number of inputs for all entry points together")
    parser.add_argument("--seed", type=int, default=int(time.time()))
    parser.add_argument("--only", choices=ENTRY_POINTS, action="append")
    parser.add_argument("--atheris", choices=ENTRY_POINTS, help="fuzz one entry point, guided by coverage")
    options = parser.parse_args()
    if options.atheris:
        with CommandRunner() as runner:
            return fuzz_by_coverage(runner, ENTRY_POINTS[options.atheris], options.inputs, options.seed)
    chosen = options.only or list(ENTRY_POINTS)
    failed = 0
    _print(f"seed {options.seed}")
    with CommandRunner() as runner:
        for name in chosen:
            started = time.monotonic()
            try:
                fed = fuzz(runner, ENTRY_POINTS[name], -(-options.inputs // len(chosen)), options.seed)
            except Exception as exc:  # any error that an input causes
                failed += 1
                _print("\n  ".join((f"{name}: FAILED: {exc!r}", *getattr(exc, "__notes__", ()))))
            else:
                _print(f"{name}: {fed:,} inputs, {time.monotonic() - started:.0f} s")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
