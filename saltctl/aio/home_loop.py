"""The event loop that an object belongs to: the one that uses it first, in each process."""

from __future__ import annotations

import asyncio
import warnings
from collections.abc import Callable
from typing import Generic, TypeVar

from saltctl.errors import UsageError, closed
from saltctl.forks import PerProcess

T = TypeVar("T")


class _Home(Generic[T]):
    loop: asyncio.AbstractEventLoop | None = None
    state: T


class HomeLoop(Generic[T]):
    """State that belongs to one event loop. A forked child makes its own in its own loop.

    Args:
        owner: the name of the object, for errors: its class in ``saltctl.aio``, in lower case.
        make: makes the state, in the loop.
        connects: whether the owner has connections, so that it is a ResourceWarning if it was used and is collected
            before :meth:`leave`: it was dropped without ``close``.
    """

    def __init__(self, owner: str, make: Callable[[asyncio.AbstractEventLoop], T], *, connects: bool = False) -> None:
        self._owner = owner
        self._make = make
        self.connects = connects
        self._own: PerProcess[_Home[T]] = PerProcess(_Home)
        self._closed = False

    def enter(self) -> T:
        """Return the state. Raises UsageError in another event loop than before, and after :meth:`leave`."""
        home, loop = self._own.get(), asyncio.get_running_loop()
        if self._closed:
            raise closed(self._owner)
        if home.loop is not loop:
            if home.loop is not None:
                raise UsageError(
                    f"this {self._owner} belongs to another event loop", hint="open one in each event loop"
                )
            home.state = self._make(loop)
            home.loop = loop
        return home.state

    def leave(self) -> T | None:
        """Return the state for the last time; None if there is none."""
        if self._closed:
            return None
        state = None if self._own.get().loop is None else self.enter()
        self._closed = True
        return state

    def __del__(self) -> None:
        """Warn of an owner that was used in this process and not closed."""
        home = self._own.peek()
        if self.connects and not self._closed and home is not None and home.loop is not None:
            warn_unclosed(self._owner.title(), self)


def warn_unclosed(name: str, source: object) -> None:
    """Warn that an object of a class of saltctl.aio was dropped without ``close``, as asyncio warns of transports."""
    warnings.warn(f"unclosed saltctl.aio.{name}: await its close()", ResourceWarning, stacklevel=3, source=source)
