"""saltctl for servers that run an event loop: the registry, the history and the write meter, awaited.

The names are those of ``saltctl``, with the same arguments, results, errors and deadlines::

    from saltctl import ReadOptions, aio

    async def serve() -> None:
        async with aio.History.open() as history, aio.WriteMeter.open() as meter:
            await history.put("conv_abc123", "2026-07-01T08:00:00Z#m1", {"text": "hello"})
            meter.record("conv_abc123")
            page = await history.page("conv_abc123", ReadOptions(limit=20))

A lookup runs on the event loop. What goes to AWS runs in a bounded number of threads, over the synchronous code: that
was measured against aiobotocore, and is as fast (``saltctl.aio.threads``). Open an object before the loop or in it:
that takes up to half a second. It belongs to the event loop that uses it first; a forked child starts anew. Close it:
without that its connections stay open until it is collected, with a ResourceWarning. Errors are in ``saltctl.errors``.

A coroutine that is cancelled ends at once. Its request may go on in a thread, until its own deadline: a cancelled
``put`` may or may not have written its message, and a cancelled raise goes on to its end, or stops between two steps
if the process ends. Both can be repeated.
"""

from __future__ import annotations

TYPE_CHECKING = False  # as in saltctl/__init__.py
if TYPE_CHECKING:
    from typing import Any

    from saltctl.aio.history import History
    from saltctl.aio.registry import Registry
    from saltctl.aio.write_meter import WriteMeter

_NAMES = {
    "History": "saltctl.aio.history",
    "Registry": "saltctl.aio.registry",
    "WriteMeter": "saltctl.aio.write_meter",
}
__all__ = ["History", "Registry", "WriteMeter"]

if not TYPE_CHECKING:  # a type checker would take any name for a public one

    def __getattr__(name: str) -> Any:
        """Load a public name from its module."""
        from importlib import import_module

        from saltctl.forks import importing

        if name in _NAMES:
            with importing:  # another thread may fork
                globals()[name] = getattr(import_module(_NAMES[name]), name)  # the next use waits for no lock
            return globals()[name]
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
