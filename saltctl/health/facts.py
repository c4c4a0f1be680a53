"""What the checks look at: each thing is asked for once, however many checks want to know it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
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
from saltctl.stores.aws.inspection import AwsInspection
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.dead_letters import DeadLetters
from saltctl.stores.heat.service_state import ServiceState
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.inspection import RedisInspection, ServerLook, Survey

REQUEST_TIMEOUT_SECONDS = 2.0
"""Seconds that one request may take here, whatever the settings say: a doctor is asked when things are down."""
STREAM_WINDOW = 0.3
"""Seconds between the two looks at the stream."""


class Facts:
    """Everything that checks ask for. Thread-safe. Asking raises what the stores raise, to each who asks.

    Args:
        settings: those in force.
        fix_commands: writes the fixes.
        config_file: where contexts come from.
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
        self._once = OnceCache()
        self._stores = OnceCache()
        self.probe_settings = replace(
            settings,
            redis_timeout=min(settings.redis_timeout, REQUEST_TIMEOUT_SECONDS),
            aws_timeout=min(settings.aws_timeout, REQUEST_TIMEOUT_SECONDS),
        )

    def refreshed(self) -> Facts:
        """The same servers over the same connections, and nothing known of them yet."""
        fresh = Facts(self.settings, self.fix_commands, config_file=self.config_file, now=self.now)
        fresh._stores = self._stores
        return fresh

    @property
    def state(self) -> ServiceState:
        """The notes that rebuilds and the service leave."""
        return self._stores.get("state", lambda: ServiceState(self.probe_settings))

    @property
    def redis(self) -> RedisInspection:
        """Questions to Redis."""
        return self._stores.get("redis", lambda: RedisInspection(self.probe_settings, now=self.now))

    @property
    def aws(self) -> AwsInspection:
        """Questions to DynamoDB."""
        return self._stores.get("aws", lambda: AwsInspection(self.probe_settings, now=self.now))

    @property
    def cloudwatch(self) -> Any:
        """The boto3 client of CloudWatch: one attempt a request."""
        return self._stores.get("cloudwatch", lambda: create_client(self.probe_settings, "cloudwatch", attempts=1))

    @property
    def backup(self) -> BackupTable:
        """The backup table."""
        return self._stores.get("backup", lambda: BackupTable(self.probe_settings, client=self.aws.client))

    @property
    def servers(self) -> Sequence[ServerLook]:
        """INFO of every primary."""
        return self._once.get("servers", lambda: [self.redis.look(primary) for primary in self.redis.primaries()])

    def config(self, primary: str) -> Mapping[str, str] | None:
        """The settings of one Redis server that matter here; None where it does not tell."""
        names = ("appendfsync", "min-replicas-to-write", "min-replicas-max-lag", "cluster-node-timeout")
        return self._once.get(f"config {primary}", lambda: self.redis.config(primary, *names))

    @property
    def registry_counts(self) -> Sequence[Survey]:
        """What the registry holds on every primary."""
        return self._once.get("registry_counts", self.redis.survey)

    @property
    def stream(self) -> StreamStatus:
        """The heat stream, looked at twice."""
        stream = self._stores.get("heat", lambda: HeatStream(self.probe_settings))
        return self._once.get("stream", lambda: read_stream_status(stream, STREAM_WINDOW))

    @property
    def dead_letters(self) -> int:
        """How many dead letters there are."""
        letters = self._stores.get("letters", lambda: DeadLetters(self.probe_settings))
        return self._once.get("dead_letters", letters.length)

    @property
    def backup_table(self) -> dict[str, Any]:
        """The backup table as DescribeTable has it; ConfigurationError where it is missing."""
        return self._once.get("backup_table", lambda: self._table(self.settings.backup_table))

    @property
    def messages_table(self) -> dict[str, Any]:
        """The messages table as DescribeTable has it; ConfigurationError where it is missing."""
        return self._once.get("messages_table", lambda: self._table(self.settings.messages_table))

    def _table(self, name: str) -> dict[str, Any]:
        table = self.aws.describe(name)
        if table is None:
            raise ConfigurationError(f"there is no DynamoDB table {name!r}", hint="saltctl setup")
        return table

    @property
    def messages(self) -> MessagesTable:
        """The messages table's store."""
        return self._stores.get("messages", lambda: MessagesTable(self.probe_settings, client=self.aws.client))
