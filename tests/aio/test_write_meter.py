"""``saltctl.aio.WriteMeter``: what is counted is reported, and only what sends is awaited."""

from __future__ import annotations

import asyncio
import inspect
import threading
from collections.abc import Sequence
from unittest.mock import create_autospec

import pytest

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


def test_the_class_has_all_methods() -> None:
    """As a mock of it needs them, and help() shows them; a subclass may have its own record."""
    mock = create_autospec(aio.WriteMeter, instance=True)
    mock.record("conv", units=2)
    mock.throttled(ValueError(), "conv", n=4)
    with pytest.raises(TypeError, match="missing"):
        mock.record()
    for name in ("record", "throttled"):
        ours, its = (inspect.signature(getattr(kind, name)) for kind in (aio.WriteMeter, WriteMeter))
        assert ours == its
    recorded: list[str] = []

    class Own(aio.WriteMeter):
        def record(self, conversation_id: str, units: float = 1) -> None:
            recorded.append(conversation_id)
            super().record(conversation_id, units)

    inner = WriteMeter(Sink(), floor=1, clock=lambda: 0.25, thread=False)
    for meter in (Own(inner), aio.WriteMeter(inner)):
        meter.record("conv")
    assert not meter.throttled(ValueError(), "conv")
    assert recorded == ["conv"]


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
