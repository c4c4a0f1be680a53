"""Hypothesis: no deadline on machines that do other things as well, and no files left behind."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("saltctl", deadline=None, database=None)
settings.load_profile("saltctl")
