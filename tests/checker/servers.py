"""The servers of one run and their faults: Redis in one of three arrangements, and DynamoDB behind a stub."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping, Sequence, Set
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from saltctl.errors import RedisUnavailableError, SaltctlError
from saltctl.local.servers import LocalMoto
from saltctl.registry.setup import set_up
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.registry import RedisRegistry
from tests.checker.redis_groups import Cluster, Sentinels
from tests.checker.redis_pair import RedisPair
from tests.checker.schedule import Event, Fault, Side
from tests.support import rebuild_job
from tests.support.aws_stub import Answer, AwsStub, refusal
from tests.support.dynamodb_local import DynamoLocal

BUCKETS = 16
START_SECONDS = 60.0
RETRY_SECONDS = 1.5
"""Seconds that a fault of DynamoDB lasts longer than other faults: botocore retries for about as long."""


REGISTRY_ID = "feed0123456789ab"


@dataclass(frozen=True, slots=True)
class Copy:
    """The items of the backup table at one time; ``began`` is the start of the copy in monotonic seconds."""

    began: float
    items: list[dict[str, Any]]


class RedisServers(Protocol):
    """Redis as a run has it."""

    @property
    def takes_entries(self) -> Set[Fault]:
        """Those that may take entries from it."""
        ...

    @property
    def url(self) -> str:
        """The URL of the servers themselves."""
        ...

    def url_of(self, side: Side) -> str:
        """Return the URL for the clients of one side, known before :meth:`serve`."""
        ...

    def start(self, stack: ExitStack) -> None:
        """Start the servers; the stack ends them."""
        ...

    def serve(self) -> None:
        """Start the proxies, if there are any."""
        ...

    def flush(self) -> None:
        """Take all entries."""
        ...

    def delete(self, keys: Sequence[str]) -> None:
        """Take these buckets."""
        ...

    def inject(self, event: Event, rng: random.Random) -> Callable[[], None] | None:
        """Inject a fault of the servers or of connections to them; return what ends it, if it lasts."""
        ...


TOPOLOGIES: Mapping[str, Callable[[Path, Path | None], RedisServers]] = {
    "pair": RedisPair,
    "cluster": Cluster,
    "sentinel": Sentinels,
}
"""The arrangements of Redis servers, from the directory of their files and the server binary."""


class Emulator(Protocol):
    """moto's server or DynamoDB Local."""

    @property
    def url(self) -> str:
        """Its endpoint."""
        ...

    def start(self) -> None:
        """Start it."""
        ...

    def stop(self) -> None:
        """Stop it."""
        ...


class Servers:
    """The servers, as a context manager: they run inside the block and end with it.

    Fork processes before :meth:`serve`, which starts the threads of the proxies and of the stub.

    Args:
        redis: the Redis servers.
        dynamodb: the DynamoDB emulator; None for moto's server.
        cap: the largest N.
        names_registry: whether the settings name the registry.
    """

    def __init__(
        self,
        redis: RedisServers,
        *,
        dynamodb: DynamoLocal | None,
        cap: int,
        names_registry: bool = True,
    ) -> None:
        self._dynamodb: Emulator = dynamodb or LocalMoto()
        self._redis = redis
        self._cap = cap
        self._registry_id = REGISTRY_ID if names_registry else None
        self._stack = ExitStack()
        self._active: list[tuple[float, Callable[[], None]]] = []
        self._requests = count()

    def __enter__(self) -> Servers:
        """Start the servers, create the tables, and verify Redis."""
        try:
            self._stack.callback(self._dynamodb.stop)
            self._dynamodb.start()
            self._redis.start(self._stack)
            self._stub = AwsStub(self._dynamodb.url)
            settings = self._settings(self._redis.url)
            backup = BackupTable(settings)
            if isinstance(self._dynamodb, DynamoLocal):
                _create_without_recovery(backup)
            store = RedisRegistry(settings, registry_id=backup.registry.id)
            for _ in set_up(settings, store, backup, messages=True, dry_run=False):
                pass
            self._direct, self._backup = backup.client, backup
            self._verify(settings, store)
        except BaseException:
            self._stack.close()
            raise
        return self

    def _verify(self, settings: Settings, store: RedisRegistry) -> None:
        """Rebuild, again if a primary has no replica that is good enough: a busy machine makes replicas late."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            try:
                for _ in rebuild_job(settings, store, self._backup).run():
                    pass
                return
            except RedisUnavailableError:
                if time.monotonic() >= deadline:
                    raise
                time.sleep(0.1)

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    def _settings(self, redis_url: str) -> Settings:
        return Settings(
            redis_url=redis_url,
            buckets=BUCKETS,
            registry_id=self._registry_id,
            max_n_cap=self._cap,
            redis_timeout=1.0,
            breaker_seconds=0.2,
            aws_timeout=3.0,
            cool_wait=2.0,
            aws_region="us-east-1",
            aws_endpoint_url=self._dynamodb.url,
            actor="checker",
        )

    def settings(self, side: Side) -> Settings:
        """Return the settings of the clients of one side."""
        mine = self._settings(self._redis.url_of(side))
        return self._stub.settings(mine) if side == "far" else mine

    def serve(self) -> None:
        """Start the proxies and the stub."""
        self._redis.serve()
        self._stack.enter_context(self._stub)

    # Faults.

    def inject(self, event: Event, rng: random.Random) -> None:
        """Inject one fault. A fault that lasts ends at the first :meth:`end_faults` after its time."""
        match event.fault:
            case Fault.FLUSH:
                self.flush()
            case Fault.DELETE:
                self._redis.delete([f"salt:r:{at}" for at in rng.sample(range(BUCKETS), 1 + int(4 * event.amount))])
            case Fault.THROTTLE | Fault.UNSURE:
                self._stub.rule = self._throttle if event.fault is Fault.THROTTLE else self._execute_and_refuse
                self._end_later(event, self._forward_all, longer=RETRY_SECONDS)
            case _:
                if end := self._redis.inject(event, rng):
                    self._end_later(event, end)

    @property
    def takes_entries(self) -> Set[Fault]:
        """The faults that may take entries from Redis."""
        return self._redis.takes_entries

    def flush(self) -> None:
        """Take all entries from Redis."""
        self._redis.flush()

    def is_verified(self) -> bool:
        """Return whether the primary is verified for the registry of the backup table."""
        try:
            registry_id = self._backup.registry.id() if self._registry_id else self._recorded_id()
            settings = self._settings(self._redis.url)
            with closing(RedisRegistry(settings, registry_id=lambda: registry_id)) as store:
                return all(store.verified().values())
        except SaltctlError:
            return False

    def _recorded_id(self) -> str:
        return self._backup.registry.read(recheck=True).registry_id

    def copy_backup(self) -> Copy:
        """Return the items of the backup table. They are few."""
        return Copy(time.monotonic(), self._direct.scan(TableName=self._backup.name, ConsistentRead=True)["Items"])

    def delete_backup(self) -> None:
        """Delete the backup table."""
        if isinstance(self._dynamodb, LocalMoto):
            self._direct.update_table(TableName=self._backup.name, DeletionProtectionEnabled=False)
        self._direct.delete_table(TableName=self._backup.name)

    def restore_backup(self, copy: Copy) -> None:
        """Create another table of the same name with these items, as a restore from a point in time does."""
        self._backup.create_table()
        for item in copy.items:
            self._direct.put_item(TableName=self._backup.name, Item=item)

    def end_faults(self, *, all_faults: bool = False) -> None:
        """End the faults whose time is over, or all faults."""
        now = time.monotonic()
        for entry in list(self._active):
            if all_faults or entry[0] <= now:
                self._active.remove(entry)
                entry[1]()

    def _end_later(self, event: Event, end: Callable[[], None], longer: float = 0.0) -> None:
        self._active.append((time.monotonic() + event.seconds + longer, end))

    def _forward_all(self) -> None:
        self._stub.rule = lambda operation, request: None

    def _throttle(self, operation: str, request: dict[str, Any]) -> Answer | None:
        """Throttle five of six requests."""
        return None if next(self._requests) % 6 == 0 else refusal("ProvisionedThroughputExceededException")

    def _execute_and_refuse(self, operation: str, request: dict[str, Any]) -> Answer | None:
        """Execute every write, and return an error."""
        if operation not in ("UpdateItem", "PutItem"):
            return None
        with suppress(Exception):  # a failed condition: the client gets the same error
            (self._direct.update_item if operation == "UpdateItem" else self._direct.put_item)(**request)
        return refusal("InternalServerError", 500)


def _create_without_recovery(backup: BackupTable) -> None:
    """Create the backup table without point-in-time recovery, which DynamoDB Local does not support."""
    backup.client.create_table(
        TableName=backup.name,
        AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
        KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
