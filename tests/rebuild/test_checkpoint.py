"""Checkpoint files: complete or missing, and refused if they are damaged or another user may have written them."""

from __future__ import annotations

import hashlib
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import CheckpointRefusedError
from saltctl.rebuild.checkpoint import Checkpoint, CheckpointFile, CheckpointScope, Primary, encode, state_directory
from saltctl.settings import Settings

CHECKPOINT = Checkpoint(
    scope=CheckpointScope("arn:aws:dynamodb:eu-central-1:1:table/backup 8f3c", "salt", "v1:16384", 4),
    token="0123456789abcdef" * 2,
    primaries={"redis.example:6379": Primary("a" * 40, "b" * 40)},
    after={0: "conv_ä", 1: None, 3: "#lease"},
    half_done=(("conv_1", 8),),
    entries=120_000,
    restored=7,
    skipped=1,
    consumed_rcu=2_000.5,
    started=1_000.0,
    written=1_002.5,
)


@pytest.fixture
def file(tmp_path: Path) -> CheckpointFile:
    """A checkpoint file in a directory that does not exist yet."""
    return CheckpointFile(tmp_path / "state" / "rebuild.json")


def test_a_saved_checkpoint_is_loaded(file: CheckpointFile) -> None:
    """All of it, by its owner alone, in a directory of its owner's alone; the next one replaces it."""
    assert file.load() is None
    file.save(CHECKPOINT)
    assert file.load() == CHECKPOINT
    assert stat.S_IMODE(file.path.stat().st_mode) == 0o600
    assert stat.S_IMODE(file.path.parent.stat().st_mode) == 0o700
    file.save(replace(CHECKPOINT, entries=130_000))
    loaded = file.load()
    assert loaded is not None
    assert loaded.entries == 130_000
    assert [path.name for path in file.path.parent.iterdir()] == ["rebuild.json"]
    file.remove()
    file.remove()
    assert file.load() is None


def test_an_interrupted_save_keeps_the_old_checkpoint(file: CheckpointFile) -> None:
    """The new file has another name until it is complete, and a leftover does not block the next save."""
    file.save(CHECKPOINT)
    beside = file.path.with_name("rebuild.json.new")
    beside.write_bytes(encode(CHECKPOINT)[:100])
    assert file.load() == CHECKPOINT
    file.save(replace(CHECKPOINT, entries=1))
    assert not beside.exists()
    beside.write_text("left behind")
    file.remove()
    assert not beside.exists()


@pytest.mark.parametrize("at", range(0, len(encode(CHECKPOINT)), 23))
def test_a_damaged_file_is_refused(file: CheckpointFile, at: int) -> None:
    """A changed byte anywhere, or a truncated file, is refused."""
    file.save(CHECKPOINT)
    text = file.path.read_bytes()
    for damaged in (text[:at] + bytes([text[at] ^ 1]) + text[at + 1 :], text[:at]):
        file.path.write_bytes(damaged)
        with pytest.raises(CheckpointRefusedError, match=r"cannot use the checkpoint .*: it is damaged") as refused:
            file.load()
        assert refused.value.exit_code == 6
        assert "--restart" in refused.value.hint


def _signed(change: Callable[[dict[str, Any]], None]) -> bytes:
    """A checkpoint with something in it that saltctl does not write, under a checksum that is right."""
    body = json.loads(json.loads(encode(CHECKPOINT))["checkpoint"])
    change(body)
    text = json.dumps(body)
    return json.dumps({"checkpoint": text, "sha256": hashlib.sha256(text.encode()).hexdigest()}).encode()


@pytest.mark.parametrize(
    "change",
    [
        lambda body: body.update(version=1),
        lambda body: body.update({"token": "x"}),
        lambda body: body.update(token=5),
        lambda body: body.update(entries=-1),
        lambda body: body.update(entries="many"),
        lambda body: body.update(consumed_rcu=float("nan")),
        lambda body: body.update(consumed_rcu=None),
        lambda body: body.update(after={"4": None}),
        lambda body: body.update(after={"-1": None}),
        lambda body: body.update(after={"0": ""}),
        lambda body: body.update(after={"0": 7}),
        lambda body: body.update(after=[]),
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
def test_implausible_content_is_refused(file: CheckpointFile, change: Callable[[dict[str, Any]], None]) -> None:
    """Even if the checksum is right."""
    file.save(CHECKPOINT)
    file.path.write_bytes(_signed(lambda body: None))
    assert file.load() == CHECKPOINT
    file.path.write_bytes(_signed(change))
    with pytest.raises(CheckpointRefusedError, match="damaged"):
        file.load()


def test_a_file_that_others_may_write_is_refused(file: CheckpointFile, tmp_path: Path) -> None:
    """Links, pipes, directories, and files or directories that others may write to are refused without waiting."""
    file.save(CHECKPOINT)
    file.path.chmod(0o620)
    with pytest.raises(CheckpointRefusedError, match="may be written by others"):
        file.load()
    file.path.chmod(0o600)
    file.path.parent.chmod(0o770)
    with pytest.raises(CheckpointRefusedError, match="its directory may be written by others"):
        file.load()
    with pytest.raises(OSError, match="may be written by others"):
        file.save(CHECKPOINT)
    file.path.parent.chmod(0o700)
    elsewhere = file.path.rename(tmp_path / "elsewhere.json")
    file.path.symlink_to(elsewhere)
    with pytest.raises(CheckpointRefusedError):
        file.load()
    file.save(CHECKPOINT)
    assert not file.path.is_symlink()
    file.remove()
    os.mkfifo(file.path, 0o600)
    with pytest.raises(CheckpointRefusedError, match="it is not a file"):
        file.load()
    file.path.unlink()
    file.path.mkdir()
    with pytest.raises(CheckpointRefusedError):
        file.load()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_a_file_of_another_user_is_refused(file: CheckpointFile) -> None:
    """A forged checkpoint could skip parts of the backup."""
    file.save(CHECKPOINT)
    os.chown(file.path, 12345, -1)
    with pytest.raises(CheckpointRefusedError, match="belongs to another user"):
        file.load()


def test_saving_does_not_follow_a_link(file: CheckpointFile, tmp_path: Path) -> None:
    """Nothing is written through it."""
    file.save(CHECKPOINT)
    victim = tmp_path / "victim"
    victim.write_text("mine")
    file.path.with_name("rebuild.json.new").symlink_to(victim)
    file.save(CHECKPOINT)
    assert victim.read_text() == "mine"
    assert file.load() == CHECKPOINT


def test_path_of_the_checkpoint(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """From the setting, from XDG_STATE_HOME if that is absolute, or in the home; one file for each registry."""
    monkeypatch.setenv("XDG_STATE_HOME", "/var/state")
    assert state_directory(Settings()) == Path("/var/state/saltctl")
    monkeypatch.setenv("XDG_STATE_HOME", "relative")
    assert state_directory(Settings()) == tmp_path / "home/.local/state/saltctl"
    assert state_directory(Settings(state_dir=Path("/there"))) == Path("/there")
    there = Settings(state_dir=tmp_path, redis_url="redis://:secret@one:6379/0", backup_table="a/../b")
    paths = {
        CheckpointFile.of(settings).path
        for settings in (
            there,
            replace(there, redis_url="redis://two:6379/0"),
            replace(there, aws_region="eu-west-1"),
            replace(there, key_prefix="pepper"),
        )
    }
    assert len(paths) == 4
    assert {path.parent for path in paths} == {tmp_path}
    # Not told from the password: a name is public.
    assert CheckpointFile.of(there).path in paths
    assert CheckpointFile.of(replace(there, redis_url="redis://:other@one:6379/0")).path in paths
