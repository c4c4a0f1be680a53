"""Reasons of the raises that repair a registry, so that a timeline does not take them for detections of heat."""

from __future__ import annotations

AUDITED = "audit: messages beyond max_n"
MENDED = "audit: damage repaired"
COMPARED = "compare --repair: Redis had more than the backup"
DISCOVERED = "registry discover"
IMPORTED = "registry import"
_RECOVERED = "recovered "
_REPAIRS = (AUDITED, MENDED, COMPARED, DISCOVERED, IMPORTED)


def recovered(source: str) -> str:
    """Return the reason of a raise by a recovery; the source is ``from Redis`` or ``from the messages``."""
    return _RECOVERED + source


def is_recovered(reason: str) -> bool:
    """Return whether a recovery made the raise."""
    return reason.startswith(f"{_RECOVERED}from ")


def is_repair(reason: str) -> bool:
    """Return whether the raise restored an N that was known before: by any other, the heat of a conversation was met.

    A reason that a person gave to the command that repairs is not recognised.
    """
    return is_recovered(reason) or reason in _REPAIRS
