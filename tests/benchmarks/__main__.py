"""``python -m tests.benchmarks [NAME...] [--quick] [--entries N]``."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

from tests.benchmarks import compare, detection, history, large, lookup, memory, rebuild, recover, sizes, startup, tail
from tests.benchmarks.report import Outcome

BENCHMARKS: dict[str, Callable[..., Outcome]] = {
    "compare": compare.run,
    "detection": detection.run,
    "history": history.run,
    "large": large.run,
    "lookup": lookup.run,
    "memory": memory.run,
    "rebuild": rebuild.run,
    "recover": recover.run,
    "sizes": sizes.run,
    "startup": startup.run,
    "tail": tail.run,
}
ONLY_BY_NAME = ("large",)
"""Benchmarks that run only if they are named: they take long, and gigabytes."""


def main() -> None:
    """Run the named benchmarks, or all but those of ONLY_BY_NAME, and print the tables of each as soon as it ends."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks", description=__doc__)
    parser.add_argument(
        "names", nargs="*", metavar="NAME", help=f"one of {', '.join(BENCHMARKS)}; all but large by default"
    )
    parser.add_argument(
        "--quick", action="store_true", help="small sizes: takes seconds, and the results are not reliable"
    )
    parser.add_argument("--entries", type=int, default=large.COUNT, help="entries of large; %(default)s by default")
    arguments = parser.parse_args()
    unknown = set(arguments.names) - set(BENCHMARKS)
    if unknown:
        parser.error(f"unknown benchmark: {', '.join(sorted(unknown))}")
    for name in arguments.names or [name for name in BENCHMARKS if name not in ONLY_BY_NAME]:
        started = time.monotonic()
        options = {"entries": arguments.entries} if name == "large" else {}
        for table in BENCHMARKS[name](quick=arguments.quick, **options).tables():
            sys.stdout.write(table.render() + "\n")
        sys.stdout.write(f"({name}: {time.monotonic() - started:.0f} s)\n\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
