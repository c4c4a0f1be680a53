"""The service cools by itself, if a setting says so: no failure ends its thread, and none stops the others."""

from __future__ import annotations

import threading
from typing import Any, cast

import pytest

from saltctl.cooling.cooling import CoolingResult
from saltctl.cooling.periodic import PeriodicCooling
from saltctl.errors import DamagedEntryError, RedisUnavailableError, RefusedError, SaltctlError


class Search:
    """Finds these conversations, or raises."""

    def __init__(self, unsealed: dict[str, int], idle: dict[str, int] | SaltctlError) -> None:
        self._unsealed, self._idle = unsealed, idle

    def unsealed(self) -> dict[str, int]:
        """Return those that wait to be sealed."""
        return self._unsealed

    def idle(self, seconds: float) -> dict[str, int]:
        """Return those that were idle for an hour."""
        assert seconds == 3600
        if isinstance(self._idle, SaltctlError):
            raise self._idle
        return self._idle


class Cooling:
    """Cools, or fails for some conversations; ``still`` need nothing."""

    def __init__(self, failures: dict[str, Exception], still: tuple[str, ...] = ()) -> None:
        self.failures, self.still, self.calls = failures, still, list[tuple[str, int]]()

    def cool(self, conversation_id: str, to: int, *, reason: str) -> CoolingResult:
        """Take it one phase further."""
        assert reason == "idle"
        self.calls.append((conversation_id, to))
        if conversation_id in self.failures:
            raise self.failures[conversation_id]
        changed = conversation_id not in self.still
        return CoolingResult(conversation_id, "narrowed", 8, to, 8, None, None, changed, "")


def job(search: Search, cooling: Cooling, **options: Any) -> tuple[PeriodicCooling, list[str]]:
    """Return a job, and what it notes."""
    noted: list[str] = []
    stop = options.pop("stop", threading.Event())
    made = PeriodicCooling(cast("Any", search), cast("Any", cooling), 3600.0, stop, note=noted.extend, **options)
    return made, noted


def test_what_was_begun_is_sealed_and_what_was_idle_is_narrowed() -> None:
    """One that cannot be cooled stops no other; what needs nothing is not named."""
    cooling = Cooling({"bad": DamagedEntryError("damaged")}, still=("waits",))
    periodic, noted = job(Search({"begun": 1, "waits": 1}, {"bad": 1, "idle": 2}), cooling)
    assert [result.conversation_id for result in periodic.run_once()] == ["begun", "idle"]
    assert cooling.calls == [("begun", 1), ("waits", 1), ("bad", 1), ("idle", 2)]
    assert noted == ["begun", "idle"]


def test_what_was_begun_is_sealed_even_if_nothing_is_known_to_be_idle(caplog: pytest.LogCaptureFixture) -> None:
    """The reason is logged."""
    periodic, noted = job(Search({"begun": 1}, RefusedError("reports may be lost")), Cooling({}))
    assert [result.conversation_id for result in periodic.run_once()] == ["begun"]
    assert noted == ["begun"]
    assert "cooling_refused" in caplog.text


def test_an_outage_ends_a_run_and_what_was_done_is_named() -> None:
    """The next run goes on."""
    periodic, noted = job(Search({"a": 1, "b": 1, "c": 1}, {}), Cooling({"b": RedisUnavailableError("down")}))
    with pytest.raises(RedisUnavailableError):
        periodic.run_once()
    assert noted == ["a"]


def test_no_exception_ends_the_thread(caplog: pytest.LogCaptureFixture) -> None:
    """An unforeseen one, too. It waits between runs, and ends when it is to stop."""

    class Stop:
        """Stops after three runs."""

        def __init__(self) -> None:
            self.waits: list[float] = []

        def wait(self, seconds: float) -> bool:
            """Return whether to stop."""
            self.waits.append(seconds)
            return len(self.waits) > 3

        def is_set(self) -> bool:
            """Return False: it does not stop within a run."""
            return False

    stop = Stop()
    cooling = Cooling({"a": ValueError("unforeseen")})
    periodic, _ = job(Search({"a": 1}, {}), cooling, stop=cast("Any", stop), every=600.0)
    periodic.run()
    assert len(cooling.calls) == 3
    assert all(300 <= seconds <= 900 for seconds in stop.waits)
    assert caplog.text.count("cooling_failed") == 3


def test_a_service_that_stops_begins_no_other() -> None:
    """SIGTERM ends it between two conversations."""
    stop = threading.Event()

    class Stopping(Cooling):
        def cool(self, conversation_id: str, to: int, *, reason: str) -> CoolingResult:
            """Stop meanwhile."""
            stop.set()
            return super().cool(conversation_id, to, reason=reason)

    cooling = Stopping({})
    periodic, _ = job(Search({"a": 1, "b": 1}, {}), cooling, stop=stop)
    periodic.run_once()
    assert cooling.calls == [("a", 1)]
