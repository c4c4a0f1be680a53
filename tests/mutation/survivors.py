"""Mutants that no test has to notice. ``survivors.txt`` has their names, under the reason of each."""

from __future__ import annotations

from pathlib import Path

FILE = Path(__file__).with_name("survivors.txt")


def known_survivors() -> dict[str, str]:
    """Return the reasons by the mutants' names (``Mutant.key``)."""
    known: dict[str, str] = {}
    reason = ""
    for line in FILE.read_text(encoding="utf-8").splitlines():
        if line.startswith("# "):
            reason = line.removeprefix("# ")
        elif line:
            known[line] = reason
    return known
