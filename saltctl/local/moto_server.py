"""``python moto_server.py``: moto on a free loopback port, for the local environment and tests.

Prints the port on its first line, and exits at the end of its standard input, so that it cannot outlive the
process that started it.

Requests run one at a time, in the thread that reads them; a thread for them alone takes a tenth of the time. moto
checks a condition and then writes without a lock: two conditional updates at once would both succeed, which DynamoDB
never does. Connections are kept, as DynamoDB keeps them; the server that moto brings closes each, which doubles the
time of a request.

Two patches of moto: a query reads its own partition only, since moto sorts the whole table for each query, which costs
an audit of 256 partitions several seconds; and the names of a class's methods are looked up once, not for each request.
"""

from __future__ import annotations

import copy
import functools
import gc
import logging
import os
import sys
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

_OBJECTS_OF_A_COLLECTION = 20_000
"""New objects after which Python looks for garbage: 700, as usual, take a tenth of the processor time (measured)."""


class _Waiting:
    """The requests that were read and not yet answered; waitress would give them to its threads."""

    def __init__(self) -> None:
        self._channels: deque[Any] = deque()

    def add_task(self, channel: Any) -> None:
        """Take over the request of a connection."""
        self._channels.append(channel)

    def answer(self) -> None:
        """Answer all of them."""
        while self._channels:
            self._channels.popleft().service()


def query_one_partition(query: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap moto's ``Table.query`` so that it reads one partition. Tables with an index are queried as they are."""

    @functools.wraps(query)
    def narrowed(table: Any, hash_key: Any, *args: Any, **kwargs: Any) -> Any:
        """Query a copy of the table that has this partition only."""
        if hash_key is None or table.all_indexes():
            return query(table, hash_key, *args, **kwargs)
        part = copy.copy(table)
        part.items = {hash_key: table.items[hash_key]} if hash_key in table.items else {}
        return query(part, hash_key, *args, **kwargs)

    return narrowed


def _end_with_stdin() -> None:
    sys.stdin.buffer.read()
    os._exit(0)


def main() -> None:
    """Serve until standard input ends."""
    from moto.core import responses
    from moto.dynamodb.models.table import Table
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from waitress.server import create_server
    from waitress.wasyncore import poll2

    table: Any = Table
    table.query = query_one_partition(table.query)
    methods: Any = responses
    methods.method_names_from_class = functools.cache(methods.method_names_from_class)
    dispatcher: Any = DomainDispatcherApplication
    dispatcher.get_backend_for_host = functools.cache(dispatcher.get_backend_for_host)
    logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns of requests that wait
    # Clients keep many connections; beyond its limit the server would accept no more, and say nothing.
    limits = {"connection_limit": 10_000, "channel_timeout": 3600}
    application = DomainDispatcherApplication(create_backend_app)
    sockets: dict[int, Any] = {}
    waiting = _Waiting()
    server: Any = create_server(application, sockets, host="127.0.0.1", port=0, _dispatcher=waiting, **limits)
    server.pull_trigger = lambda: None  # it would wake up another thread
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    gc.collect()
    gc.freeze()
    gc.set_threshold(_OBJECTS_OF_A_COLLECTION, *gc.get_threshold()[1:])
    sys.stdout.write(f"{server.effective_port}\n")
    sys.stdout.flush()
    while True:
        poll2(1.0, sockets)
        waiting.answer()


if __name__ == "__main__":
    main()
