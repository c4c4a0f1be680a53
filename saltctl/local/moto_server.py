"""``python moto_server.py``: moto on a free loopback port, for the local environment and tests.

Prints the port on its first line, and exits at the end of its standard input, so that it cannot outlive the
process that started it.

Requests run one at a time, in the only thread. moto checks a condition and then writes without a lock: two conditional
updates at once would both succeed, which DynamoDB never does. Connections are kept, as DynamoDB keeps them; the server
that moto brings closes each, which doubles the time of a request.

One patch of moto: a query reads its own partition only. moto sorts the whole table for each query, which costs an
audit of 256 partitions several seconds.
"""

from __future__ import annotations

import copy
import functools
import logging
import os
import sys
import threading
from collections.abc import Callable
from typing import Any


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
    from moto.dynamodb.models.table import Table
    from moto.moto_server.werkzeug_app import DomainDispatcherApplication, create_backend_app
    from waitress.server import create_server

    table: Any = Table
    table.query = query_one_partition(table.query)
    dispatcher: Any = DomainDispatcherApplication
    dispatcher.get_backend_for_host = functools.cache(dispatcher.get_backend_for_host)
    logging.getLogger("waitress").setLevel(logging.ERROR)  # it warns of requests that wait
    # Clients keep many connections; beyond its limit the server would accept no more, and say nothing.
    limits = {"connection_limit": 10_000, "channel_timeout": 3600, "asyncore_use_poll": True}
    application = DomainDispatcherApplication(create_backend_app)
    server = create_server(application, host="127.0.0.1", port=0, threads=1, **limits)
    threading.Thread(target=_end_with_stdin, daemon=True).start()
    sys.stdout.write(f"{server.effective_port}\n")
    sys.stdout.flush()
    server.run()


if __name__ == "__main__":
    main()
