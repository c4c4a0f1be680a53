"""``python -m tests.benchmarks [NAME...] [--quick]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.benchmarks import compare, detection, history, lookup, memory, rebuild, recover, sizes, startup, tail
from tests.benchmarks.report import Outcome

BENCHMARKS: dict[str, Callable[..., Outcome]] = {
    "compare": compare.run,
    "detection": detection.run,
    "history": history.run,
    "lookup": lookup.run,
    "memory": memory.run,
    "rebuild": rebuild.run,
    "recover": recover.run,
    "sizes": sizes.run,
    "startup": startup.run,
    "tail": tail.run,
}


def main() -> None:
    """Run the named benchmarks, or all, and print the tables of each as soon as it ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all by default")
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: takes seconds, and the results are not reliable"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    for name in arguments.names or BENCHMARKS:
        started = time.monotonic()
        for table in BENCHMARKS[name](quick=arguments.quick).tables():
            sys.stdout.write(table.render() + "\n")
        sys.stdout.write(f"({name}: {time.monotonic() - started:.0f} s)\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
