"""One cycle finds every planted orphan, on another emulator than moto if there is one, killed and resumed at random."""

from __future__ import annotations

import multiprocessing
import os
import random
import time
from collections.abc import Iterator
from dataclasses import replace

import pytest

from saltctl.history.full_audit.state import load_state
from saltctl.local.servers import LocalMoto
from saltctl.rebuild.lease import LEASE_EXPIRY
from saltctl.registry.registry import Registry
from saltctl.salting import partition_key, salt_of
from saltctl.settings import Settings
from saltctl.stores.audit_item import AuditItem
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.contracts.registry import Raise
from tests.history.full_audit import killed_audit
from tests.history.full_audit.killed_audit import audit
from tests.support.dynamodb_local import DIRECTORY_VARIABLE, DynamoLocal

CONVERSATIONS = 16
PLANTED = {"c03": "beyond", "c11": "beyond", "c12": "beyond", "cool": "boundary", "lost1": "lost", "lost2": "lost"}


@pytest.fixture
def emulated(settings: Settings, moto: LocalMoto) -> Iterator[Settings]:
    """Return settings for DynamoDB Local if it is installed, otherwise for moto's server."""
    local = DynamoLocal.find(os.environ.get(DIRECTORY_VARIABLE))
    if local is None:
        yield replace(settings, max_n_cap=16)
        return
    local.start()
    yield replace(settings, max_n_cap=16, aws_endpoint_url=local.url)
    local.stop()


def write(messages: MessagesTable, conversation_id: str, n: int, count: int = 40) -> None:
    """Write messages under n, whatever the registry says."""
    keys, ids = messages.keys, [f"{conversation_id}x{number}" for number in range(count)]
    messages.load(
        {
            keys.partition_key: {"S": partition_key(conversation_id, salt_of(message_id, n))},
            keys.sort_key: {"S": f"2026-07-01T08:{number:02}:00.000Z#{message_id}"},
        }
        for number, message_id in enumerate(ids)
    )


def plant(registry: Registry, backup: BackupTable, messages: MessagesTable) -> None:
    """Fill the tables, and write what readers miss."""
    for number in range(CONVERSATIONS):
        n = (1, 2, 4, 8)[number % 4]
        if n > 1:
            registry.raise_to(f"c{number:02}", n)
        write(messages, f"c{number:02}", n)
    for name, n in (("c03", 16), ("c11", 16), ("c12", 2), ("lost1", 4), ("lost2", 16)):
        registry.raise_to("c12", 1)  # unsalted, and known
        write(messages, name, n)
    registry.raise_to("cool", 8)
    held = backup.get("cool")
    assert held is not None
    narrowed = held.narrowed(Raise(1, "2026-07-01T08:00:00.000Z", "me", "", cooled=True))
    assert backup.replace(held, narrowed)
    assert backup.replace(narrowed, narrowed.sealed("2026-07-02"))
    registry.complete("cool")
    write(messages, "cool", 8)
    messages.put("cool#5", "2026-07-02T00:00:00.000Z#late", {})


@pytest.mark.long
def test_a_cycle_that_is_killed_at_random_finds_every_orphan(
    emulated: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The processes end by SIGKILL, whatever they do. The cycle is the first one to its end."""
    monkeypatch.setenv(killed_audit.WARM, "1")
    backup, messages = BackupTable(emulated), MessagesTable(emulated)
    backup.create()
    messages.create()
    with Registry.open(emulated) as registry:
        plant(registry, backup, messages)
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([killed_audit.__name__])
    chance, now, seen, longest = random.Random(), time.time(), [], 1.0
    began = before = None
    for _ in range(30):
        now += 2 * LEASE_EXPIRY  # the lease of the process before has expired
        options = {"max_rcu": 300.0, "sample_items": 50}
        child = context.Process(target=audit, args=(emulated, now), kwargs=options)
        child.start()
        child.join(chance.uniform(0.3, longest))
        child.kill()
        child.join()
        state = load_state(AuditItem(backup))
        longest *= 1.3 if state == before else 1.0  # a busy machine gets nowhere in a second
        before = state
        if state is None or state.began is None:
            continue
        began = began or state.began
        assert state.began == began, "the cycle was not resumed"
        seen.append(state.audited)
        if state.audited >= CONVERSATIONS / 3:
            break
    assert began is not None
    assert seen == sorted(seen)
    report = audit(emulated, now + 2 * LEASE_EXPIRY, sample_items=10**6)
    assert {found.conversation_id: found.kind for found in report.findings} == PLANTED
    assert (report.found, report.lost, report.unread, report.cycle_complete) == (len(PLANTED), 2, 0, True)
    state = load_state(AuditItem(backup))
    assert state is not None
    assert state.proven == pytest.approx(began)
    needed = {found.conversation_id: found.needed_n for found in report.findings}
    assert needed == {"c03": 16, "c11": 16, "c12": 2, "cool": 8, "lost1": 4, "lost2": 16}
