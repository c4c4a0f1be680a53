"""A TCP proxy that can cut, mute and delay connections, and be redirected to another server."""

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
    """Forwards connections from its own loopback port to the port of a server.

    The port is open from the constructor on, so that clients can connect and wait; :meth:`start` begins to serve.
    Each client connection has its own connection to the server, so it belongs to one server process, as without
    the proxy. When a method returns, it has taken effect on every connection.
    """

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self.port: int = self._listener.getsockname()[1]
        self._target = 0
        self._refuses = False
        self._muted = False
        self._delay = 0.0
        self._open: set[asyncio.StreamWriter] = set()
        self._generation = 0
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy", daemon=True)

    def start(self, target: int) -> None:
        """Serve in a separate thread."""
        self._target = target
        self._thread.start()
        self._server = self._run_in_loop(asyncio.start_server(self._serve, sock=self._listener))

    def stop(self) -> None:
        """Close all connections, and end the thread if it was started."""
        if self._thread.is_alive():
            self._run_in_loop(self._end())
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
        self._loop.close()
        self._listener.close()

    def redirect(self, target: int) -> None:
        """Cut every connection and send new ones to another server. Nothing reaches the old server afterwards."""
        self._run_in_loop(self._abort_all(target=target))

    def cut(self) -> None:
        """Cut every connection, and each new one immediately, until :meth:`heal`."""
        self._run_in_loop(self._abort_all(refuses=True))

    def mute(self) -> None:
        """Drop the replies of servers until :meth:`heal`: they execute requests, and clients get no reply."""
        self._muted = True

    def delay(self, seconds: float) -> None:
        """Delay data by ``seconds`` in both directions until :meth:`heal`."""
        self._delay = seconds

    def heal(self) -> None:
        """End all faults. Muted connections are cut, because their replies no longer match their requests."""
        self._delay = 0.0
        if self._muted:
            self._run_in_loop(self._abort_all())
        self._muted = self._refuses = False

    def _run_in_loop(self, coroutine: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result(timeout=30)

    async def _abort_all(self, *, target: int | None = None, refuses: bool = False) -> None:
        self._refuses = refuses or self._refuses
        self._target = target or self._target
        self._generation += 1
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
        generation, ends = self._generation, [writer]
        self._open.add(writer)
        try:
            if self._refuses:
                return
            upstream, to_server = await asyncio.open_connection("127.0.0.1", self._target)
            ends.append(to_server)
            if generation != self._generation:
                return  # the connection was cut while it was being established
            self._open.add(to_server)
            pumps = [
                asyncio.ensure_future(self._pump(reader, to_server, replies=False)),
                asyncio.ensure_future(self._pump(upstream, writer, replies=True)),
            ]
            try:
                await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            finally:
                for pump in pumps:
                    pump.cancel()
                await asyncio.gather(*pumps, return_exceptions=True)
        except OSError:
            return  # the server is down: the client's connection ends
        finally:
            for end in ends:
                self._open.discard(end)
                end.transport.abort() if end is writer else end.close()

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, replies: bool) -> None:
        with suppress(OSError):
            while data := await reader.read(_CHUNK):
                if self._delay:
                    # Data arrives late, even if its sender has closed the connection.
                    await asyncio.sleep(self._delay)
                if not (replies and self._muted):
                    writer.write(data)
                    await writer.drain()
