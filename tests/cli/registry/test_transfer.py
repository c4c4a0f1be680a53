"""``saltctl registry export|import``: bytes that can be compared, and back."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from saltctl.cli.registry.transfer import read_ahead
from saltctl.errors import UsageError
from saltctl.registry.registry import Registry
from saltctl.registry.transfer import Import, ImportOptions
from saltctl.settings import Settings
from saltctl.stores.aws.backup_items import KEY
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.contracts.entries import Entry
from saltctl.stores.redis.registry import RedisRegistry
from saltctl.testing import MemoryBackup, MemoryRedis
from tests.cli.conftest import Runner
from tests.support import Rebuilder

ENTRIES = {"conv_1": 2, "conv_10": 16, "conv_2": 4, "größe": 8, 'quo"te': 2}


@pytest.fixture
def filled(configured: Settings, registry: Registry, rebuild: Rebuilder) -> Settings:
    """A verified registry with ENTRIES."""
    for conversation_id, n in ENTRIES.items():
        registry.raise_to(conversation_id, n)
    rebuild()
    return configured


@pytest.mark.slow
def test_exports_are_sorted_and_the_same_from_either_side(saltctl: Runner, filled: Settings) -> None:
    """One line for each id; Redis and the backup give the same bytes."""
    exports = [saltctl("registry", "export", *source) for source in ((), ("--source", "backup"), ("--source", "redis"))]
    assert {outcome.code for outcome in exports} == {0}
    assert len({outcome.out for outcome in exports}) == 1
    records = [json.loads(line) for line in exports[0].out.splitlines()]
    assert [(r["conversation_id"], r["max_n"]) for r in records] == sorted(ENTRIES.items())
    assert "größe" in exports[0].out


@pytest.mark.slow
def test_export_and_import(
    saltctl: Runner, filled: Settings, store: RedisRegistry, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An export is imported by the protocol into another environment with another layout."""
    file = tmp_path / "registry.jsonl"
    file.write_text(saltctl("registry", "export").out, encoding="utf-8")
    theirs = replace(filled, backup_table=f"{filled.backup_table}-2", key_prefix="other", buckets=32)
    BackupTable(theirs).create()
    for name, value in (("BACKUP_TABLE", f"{filled.backup_table}-2"), ("KEY_PREFIX", "other"), ("BUCKETS", "32")):
        monkeypatch.setenv(f"SALTCTL_{name}", value)
    assert saltctl("registry", "import", str(file), "--dry-run", "-o", "json").json["raised"] == len(ENTRIES)
    refused = saltctl("registry", "import", str(file), "-o", "json")
    assert (refused.code, refused.error["code"]) == (6, "confirmation_required")
    done = saltctl("registry", "import", str(file), "--yes", "-o", "json")
    assert (done.code, done.json["raised"]) == (0, len(ENTRIES))
    assert saltctl("compare", "-o", "json").json["in_sync"] == len(ENTRIES)
    assert saltctl("registry", "export").out == file.read_text(encoding="utf-8")
    assert saltctl("registry", "import", str(file), "--yes", "-o", "json").json["raised"] == 0


@pytest.mark.slow
def test_bad_lines_are_exit_4(saltctl: Runner, filled: Settings, tmp_path: Path) -> None:
    """They are listed with their numbers, printed safely; valid lines are imported."""
    file = tmp_path / "registry.jsonl"
    file.write_text('{"conversation_id": "conv_1", "max_n": 8}\nno\n{"conversation_id": "a\\u001b#", "max_n": 2}\n')
    outcome = saltctl("registry", "import", str(file), "--yes", "-o", "json")
    assert outcome.code == 4
    assert (outcome.json["raised"], [bad["line"] for bad in outcome.json["bad_lines"]]) == (1, [2, 3])
    assert "line 2 was skipped" in outcome.err
    assert "\x1b" not in outcome.err


JSON_LINE = b'{"conversation_id": "a\\\\b", "max_n": 8}\n'
TSV_LINES = b"max_n\tconversation_id\n8\ta\\\\b\n"


@pytest.mark.parametrize(
    "content",
    [
        JSON_LINE,
        b"\xef\xbb\xbf" + JSON_LINE,
        b"\n \n" + JSON_LINE,
        TSV_LINES,
        b"\n\n" + TSV_LINES,
        b"\xef\xbb\xbf" + TSV_LINES,
    ],
)
def test_an_import_takes_exports_and_lists(content: bytes) -> None:
    """Lines of JSON, and TSV whatever its columns; a header alone is a list of nothing."""
    assert imported(content) == ({"a\\b": 8}, [])
    assert imported(b"conversation_id\tmax_n\n") == ({}, [])


def test_lines_of_tsv_that_are_not_understood_are_skipped() -> None:
    """They are named by their number in the file; the others are imported."""
    rows = ["a\t8", "b", "c\t4\t4", "d\t+4", "e\t", "f\\q\t2", "g#\t2", "h\t6", "\udcff\t2", "i\r\t2", "j\t2\r", "k\t2"]
    lines = "\n".join(["conversation_id\tmax_n", *rows]).encode("utf-8", "surrogateescape")
    assert imported(lines) == ({"a": 8, "k": 2}, list(range(3, 13)))


def test_the_csv_of_athena_has_each_value_in_quotes() -> None:
    """The result of ``discover --sql``. Other CSV is not taken, so that no id is changed."""
    rows = [
        '"a","4","3"',
        '"=b,""c""","2","1"',
        '"d",4,"3"',
        '"e",,"70000"',
        '"f"',
        '"g","4","3" ',
        '"h',
        "\udcff",
        '"i","8","5"\r',
        '"wrong","4","77"',
        '"none","4",""',
    ]
    lines = "\n".join(['"conversation_id","max_n","highest_salt"', *rows]).encode("utf-8", "surrogateescape")
    assert imported(lines) == ({"a": 4, '=b,"c"': 2, "i": 8}, [*range(4, 10), 11, 12])


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b'"conversation_id","max_n","highest_salt"\n"s70",,"70000"\n', "'s70' has salts up to 70000, beyond what a"),
        (
            b'{"conversation_id": "s70", "highest_salt": 70000}\n',
            "'s70' has salts up to 70000, beyond what a raise can",
        ),
        (b'{"conversation_id": "s70", "max_n": null, "highest_salt": 70000}\n', "'s70' has salts up to 70000"),
        (b'{"conversation_id": "s7", "highest_salt": 7}\n', "max_n is not a whole number"),
        (b'{"conversation_id": "s7", "max_n": 4, "highest_salt": 4}\n', "max_n 4 does not cover the highest_salt 4"),
        (b'{"conversation_id": "s7", "max_n": true, "highest_salt": 0}\n', "max_n is not a whole number"),
    ],
)
def test_a_result_of_the_query_that_no_raise_covers_says_so(content: bytes, problem: str) -> None:
    """max_n is NULL above 65,536; Spark leaves it out then."""
    backup, store = MemoryBackup(), MemoryRedis()
    lines, parse = read_ahead(io.BytesIO(content), "f")
    job = Import(lines, Registry(store, backup, cap=256), backup, ImportOptions(cap=256), parse=parse)
    (bad,) = list(job.run())[-1].bad_lines
    assert problem in bad.problem


def test_an_unquoted_result_of_the_query_has_its_own_hint() -> None:
    """DuckDB writes it so."""
    with pytest.raises(UsageError, match="CSV without quotes around each value") as refused:
        read_ahead(io.BytesIO(b"conversation_id,max_n,highest_salt\na,4,3\n"), "f")
    assert "FORCE_QUOTE" in refused.value.hint


def imported(content: bytes) -> tuple[dict[str, int], list[int]]:
    """Import a file; return the raises, and the numbers of the lines that were skipped."""
    backup, store = MemoryBackup(), MemoryRedis()
    lines, parse = read_ahead(io.BytesIO(content), "f")
    job = Import(lines, Registry(store, backup, cap=256), backup, ImportOptions(cap=256), parse=parse)
    report = list(job.run())[-1]
    raises = {str(done["conversation_id"]): int(str(done["after"])) for done in report.raises}
    return raises, [bad.line for bad in report.bad_lines]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"", "it is empty, as the export of an empty registry is"),
        (b"\n  \r\n", "it is empty"),
        (b"conversation_id,max_n\na,4\n", "it is CSV"),
        (b'[\n  {\n    "conversation_id": "a",\n', "it is one JSON document"),
        (b"[" * 5000, "it is one JSON document"),
        (b"a\t4\nb\t4\n", "line 1 is neither"),
        (b"\n\nconversation_id\n", "line 3 is neither"),
        (
            b'"conversation_id","n"\n',
            "line 1 is neither JSON with conversation_id and max_n nor a header of TSV or CSV",
        ),
        (b"conversation_id\tmax_n\r\n", "line 1 is neither"),
        (b'{"conversation_id": "a"}\n', "line 1 is neither"),
        (b'"conversation_id max_n"\n', "line 1 is neither"),
        (b'{"conversation_id": "a", "max_n"', "line 1 is neither"),
        (b"\xff\x00" * 20_000, "line 1 is neither"),
    ],
)
def test_a_file_of_another_kind_is_one_error(content: bytes, problem: str) -> None:
    """Its first line tells; nothing is imported, and no line after it is listed."""
    with pytest.raises(UsageError, match=f"^cannot import 'f': {problem}") as refused:
        read_ahead(io.BytesIO(content), "f")
    assert refused.value.hint == "to create a file: saltctl registry export > registry.jsonl"


def test_an_empty_file_is_refused_before_the_confirmation(
    saltctl: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exit code 2 from each command that reads a list: what came before it in the pipe has failed."""
    monkeypatch.setenv("SALTCTL_REDIS_URL", "redis://127.0.0.1:1")
    (file := tmp_path / "registry.jsonl").touch()
    for command in (("import", str(file)), ("set", "--file", str(file)), ("get", "--ids-from", str(file))):
        done = saltctl("registry", *command, "-o", "json")
        assert (done.code, done.out) == (2, "")
        assert "it is empty" in done.error["message"]


@pytest.mark.slow
def test_import_of_stdin(process: Callable[..., CompletedProcess[str]], filled: Settings, store: RedisRegistry) -> None:
    """``-`` reads a pipe, and the confirmation is not read from it."""
    line = '{"conversation_id": "piped", "max_n": 8}\n'
    assert process("registry", "import", "-", input=line).returncode == 6
    assert process("registry", "import", "-", "--yes", input=line).returncode == 0
    assert store.read_unverified(["piped"]) == {"piped": 8}


@pytest.mark.slow
def test_a_missing_file(saltctl: Runner, filled: Settings) -> None:
    """A usage error that names the file."""
    outcome = saltctl("registry", "import", "nowhere.jsonl", "-o", "json")
    assert (outcome.code, outcome.error["code"]) == (2, "usage")
    assert "nowhere.jsonl" in outcome.error["message"]


@pytest.mark.slow
def test_damaged_items_are_left_out_and_exit_4(saltctl: Runner, filled: Settings, backup: BackupTable) -> None:
    """An incomplete export is exit 4."""
    backup.client.put_item(TableName=filled.backup_table, Item={KEY: {"S": "broken"}})
    outcome = saltctl("registry", "export", "--source", "backup")
    assert outcome.code == 4
    assert len(outcome.out.splitlines()) == len(ENTRIES)


@pytest.mark.slow
def test_an_unverified_redis_is_a_warning(saltctl: Runner, configured: Settings, registry: Registry) -> None:
    """An explicit export of an unverified Redis has a warning; without --source the backup is exported."""
    registry.raise_to("conv", 4)
    asked = saltctl("registry", "export", "--source", "redis")
    assert (asked.code, "may lack entries" in asked.err) == (0, True)
    assert "from the backup" in saltctl("registry", "export").err


@pytest.mark.slow
@pytest.mark.parametrize("command", [("export",), ("export", "--source", "redis"), ("list", "-o", "jsonl")])
def test_entries_that_redis_loses_meanwhile_are_exit_4(
    saltctl: Runner, filled: Settings, monkeypatch: pytest.MonkeyPatch, command: tuple[str, ...]
) -> None:
    """Redis is flushed after the check that it is verified: nothing is printed as if it were all."""
    import redis

    entries = RedisRegistry.entries

    def lose(store: RedisRegistry, **options: bool) -> Iterator[tuple[str, Entry]]:
        with redis.Redis.from_url(filled.require_redis_url()) as client:
            client.flushall()
        yield from entries(store, **options)

    monkeypatch.setattr(RedisRegistry, "entries", lose)
    outcome = saltctl("registry", *command)
    assert (outcome.code, outcome.out) == (4, "")
    assert "some are missing" in outcome.err
    monkeypatch.undo()


@pytest.mark.slow
def test_a_damaged_item_stops_no_import(saltctl: Runner, filled: Settings, backup: BackupTable, tmp_path: Path) -> None:
    """The others are imported; it is named, and the exit code says that the import is incomplete."""
    backup.client.put_item(TableName=filled.backup_table, Item={KEY: {"S": "bad"}, "max_n": {"S": "2"}})
    file = tmp_path / "registry.jsonl"
    file.write_text('{"conversation_id": "bad", "max_n": 8}\n{"conversation_id": "good", "max_n": 8}\n')
    outcome = saltctl("registry", "import", str(file), "--yes", "-o", "json")
    assert (outcome.code, outcome.json["raised"], outcome.json["failed"]) == (4, 1, 1)
    assert "bad could not be raised" in outcome.err
    entry = backup.get("good")
    assert entry is not None
    assert entry.max_n == 8
