"""A WSGI application that opens and uses everything before its server forks, as `gunicorn --preload` makes it do.

``GET /conv1`` looks up, reads, writes a row and counts; the response is JSON.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from saltctl import History, Registry, WriteMeter

registry = Registry.open()
history = History.open()
meter = WriteMeter.open(server="web")
# These threads do not end before the fork: see "Forks" in saltctl/help/promise.txt.
_threads = ThreadPoolExecutor(4)
list(_threads.map(history.page, [f"conv{number}" for number in range(4)] * 4))


def application(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
    """Answer one request."""
    conversation = environ["PATH_INFO"].strip("/")
    backup = registry.backup.get(conversation)
    written = history.put(conversation, "2026-01-01T00:00:00Z#again", {"text": conversation})
    meter.record(conversation)
    page = history.page(conversation)
    body = {
        "pid": os.getpid(),
        "numbers": [registry.lookup(conversation).max_n, backup and backup.max_n, page.max_n],
        "texts": sorted({message.attributes["text"] for message in page.messages}),
        "partition": written.partition_key.partition("#")[0],
        "meter": meter.server,
    }
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(body).encode()]
