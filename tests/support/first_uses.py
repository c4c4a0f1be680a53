"""``python -m tests.support.first_uses``: use each public class for the first time, and print unguarded imports.

A thread uses them, as a server does whose main thread forks. An import that does not hold ``saltctl.forks.importing``
may be in progress at a fork, and its module can then never be imported in the child.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Sequence
from dataclasses import replace
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType

import saltctl
import saltctl.aio
from saltctl.forks import importing

CONVERSATION = "conv_first"


class Watch(MetaPathFinder):
    """Finds nothing, and prints what is imported without the lock, and where."""

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Print an import."""
        guarded = importing._is_owned()  # type: ignore[attr-defined]  # noqa: SLF001  by this thread
        if threading.current_thread() is not threading.main_thread() and not guarded:
            where = [f"{frame.filename}:{frame.lineno}" for frame in traceback.extract_stack()[:-1]]
            print(name, *[line for line in where if "importlib" not in line][-3:])  # noqa: T201
        return None


def use_all() -> None:
    """Look up, raise, write, read, find and count; over an address, and over a name."""
    with saltctl.Registry.open() as registry, saltctl.History.open(registry=registry) as history:
        registry.raise_to(CONVERSATION, 2, reason="test")
        registry.lookup_many([CONVERSATION, "another"])
        history.put(CONVERSATION, "2026-07-01T08:00:00Z#m1", {"text": "hello"})
        assert len(history.page(CONVERSATION, saltctl.ReadOptions(limit=20)).messages) == 1
        assert history.find(CONVERSATION, "m1") is not None
    with saltctl.WriteMeter.open() as meter:
        meter.record(CONVERSATION, 1_000_000)
    settings = saltctl.load_settings()
    assert settings.redis_url is not None
    by_name = replace(settings, redis_url=settings.redis_url.replace("127.0.0.1", "localhost"))
    with saltctl.Registry.open(by_name) as registry:
        registry.lookup(CONVERSATION)


async def await_all() -> None:
    """The same over an event loop."""
    async with saltctl.aio.History.open() as history, saltctl.aio.WriteMeter.open() as meter:
        await history.put(CONVERSATION, "2026-07-01T08:00:01Z#m2", {"text": "hello"})
        meter.record(CONVERSATION, 1_000_000)
        assert len((await history.page(CONVERSATION)).messages) == 2


def main() -> None:
    """Use them in a thread."""
    sys.meta_path.insert(0, Watch())
    failures: list[BaseException] = []

    def work() -> None:
        try:
            use_all()
            asyncio.run(await_all())
        except BaseException as exc:
            failures.append(exc)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    if failures:
        raise failures[0]


if __name__ == "__main__":
    main()
