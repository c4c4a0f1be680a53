"""The test vectors of the protocol, which clients in other languages use, too: a JSON file in this package."""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any

ANSWER = ("max_n", "write_n", "recent_n", "boundary")
"""The keys of a vector that are the answer to a lookup; one that is ``refused`` has none."""


def vectors_text() -> str:
    """Return the vectors as JSON text. Their key ``about`` explains each list."""
    return files("saltctl.conformance").joinpath("vectors.json").read_text(encoding="utf-8")


def vectors(name: str) -> list[dict[str, Any]]:
    """Return one list of the vectors."""
    found: list[dict[str, Any]] = json.loads(vectors_text())[name]
    return found
