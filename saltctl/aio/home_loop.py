"""The event loop that an object belongs to: the one that uses it first, in each process."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Generic, TypeVar

from saltctl.errors import UsageError
from saltctl.forks import PerProcess

T = TypeVar("T")


class _Home(Generic[T]):
    loop: asyncio.AbstractEventLoop | None = None
    state: T


class HomeLoop(Generic[T]):
    """State that belongs to one event loop. A forked child makes its own in its own loop.

    Args:
        owner: the name of the object, for errors.
        make: makes the state, in the loop.
    """

    def __init__(self, owner: str, make: Callable[[asyncio.AbstractEventLoop], T]) -> None:
        self._owner = owner
        self._make = make
        self._own: PerProcess[_Home[T]] = PerProcess(_Home)
        self._closed = False

    def enter(self) -> T:
        """Return the state. Raises UsageError in another event loop than before, and after :meth:`leave`."""
        home, loop = self._own.get(), asyncio.get_running_loop()
        if self._closed:
            raise UsageError(f"this {self._owner} is closed", hint="open another one")
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
