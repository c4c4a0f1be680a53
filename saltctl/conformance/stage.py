"""The servers of a trial: a registry of its own on the local environment, proxies before it, and what breaks it."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Self

from saltctl.conformance.aws_proxy import AwsProxy, Response
from saltctl.conformance.redis_proxy import RedisProxy
from saltctl.errors import RedisUnavailableError
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import dummy_credentials
from saltctl.registry.registry import Registry
from saltctl.salting import bucket_of
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
from saltctl.stores.contracts.messages import SortKey
from saltctl.stores.contracts.registry import BackupEntry, Raise
from saltctl.stores.redis.connections import Connections
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.stores.redis.scripts import script_sha
from saltctl.times import iso_utc

BUCKETS = 16
LOOKUP_TIMEOUT, AWS_TIMEOUT, COOL_WAIT = 1.0, 5.0, 3.0
"""Seconds, as the client is told. On a busy machine a lookup takes its time, and a client that fell back uses what the
backup says. A request to AWS may take longer than a client is stopped."""
BY = "saltctl conform"


class Stage:
    """Tables, buckets and proxies of one trial on a local environment, which others may use, too.

    Args:
        environment: running servers.
        seed: of everything that is random.
    """

    def __init__(self, environment: LocalEnvironment, seed: int) -> None:
        self.rng = random.Random(seed)
        name = f"conform-{random.randrange(1 << 32):08x}"
        self.environment = environment
        self.settings = replace(
            environment.settings, buckets=BUCKETS, key_prefix=name, backup_table=name, messages_table=f"{name}-messages"
        )
        environment.create_tables(self.settings)
        environment.rebuild(self.settings)
        self.backup = BackupTable(self.settings)
        self.store = RedisRegistry(self.settings, registry_id=self.backup.registry.id)
        self.registry = Registry.over(self.settings, self.store, self.backup)
        self.messages = MessagesTable(self.settings)
        self._connections = Connections(self.settings, timeout=5.0, retries=2)
        self.redis = RedisProxy(environment.redis.port)
        self.aws = AwsProxy(environment.moto.port)
        self._numbers = iter(range(1_000_000))

    def __enter__(self) -> Self:
        """Return the stage, which is closed at the end of the block."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the proxies and the connections; the servers go on."""
        self.redis.stop()
        self.aws.stop()
        self._connections.close()
        self.registry.close()

    def opening(self, aws_timeout: float = AWS_TIMEOUT) -> dict[str, Any]:
        """Return the first request to a client: the configuration that leads it to the proxies.

        Args:
            aws_timeout: seconds that a request to AWS may take.
        """
        credentials = dummy_credentials()
        password = self.environment.redis.password
        return {
            "op": "open",
            "redis_url": f"redis://{f':{password}@' if password else ''}127.0.0.1:{self.redis.port}/0",
            "endpoint_url": f"http://127.0.0.1:{self.aws.port}",
            "region": credentials["AWS_REGION"],
            "access_key_id": credentials["AWS_ACCESS_KEY_ID"],
            "secret_access_key": credentials["AWS_SECRET_ACCESS_KEY"],
            "backup_table": self.settings.backup_table,
            "messages_table": self.settings.messages_table,
            "partition_key": "conversation_id",
            "sort_key": "sort_key",
            "key_prefix": self.settings.key_prefix,
            "buckets": BUCKETS,
            "lookup_timeout": LOOKUP_TIMEOUT,
            "aws_timeout": aws_timeout,
            "breaker_seconds": 0,
            "cool_wait": COOL_WAIT,
        }

    def heal(self) -> None:
        """End the faults of the proxies."""
        self.redis.heal()
        self.aws.heal()

    # Conversations.

    def new_id(self, kind: str = "conv") -> str:
        """Return the id of a conversation that nothing knows yet."""
        return f"{kind}_{next(self._numbers)}_{self.rng.getrandbits(24):06x}"

    def salted(self, n: int = 4, kind: str = "conv") -> str:
        """Return a new conversation that was raised to n."""
        conversation_id = self.new_id(kind)
        self.registry.raise_to(conversation_id, n, reason=BY)
        return conversation_id

    def backed(self, n: int = 4) -> str:
        """Return a new conversation that was raised to n, and that Redis has lost since."""
        conversation_id = self.salted(n)
        self.command("HDEL", self.bucket_key(conversation_id), conversation_id)
        return conversation_id

    def raise_half(self, conversation_id: str, n: int) -> None:
        """Do the first two steps of a raise: the process dies before the third."""
        self.backup.raise_max_n(conversation_id, self._record(n))
        self._merge(conversation_id)

    def narrow(self, conversation_id: str, n: int) -> None:
        """Do the first phase of a cool-down: writers use n salts."""
        self.backup.allow_cooling()
        self._replace(conversation_id, self._entry(conversation_id).narrowed(replace(self._record(n), cooled=True)))

    def seal(self, conversation_id: str, boundary: SortKey) -> None:
        """Do the second phase: readers use as many from the boundary on."""
        self._replace(conversation_id, self._entry(conversation_id).sealed(boundary))

    def _record(self, n: int) -> Raise:
        return Raise(n, iso_utc(datetime.now(UTC)), BY, BY)

    def _entry(self, conversation_id: str) -> BackupEntry:
        entry = self.backup.get(conversation_id)
        assert entry is not None
        return entry

    def _replace(self, conversation_id: str, after: BackupEntry) -> None:
        assert self.backup.replace(self._entry(conversation_id), after)
        self._merge(conversation_id)

    def _merge(self, conversation_id: str) -> None:
        noted = self.backup.check_registry().verifying
        with suppress(RedisUnavailableError):  # it is down, and a rebuild will do it
            self.store.merge(conversation_id, self._entry(conversation_id).entry, noted, accept_unverified=True)

    def put_item(self, conversation_id: str, **attributes: Mapping[str, Any]) -> None:
        """Write an item of the backup as it is."""
        item = {"conversation_id": {"S": conversation_id}, **attributes}
        self.backup.client.put_item(TableName=self.settings.backup_table, Item=item)

    def registry_item(self) -> dict[str, Any]:
        """Return the item #registry."""
        item = self.backup.read_item(REGISTRY_ITEM_ID)
        assert item is not None
        return item

    def put_registry_item(self, item: Mapping[str, Any] | None) -> None:
        """Replace the item #registry; None deletes it."""
        table = self.settings.backup_table
        if item is None:
            self.backup.client.delete_item(TableName=table, Key={"conversation_id": {"S": REGISTRY_ITEM_ID}})
        else:
            self.backup.client.put_item(TableName=table, Item=dict(item))

    def put_row(self, partition_key: str, sort_key: str, text: str = "hello") -> None:
        """Write a row of the messages table, without a lookup."""
        assert self.messages.put(partition_key, sort_key, {"text": {"S": text}})

    def put_rows(self, rows: Iterable[tuple[str, str]]) -> None:
        """Write rows of these partition and sort keys, in any order."""
        self.messages.load(
            {"conversation_id": {"S": partition}, "sort_key": {"S": key}, "text": {"S": "hello"}}
            for partition, key in rows
        )

    # Redis.

    @property
    def layout(self) -> str:
        """The layout that a lookup has to name."""
        return self.store.layout

    def bucket_key(self, conversation_id: str) -> str:
        """Return the key of the bucket of a conversation."""
        return f"{self.settings.key_prefix}:r:{bucket_of(conversation_id, BUCKETS)}"

    def command(self, *words: object) -> Any:
        """Send a command to Redis itself, not through the proxy."""
        return self._connections.client(self._connections.primaries()[0]).execute_command(*words)

    def knows_script(self) -> bool:
        """Return whether Redis knows the lookup script."""
        return bool(self.command("SCRIPT EXISTS", script_sha("lookup"))[0])

    def restart_redis(self, *, keep_data: bool) -> None:
        """Kill Redis and start it again, unverified, with its AOF or with nothing."""
        self.environment.redis.kill()
        if not keep_data:
            self.environment.redis.delete_aof()
        self.environment.redis.start()

    def rebuild(self) -> None:
        """Verify Redis again."""
        self.environment.rebuild(self.settings)

    # Faults.

    def redis_away(self) -> None:
        """Cut all connections to Redis, and refuse new ones."""
        self.redis.refuses = True
        self.redis.cut()

    def backup_denies(self) -> None:
        """Answer every request to AWS with an error that no retry helps."""
        self.aws.rule = lambda _: Response.error("AccessDeniedException")


def settings_of(opening: Mapping[str, Any]) -> Settings:
    """Return the settings that the first request to a client stands for."""
    return Settings(
        redis_url=opening["redis_url"],
        aws_endpoint_url=opening["endpoint_url"],
        aws_region=opening["region"],
        backup_table=opening["backup_table"],
        messages_table=opening["messages_table"],
        key_prefix=opening["key_prefix"],
        buckets=opening["buckets"],
        lookup_timeout=opening["lookup_timeout"],
        aws_timeout=opening["aws_timeout"],
        page_timeout=3 * opening["aws_timeout"],
        breaker_seconds=opening["breaker_seconds"],
        cool_wait=opening["cool_wait"],
    )
