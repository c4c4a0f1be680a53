"""One step of a drill."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Step:
    """What was done or checked, whether it went as promised, and the figures."""

    what: str
    ok: bool
    detail: str = ""
