"""A TCP proxy that can cut, mute and delay, and be led to another server."""

from __future__ import annotations

import asyncio
import socket
import threading
from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, TypeVar

T = TypeVar("T")
_CHUNK = 1 << 16


class Proxy:
    """Forwards connections on its own loopback port to a server on another one.

    Its port exists, and clients may connect and wait, as soon as it is made; :meth:`start` serves. Each client
    connection has one connection of its own to the server, so that it belongs to one server process as without
    the proxy. What a method does has been done for every connection when it returns.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._target = 0
        self._refuses = False
        self._muted = False
        self._delay = 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._led = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self, target: int) -> None:
        """Serve, from a thread of its own."""
        self._target = target
        self._thread.start()
        self._server = self._do(asyncio.start_server(self._serve, sock=self._listener))

    def stop(self) -> None:
        """End all connections and the thread, if it was started."""
        if self._thread.is_alive():
            self._do(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self._listener.close()

    def lead(self, target: int) -> None:
        """Cut every connection; new ones go to another server. Nothing reaches the old one from here on."""
        self._do(self._abort_all(target=target))

    def cut(self) -> None:
        """Cut every connection, and every new one at once, until :meth:`heal`."""
        self._do(self._abort_all(refuses=True))

    def mute(self) -> None:
        """Swallow what servers say: they do what they are asked, and nobody hears of it, until :meth:`heal`."""
        self._muted = True

    def delay(self, seconds: float) -> None:
        """Hold everything up for so long, in both directions, until :meth:`heal`."""
        self._delay = seconds

    def heal(self) -> None:
        """Forward at once again. Connections that were muted are cut, since their answers are out of step."""
        self._delay = 0.0
        if self._muted:
            self._do(self._abort_all())
        self._muted = self._refuses = False

    def _do(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _abort_all(self, *, target: int | None = None, refuses: bool = False) -> None:
        self._refuses = refuses or self._refuses
        self._target = target or self._target
        self._led += 1
        for writer in self._open:
            writer.transport.abort()

    async def _end(self) -> None:
        self._server.close()
        await self._abort_all(refuses=True)
        tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        led, ends = self._led, [writer]
        self._open.add(writer)
        try:
            if self._refuses:
                return
            upstream, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(to_server)
            if led != self._led:
                return  # it was cut while it was being connected
            self._open.add(to_server)
            pumps = [
                asyncio.ensure_future(self._pump(reader, to_server, answers=False)),
                asyncio.ensure_future(self._pump(upstream, writer, answers=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            return  # there is no server: what a client sees is a connection that ends
        finally:
            for end in ends:
                self._open.discard(end)
                end.transport.abort() if end is writer else end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._delay:
                    # What was sent arrives, late, also where its sender has given up meanwhile.
                    await asyncio.sleep(self._delay)
                if not (answers and self._muted):
                    writer.write(data)
                    await writer.drain()
