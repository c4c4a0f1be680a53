"""Clients that break one rule each, as a careless client would; and a client that is called instead of started."""

# ruff: noqa: D102  # each class says what its method does wrong

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any
from unittest.mock import patch
from zlib import crc32

from saltctl.conformance.python_client import Answer, PythonClient, answer, lookup_answer
from saltctl.errors import SaltctlError, UsageError
from saltctl.history.models import ReadOptions
from saltctl.registry.lookups import Lookup
from saltctl.salting import number_text
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script, script_sha


class Direct:
    """A client under trial in this process. It cannot be paused, so that the check ``stall`` says nothing of it."""

    def __init__(self, client: PythonClient) -> None:
        self._client = client
        self._request: Mapping[str, Any] = {}

    def ask(self, request: Mapping[str, Any]) -> Answer:
        """Return the answer to a request."""
        try:
            return answer(self._client, request)
        except Exception as exc:
            return {"error": repr(exc)}

    def send(self, request: Mapping[str, Any]) -> None:
        """Keep a request."""
        self._request = request

    def receive(self) -> Answer:
        """Return the answer to the request that was sent."""
        return self.ask(self._request)

    def pause(self) -> bool:
        """Do nothing."""
        return False

    def resume(self) -> None:
        """Do nothing."""

    def end(self) -> None:
        """Do nothing: there is no process."""

    def kill(self) -> None:
        """Close the client."""
        if hasattr(self._client, "history"):
            self._client.answer_close({})


def plain(conversation_id: str, n: int) -> Lookup:
    """The lookup of a conversation that was never cooled."""
    return Lookup(conversation_id, n, n, "redis", n)


class _OwnRedis(PythonClient):
    """Has a connection to Redis besides the registry's."""

    def answer_open(self, request: Mapping[str, Any]) -> Answer:
        from redis import Redis

        self.redis: Any = Redis.from_url(request["redis_url"])
        self.buckets, self.prefix = request["buckets"], request["key_prefix"]
        return super().answer_open(request)

    @property
    def store(self) -> RedisRegistry:
        """The registry's store."""
        store = self.registry.store
        assert isinstance(store, RedisRegistry)
        return store

    def answer_close(self, request: Mapping[str, Any]) -> Answer:
        self.redis.close()
        return super().answer_close(request)

    def by_script(self, key: str, layout: str, conversation_id: str, *how: str) -> Lookup:
        """Look up by the script, and fall back after any failure."""
        try:
            value = self.redis.execute_command(*how, 1, key, layout, conversation_id)[0]
            return plain(conversation_id, int(value or 1))
        except Exception:
            with patch.object(self.registry, "_ids_by_primary", lambda _: {}):
                return self.registry.lookup(conversation_id)


class NilIsOne(PythonClient):
    """Takes a Redis that is not verified for one that has no entry."""

    def lookup(self, conversation_id: str) -> Lookup:
        found = super().lookup(conversation_id)
        failure = self.registry.last_failure
        unverified = failure is not None and failure.code.startswith("redis_")
        return plain(conversation_id, 1) if unverified else found


class ReadsTheHash(_OwnRedis):
    """Reads the entry by HGET."""

    def lookup(self, conversation_id: str) -> Lookup:
        value = self.redis.hget(self.store.key_of(conversation_id), conversation_id)
        return plain(conversation_id, int(value or 1))


class Cached(PythonClient):
    """Keeps what it has looked up."""

    def lookup(self, conversation_id: str) -> Lookup:
        kept: dict[str, Lookup] = self.__dict__.setdefault("kept", {})
        if conversation_id not in kept:
            kept[conversation_id] = super().lookup(conversation_id)
        return kept[conversation_id]


class WritesOnMaxN(PythonClient):
    """Spreads over as many salts as readers cover, also after it fell back."""

    def lookup(self, conversation_id: str) -> Lookup:
        found = super().lookup(conversation_id)
        return found._replace(write_n=found.recent_n)


class Overwrites(PythonClient):
    """Puts without a condition."""

    def answer_put(self, request: Mapping[str, Any]) -> Answer:
        answered = super().answer_put(request)
        store: Any = self.history.store
        row = {store.keys.partition_key: answered["partition_key"], store.keys.sort_key: request["sort_key"]}
        store.load([{name: {"S": value} for name, value in {**row, "text": request["text"]}.items()}])
        return answered


class NoBase(PythonClient):
    """Reads a salted conversation without its base partition."""

    def answer_read(self, request: Mapping[str, Any]) -> Answer:
        name = request["conversation_id"]
        salted = self.lookup(name).salted
        messages = self.history.messages(name, ReadOptions(since=request["since"]))
        return {"sort_keys": [m.sort_key for m in messages if not salted or m.partition_key != name]}


class LoadsTheScript(_OwnRedis):
    """Loads the lookup script if Redis does not know it."""

    def lookup(self, conversation_id: str) -> Lookup:
        if not self.redis.execute_command("SCRIPT EXISTS", script_sha("lookup"))[0]:
            self.redis.execute_command("SCRIPT LOAD", script("lookup"))
        return super().lookup(conversation_id)


class SendsTheScript(_OwnRedis):
    """Sends the script with each lookup."""

    def lookup(self, conversation_id: str) -> Lookup:
        key = self.store.key_of(conversation_id)
        return self.by_script(key, self.store.layout, conversation_id, "EVAL", script("lookup"))


class Defaults(PythonClient):
    """Takes a conversation for unsalted if no server answers."""

    def lookup(self, conversation_id: str) -> Lookup:
        try:
            return super().lookup(conversation_id)
        except SaltctlError:
            return plain(conversation_id, 1)


class NeverLooksUp(PythonClient):
    """Has an error for every lookup."""

    def lookup(self, conversation_id: str) -> Lookup:
        raise UsageError("no key")


class DefaultsAfter(PythonClient):
    """Takes a conversation for unsalted after a failure of the backup with this text."""

    text = ""

    def lookup(self, conversation_id: str) -> Lookup:
        try:
            return super().lookup(conversation_id)
        except SaltctlError as exc:
            if self.text not in str(exc):
                raise
            return plain(conversation_id, 1)


class DefaultsAfterServerErrors(DefaultsAfter):
    """The backup answers 5xx."""

    text = "server error"


class DefaultsIfRefused(DefaultsAfter):
    """The backup takes no connection."""

    text = "EndpointConnectionError"


class DefaultsAfterTimeouts(DefaultsAfter):
    """The backup does not answer."""

    text = "Timeout"


class DefaultsIfUnprocessed(DefaultsAfter):
    """The backup leaves keys unprocessed to the end."""

    text = "unprocessed"


class StartsWithDefaults(PythonClient):
    """Takes every conversation for unsalted until it knows the registry."""

    def lookup(self, conversation_id: str) -> Lookup:
        try:
            found = super().lookup(conversation_id)
        except SaltctlError:
            if hasattr(self, "knows"):
                raise
            return plain(conversation_id, 1)
        self.knows = True
        return found


class StartsEventually(PythonClient):
    """Reads #registry eventually consistent when it starts."""

    def answer_open(self, request: Mapping[str, Any]) -> Answer:
        opened = super().answer_open(request)
        backup: Any = self.registry.backup
        send = backup.send

        def eventually(operation: str, parameters: Any, *rest: Any, **more: Any) -> Any:
            if operation == "get_item":
                parameters = {**parameters, "ConsistentRead": False}
            return send(operation, parameters, *rest, **more)

        backup.send = eventually
        return opened


class OtherCrc(_OwnRedis):
    """Hashes ids as UTF-16."""

    def lookup(self, conversation_id: str) -> Lookup:
        encoded = conversation_id.encode() if conversation_id.isascii() else conversation_id.encode("utf-16-le")
        key = f"{self.prefix}:r:{crc32(encoded) % self.buckets}"
        return self.by_script(key, self.store.layout, conversation_id, "EVALSHA", script_sha("lookup"))


class AcceptsAnyId(PythonClient):
    """Looks up the part of an id before the #."""

    def lookup(self, conversation_id: str) -> Lookup:
        return super().lookup(conversation_id.partition("#")[0] or "none")


class AcceptsNewerFormats(PythonClient):
    """Does not look at registry_format."""

    def answer_open(self, request: Mapping[str, Any]) -> Answer:
        opened = super().answer_open(request)
        identity: Any = self.registry.backup.registry  # type: ignore[attr-defined]
        check = identity.check
        identity.check = lambda item: check(item and {k: v for k, v in item.items() if k != "registry_format"})
        return opened


class TrustsAnyFence(_OwnRedis):
    """Takes the layout from the fence in Redis."""

    def lookup(self, conversation_id: str) -> Lookup:
        key = self.store.key_of(conversation_id)
        fence = (self.redis.hget(key, "#fence") or b"").decode()
        return self.by_script(key, fence.rpartition(":")[0], conversation_id, "EVALSHA", script_sha("lookup"))


class IgnoresBoundaries(PythonClient):
    """Covers all salts everywhere."""

    def answer_lookup(self, request: Mapping[str, Any]) -> Answer:
        return lookup_answer(self.lookup(request["conversation_id"]), None)


class ExcludesBoundaries(PythonClient):
    """Takes the sort key at the boundary for one below it."""

    def answer_lookup(self, request: Mapping[str, Any]) -> Answer:
        found, since = self.lookup(request["conversation_id"]), request["since"]
        return lookup_answer(found, None if since == found.boundary else since)


class ComparesAsUtf16(PythonClient):
    """Compares a string with the boundary as JavaScript and Java do."""

    def answer_lookup(self, request: Mapping[str, Any]) -> Answer:
        found, since = self.lookup(request["conversation_id"]), request["since"]
        if isinstance(since, str) and isinstance(found.boundary, str):
            since = found.boundary if since.encode("utf-16-be") >= found.boundary.encode("utf-16-be") else None
        return lookup_answer(found, since)


class ComparesDigits(PythonClient):
    """Compares numbers as strings."""

    def answer_lookup(self, request: Mapping[str, Any]) -> Answer:
        found, since = self.lookup(request["conversation_id"]), request["since"]
        if isinstance(since, Mapping) and isinstance(found.boundary, Decimal):
            digits = number_text(found.boundary)
            since = {"N": digits} if since["N"] >= digits else None
        return lookup_answer(found, since)


class IgnoresTypes(PythonClient):
    """Covers everything if the boundary has another type."""

    def answer_lookup(self, request: Mapping[str, Any]) -> Answer:
        found = self.lookup(request["conversation_id"])
        try:
            return lookup_answer(found, request["since"])
        except SaltctlError:
            return lookup_answer(found, None)


class LooksTooLittle(PythonClient):
    """Covers few salts below the boundary, too."""

    def lookup(self, conversation_id: str) -> Lookup:
        found = super().lookup(conversation_id)
        return found._replace(max_n=found.recent_n, boundary=None)


class ReadsInPart(PythonClient):
    """Leaves out partitions that cannot be read, and does not say so."""

    def answer_read(self, request: Mapping[str, Any]) -> Answer:
        try:
            return super().answer_read(request)
        except SaltctlError:
            return {"sort_keys": []}


class SortsAsUtf16(PythonClient):
    """Orders sort keys as JavaScript and Java do."""

    def answer_read(self, request: Mapping[str, Any]) -> Answer:
        keys = super().answer_read(request)["sort_keys"]
        return {"sort_keys": sorted(keys, key=lambda key: str(key).encode("utf-16-be"), reverse=True)}


class ReadsEventually(PythonClient):
    """Reads the backup eventually consistent."""

    def answer_open(self, request: Mapping[str, Any]) -> Answer:
        opened = super().answer_open(request)
        backup: Any = self.registry.backup
        send = backup.send

        def eventually(operation: str, parameters: Any, *rest: Any, **more: Any) -> Any:
            for keys in parameters.get("RequestItems", {}).values():
                keys.pop("ConsistentRead", None)
            return send(operation, parameters, *rest, **more)

        backup.send = eventually
        return opened


BROKEN: tuple[tuple[type[PythonClient], str, str], ...] = (
    (NilIsOne, "unverified", "2.3"),
    (ReadsTheHash, "unverified", "2.3"),
    (Cached, "raises", "2.5"),
    (WritesOnMaxN, "writes", "5.1"),
    (Overwrites, "writes", "7.2"),
    (NoBase, "reads", "8.1"),
    (LoadsTheScript, "unverified", "2.2"),
    (SendsTheScript, "unverified", "2.2"),
    (Defaults, "backup", "4.5"),
    (Defaults, "registry", "3.3"),
    (OtherCrc, "ids", "1.2"),
    (AcceptsAnyId, "ids", "1.1"),
    (AcceptsNewerFormats, "registry", "3.3"),
    (TrustsAnyFence, "registry", "3.1"),
    (IgnoresBoundaries, "cooled", "8.2"),
    (ExcludesBoundaries, "cooled", "8.2"),
    (ComparesAsUtf16, "cooled", "8.2"),
    (ComparesDigits, "cooled", "8.2"),
    (IgnoresTypes, "cooled", "8.2"),
    (LooksTooLittle, "cooled", "8.2"),
    (ReadsInPart, "reads", "8.4"),
    (SortsAsUtf16, "reads", "8.5"),
    (ReadsEventually, "backup", "4.2"),
    (DefaultsAfterServerErrors, "backup", "4.5"),
    (DefaultsIfRefused, "backup", "4.5"),
    (DefaultsAfterTimeouts, "starts", "4.5"),
    (DefaultsIfUnprocessed, "unprocessed", "4.3"),
    (StartsWithDefaults, "starts", "3.3"),
    (StartsWithDefaults, "starts", "3.1"),
    (StartsEventually, "starts", "3.1"),
)
"""Each variant, a check that finds it, and the rule that it names."""
LONG = (SendsTheScript, IgnoresBoundaries, ExcludesBoundaries, ReadsEventually, SortsAsUtf16)
EXHAUSTIVE = (
    *(DefaultsIfRefused, DefaultsAfterTimeouts, DefaultsIfUnprocessed, StartsWithDefaults, StartsEventually),
    *(ComparesAsUtf16, ComparesDigits, IgnoresTypes),
)
