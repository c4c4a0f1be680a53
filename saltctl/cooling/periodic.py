"""Cools idle conversations again and again, in a thread of the service. No step of it matters to detection."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from dataclasses import KW_ONLY, dataclass
from logging import ERROR, INFO, WARNING

from saltctl.cooling.cooling import Cooling, CoolingResult
from saltctl.cooling.idle import IdleSearch
from saltctl.detection.events import log_event
from saltctl.detection.failures import describe
from saltctl.errors import RefusedError, SaltctlError
from saltctl.registry.failures import is_outage

EVERY = 600.0
"""Seconds between two runs, about; each scans the backup twice."""
REASON = "idle"


@dataclass(eq=False)
class PeriodicCooling:
    """Seals what was begun, and narrows what was idle for ``idle`` seconds, about every ten minutes.

    Instances may run at the same time. ``note`` is called with the conversations that a run narrowed or sealed.
    """

    search: IdleSearch
    cooling: Cooling
    idle: float
    stop: threading.Event
    _: KW_ONLY
    every: float = EVERY
    note: Callable[[list[str]], None] = lambda _: None

    def run(self) -> None:
        """Run until ``stop`` is set. No exception ends it."""
        # Not all instances at the same moment.
        while not self.stop.wait(self.every * random.uniform(0.5, 1.5)):
            try:
                self.run_once()
            except Exception as exc:
                log_event(ERROR, "cooling_failed", **describe(exc))

    def run_once(self) -> list[CoolingResult]:
        """Take every conversation that waits or was idle one phase further; return what was changed.

        Raises:
            UnavailableError, AccessDeniedError, ConfigurationError: a server failed. The next run goes on.
        """
        done: list[CoolingResult] = []
        try:
            self._cool_all(self.search.unsealed(), done)
            try:
                idle = self.search.idle(self.idle)
            except RefusedError as exc:
                log_event(WARNING, "cooling_refused", why=exc.message)
            else:
                self._cool_all(idle, done)
        finally:
            if done:
                self.note([result.conversation_id for result in done])
        return done

    def _cool_all(self, targets: dict[str, int], done: list[CoolingResult]) -> None:
        for conversation_id, to in targets.items():
            if self.stop.is_set():
                return
            try:
                result = self.cooling.cool(conversation_id, to, reason=REASON)
            except SaltctlError as exc:
                if is_outage(exc):
                    raise
                log_event(WARNING, "not_cooled", conversation_id=conversation_id, **describe(exc))
                continue
            if result.changed:
                done.append(result)
                log_event(INFO, "cooled", conversation_id=conversation_id, phase=result.phase, n=to)
