"""The canary: writes, raises, cools and reads the reserved conversations from this host, and judges the answers."""

from __future__ import annotations

from typing import Self

from saltctl.canary.report import CHECK_NAMES, CanaryReport, Check
from saltctl.settings import Settings


class Canary:
    """Checks the promise on the reserved conversations, in one round or many. Close it, or use it in a ``with``."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    @classmethod
    def open(cls, settings: Settings) -> Self:
        """Return a canary with these settings. Connects to no server.

        Raises ConfigurationError if a setting is missing or does not allow the rounds.
        """
        settings.require_redis_url()
        return cls(settings)

    def run(self) -> CanaryReport:
        """Run one round.

        An outage is not an error: the checks that it prevents are reported as not judged. Raises AccessDeniedError or
        ConfigurationError if a round cannot begin.
        """
        return CanaryReport([Check(name, None, "not checked") for name in CHECK_NAMES], seconds=0.0)

    def close(self) -> None:
        """Close the connections."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
