"""Facts about the servers that checks need. Each is requested once, however many checks use it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from copy import copy
from dataclasses import replace
from pathlib import Path
from typing import Any

from saltctl.detection.stream_status import StreamStatus, read_stream_status
from saltctl.errors import ConfigurationError
from saltctl.health.fix_commands import FixCommands
from saltctl.health.parallel import OnceCache
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.cloudwatch import CloudWatchMetrics
from saltctl.stores.aws.inspection import AwsInspection
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.inspection import RedisInspection, RegistryCounts, ServerInfo

REQUEST_TIMEOUT_SECONDS = 2.0
"""Longest timeout of a request, whatever the settings say: doctor is run when servers are down."""
STREAM_WINDOW = 0.3
"""Seconds between the two samples of the heat stream."""


class Facts:
    """Facts that checks need. Thread-safe. Every access raises the errors of the stores.

    Args:
        settings: the current settings.
        fix_commands: builds the commands of fixes.
        config_file: the file with the contexts.
        now: seconds since the epoch.
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
        self._facts = OnceCache()
        self._stores = OnceCache()

    def refreshed(self) -> Facts:
        """Return facts that use the same connections and request everything again."""
        fresh = copy(self)
        fresh._facts = OnceCache()
        return fresh

    # Stores.

    @property
    def redis(self) -> RedisInspection:
        """Inspection of the Redis primaries."""
        return self._stores.get("redis", lambda: RedisInspection(self.probe_settings, now=self.now))

    @property
    def service_state(self) -> ServiceState:
        """Notes of rebuilds and of the service."""
        return self._stores.get("service_state", lambda: ServiceState(self.probe_settings))

    @property
    def aws(self) -> AwsInspection:
        """Inspection of DynamoDB tables."""
        return self._stores.get("aws", lambda: AwsInspection(self.probe_settings, now=self.now))

    @property
    def cloudwatch(self) -> CloudWatchMetrics:
        """CloudWatch metrics, with a single attempt for each request."""
        return self._stores.get("cloudwatch", self._open_cloudwatch)

    def _open_cloudwatch(self) -> CloudWatchMetrics:
        client = create_client(self.probe_settings, "cloudwatch", attempts=1)
        return CloudWatchMetrics(self.probe_settings, client=client, dynamodb=self.aws.client)

    @property
    def backup(self) -> BackupTable:
        """The backup table."""
        return self._stores.get("backup", lambda: BackupTable(self.probe_settings, client=self.aws.client))

    @property
    def messages(self) -> MessagesTable:
        """The messages table."""
        return self._stores.get("messages", lambda: MessagesTable(self.probe_settings, client=self.aws.client))

    # Facts.

    @property
    def servers(self) -> Sequence[ServerInfo]:
        """INFO of every primary."""
        return self._facts.get("servers", lambda: [self.redis.info(primary) for primary in self.redis.primaries()])

    def config(self, primary: str) -> Mapping[str, str] | None:
        """Return the settings of a Redis server that checks need; None if it refuses CONFIG GET."""
        names = ("appendfsync", "min-replicas-to-write", "min-replicas-max-lag", "cluster-node-timeout")
        return self._facts.get(f"config {primary}", lambda: self.redis.config(primary, *names))

    @property
    def registry_counts(self) -> Sequence[RegistryCounts]:
        """Entries, buckets and fences of the registry on every primary."""
        return self._facts.get("registry_counts", self.redis.count_entries)

    @property
    def stream(self) -> StreamStatus:
        """Status of the heat stream, from two samples."""
        stream = self._stores.get("stream", lambda: HeatStream(self.probe_settings))
        return self._facts.get("stream", lambda: read_stream_status(stream, STREAM_WINDOW))

    @property
    def dead_letters(self) -> int:
        """Number of dead letters."""
        letters = self._stores.get("dead_letters", lambda: DeadLetters(self.probe_settings))
        return self._facts.get("dead_letters", letters.length)

    def describe_table(self, name: str) -> dict[str, Any] | None:
        """Return the answer of DescribeTable; None if the table does not exist."""
        return self._facts.get(f"table {name}", lambda: self.aws.describe(name))

    @property
    def backup_table(self) -> dict[str, Any]:
        """DescribeTable's answer for the backup table; ConfigurationError if it does not exist."""
        return self._existing_table(self.settings.backup_table)

    @property
    def messages_table(self) -> dict[str, Any]:
        """DescribeTable's answer for the messages table; ConfigurationError if it does not exist."""
        return self._existing_table(self.settings.messages_table)

    def _existing_table(self, name: str) -> dict[str, Any]:
        table = self.describe_table(name)
        if table is None:
            raise ConfigurationError(f"there is no DynamoDB table {name!r}", hint="saltctl setup")
        return table
