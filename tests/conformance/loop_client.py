"""The client over ``saltctl.aio``: ``saltctl conform -- python3 -m tests.conformance.loop_client``."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Mapping
from typing import Any

from saltctl import aio
from saltctl.conformance.python_client import Answer, lookup_answer, serve
from saltctl.conformance.stage import settings_of
from saltctl.history.models import ReadOptions


class LoopClient:
    """Answers each request on one event loop, by the method ``answer_`` and its name."""

    def __init__(self, runner: asyncio.Runner) -> None:
        self._runner = runner
        self._registry: aio.Registry
        self._history: aio.History

    def answer_open(self, request: Mapping[str, Any]) -> Answer:
        """Open registry and messages."""
        os.environ["AWS_ACCESS_KEY_ID"] = request["access_key_id"]
        os.environ["AWS_SECRET_ACCESS_KEY"] = request["secret_access_key"]
        settings = settings_of(request)
        self._registry, self._history = aio.Registry.open(settings), aio.History.open(settings)
        return {}

    def answer_lookup(self, request: Mapping[str, Any]) -> Answer:
        """Look up a conversation."""
        return lookup_answer(self._runner.run(self._registry.lookup(request["conversation_id"])), request["since"])

    def answer_put(self, request: Mapping[str, Any]) -> Answer:
        """Write a message."""
        put = self._history.put(request["conversation_id"], request["sort_key"], {"text": request["text"]})
        return {"partition_key": self._runner.run(put).partition_key}

    def answer_read(self, request: Mapping[str, Any]) -> Answer:
        """Read a whole history."""

        async def read() -> list[Any]:
            messages = self._history.messages(request["conversation_id"], ReadOptions(since=request["since"]))
            return [message.sort_key async for message in messages]

        return {"sort_keys": self._runner.run(read())}

    def answer_close(self, request: Mapping[str, Any]) -> Answer:
        """Close both."""
        self._runner.run(self._history.close())
        self._runner.run(self._registry.close())
        return {}


if __name__ == "__main__":
    with asyncio.Runner() as one_loop:
        serve(LoopClient(one_loop), sys.stdin, sys.stdout)
