"""Checkpoints: a damaged or edited one is refused, and so is one of another registry."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from saltctl.errors import CheckpointRefusedError
from saltctl.rebuild.checkpoint import Checkpoint, CheckpointScope, Primary, load_checkpoint
from saltctl.rebuild.merge_buffer import ScanPosition
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.rebuild_items import CheckpointItem
from saltctl.stores.saved_state import encode

CHECKPOINT = Checkpoint(
    scope=CheckpointScope("arn:aws:dynamodb:eu-central-1:1:table/backup 8f3c", "salt", "v2:16384", 4),
    token="0123456789abcdef" * 2,
    primaries={"redis.example:6379": Primary("a" * 40, "b" * 40)},
    merged=ScanPosition(entries=120_000, skipped=1, consumed_rcu=2_000.5, after={0: "conv_ä", 1: None, 3: "#lease"}),
    half_done=(("conv_1", "8"),),
    restored=7,
    started=1_000.0,
    written=1_002.5,
)


class MemoryItem(CheckpointItem):
    """A checkpoint item without a table, with this content."""

    def __init__(self, content: str) -> None:
        self._content = content

    def load(self) -> str:
        """Return the content."""
        return self._content


def refusal_of(content: str) -> CheckpointRefusedError:
    """Load this content, which must be refused."""
    with pytest.raises(CheckpointRefusedError, match=r"cannot use the checkpoint .*: it is damaged") as refused:
        load_checkpoint(MemoryItem(content))
    return refused.value


def test_a_saved_checkpoint_is_loaded(backup: BackupTable) -> None:
    """All of it comes back from the backup table; the next one replaces it."""
    assert load_checkpoint(backup.checkpoint) is None
    for checkpoint in (CHECKPOINT, replace(CHECKPOINT, restored=8)):
        backup.checkpoint.save(encode(checkpoint))
        assert load_checkpoint(backup.checkpoint) == checkpoint


@pytest.mark.parametrize("at", range(0, len(encode(CHECKPOINT)), 23))
def test_a_damaged_checkpoint_is_refused(at: int) -> None:
    """A changed character anywhere, or a truncated checkpoint, is refused."""
    content = encode(CHECKPOINT)
    for damaged in (content[:at] + chr(ord(content[at]) ^ 1) + content[at + 1 :], content[:at]):
        refused = refusal_of(damaged)
        assert refused.exit_code == 6
        assert "--restart" in refused.hint


def _signed(content: str) -> str:
    return f"{hashlib.sha256(content.encode()).hexdigest()} {content}"


@pytest.mark.parametrize(
    "content", ["", "{}", "[]", "null", "1", '"', "[" * 100_000, "\ud800"], ids=lambda content: content[:4]
)
def test_content_that_is_not_a_checkpoint_is_refused(content: str) -> None:
    """With a checksum and without one."""
    refusal_of(content)
    if content.isascii():
        refusal_of(_signed(content))


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(version=1),
        lambda body: body.update({"token": "x"}),
        lambda body: body.update(token=5),
        lambda body: body["merged"].update(entries=-1),
        lambda body: body["merged"].update(entries="many"),
        lambda body: body["merged"].update(consumed_rcu=float("nan")),
        lambda body: body["merged"].update(consumed_rcu=None),
        lambda body: body["merged"].update(after={"4": None}),
        lambda body: body["merged"].update(after={"-1": None}),
        lambda body: body["merged"].update(after={"0": ""}),
        lambda body: body["merged"].update(after={"0": 7}),
        lambda body: body["merged"].update(after=[]),
        lambda body: body.update(half_done=[["conv", True]]),
        lambda body: body.update(half_done=[["conv"]]),
        lambda body: body.update(primaries={}),
        lambda body: body.update(primaries={"redis": {"run_id": "", "replication_id": "*"}}),
        lambda body: body["scope"].update(segments="4"),
        lambda body: body["scope"].pop("table"),
        lambda body: body.update(more=1),
        lambda body: body.pop("written"),
    ],
)
def test_implausible_content_is_refused(change: Callable[[dict[str, Any]], None]) -> None:
    """Even if the checksum is right."""
    body = json.loads(encode(CHECKPOINT).partition(" ")[2])
    content = json.dumps(body, ensure_ascii=False, separators=(",", ":"))
    assert load_checkpoint(MemoryItem(_signed(content))) == CHECKPOINT
    change(body)
    refusal_of(_signed(json.dumps(body, ensure_ascii=False, separators=(",", ":"))))


@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"table": "arn other"}, "another backup table"),
        ({"key_prefix": "pepper"}, "it is of the layout v2:16384 under 'pepper'"),
        ({"layout": "v2:64"}, "it is of the layout v2:64 under 'salt'"),
        ({"segments": 8}, r"it has 8 segments \(--segments 8\)"),
    ],
)
def test_a_checkpoint_of_another_registry_differs(change: dict[str, Any], difference: str) -> None:
    """Its scope names the first difference."""
    assert CHECKPOINT.scope.difference(CHECKPOINT.scope) == ""
    assert re.search(difference, replace(CHECKPOINT.scope, **change).difference(CHECKPOINT.scope))
