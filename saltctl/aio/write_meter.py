"""The write meter for event loops: records are counted in memory, and only flush and close are awaited."""

from __future__ import annotations

from typing import Self

from saltctl.aio.home_loop import warn_unclosed
from saltctl.aio.threads import Threads
from saltctl.detection import write_meter as synchronous
from saltctl.detection.write_meter import MeterStats
from saltctl.settings import Settings, settings_or_loaded


class WriteMeter:
    """Counts writes per conversation in windows of one second: ``saltctl.WriteMeter``, for event loops.

    >>> async with aio.WriteMeter.open() as meter:                # doctest: +SKIP
    ...     meter.record("conv_abc123")

    The thread of the meter sends the reports, so that nothing waits for Redis on the loop. It may be used in any loop.

    Args:
        meter: the synchronous meter, which is closed with this one.
        redis_timeout: seconds that a report may take.
    """

    def __init__(self, meter: synchronous.WriteMeter, *, redis_timeout: float = 5.0) -> None:
        self._meter = meter
        self._threads = Threads(4, "saltctl-aio-meter", calls="reports", wait=2 * redis_timeout)
        if type(self).record is WriteMeter.record:  # unless a subclass has its own
            self.record = meter.record  # type: ignore[method-assign]  # the same, without a second call

    @classmethod
    def open(cls, settings: Settings | None = None, *, server: str | None = None) -> Self:
        """Return a meter that reports to the heat stream, as ``saltctl.WriteMeter.open`` does; it raises the same."""
        settings = settings_or_loaded(settings)
        return cls(synchronous.WriteMeter.open(settings, server=server), redis_timeout=settings.redis_timeout)

    @property
    def server(self) -> str:
        """The name of this meter in its reports."""
        return self._meter.server

    @property
    def stats(self) -> MeterStats:
        """Totals of this meter."""
        return self._meter.stats

    @property
    def last_failure(self) -> Exception | None:
        """The error for which the latest reports were not sent; None if they were."""
        return self._meter.last_failure

    def record(self, conversation_id: str, units: float = 1) -> None:
        """Count a write: ``saltctl.WriteMeter.record``. Never blocks and never fails."""
        self._meter.record(conversation_id, units)

    def throttled(self, error: object, conversation_id: str, *, n: int = 1) -> bool:
        """Report heat at once if an error says that a key range was throttled: ``saltctl.WriteMeter.throttled``."""
        return self._meter.throttled(error, conversation_id, n=n)

    async def flush(self) -> int:
        """Send the reports of all finished windows and of throttling. Return the number of reports sent."""
        return await self._threads.run(self._meter.flush)

    async def close(self) -> None:
        """Send all reports, including the current window, and stop the thread. A later record starts it again."""
        await self._threads.run(self._meter.close)

    async def __aenter__(self) -> Self:
        """Return the meter. It is closed at the end of the block."""
        return self

    async def __aexit__(self, *_: object) -> None:
        """Close the meter."""
        await self.close()

    def __del__(self) -> None:
        """Warn of a meter that was dropped while its thread goes on, so that its last reports may not be sent."""
        meter = getattr(self, "_meter", None)  # none if the constructor failed
        if meter is not None and meter.is_running:
            warn_unclosed("WriteMeter", self)
