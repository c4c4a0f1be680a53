"""Forked children: their clients, pools, locks, threads and names are their own, at whatever moment the fork comes."""

from __future__ import annotations

import ctypes
import http.client
import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import ConfigurationError, SaltctlError
from saltctl.forks import PerProcess, importing, this_process
from saltctl.history.history import History
from saltctl.local.environment import LocalEnvironment
from saltctl.local.servers import LocalMoto, free_port
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.client import create_client
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.aws.registry_item import REGISTRY_ITEM_ID
from saltctl.stores.heat.stream import HeatStream
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryMessages
from tests.support import Rebuilder, put_entries, rebuild_job
from tests.support.aws_stub import AwsStub
from tests.support.forked import Child, in_child
from tests.support.lookups import FixedLookups
from tests.support.tls import create_authority, start_front

pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")

CONVERSATIONS = [f"conv{number}" for number in range(4)]
SALTS = {conversation: 2 ** (1 + number) for number, conversation in enumerate(CONVERSATIONS)}
"""Every conversation has another N, so that the answer of one is wrong for each other."""


def fork_in_c() -> int:
    """Fork as servers that are written in C do: without Python's hooks.

    No other thread may be waiting for the interpreter's lock: the child would inherit its condition variable with a
    waiter that never leaves, and hang (CPython 3.11 without any code of ours: 4 of 7 forks beside two busy threads).
    """
    time.sleep(0.05)  # threads that have just done their work go back to sleep
    return int(ctypes.PyDLL(None).fork())


@pytest.fixture
def settings(settings: Settings) -> Settings:
    """Settings with long timeouts: a request that waits forever shows at the end of its child."""
    return replace(settings, aws_timeout=20.0, page_timeout=40.0, redis_timeout=20.0)


@pytest.fixture
def history(settings: Settings, registry: Registry, backup: BackupTable) -> Iterator[History]:
    """The history of the conversations; the text of each message names its conversation."""
    table = MessagesTable(settings)
    table.create()
    put_entries(backup, SALTS)
    with closing(History.over(settings, registry, table)) as history:
        for conversation in CONVERSATIONS:
            for number in range(2):
                history.put(conversation, f"2026-01-01T00:00:0{number}Z#{conversation}", {"text": conversation})
        yield history


def variables_of(settings: Settings) -> dict[str, str]:
    """Return the environment variables that a process with these settings has."""
    assert settings.aws_endpoint_url is not None
    return {
        "SALTCTL_REDIS_URL": str(settings.redis_url),
        "SALTCTL_BUCKETS": str(settings.buckets),
        "SALTCTL_BACKUP_TABLE": settings.backup_table,
        "SALTCTL_MESSAGES_TABLE": settings.messages_table,
        "AWS_ENDPOINT_URL": settings.aws_endpoint_url,
    }


def wrong_pages(history: History, conversation: str, times: int) -> list[str]:
    """Read a page many times; return those that hold anything but the two messages of the conversation."""
    pages = [history.page(conversation) for _ in range(times)]
    read = [[message.attributes["text"] for message in page.messages] for page in pages]
    return [f"{conversation}: {texts}" for texts in read if texts != [conversation] * 2]


def wrong_lookups(registry: Registry, conversation: str, times: int) -> list[str]:
    """Look up many times; return the answers that are wrong."""
    found = [registry.lookup(conversation) for _ in range(times)]
    return [f"{conversation}: {answer}" for answer in found if answer.max_n != SALTS[conversation]]


def in_children(work: Callable[[str], list[str]], parent: Callable[[], Any] = lambda: None) -> list[str]:
    """Run ``work`` for each conversation in a child of its own, all at once, while the parent does something."""
    barrier = multiprocessing.get_context("fork").Barrier(len(CONVERSATIONS))

    def together(conversation: str) -> list[str]:
        barrier.wait(60)
        return work(conversation)

    children = [Child(partial(together, conversation)) for conversation in CONVERSATIONS]
    parent()
    return [wrong for child in children for wrong in child.result()]


# Answers.


@pytest.mark.slow
@pytest.mark.parametrize("tls", [False, True], ids=["http", "https"])
def test_children_read_their_own_pages(
    history: History, settings: Settings, moto: LocalMoto, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tls: bool
) -> None:
    """Parent and children read at once, from a history that the parent has used."""
    openssl = shutil.which("openssl")
    if tls:
        if openssl is None:
            pytest.skip("openssl is not installed, so there are no certificates to test TLS with")
        create_authority(tmp_path, openssl)
        front, port = start_front(moto.port, tmp_path)
        monkeypatch.setenv("AWS_CA_BUNDLE", str(tmp_path / "ca.crt"))
        settings = replace(settings, aws_endpoint_url=f"https://127.0.0.1:{port}")
        history = History.over(settings, history.registry, MessagesTable(settings))
    try:
        for _ in range(2):
            for conversation in CONVERSATIONS:
                assert wrong_pages(history, conversation, 1) == []
            read = partial(wrong_pages, history, CONVERSATIONS[0], 2)
            wrong: list[str] = []
            wrong += in_children(partial(wrong_pages, history, times=2), lambda: wrong.extend(read()))  # noqa: B023
            assert wrong == []
    finally:
        if tls:
            history.close()
            front.kill()
            front.communicate()


@pytest.mark.slow
def test_children_look_up_their_own_conversations(
    history: History, registry: Registry, rebuild: Rebuilder, settings: Settings, backup: BackupTable
) -> None:
    """In the backup while Redis is away, and in Redis."""
    rebuild()
    away = replace(settings, redis_url="redis://127.0.0.1:1/0", breaker_seconds=60.0)
    for clients in (Registry.over(away, RedisRegistry(away), backup), registry):
        for _ in range(5):  # the first requests after a fork are those that meet on one connection
            with ThreadPoolExecutor(4) as threads:  # several connections are open, and no thread ends before the fork
                list(threads.map(clients.lookup, CONVERSATIONS * 4))
                wrong: list[str] = []
                look_up = partial(wrong_lookups, clients, CONVERSATIONS[0], 3)
                look_up_in_child = partial(wrong_lookups, clients, times=3)
                wrong += in_children(look_up_in_child, lambda: wrong.extend(look_up()))  # noqa: B023
            assert wrong == []
    assert registry.lookup(CONVERSATIONS[0]).source == "redis"


def test_grandchildren_and_children_of_servers_in_c(history: History) -> None:
    """Each generation has clients of its own, also if the fork runs none of Python's hooks."""
    assert wrong_pages(history, CONVERSATIONS[0], 1) == []
    table = history.store
    assert isinstance(table, MessagesTable)
    clients = [table.client]

    def generation(fork: Callable[[], int], left: int) -> list[str]:
        wrong = wrong_pages(history, CONVERSATIONS[left], 1)
        wrong += ["the client of an ancestor"] * (table.client in clients)
        clients.append(table.client)
        return wrong + (in_child(partial(generation, fork, left - 1), fork) if left else [])

    for fork in (os.fork, fork_in_c):
        assert in_child(partial(generation, fork, 2), fork) == []
    assert wrong_pages(history, CONVERSATIONS[3], 1) == []


def test_a_given_client_is_refused_in_a_child(history: History, settings: Settings) -> None:
    """A second one like it cannot be made, and the first one's connections are the parent's."""
    backup = BackupTable(settings, client=create_client(settings, "dynamodb"))
    found = backup.get(CONVERSATIONS[0])
    assert found is not None

    def use() -> str:
        with pytest.raises(ConfigurationError, match="forked"):
            backup.get(CONVERSATIONS[0])
        return "refused"

    assert in_child(use) == "refused"
    assert backup.get(CONVERSATIONS[0]) == found


def test_a_fork_in_the_middle_of_a_request(settings: Settings, backup: BackupTable) -> None:
    """A signal handler may fork while its thread waits for a response: the child does not read it, it asks again."""
    children: list[int] = []

    class Forking:
        """A client that forks during its first request."""

        requests = 0

        def batch_get_item(self, **request: Any) -> dict[str, Any]:
            """Answer with an item that holds the number of the request."""
            self.requests += 1
            if self.requests == 1:
                children.append(os.fork())
            item = {"conversation_id": {"S": "conv"}, "max_n": {"N": str(self.requests)}}
            items = {settings.backup_table: [item, identity]}
            return {"Responses": items, "ConsumedCapacity": [{"TableName": settings.backup_table}]}

        def describe_table(self, **request: Any) -> dict[str, Any]:
            """Answer as the real table does."""
            return {"Table": described}

    identity, described = backup.read_item(REGISTRY_ITEM_ID), backup.require()
    read_end, write_end = os.pipe()
    found = None
    try:
        found = BackupTable(settings, client=Forking()).get("conv")
    except BaseException:
        if children != [0]:
            raise
    if children == [0]:
        with suppress(BaseException):
            os.write(write_end, str(found and found.max_n).encode())
        os._exit(0)
    os.waitpid(children[0], 0)
    assert (os.read(read_end, 10), found and found.max_n) == (b"2", 1)
    os.close(read_end)
    os.close(write_end)


@pytest.mark.slow
def test_gunicorn_with_preload(history: History, settings: Settings, rebuild: Rebuilder) -> None:
    """Workers with threads serve from a history, a registry and a meter that were used before the fork."""
    pytest.importorskip("gunicorn")
    rebuild()
    port = free_port()
    command = [
        sys.executable,
        "-m",
        "gunicorn",
        "--preload",
        "--workers=3",
        "--threads=4",
        "--timeout=300",
        f"--bind=127.0.0.1:{port}",
    ]
    server = subprocess.Popen(
        [*command, "tests.support.preforked:application"],
        env=os.environ | variables_of(settings),
        stderr=subprocess.PIPE,
        text=True,
    )

    def ask(conversation: str) -> dict[str, Any]:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=150)
        with closing(connection):
            connection.request("GET", f"/{conversation}")
            answer: dict[str, Any] = json.loads(connection.getresponse().read())
        return answer | {"asked": conversation}

    try:
        deadline = time.monotonic() + 150
        while True:
            with suppress(ConnectionError):
                ask(CONVERSATIONS[0])
                break
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        with ThreadPoolExecutor(12) as threads:
            answers = list(threads.map(ask, CONVERSATIONS * 10))
    finally:
        server.terminate()
        _, log = server.communicate(timeout=60)
    for answer in answers:
        asked = answer["asked"]
        assert (answer["numbers"], answer["texts"]) == ([SALTS[asked]] * 3, [asked]), log
        assert answer["partition"] == asked
    assert len({answer["pid"] for answer in answers}) > 1
    assert len({answer["meter"] for answer in answers}) == len({answer["pid"] for answer in answers})
    assert server.returncode == 0, log


# Locks and threads.


def fork_while(holds: Callable[[], Any], reached: Callable[[], bool], release: Callable[[], None], work: Any) -> Any:
    """Fork while another thread is inside ``holds``; return what ``work`` returns in the child."""
    thread = threading.Thread(target=holds, daemon=True)
    thread.start()
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.005)
    try:
        return in_child(work)
    finally:
        release()
        thread.join()


def test_a_child_reads_while_its_parent_reads_the_keys(settings: Settings, history: History, moto: LocalMoto) -> None:
    """The first page of a table asks for its keys; a thread of the parent waits for the answer at the fork."""
    arrived, answered = threading.Event(), threading.Event()

    def hold_first(operation: str, request: dict[str, Any]) -> None:
        if operation == "DescribeTable" and not arrived.is_set():
            arrived.set()
            answered.wait(60)

    with AwsStub(moto.url) as stub:
        stub.rule = hold_first
        behind = stub.settings(settings)
        with closing(History.over(behind, history.registry, MessagesTable(behind))) as stubbed:
            read = partial(wrong_pages, stubbed, CONVERSATIONS[0], 1)
            assert fork_while(read, arrived.is_set, answered.set, read) == []
            assert read() == []


def test_a_child_creates_a_client_while_its_parent_does(
    settings: Settings, history: History, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Credentials may take their time, and their first reader holds a lock meanwhile."""
    marks = tmp_path / "marks"
    script = tmp_path / "credentials"
    script.write_text(
        f"#!/bin/sh\nmkdir {marks} 2>/dev/null && while [ ! -e {marks}/go ]; do sleep 0.05; done\n"
        """echo '{"Version": 1, "AccessKeyId": "local", "SecretAccessKey": "local"}'\n"""
    )
    script.chmod(0o700)
    config = tmp_path / "config"
    config.write_text(f"[profile slow]\ncredential_process = {script}\n")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(config))
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    backup = BackupTable(replace(settings, aws_profile="slow"))

    def salts() -> int | None:
        entry = backup.get(CONVERSATIONS[0])
        return None if entry is None else entry.max_n

    assert fork_while(salts, marks.exists, (marks / "go").touch, salts) == 2
    assert salts() == 2


def test_a_fork_waits_for_an_import(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A library that is half imported at the fork could never be imported in the child."""
    (tmp_path / "slow_library.py").write_text("import time\ntime.sleep(0.5)\nloaded = True\n")
    monkeypatch.syspath_prepend(tmp_path)
    begun = threading.Event()

    def load() -> bool:
        with importing:
            begun.set()
            import slow_library  # type: ignore[import-not-found]

        return bool(slow_library.loaded)

    assert fork_while(load, begun.is_set, lambda: None, load) is True


@pytest.mark.slow
def test_every_import_at_first_use_makes_forks_wait(settings: Settings, rebuild: Rebuilder, history: History) -> None:
    """Also those of the standard library: encodings.idna to connect, importlib.readers to read a script."""
    rebuild()
    used = subprocess.run(
        [sys.executable, "-m", "tests.support.first_uses"],
        env=os.environ | variables_of(settings),
        capture_output=True,
        text=True,
        check=True,
    )
    assert used.stdout == ""


def test_a_child_does_not_wait_for_a_thread_of_its_parent() -> None:
    """In the stores for tests, too, whose lock a query holds."""
    inside, go_on = threading.Event(), threading.Event()

    class Slow(list[Any]):
        """Keeps the lock of the table until it is told to go on."""

        def append(self, item: Any) -> None:
            """Wait in the first thread."""
            if threading.current_thread() is not threading.main_thread() and not inside.is_set():
                inside.set()
                go_on.wait(60)
            super().append(item)

    messages = MemoryMessages()
    messages.queries = Slow()
    with closing(History(FixedLookups(), messages)) as history:
        history.put("conv", "1#m", {})
        read = lambda: len(history.page("conv").messages)  # noqa: E731
        assert fork_while(read, inside.is_set, go_on.set, read) == 1


@pytest.mark.slow
def test_forks_at_any_moment(history: History, registry: Registry, rebuild: Rebuilder, settings: Settings) -> None:
    """Threads look up, read, write and count all the time, and so do the children."""
    hammer(history, registry, rebuild, settings, forks=8)


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(400)
def test_many_forks_at_any_moment(history: History, registry: Registry, rebuild: Rebuilder, settings: Settings) -> None:
    """The same for longer."""
    hammer(history, registry, rebuild, settings, forks=250)


def hammer(history: History, registry: Registry, rebuild: Rebuilder, settings: Settings, forks: int) -> None:
    """Fork while threads use the same clients as the children."""
    rebuild()
    meter = WriteMeter(HeatStream(settings))
    ended = threading.Event()
    wrong: list[str] = []

    def use(conversation: str, name: str) -> list[str]:
        """Use everything once; return the wrong answers."""
        meter.record(conversation)
        found = wrong_lookups(registry, conversation, 3)
        entry = registry.backup.get(conversation)
        found += [] if entry and entry.max_n == SALTS[conversation] else [f"{conversation}: {entry}"]
        history.put(f"of {name}", f"2026#{name}", {"text": name})
        texts = [message.attributes["text"] for message in history.page(f"of {name}").messages]
        found += wrong_pages(history, conversation, 1) + ([] if texts == [name] else [f"{name}: {texts}"])
        return found

    def use_until_the_end(number: int) -> None:
        count = 0
        while not ended.is_set():
            try:
                wrong.extend(use(CONVERSATIONS[number], f"thread{number} {(count := count + 1)}"))
            except SaltctlError as exc:
                wrong.append(repr(exc))

    threads = [threading.Thread(target=use_until_the_end, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    try:
        for number in range(forks):
            time.sleep(0.01 + 0.001 * (number % 7))
            wrong += in_child(partial(use, CONVERSATIONS[number % 4], f"child{number}"))
    finally:
        ended.set()
        for thread in threads:
            thread.join()
        meter.close()
    assert wrong == []


# The write meter.


@pytest.mark.parametrize("fork", [os.fork, fork_in_c])
def test_children_count_under_names_of_their_own(
    settings: Settings, fork: Callable[[], int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four children of a meter with a given name write 300 times each: 1,200 writes, and not 300."""
    stream = HeatStream(settings)
    stream.create_group()
    meter = WriteMeter(stream, floor=1, server="web")
    with monkeypatch.context() as patch:
        if fork is fork_in_c:  # a thread that wakes at the end of each window may wait for the interpreter's lock
            patch.setattr(threading.Thread, "start", Mock(side_effect=RuntimeError("can't start new thread")))
        meter.record("the parent's", 50)  # not reported yet: the children must not report it as well

    def count() -> tuple[str, int]:
        began = time.time()
        while time.time() - began < 1.1:  # longer than the window of the fork
            meter.record("conv", 0)
        for _ in range(300):
            meter.record("conv")
        meter.close()
        return meter.server, meter.stats.dropped

    results = [child.result() for child in [Child(count, fork) for _ in range(4)]]
    meter.close()
    assert len({meter.server, *(name for name, _ in results)}) == 5
    assert {dropped for _, dropped in results} == {0}
    reported: Counter[str] = Counter()
    counted: dict[tuple[bytes, bytes, bytes], int] = {}
    for entry in stream.read_new("test", 1000):
        assert entry.fields is not None
        fields = dict(zip(entry.fields[::2], entry.fields[1::2], strict=True))
        counted[fields[b"conversation_id"], fields[b"window"], fields[b"server"]] = int(fields[b"writes"])
    for (conversation, _, _), writes in counted.items():
        reported[conversation.decode()] += writes
    assert reported == {"conv": 1200, "the parent's": 50}
    stream.close()


def test_the_name_of_a_meter_is_unique(settings: Settings) -> None:
    """Two workers that were given one name, and a name of any length."""
    stream = HeatStream(settings)
    names = {WriteMeter(stream, server=name).server for name in ("web", "web", "ü" * 400, "ü" * 400, None)}
    assert len(names) == 5
    assert max(map(len, names)) == 255
    assert all(name.startswith(("web:", "ü" * 200)) for name in names if not name.startswith(os.uname().nodename))


# Children leave alone what is their parent's.


@pytest.mark.slow
def test_a_child_that_unwinds_ends_nothing_of_its_parent(
    settings: Settings, store: RedisRegistry, backup: BackupTable, registry: Registry
) -> None:
    """The lease of a rebuild in progress, and its connections and threads."""
    put_entries(backup, SALTS)
    run = rebuild_job(settings, store, backup).run()
    event = next(run)

    def unwind() -> str:
        signal.alarm(30)
        run.close()
        registry.close()
        return "unwound"

    assert in_child(unwind) == "unwound"
    held = backup.lease.holder()
    assert held is not None
    assert held.pid == os.getpid()
    assert list(run), event  # the rebuild goes on over its own connections
    assert backup.lease.holder() is None
    assert registry.lookup(CONVERSATIONS[0]).source == "redis"


@pytest.mark.slow
def test_a_child_leaves_the_local_environment_running(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its servers and its directory are its parent's."""
    for name, value in os.environ.items():
        monkeypatch.setenv(name, value)  # restored afterwards: the environment sets variables of this process
    with LocalEnvironment() as environment:

        def leave() -> None:
            environment.__exit__()
            environment.redis.kill()
            environment.moto.stop()

        in_child(leave)
        assert environment.directory.exists()
        environment.rebuild()


def test_a_child_ends_although_a_pool_was_in_use_at_the_fork() -> None:
    """A thread of the parent holds the lock of a pool of urllib3, which the end of a process empties."""
    program = """
import os, sys, threading, time
from urllib3 import HTTPConnectionPool
import saltctl.forks
pool = HTTPConnectionPool("127.0.0.1")
threading.Thread(target=lambda: pool.pool.mutex.acquire() and time.sleep(60), daemon=True).start()
while not pool.pool.mutex.locked():
    time.sleep(0.01)
child = os.fork()
if child == 0:
    sys.exit(7)
for _ in range(2000):
    ended, status = os.waitpid(child, os.WNOHANG)
    if ended:
        os._exit(os.waitstatus_to_exitcode(status))
    time.sleep(0.01)
os.kill(child, 9)
os._exit(1)
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=60, check=False)
    assert done.returncode == 7


# The helper.


def test_a_value_of_each_process() -> None:
    """Made at first use; a child makes its own, even in threads; the parent's value is kept and not finalised."""
    made = PerProcess(lambda: [this_process()])
    assert made.peek() is None
    mine = made.get()
    assert made.get() is mine
    assert made.peek() is mine

    def child() -> bool:
        with ThreadPoolExecutor(8) as threads:
            found = list(threads.map(lambda _: made.get(), range(50)))
        return made.peek() is found[0] and all(one is found[0] for one in found) and found[0] == [this_process()]

    assert in_child(child)
    assert in_child(child, fork_in_c)
    assert made.get() is mine
    made.renew([])
    assert made.get() is mine
    made.renew(mine)
    assert made.get() is not mine


def test_a_process_is_told_from_its_ancestors() -> None:
    """By the number of forks, too: process ids are given again."""
    generations = [this_process(), in_child(this_process), in_child(partial(in_child, this_process))]
    assert [forks - generations[0][0] for forks, _ in generations] == [0, 1, 2]
    assert len({pid for _, pid in generations}) == 3
    assert sys.platform != "linux" or in_child(this_process, fork_in_c)[0] == generations[0][0]
