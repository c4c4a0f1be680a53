"""The test vectors of the protocol, which clients in other languages use, too: a JSON file in this package."""

from __future__ import annotations

from importlib.resources import files


def vectors_text() -> str:
    """Return the vectors as JSON text. Their key ``about`` explains each list."""
    return files("saltctl.conformance").joinpath("vectors.json").read_text(encoding="utf-8")
