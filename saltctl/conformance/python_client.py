"""A client over ``saltctl.Registry`` and ``saltctl.History``, for ``saltctl conform``: an example, and their own trial.

saltctl conform -- python3 -m saltctl.conformance.python_client
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any, TextIO

from saltctl.conformance.stage import settings_of
from saltctl.errors import SaltctlError
from saltctl.history.history import History
from saltctl.history.models import ReadOptions
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.salting import number_text
from saltctl.stores.aws.messages_table import MessagesTable

Answer = dict[str, Any]


def lookup_answer(found: Lookup, since: str | Mapping[str, str] | None) -> Answer:
    """Return the answer to a request ``lookup``, whose ``since`` is a string, a number as {"N": "DIGITS"}, or none."""
    boundary = found.boundary
    tagged = {"S": boundary} if isinstance(boundary, str) else {"N": number_text(boundary or 0)}
    return {
        "max_n": found.max_n,
        "write_n": found.write_n,
        "recent_n": found.recent_n,
        "boundary": None if boundary is None else tagged,
        "read_set": found.read_set(since if since is None or isinstance(since, str) else Decimal(since["N"])),
    }


class PythonClient:
    """Answers each request by the method ``answer_`` and its name. Variants change one method.

    The history looks up by :meth:`lookup`, as the requests do.
    """

    registry: Registry
    history: History

    def lookup(self, conversation_id: str) -> Lookup:
        """Look up a conversation."""
        return self.registry.lookup(conversation_id)

    def answer_open(self, request: Mapping[str, Any]) -> Answer:
        """Open registry and messages."""
        os.environ["AWS_ACCESS_KEY_ID"] = request["access_key_id"]
        os.environ["AWS_SECRET_ACCESS_KEY"] = request["secret_access_key"]
        settings = settings_of(request)
        self.registry = Registry.open(settings)
        self.history = History.over(settings, self, MessagesTable(settings))
        return {}

    def answer_lookup(self, request: Mapping[str, Any]) -> Answer:
        """Look up a conversation."""
        return lookup_answer(self.lookup(request["conversation_id"]), request["since"])

    def answer_put(self, request: Mapping[str, Any]) -> Answer:
        """Write a message."""
        attributes = {"text": request["text"]}
        put = self.history.put(request["conversation_id"], request["sort_key"], attributes)
        return {"partition_key": put.partition_key}

    def answer_read(self, request: Mapping[str, Any]) -> Answer:
        """Read a whole history."""
        options = ReadOptions(since=request["since"])
        return {"sort_keys": [m.sort_key for m in self.history.messages(request["conversation_id"], options)]}

    def answer_close(self, request: Mapping[str, Any]) -> Answer:
        """Close both."""
        self.history.close()
        self.registry.close()
        return {}


def answer(client: object, request: Mapping[str, Any]) -> Answer:
    """Return the answer of a client to a request."""
    operation: Callable[[Mapping[str, Any]], Answer] = getattr(client, f"answer_{request['op']}")
    try:
        return operation(request)
    except SaltctlError as exc:
        return {"error": str(exc)}


def serve(client: object, requests: TextIO, answers: TextIO) -> None:
    """Answer requests, a line each, until ``close`` or the end."""
    for line in requests:
        request = json.loads(line)
        answers.write(json.dumps(answer(client, request)) + "\n")
        answers.flush()
        if request["op"] == "close":
            return


if __name__ == "__main__":
    serve(PythonClient(), sys.stdin, sys.stdout)
