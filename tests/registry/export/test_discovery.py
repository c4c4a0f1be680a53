"""Discovery from an export: the rules of a scan, resuming, and damaged files."""

from __future__ import annotations

import gzip
import os
import re
import shutil
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import CheckpointRefusedError, ConfigurationError, IncompleteError, LeaseHeldError
from saltctl.history.models import message_id_of
from saltctl.registry.discover import Discovered, Salts, judge
from saltctl.registry.export import discovery as module
from saltctl.registry.export.discovery import ExportResumed
from saltctl.salting import salt_of
from saltctl.stores.contracts.messages import KeysPage, TableKeys
from saltctl.stores.export import database
from tests.registry.export.conftest import KEYS, Discover, damaged, discovery, empty_backup
from tests.support.exports import Row, file_record, pack, row, rows_of, summary_of, write_export, write_manifests

ODD_KEYS = ["USER#c77", "x#007", "x#", "#3", "a#b#2", f"long#{'9' * 30}", "é\U0001f600#1", "nul\0x#1", "it's#1", "#"]
MESSAGES = [
    *rows_of("hot", 16, 200),
    *rows_of("warm", 2, 40),
    *rows_of("cold", 1, 20),
    *(row(f"CONV#{number % 16}", f"m{number}") for number in range(40)),  # conversations of a single-table design
    *rows_of("huge", 512, 60),
    *rows_of("few", 4, 3),
    *({"conversation_id": row["conversation_id"]} for row in rows_of("without", 4, 30)),
    *(row(key, "m1") for key in ODD_KEYS),
]


def scanned(rows: list[Row], keys: TableKeys = KEYS, attribute: str | None = None) -> Salts:
    """Return what a scan finds in these rows."""
    salts = Salts(keys.partition_key, partial(message_id_of, keys=keys, attribute=attribute))
    salts.add(KeysPage(rows, 0.0))
    return salts


def _without_example(found: Discovered) -> Discovered:
    """Leave out which one of the rows is the example: it depends on their order."""
    return replace(found, problem=found.problem.partition(", such as")[0])


@pytest.mark.parametrize("collected", [20_000, 1])
def test_an_export_shows_what_a_scan_shows(
    tmp_path: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch, collected: int
) -> None:
    """Every state, problem and count is the same, however the rows are spread over files and batches."""
    monkeypatch.setattr(module, "MAX_CONVERSATIONS", collected)
    monkeypatch.setattr(database, "_ROWS_PER_READ", 7 if collected == 1 else 5000)
    export = write_export(tmp_path / "export", {"a": MESSAGES[::2], "b": MESSAGES[1::2], "empty": []})
    found, expected = discovery(discover(export)), scanned(MESSAGES)
    judged = judge(expected.seen(), expected.candidates(), empty_backup(), cap=256, any_salting=False)
    assert [_without_example(c) for c in found.conversations] == [_without_example(c) for c in judged]
    assert {c.state for c in found.conversations} == {"behind", "unproven", "above-cap", "invalid-id"}
    assert (found.items, found.foreign_rows) == (len(MESSAGES), expected.foreign_rows)
    assert found.foreign_key in ODD_KEYS


def test_numbers_and_odd_names_of_attributes(tmp_path: Path, discover: Discover) -> None:
    """Message ids that are numbers have DynamoDB's form; names of attributes are not those of SQL or of JSON paths."""
    keys, attribute = TableKeys("p/k~'\"", "order", "N"), "Order"
    numbers = [Decimal(number) / 4 for number in range(60)]
    rows: list[Row] = [
        {keys.partition_key: {"S": f"c#{salt_of(n, 4)}"}, "order": {"N": "1"}, "Order": {"N": f"{n:.4f}"}}
        for n in numbers
    ]
    export = write_export(tmp_path / "export", {"a": rows})
    (found,) = discovery(discover(export, keys=keys, attribute=attribute)).conversations
    assert (found.conversation_id, found.needed_n, found.state) == ("c", 4, "behind")


def _truncate(content: bytes) -> bytes:
    return content[:-20]


DAMAGES: dict[str, tuple[Callable[[bytes], bytes], bool, str]] = {
    # The damage, whether the manifest has the checksum of the damaged file, and what is told.
    "other-bytes": (lambda content: content[:-1] + b"x", False, "its MD5 is not the one in the manifest"),
    "truncated-copy": (_truncate, False, "its MD5 is not the one in the manifest, .* truncated"),
    "truncated": (_truncate, True, "it is truncated: its gzip has no end"),
    "no-gzip": (lambda content: b"hello", True, "it is not valid gzip"),
    "zeros-behind": (lambda content: content + b"\0" * 9, True, "it is not valid gzip"),
    "not-json": (lambda content: _edited(content, b'"hot#', b"hot#"), True, "line 1 is not JSON"),
    "no-object": (
        lambda content: _edited(content, b"{", b"[{", b"}\n", b"}]\n"),
        True,
        "5 of its lines are not JSON ob",
    ),
    "no-key": (lambda content: _edited(content, b"conversation_id", b"id"), True, "line 1 has no Item with the partit"),
    "blank-line": (
        lambda content: _edited(content, b"}\n", b"}\n\n"),
        True,
        "more lines than .* 5 of the first 10 are blank",
    ),
    "fewer-lines": (lambda content: _edited(content, b"\n", b" ", count=1), True, "it has 4 lines, and the .* 5 items"),
    "number": (lambda content: _edited(content, b'{"S": "2026-01-01T00:00:00Z#', b'{"N": "'), True, "as a number"),
    "bomb": (lambda content: gzip.compress(b"{" * (5 << 20)), True, "line 1 is longer than 4 MB"),
    "blank-bomb": (lambda content: gzip.compress(b"\n" * (5 << 20)), True, "it has more lines than the manifest"),
}


def _edited(content: bytes, *replaced: bytes, count: int = -1) -> bytes:
    text = gzip.decompress(content)
    for old, new in zip(replaced[::2], replaced[1::2], strict=True):
        text = text.replace(old, new, count)
    return gzip.compress(text)


def test_each_damaged_file_is_named(tmp_path: Path, discover: Discover) -> None:
    """One run names all of them and reads the others; mended, they are read, and the others are not again."""
    export, rows = tmp_path / "export", rows_of("hot", 4, 5)
    good = pack(rows)
    records = [file_record("good", good, 5), file_record("missing", good, 5)]
    write_manifests(export, summary_of(0), [])
    (export / "data").mkdir()
    (export / "data" / "good.json.gz").write_bytes(good)
    (export / "data" / "missing.json.gz").mkdir()
    for name, (damage, known, _) in DAMAGES.items():
        content = damage(good)
        (export / "data" / f"{name}.json.gz").write_bytes(content)
        records.append(file_record(name, content if known else good, 5))
    records.append(file_record("absent", good, 5))
    write_manifests(export, summary_of(5 * len(records)), records)
    seen: list[Any] = []
    with pytest.raises(IncompleteError, match=f"damaged files of the export: {len(records) - 1} of {len(records)}"):
        discover(export, seen=seen)
    problems = damaged(seen)
    assert problems.pop("data/absent.json.gz") == "it does not exist"
    assert problems.pop("data/missing.json.gz") == "it cannot be read: Is a directory"
    assert problems.keys() == {f"data/{name}.json.gz" for name in DAMAGES}
    for name, (_, _, told) in DAMAGES.items():
        assert re.search(told, problems[f"data/{name}.json.gz"]), (name, problems)
    assert list(tmp_path.glob("checkpoint.saltctl*")) == []


def test_only_files_that_are_not_done_are_read_again(tmp_path: Path, discover: Discover) -> None:
    """A file that was read may even be gone; a damaged one is read again."""
    parts = {"a": rows_of("hot", 4, 40), "b": rows_of("warm", 2, 40)}
    export = write_export(tmp_path / "export", parts)
    first, second = (export / "data" / f"{name}.json.gz" for name in parts)
    content = second.read_bytes()
    second.write_bytes(content[:-9])
    with pytest.raises(IncompleteError):
        discover(export)
    first.unlink()
    second.write_bytes(content)
    events = discover(export)
    assert events[0] == ExportResumed(1, 40)
    assert [c.conversation_id for c in discovery(events).conversations] == ["hot", "warm"]
    with pytest.raises(IncompleteError):
        discover(export, restart=True)


def test_a_checkpoint_is_of_one_export_and_of_one_process(tmp_path: Path, discover: Discover) -> None:
    """Another export, other keys or another file are refused, and none of them is changed; so is a second process."""
    export = write_export(tmp_path / "export", {"a": rows_of("hot", 4, 40)})
    other = write_export(tmp_path / "other", {"a": rows_of("warm", 4, 40)})
    discover(export)
    with pytest.raises(CheckpointRefusedError, match="is of another export"):
        discover(other)
    with pytest.raises(CheckpointRefusedError, match="is of another export"):
        discover(export, attribute="id")
    assert isinstance(discover(export)[0], ExportResumed)
    assert [c.conversation_id for c in discovery(discover(other, restart=True)).conversations] == ["warm"]
    with database.open_database(tmp_path / "checkpoint", "", restart=True), pytest.raises(LeaseHeldError):
        discover(export)
    notes = tmp_path / "notes"
    notes.write_text("not a database" * 100)
    for restart in (False, True):
        with pytest.raises(CheckpointRefusedError, match="it is another file"):
            discover(export, checkpoint=notes, restart=restart)
    assert notes.read_text() == "not a database" * 100
    (export / "spill").mkdir()
    (tmp_path / "new.saltctl-spill").symlink_to(export)  # somebody else could read what is written there
    with pytest.raises(ConfigurationError, match=r"File exists, .*new\.saltctl-spill"):
        discover(export, checkpoint=tmp_path / "new")
    assert (export / "spill").exists()
    (kept := tmp_path / "checkpoint").write_bytes(kept.read_bytes()[:5000])
    with pytest.raises(CheckpointRefusedError, match="cannot use the checkpoint"):
        discover(export)
    assert sorted(path.name for path in tmp_path.glob("notes*")) == ["notes"]


def test_a_run_that_ends_early_leaves_no_half_of_a_file(
    tmp_path: Path, discover: Discover, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was written of a file before the end is not there afterwards."""
    export = write_export(tmp_path / "export", {name: rows_of(name, 4, 40) for name in "abc"})
    finish = database.ExportDatabase.finish

    def die(self: database.ExportDatabase, file: database.DoneFile) -> None:
        if "b" in file.name:
            raise KeyboardInterrupt
        finish(self, file)

    with monkeypatch.context() as patched:
        patched.setattr(database.ExportDatabase, "finish", die)
        with pytest.raises(KeyboardInterrupt):
            discover(export)
    with _opened(tmp_path) as kept:
        assert kept.done().keys() == {"data/a.json.gz"}
        assert {found.conversation_id for found in kept.found()} == {"a"}
    assert [c.conversation_id for c in discovery(discover(export)).conversations] == ["a", "b", "c"]


def test_a_removed_checkpoint_leaves_nothing_to_the_next_one(tmp_path: Path, discover: Discover) -> None:
    """Who removes the checkpoint of a process that was killed may leave the log of it."""
    import duckdb

    export = write_export(tmp_path / "export", {"a": rows_of("hot", 4, 40)})
    checkpoint, log = tmp_path / "checkpoint", tmp_path / "checkpoint.saltctl-spill" / "database.wal"
    log.parent.mkdir(mode=0o700)
    (tmp_path / "checkpoint.saltctl-spill" / "database").touch()
    with duckdb.connect(str(tmp_path / "other")) as connection:
        connection.execute("CREATE TABLE found (x INT); INSERT INTO found VALUES (1)")
        log.write_bytes((tmp_path / "other.wal").read_bytes())
    found = discovery(discover(export, checkpoint=checkpoint))
    assert [c.conversation_id for c in found.conversations] == ["hot"]
    assert not log.exists()


def test_a_killed_process_leaves_its_work_and_nothing_that_others_can_read(tmp_path: Path) -> None:
    """DuckDB's log has ids, too. A run that resumes applies it, and removes the rest."""
    kept, killed = tmp_path / "kept", tmp_path / "killed"
    private = tmp_path / "killed.saltctl-spill"
    umask = os.umask(0)
    try:
        with database.open_database(kept, "") as opened:
            with opened.replacing("a"):
                opened.finish(database.DoneFile("a", 7, 0, None))
            (opened.directory / "copy").touch()
            modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
            shutil.copytree(tmp_path / "kept.saltctl-spill", private)
    finally:
        os.umask(umask)
    assert modes == {"kept": 0o600, "kept.lock": 0o600, "kept.saltctl-spill": 0o700}
    assert {path.name for path in private.iterdir()} == {"database", "database.wal", "spill"}
    (private / "database").rename(killed)
    os.link(killed, private / "database")
    with database.open_database(killed, "") as opened:
        assert opened.done() == {"a": database.DoneFile("a", 7, 0, None)}
        assert list(opened.directory.iterdir()) == []
    assert sorted(path.name for path in tmp_path.iterdir()) == ["kept", "kept.lock", "killed", "killed.lock"]


def _opened(tmp_path: Path) -> Any:
    import duckdb

    path = str(tmp_path / "checkpoint")
    with duckdb.connect(path) as connection:
        scope = connection.execute("SELECT scope FROM saltctl_export").fetchone()
    assert scope is not None
    return database.open_database(tmp_path / "checkpoint", scope[0])
