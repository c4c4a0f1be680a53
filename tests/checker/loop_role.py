"""A server that runs an event loop: its requests use one ``saltctl.aio`` history at once, and some are cancelled."""

from __future__ import annotations

import asyncio
import random
import time
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import replace
from itertools import count
from typing import Any

from saltctl import aio
from saltctl.errors import SaltctlError
from saltctl.history.models import ReadOptions
from tests.checker.roles import CALM_PAUSE, Worker, needed_n, new_sort_key

_TASKS = 3
"""Tasks of each kind."""
_CANCELLED = 0.2
"""The share of reads and lookups that are cancelled."""

Request = Callable[[Worker, aio.Registry, aio.History], Awaitable[None]]


def loop_server(worker: Worker) -> None:
    """Write, read and look up in one event loop."""
    asyncio.run(_run(worker))


async def _run(worker: Worker) -> None:
    inner = worker.history()
    async with aio.Registry(worker.registry()) as registry, aio.History(inner, registry) as history:
        kinds: tuple[Request, ...] = (_writer, _reader, _lookup)
        await asyncio.gather(
            *(
                _serve(worker, f"{kind.__name__}{number}", kind, registry, history)
                for kind in kinds
                for number in range(_TASKS)
            )
        )


async def _serve(worker: Worker, name: str, kind: Request, registry: aio.Registry, history: aio.History) -> None:
    """Handle requests of one kind, with random choices that the name determines."""
    mine = replace(worker, rng=random.Random(f"{worker.plan.seed} {worker.log.process} {name}"))
    while not worker.stopped():
        await asyncio.sleep(mine.rng.uniform(0, 0.15) + (CALM_PAUSE if worker.calm else 0.0))
        request = asyncio.ensure_future(kind(mine, registry, history))
        # A put that is cancelled goes on in its thread, where nothing shows when it has ended: see InFlight.
        if kind is not _writer and mine.rng.random() < _CANCELLED:
            asyncio.get_running_loop().call_later(mine.rng.expovariate(50), request.cancel)
        try:
            await request
        except SaltctlError as exc:
            worker.log_error(exc)
        except asyncio.CancelledError:
            worker.log.note("cancelled", kind.__name__.strip("_"))
        except Exception as exc:
            worker.log.note("crash", "".join(traceback.format_exception(exc)[-3:]))


_numbers = count()


async def _writer(worker: Worker, registry: aio.Registry, history: aio.History) -> None:
    """Write one message, and again if it is not acknowledged."""
    conversation = worker.rng.choice(worker.conversations())
    message = f"{worker.log.process}-{next(_numbers)}"
    sort_key = new_sort_key(message)
    for _ in range(3):
        operation = worker.in_flight.operation()
        await asyncio.to_thread(operation.__enter__)  # it may wait for others, whose locks this loop releases
        try:
            if await _put(worker, history, conversation, sort_key, message):
                return
        finally:
            operation.__exit__(None, None, None)


async def _put(worker: Worker, history: aio.History, conversation: str, sort_key: str, message: str) -> bool:
    number = worker.log.begin("put", conversation, message)
    try:
        written = await history.put(conversation, sort_key, {"text": message})
    except SaltctlError as exc:
        worker.log.end(number, acknowledged=False)
        worker.log_error(exc)
        return False
    worker.log.end(number, acknowledged=True, value=needed_n(written))
    return True


async def _reader(worker: Worker, registry: aio.Registry, history: aio.History) -> None:
    """Read a whole history; log it only if it neither failed nor reported that it is incomplete."""
    conversation, began = worker.random_conversation(), time.monotonic()
    options = ReadOptions(oldest_first=worker.rng.random() < 0.5, allow_partial=worker.rng.random() < 0.3)
    messages: list[Any] = []
    async for page in history.pages(conversation, options):
        if not page.complete:
            worker.log.note("error", "partial page, reported as such")
            return
        messages += [message.message_id for message in page.messages]
    worker.log.observe("read", conversation, began, messages)


async def _lookup(worker: Worker, registry: aio.Registry, history: aio.History) -> None:
    """Look up one conversation, or several."""
    began = time.monotonic()
    if worker.rng.random() < 0.7:
        found = [await registry.lookup(worker.random_conversation())]
    else:
        found = list((await registry.lookup_many(worker.conversations())).values())
    for answer in found:
        worker.log.observe("lookup", answer.conversation_id, began, [answer.max_n, answer.write_n, answer.source])
