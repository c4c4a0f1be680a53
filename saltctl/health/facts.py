"""Facts about the servers that checks need. Each is requested once, however many checks use it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any, Generic, TypeVar

from saltctl.detection.stream_status import read_stream_status
from saltctl.errors import SaltctlError
from saltctl.health.fix_commands import FixCommands
from saltctl.history.full_audit.state import AuditState, load_state
from saltctl.settings import Settings
from saltctl.stores.audit_item import AuditItem
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.aws.inspection import AwsInspection
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.table import Table
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.inspection import RedisInspection, ServerInfo
from saltctl.stores.redis.replies.platforms import UNKNOWN_PLATFORM, Platform, managed_service
from saltctl.stores.redis.replies.replicas import Replicas

T = TypeVar("T")
REQUEST_TIMEOUT_SECONDS = 2.0
"""Longest timeout of a request, whatever the settings say: doctor is run when servers are down."""
STREAM_WINDOW = 0.3
"""Seconds between the two samples of the heat stream."""


class Once(Generic[T]):
    """An attribute of Facts that is computed once. A store is kept if the facts are requested again."""

    def __init__(self, compute: Callable[[Facts], T], *, store: bool = False) -> None:
        self._compute = compute
        self._store = store

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    def __get__(self, facts: Facts, owner: type) -> T:
        return facts.once(self._name, lambda: self._compute(facts), store=self._store)


class Facts:
    """Facts that checks need. Thread-safe. Every access raises the errors of the stores.

    ``config_file`` is the file with the contexts. ``now`` returns seconds since the epoch.
    """

    def __init__(
        self,
        settings: Settings,
        fix_commands: FixCommands | None = None,
        *,
        config_file: Path | None = None,
        now: Callable[[], float] = time.time,
    ) -> None:
        self.settings = settings
        self.config_file = config_file
        self.fix_commands = fix_commands or FixCommands(settings)
        self.now = now
        self.probe_settings = replace(
            settings,
            redis_timeout=min(settings.redis_timeout, REQUEST_TIMEOUT_SECONDS),
            aws_timeout=min(settings.aws_timeout, REQUEST_TIMEOUT_SECONDS),
        )
        self._lock = threading.Lock()
        self._stores: dict[str, Future[Any]] = {}
        self._requested: dict[str, Future[Any]] = {}

    def refreshed(self) -> Facts:
        """Return facts that use the same connections and request everything again."""
        fresh = copy(self)
        fresh._requested = {}
        return fresh

    def call_in_parallel(
        self, functions: Mapping[str, Callable[[Facts], T]], timeout: float
    ) -> dict[str, T | Exception]:
        """Call all functions with these facts at once; return the result of each, or the exception that it raised.

        A function without a result after ``timeout`` seconds has a TimeoutError. Its thread is a daemon and keeps
        running, but does not keep the process from exiting. A ThreadPoolExecutor would wait for it.
        """
        late = TimeoutError(f"no answer within {timeout:g} s")
        results: dict[str, T | Exception] = dict.fromkeys(functions, late)
        threads = [
            threading.Thread(target=self._call, args=(name, function, results), name=f"check-{name}", daemon=True)
            for name, function in functions.items()
        ]
        deadline = time.monotonic() + timeout
        started = []
        for thread, name in zip(threads, functions, strict=True):
            try:
                thread.start()
                started.append(thread)
            except RuntimeError as exc:  # the system has no thread left
                results[name] = exc
        for thread in started:
            thread.join(max(deadline - time.monotonic(), 0))
        return results.copy()

    def _call(self, name: str, function: Callable[[Facts], Any], results: dict[str, Any]) -> None:
        try:
            results[name] = function(self)
        except Exception as exc:  # returned: one failure must not stop the others
            results[name] = exc

    def once(self, name: str, compute: Callable[[], T], *, store: bool = False) -> T:
        """Return the result of this name. The first caller computes it, the others wait; an exception is kept, too."""
        futures = self._stores if store else self._requested
        with self._lock:
            first = name not in futures
            future: Future[T] = futures.setdefault(name, Future())
        if first:
            try:
                future.set_result(compute())
            except Exception as exc:  # raised in every caller
                future.set_exception(exc)
        return future.result()

    redis = Once(lambda facts: RedisInspection(facts.probe_settings, now=facts.now), store=True)
    """Inspection of the Redis primaries."""
    service_state = Once(lambda facts: ServiceState(facts.probe_settings), store=True)
    """Notes of rebuilds and of the service."""
    heat_stream = Once(lambda facts: HeatStream(facts.probe_settings), store=True)
    letters = Once(lambda facts: DeadLetters(facts.probe_settings), store=True)
    aws = Once(lambda facts: AwsInspection(facts.probe_settings, now=facts.now), store=True)
    """Inspection of DynamoDB tables."""
    backup = Once(lambda facts: BackupTable(facts.probe_settings, client=facts.aws.client), store=True)
    messages = Once(lambda facts: MessagesTable(facts.probe_settings, client=facts.aws.client), store=True)
    cloudwatch = Once(
        lambda facts: CloudWatchMetrics(
            facts.probe_settings,
            client=create_client(facts.probe_settings, "cloudwatch", attempts=1),
            dynamodb=facts.aws.client,
        ),
        store=True,
    )
    """CloudWatch metrics, with a single attempt for each request."""

    full_audit = Once(lambda facts: facts.find_audit())
    """State of the audit of all conversations; None before the first one of this registry."""
    servers = Once(lambda facts: [facts.redis.info(primary) for primary in facts.redis.primaries()])
    """INFO of every primary."""
    identity = Once(lambda facts: facts.backup.registry.read(recheck=True))
    """The identity of the registry, from the backup table, which is checked."""
    layout = Once(lambda facts: facts.find_layout())
    """The layout that fences should name; the one that they do name if the backup cannot say it."""
    found_layout = Once(lambda facts: facts.redis.find_layout())
    """The layout, with a registry's id, that the fence of the first bucket names; empty without a fence."""
    registry_counts = Once(lambda facts: facts.redis.count_entries(facts.layout))
    """Entries, buckets and fences of the registry on every primary."""
    stream = Once(lambda facts: read_stream_status(facts.heat_stream, STREAM_WINDOW, facts.service_state))
    """Status of the heat stream, from two samples."""
    dead_letters = Once(lambda facts: facts.letters.length())
    """Number of dead letters."""
    backup_table = Once(lambda facts: facts.existing_table(facts.backup))
    messages_table = Once(lambda facts: facts.existing_table(facts.messages))

    def config(self, primary: str) -> Mapping[str, str] | None:
        """Return the settings of a Redis server that checks need; None if it refuses CONFIG GET."""
        names = ("appendfsync", "min-replicas-to-write", "min-replicas-max-lag")
        return self.once(f"config {primary}", lambda: self.redis.config(primary, *names))

    def lacks_config(self, primary: str) -> bool:
        """Return whether a Redis server has no CONFIG."""
        return self.once(f"lacks config {primary}", lambda: self.redis.lacks_config(primary))

    def platform(self, server: ServerInfo) -> Platform | None:
        """Return the managed service of a server; None if redis-cli can change the server itself."""
        if (known := managed_service(server.primary, server.info)) is not None:
            return known
        return UNKNOWN_PLATFORM if self.lacks_config(server.primary) else None

    def find_layout(self) -> str:
        """Return the layout with the registry's id; without the id from the backup, the layout of Redis' own fences."""
        try:
            return f"{self.settings.layout}:{self.settings.registry_id or self.identity.registry_id}"
        except SaltctlError:
            return self.found_layout or self.settings.layout

    def find_audit(self) -> AuditState | None:
        """Read the state of the audit. One of another registry, or of another messages table, says nothing."""
        state = load_state(AuditItem(self.backup))
        if state is None or state.messages_table != self.settings.messages_table:
            return None
        return state if state.registry_id == self.identity.registry_id else None

    @property
    def redis_was_verified(self) -> bool:
        """Whether Redis shows that a rebuild verified it once; False if it does not answer."""
        try:
            return bool(self.found_layout)
        except SaltctlError:
            return False

    @property
    def other_registry(self) -> str:
        """Return that Redis belongs to another registry of this layout; an empty string if it does not."""
        other, own = self.other_registry_id, self.layout.rpartition(":")[2]
        return f"holds registry {other}, and the backup table is that of registry {own}" if other else ""

    @property
    def other_registry_id(self) -> str:
        """Return the id of another registry of this layout that Redis belongs to; empty if it does not."""
        found, own = self.found_layout.rpartition(":"), self.layout.rpartition(":")
        return "" if found[0] != own[0] or found[2] == own[2] else found[2]

    def replicas(self, server: ServerInfo) -> Replicas:
        """Return the replicas of a primary."""
        return self.once(f"replicas {server.primary}", lambda: self.redis.replicas(server))

    def describe(self, table: Table) -> dict[str, Any] | None:
        """Return the answer of DescribeTable; None if the table does not exist."""
        return self.once(f"table {table.name}", table.describe)

    def existing_table(self, table: Table) -> dict[str, Any]:
        """Return the answer of DescribeTable; ConfigurationError if the table does not exist."""
        if (found := self.describe(table)) is None:
            raise table.missing()
        return found
