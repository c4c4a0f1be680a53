"""Explore the protocol and its mutations, and print the verdicts: ``python -m tests.model [--thorough] [TEXT]``."""

from __future__ import annotations

import argparse
import sys
import time

from tests.model.cases import LIMITS, MUTATIONS, PROTOCOL, REDUNDANT, THOROUGH, THOROUGH_MUTATIONS
from tests.model.explore import explore


def main() -> int:
    """Explore every case whose name contains the argument; return 1 if a verdict is not the expected one."""
    parser = argparse.ArgumentParser(prog="python -m tests.model", description=__doc__)
    parser.add_argument("text", nargs="?", default="", help="only cases whose name contains this")
    parser.add_argument(
        "--thorough", action="store_true", help="also within wider bounds; takes about a quarter of an hour"
    )
    arguments = parser.parse_args()
    parts = {
        "The protocol": PROTOCOL,
        "The protocol, within wider bounds": THOROUGH if arguments.thorough else (),
        "Mutations": MUTATIONS + (THOROUGH_MUTATIONS if arguments.thorough else ()),
        "One half of the fence": REDUNDANT,
        "Known limits": LIMITS,
    }
    unexpected = 0
    for title, cases in parts.items():
        wanted = [case for case in cases if arguments.text in case.name]
        if wanted:
            print(f"\n{title}")  # noqa: T201  this program prints
        for case in wanted:
            started = time.perf_counter()
            verdict = explore(case)
            seconds = time.perf_counter() - started
            mismatch = "" if verdict.broken is case.expect else f"   EXPECTED: {case.expect or 'holds'}"
            unexpected += bool(mismatch)
            print(f"{verdict.states:>10,} states {seconds:6.1f} s  {case.name}: {verdict.broken or 'holds'}{mismatch}")  # noqa: T201
            for number, step in enumerate(verdict.path, 1):
                print(f"{number:>26}. {step}")  # noqa: T201
    return 1 if unexpected else 0


if __name__ == "__main__":
    sys.exit(main())
