"""A small aiohttp application under load, while Redis is killed and while AWS does not answer."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager, suppress
from dataclasses import replace
from typing import Any

import pytest

from saltctl import aio
from saltctl.errors import RaiseIncompleteError, SaltctlError
from saltctl.local.servers import LocalRedis
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.messages_table import MessagesTable
from tests.support import Rebuilder
from tests.support.slow_servers import SlowServer

web = pytest.importorskip("aiohttp.web", reason="aiohttp of the extra test is not installed")
from aiohttp import ClientSession, TCPConnector  # noqa: E402  only if it is there

pytestmark = pytest.mark.slow

CONVERSATIONS = 8
REQUESTS = 240


def application(settings: Settings) -> Any:
    """``POST /conv/m1`` writes a message, ``GET /conv`` returns the ids of all, ``GET /conv/n`` its N."""
    app = web.Application()
    parts: dict[str, Any] = {}

    async def opened(app: Any) -> AsyncIterator[None]:
        async with (
            aio.Registry.open(settings) as registry,
            aio.History.open(settings) as history,
            aio.WriteMeter.open(settings) as meter,
        ):
            parts.update(registry=registry, history=history, meter=meter)
            yield

    async def put(request: Any) -> Any:
        conversation, message = request.match_info["conversation"], request.match_info["message"]
        try:
            await parts["history"].put(conversation, f"2026-07-01T08:00:00Z#{message}", {"text": message})
        except SaltctlError as exc:
            return web.json_response(exc.code, status=503)
        parts["meter"].record(conversation)
        return web.json_response("written")

    async def read(request: Any) -> Any:
        found = [message.message_id async for message in parts["history"].messages(request.match_info["conversation"])]
        return web.json_response(found)

    async def n(request: Any) -> Any:
        try:
            return web.json_response((await parts["registry"].lookup(request.match_info["conversation"])).max_n)
        except SaltctlError as exc:
            return web.json_response(exc.code, status=503)

    async def health(request: Any) -> Any:
        return web.json_response("ok")

    app.cleanup_ctx.append(opened)
    app.router.add_get("/", health)
    app.router.add_get("/{conversation}", read)
    app.router.add_get("/{conversation}/n", n)
    app.router.add_post("/{conversation}/{message}", put)
    return app


@asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[ClientSession]:
    """A client of the application, which runs in the same loop."""
    runner = web.AppRunner(application(settings))
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    host, port = runner.addresses[0][:2]
    try:
        async with ClientSession(f"http://{host}:{port}", connector=TCPConnector(limit=0)) as client:
            yield client
    finally:
        await runner.cleanup()


async def longest_gap() -> None:
    """Print the longest time in which the loop ran no other task, once it is cancelled."""
    longest, last = 0.0, time.perf_counter()
    try:
        while True:
            await asyncio.sleep(0.001)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
    finally:
        print(f"longest gap of the loop: {longest * 1000:.0f} ms")  # noqa: T201  a figure, which no test may bound


def test_every_acknowledged_message_is_read(
    settings: Settings,
    registry: Registry,
    rebuild: Rebuilder,
    redis_server: LocalRedis,
) -> None:
    """Several hundred writes at once; Redis is killed half-way, and conversations are raised meanwhile."""
    MessagesTable(settings).create()
    rebuild()
    settings = replace(settings, lookup_timeout=1.0, breaker_seconds=1.0, aws_timeout=30.0)
    acknowledged: set[tuple[str, str]] = set()

    async def write(client: ClientSession, number: int) -> None:
        conversation, message = f"conv-{number % CONVERSATIONS}", f"m{number}"
        async with client.post(f"/{conversation}/{message}") as response:
            if response.status == 200:
                acknowledged.add((conversation, message))
        if len(acknowledged) == REQUESTS // 2:
            redis_server.kill()

    async def serve() -> None:
        heart = asyncio.create_task(longest_gap())
        async with served(settings) as client:
            writes = [asyncio.create_task(write(client, number)) for number in range(REQUESTS)]
            for number in range(0, CONVERSATIONS, 2):
                with suppress(RaiseIncompleteError):  # once Redis is gone
                    await asyncio.to_thread(registry.raise_to, f"conv-{number}", 4)
            await asyncio.gather(*writes)
            found = set()
            for number in range(CONVERSATIONS):
                async with client.get(f"/conv-{number}") as response:
                    found |= {(f"conv-{number}", message) for message in await response.json()}
        heart.cancel()
        assert acknowledged <= found

    asyncio.run(serve())
    assert len(acknowledged) > REQUESTS // 2  # also after the end of Redis


def test_requests_are_answered_while_aws_hangs(settings: Settings) -> None:
    """The requests that fall back wait for AWS, and fail once it has closed; all others are answered meanwhile."""

    async def serve(aws: ExitStack) -> None:
        silent = aws.enter_context(SlowServer())
        away = replace(
            settings,
            redis_url="redis://127.0.0.1:1/0",
            aws_endpoint_url=f"http://127.0.0.1:{silent.port}",
            aws_timeout=60.0,
            breaker_seconds=60.0,
        )
        async with served(away) as client:

            async def status(path: str) -> int:
                async with client.get(path) as response:
                    return int(response.status)

            waiting = [asyncio.create_task(status(f"/conv-{number}/n")) for number in range(60)]
            while not silent.connections:
                await asyncio.sleep(0.001)
            assert [await status("/") for _ in range(20)] == [200] * 20
            assert not any(task.done() for task in waiting)
            await asyncio.to_thread(aws.close)
            assert await asyncio.gather(*waiting) == [503] * 60

    with ExitStack() as aws:
        asyncio.run(serve(aws))
