"""``saltctl.aio.WriteMeter``: what is counted is reported, and only what sends is awaited."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from saltctl import aio
from saltctl.detection.write_meter import WriteMeter
from saltctl.stores.heat.report import HeatReport


class Sink:
    """Keeps reports once it is released."""

    def __init__(self) -> None:
        self.released = threading.Event()
        self.counts: dict[str, int] = {}

    def append_reports(self, reports: Sequence[HeatReport]) -> None:
        """Wait, and keep them."""
        assert self.released.wait(60)
        for report in reports:
            self.counts[report.conversation_id] = self.counts.get(report.conversation_id, 0) + report.writes


def test_records_are_counted_and_close_sends_them() -> None:
    """While a report waits for Redis, the loop goes on and records are counted."""
    sink = Sink()
    now = [1_800_000_000.25]

    async def count() -> None:
        meter = aio.WriteMeter(WriteMeter(sink, floor=1, clock=lambda: now[0], thread=False))
        async with meter:
            for _ in range(3):
                meter.record("conv")
            now[0] += 1
            flush = asyncio.create_task(meter.flush())
            await asyncio.sleep(0.01)
            assert not flush.done()
            meter.record("conv", 2)
            sink.released.set()
            assert await flush == 1
            assert (meter.stats.sent, meter.last_failure) == (1, None)
        assert meter.stats.sent == 2

    asyncio.run(count())
    assert sink.counts == {"conv": 5}


def test_a_cancelled_flush_loses_nothing() -> None:
    """It goes on in its thread, and close waits for it."""
    sink = Sink()
    now = [1_800_000_000.25]

    async def count() -> None:
        meter = aio.WriteMeter(WriteMeter(sink, floor=1, clock=lambda: now[0], thread=False))
        meter.record("conv")
        now[0] += 1
        flush = asyncio.create_task(meter.flush())
        await asyncio.sleep(0.01)
        flush.cancel()
        await asyncio.wait([flush])
        sink.released.set()
        await meter.close()

    asyncio.run(count())
    assert sink.counts == {"conv": 1}
