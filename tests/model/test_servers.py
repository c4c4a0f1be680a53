"""The model's servers answer as real ones do: the same calls through the same stores, with the same results."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import product

import pytest

from saltctl.errors import RebuildBrokenError, SaltctlError
from saltctl.local.servers import LocalRedis
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.registry_item import RegistryItem
from saltctl.stores.contracts.entries import CooledEntry, Entry
from saltctl.stores.contracts.registry import BackupEntry, Raise
from saltctl.stores.redis.rebuild_session import RedisRebuildSession
from saltctl.stores.redis.registry import RedisRegistry
from tests.model.answers import serve_backup
from tests.model.replay import (
    CONVERSATION,
    SETTINGS,
    Answers,
    Call,
    ModelBackup,
    NotedBackup,
    StubConnections,
    StubDynamo,
)
from tests.model.servers import UNREACHABLE, Redis, Reply, execute
from tests.model.world import Shared


class LiveAnswers(Answers):
    """Answers from one model server and one item, instead of recorded answers."""

    def __init__(self) -> None:
        super().__init__(())
        self.server = Redis()
        self.shared = Shared((), (), None)
        self.lost = False
        """Whether the server process of the sessions is gone."""

    def ask(self, call: Call) -> Reply:
        """Return the answer of the model."""
        match call:
            case Call("dynamodb"):
                [(self.shared, reply)] = serve_backup(self.shared, call, keep_older=False)
                return reply
            case Call("session", _) if self.lost:
                return UNREACHABLE
        self.server, reply = execute(self.server, call.words)
        return reply


class RealRedis:
    """A real server, and its failures."""

    def __init__(self, server: LocalRedis, settings: Settings) -> None:
        import redis

        self._server = server
        self._client = redis.Redis.from_url(server.url)
        self.store = RedisRegistry(replace(settings, buckets=1, redis_url=server.url))

    def flush(self) -> None:
        """Delete all keys."""
        self._client.flushall()

    def restart(self) -> None:
        """Restart the process; it keeps its data."""
        self._server.stop()
        self._server.start()

    def close(self) -> None:
        """Close the connections."""
        self._client.close()
        self.store.close()


class ModelRedis:
    """A model server, and its failures."""

    def __init__(self) -> None:
        self._answers = LiveAnswers()
        connections = StubConnections(self._answers)
        self.store = RedisRegistry(SETTINGS, lookups=connections, others=connections)

    def flush(self) -> None:
        """Delete all keys."""
        self._answers.server = self._answers.server._replace(bucket=())

    def restart(self) -> None:
        """Restart the process; it keeps its data."""
        self._answers.lost = True
        self._answers.server = self._answers.server._replace(knows_lookup=False, identity=1)


Action = Callable[["RealRedis | ModelRedis", RedisRebuildSession], object]


NARROWED, RAISED, SEALED = CooledEntry(4, 1, 1), CooledEntry(8, 8, 1), CooledEntry(4, 1, 1, 1, 1, "2026")


def merge(session: RedisRebuildSession, entry: Entry) -> int:
    """Merge one entry, and return the number of changed entries."""
    session.begin_merge([(CONVERSATION, entry)])
    return session.end_merge()


ACTIONS: dict[str, Action] = {
    "look up": lambda redis, _: redis.store.lookup(redis.store.primaries()[0], [CONVERSATION]),
    "merge 4": lambda redis, _: redis.store.merge(CONVERSATION, 4),
    "merge 2": lambda redis, _: redis.store.merge(CONVERSATION, 2),
    "merge 16 if noted": lambda redis, session: redis.store.merge(CONVERSATION, 16, [session.replication_id]),
    "merge 16 elsewhere": lambda redis, _: redis.store.merge(CONVERSATION, 16, ["0"]),
    "merge 16 anywhere": lambda redis, _: redis.store.merge(CONVERSATION, 16, [], accept_unverified=True),
    "raw": lambda redis, _: redis.store.read_unverified([CONVERSATION]),
    "mark": lambda _, session: session.mark_buckets("token"),
    "merge 8 in the rebuild": lambda _, session: merge(session, 8),
    "narrow": lambda redis, _: redis.store.merge(CONVERSATION, NARROWED),
    "raise to 8": lambda redis, _: redis.store.merge(CONVERSATION, RAISED),
    "seal": lambda redis, _: redis.store.merge(CONVERSATION, SEALED),
    "seal in the rebuild": lambda _, session: merge(session, SEALED),
    "finish": lambda _, session: session.set_fence("token"),
    "load": lambda _, session: session.load_lookup(),
    "flush": lambda redis, _: redis.flush(),
    "restart": lambda redis, _: redis.restart(),
}

SEQUENCES = (
    "look up, load, look up, merge 4, mark, finish, look up",
    "mark, merge 4, merge 8 in the rebuild, merge 2, finish, load, look up, raw",
    "mark, finish, load, look up, merge 2, look up, merge 4, look up, flush, look up, raw, merge 4, look up",
    "mark, merge 4, flush, finish, look up, load, mark",
    "mark, finish, finish",
    "mark, merge 4, finish, load, look up, restart, look up, raw, load, mark",
    "mark, merge 4, restart, merge 8 in the rebuild, finish, load, look up, raw",
    "finish, look up",
    "merge 16 elsewhere, raw, mark, merge 16 if noted, raw",
    "mark, merge 4, narrow, finish, load, look up, merge 4, look up, raise to 8, look up, seal, look up, narrow, raw",
    f"mark, merge 4, {'merge 8 in the rebuild, ' * 4}{'seal in the rebuild, ' * 2}finish, load, look up, raw",
    "mark, merge 2, seal in the rebuild, raw, narrow, merge 8 in the rebuild, raw, raise to 8, raw",
    "mark, finish, merge 16 elsewhere, merge 16 anywhere, raw, restart, merge 16 elsewhere, merge 16 anywhere, raw",
)


def outcomes(sequence: str, redis: RealRedis | ModelRedis) -> Iterator[tuple[str, object]]:
    """Yield the outcome of each action: its result, or the class of its error."""
    [session] = redis.store.sessions()
    for name in sequence.split(", "):
        try:
            yield name, ACTIONS[name](redis, session)
        except SaltctlError as exc:
            yield name, type(exc)


@pytest.mark.parametrize("sequence", SEQUENCES)
def test_the_models_redis_is_like_a_real_one(sequence: str, redis_server: LocalRedis, settings: Settings) -> None:
    """Every call of lookups, raises and rebuilds has the same outcome, also after a flush and after a restart."""
    real = RealRedis(redis_server, settings)
    assert list(outcomes(sequence, ModelRedis())) == list(outcomes(sequence, real))
    real.close()


def notes(registry: RegistryItem) -> Iterator[object]:
    """Yield the outcomes of notes. The second and the fourth are to replace one that is not the newest any more."""
    before = [registry.read()]
    for token, at in (("a", 0), ("b", 0), ("c", 1), ("d", 1)):
        try:
            before.append(registry.note_rebuild(before[at], token * 32, ["1" * 40]))
            yield registry.read() == before[-1]
        except SaltctlError as exc:
            yield type(exc)


@pytest.mark.slow
def test_the_models_note_is_like_that_in_moto(backup: BackupTable) -> None:
    """A note is written only over the newest one, and read as it was written."""
    dynamo = StubDynamo(LiveAnswers())
    dynamo.reads = "token"
    model = NotedBackup(SETTINGS, client=dynamo)
    assert list(notes(model.registry)) == list(notes(backup.registry)) == [True, RebuildBrokenError] * 2


COOLED = Raise(2, "2026-01-01T00:00:00Z", "tester", "")
CHANGES: tuple[tuple[int, Callable[[BackupEntry], BackupEntry], bool], ...] = (
    (0, lambda entry: entry.narrowed(COOLED), True),
    (0, lambda entry: entry.narrowed(COOLED), False),
    (1, lambda entry: entry.sealed("2026"), True),
    (1, lambda entry: entry.raised(replace(COOLED, n=8)), False),
    (3, lambda entry: entry.raised(replace(COOLED, n=8)), True),
    (3, lambda entry: entry.narrowed(COOLED), False),
)
"""Changes of a cooled item: the number of the read that it is based on, and whether it is done."""


def cooled(store: BackupTable) -> Iterator[object]:
    """Yield the outcome of each change, and the item after it."""
    store.raise_max_n(CONVERSATION, replace(COOLED, n=4))
    read = [store.get_many([CONVERSATION])[CONVERSATION]]
    for number, change, done in CHANGES:
        assert store.replace(read[number], change(read[number])) is done
        read.append(store.get_many([CONVERSATION])[CONVERSATION])
        yield read[-1].max_n, read[-1].write_n, read[-1].cooling
    for entry in (read[1].entry, 8, read[-1].entry, read[-1].entry):
        yield store.commit_write_n(CONVERSATION, entry)
    yield store.raise_max_n(CONVERSATION, replace(COOLED, n=8))
    yield store.raise_max_n(CONVERSATION, replace(COOLED, n=16))


@pytest.mark.slow
def test_the_models_cooled_items_are_like_those_in_moto(backup: BackupTable) -> None:
    """Cool-downs, and a raise after one, return and leave the same values, also if the item has changed since."""
    assert list(cooled(ModelBackup(SETTINGS, client=StubDynamo(LiveAnswers())))) == list(cooled(backup))


@pytest.mark.slow
def test_the_models_dynamodb_is_like_moto(backup: BackupTable) -> None:
    """Raises and commits return and leave the same values, in every sequence of two and in a longer one."""

    def raised(store: BackupTable, conversation_id: str, n: int) -> object:
        return store.raise_max_n(conversation_id, Raise(n, "2026-01-01T00:00:00Z", "tester", ""))

    def committed(store: BackupTable, conversation_id: str, n: int) -> object:
        return store.commit_write_n(conversation_id, n)

    acts = list(product((raised, committed), (2, 4)))
    longer = [(raised, 2), (committed, 4), (committed, 2), (raised, 4), (committed, 2), (committed, 4), (raised, 2)]
    for number, sequence in enumerate([*product(acts, repeat=2), longer]):
        model = ModelBackup(SETTINGS, client=StubDynamo(LiveAnswers()))
        for act, n in sequence:
            assert act(model, CONVERSATION, n) == act(backup, f"conv-{number}", n)
            held, really = model.get(CONVERSATION), backup.get(f"conv-{number}")
            assert (held and (held.max_n, held.write_n)) == (really and (really.max_n, really.write_n))
