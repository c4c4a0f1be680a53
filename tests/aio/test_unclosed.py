"""Objects that are dropped without ``close`` warn, as sockets and other clients of event loops do."""

from __future__ import annotations

import asyncio
import gc
import warnings
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from saltctl import aio
from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import SaltctlError
from saltctl.settings import Settings
from saltctl.testing import MemoryServers

SETTINGS = Settings(redis_url="redis://127.0.0.1:1", registry_id="feed0123456789ab", aws_region="eu-central-1")
Use = Callable[[Any], Awaitable[object]]


class _Sink:
    def append_reports(self, _: object) -> None:
        """Take them."""


METER = WriteMeter(_Sink())


async def _enter(opened: aio.Registry | aio.History) -> None:
    """Use it for the first time."""
    await opened.__aenter__()


async def _record(meter: aio.WriteMeter) -> None:
    meter.record("conv")


OBJECTS: dict[str, tuple[Callable[[], Any], Use]] = {
    "Registry": (lambda: aio.Registry.open(SETTINGS), _enter),
    "History": (lambda: aio.History.open(SETTINGS), _enter),
    "WriteMeter": (lambda: aio.WriteMeter(METER), _record),
}
"""How each class is opened, and used for the first time."""


def warned(open_: Callable[[], Any], *uses: Use) -> list[str]:
    """Return the warnings of an object that is dropped after these uses."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always")

        async def use() -> None:
            opened = open_()
            for each in uses:
                await each(opened)

        asyncio.run(use())
        gc.collect()
    return [str(warning.message) for warning in found if warning.category is ResourceWarning]


@pytest.mark.parametrize("name", OBJECTS)
def test_an_object_that_is_dropped_warns(name: str) -> None:
    """If it was used and not closed; the warning names the class."""
    open_, use = OBJECTS[name]
    assert warned(open_, use) == [f"unclosed saltctl.aio.{name}: await its close()"]
    METER.close()
    assert warned(open_) == []
    assert warned(open_, use, lambda opened: opened.close()) == []


def test_objects_in_memory_need_no_close() -> None:
    """They have no connections, so that a test of an application may just drop them."""

    async def use(servers: MemoryServers) -> None:
        assert (await servers.aio_history.page("conv")).complete

    assert warned(MemoryServers, use) == []


def test_an_object_that_could_not_be_opened_does_not_warn() -> None:
    """Nor does its finalizer fail."""
    with pytest.raises(SaltctlError):
        aio.WriteMeter.open(Settings())
    with pytest.raises(TypeError):
        aio.WriteMeter()  # type: ignore[call-arg]
    gc.collect()
