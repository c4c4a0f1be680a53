"""The conversations that the canary writes. They are fixed, so that every run on every host finds what others wrote."""

from __future__ import annotations

RESERVED_PREFIX = "saltctl-canary-"
"""Prefix of the reserved conversation ids, and of all their partition keys."""
RESERVED: tuple[str, ...] = tuple(f"{RESERVED_PREFIX}{number}" for number in range(1, 7))
"""The reserved conversation ids."""
BOUND = 8
"""The largest N to which the canary raises them. Every read costs as many queries; a larger one shows no more."""
