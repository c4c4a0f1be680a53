"""State that a job keeps in the backup, as a string by which an edit by hand is noticed."""

from __future__ import annotations

import hashlib
from typing import Protocol, TypeVar


class State(Protocol):
    """A dataclass that JSON can hold."""

    @property
    def is_plausible(self) -> bool:
        """Whether saltctl can have written these values."""
        ...


S = TypeVar("S", bound=State)


def encode(state: State) -> str:
    """Return the state as JSON, after the SHA-256 of that JSON."""
    import msgspec

    content: bytes = msgspec.json.encode(state)
    return f"{hashlib.sha256(content).hexdigest()} {content.decode()}"


def decode(encoded: str, of: type[S]) -> S:
    """Return the state. Raises ValueError if :func:`encode` cannot have returned this string."""
    import msgspec

    checksum, _, content = encoded.partition(" ")
    if hashlib.sha256(content.encode()).hexdigest() != checksum:
        raise ValueError("the checksum differs")
    state: S = msgspec.json.decode(content, type=of)
    if not state.is_plausible or encode(state) != encoded:
        raise ValueError("a value is not one that saltctl writes")
    return state
