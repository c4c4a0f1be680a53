"""The query that DuckDB, Athena and Spark run."""

from __future__ import annotations

import re
from importlib import resources
from pathlib import Path

import pytest
import sqlglot
from sqlglot import exp

from saltctl.cli.registry.transfer import read_ahead
from saltctl.errors import UsageError
from saltctl.registry.export.query import MAX_N, TABLE, salts_query
from saltctl.salting import is_conversation_id, power_of_two_at_least, split_partition_key
from tests.registry.export.test_discovery import MESSAGES
from tests.support.exports import row, rows_of, write_export

SHARED = {"SUBSTR", "POSITION", "LENGTH", "TRANSLATE", "MAX", "CAST"}
"""Functions with the same arguments and the same meaning in all three, in this order."""
KEYS = [
    *(row["conversation_id"]["S"] for row in MESSAGES),
    *(f"n{bits}#{(1 << bits) - delta}" for bits in range(1, 18) for delta in (0, 1)),
    *("c#1\n", "c#\u0663", "c# 1", "c#+1", "c#1#", "c\n#5", "e\u0301#1", "c#1\u0301", "\U0001f468\u200d\U0001f469#2"),
]


@pytest.mark.parametrize("dialect", ["trino", "athena", "spark"])
def test_each_dialect_parses_it_alike(dialect: str) -> None:
    """The tree is that of DuckDB; there is no quoted name, and no function that one of them lacks."""
    query = salts_query("conversation_id", "lake.messages")
    assert set(re.findall(r"([A-Z_]+)\(", query)) == SHARED
    assert {"\\", '"', "`", ";"}.isdisjoint(query)
    expected, tree = (sqlglot.parse_one(query, read=name) for name in ("duckdb", dialect))
    assert not any(name.args.get("quoted") for name in tree.find_all(exp.Identifier))
    # Spark's CAST returns NULL for what is no number, which the query does not cast.
    assert tree.sql("duckdb").replace("TRY_CAST", "CAST") == expected.sql("duckdb")


def test_it_finds_what_a_scan_finds() -> None:
    """For every valid id the highest salt, and the N that it needs; it takes no other keys."""
    expected: dict[str, int] = {}
    for key in KEYS:
        conversation_id, salt = split_partition_key(key)
        if salt is not None and is_conversation_id(conversation_id) and salt < 10**9:
            expected[conversation_id] = max(salt, expected.get(conversation_id, 0))
    import duckdb

    with duckdb.connect() as connection:
        connection.execute(f"CREATE TABLE {TABLE} (Item STRUCT(conversation_id STRUCT(S VARCHAR)))")
        connection.executemany(
            f"INSERT INTO {TABLE} VALUES ({{'conversation_id': {{'S': ?}}}})",  # noqa: S608
            [[key] for key in [*KEYS, None]],
        )
        rows = connection.execute(salts_query("conversation_id")).fetchall()
    assert len(rows) == len(expected)
    assert {row[0]: row[2] for row in rows} == expected
    for _, max_n, highest in rows:
        needed = max(power_of_two_at_least(highest + 1), 2)
        assert max_n == (needed if needed <= MAX_N else None)


def test_the_recipe_of_duckdb_makes_a_file_that_an_import_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The topic has the view; the result is that of all files, with quotes in ids."""
    import duckdb

    rows = rows_of('=a,"b', 16, 100)
    write_export(tmp_path, {"a": [*rows[::2], *rows_of("plain", 1, 3)], "b": [*rows[1::2], row("s#70000", "m")]})
    monkeypatch.chdir(tmp_path)
    topic = resources.files("saltctl").joinpath("help", "export.txt").read_text()
    (view,) = re.findall(r"^  (CREATE VIEW .+?)\n\n", topic, re.DOTALL | re.MULTILINE)
    (copy,) = re.findall(r"COPY .+(?=:\n)", topic)
    with duckdb.connect() as connection:
        connection.execute(view)
        connection.execute(copy.replace("QUERY", salts_query("conversation_id")))
    with Path("result.csv").open("rb") as result:
        lines, parse = read_ahead(result, "result.csv")
        records = [parse(line) for line in iter(lambda: lines.readline(10_000), b"") if line.strip()]
    assert sorted(records, key=str) == [
        {"conversation_id": '=a,"b', "max_n": 16, "highest_salt": 15},
        {"conversation_id": "s", "max_n": "", "highest_salt": 70000},
    ]


@pytest.mark.parametrize("name", ["a-b", "order", "Order", "a b", "", "a;b", "1a", "a\nb", "\u00e9"])
def test_names_that_would_be_quoted_are_refused(name: str) -> None:
    """Each dialect quotes in another way, and a name is no way to write another query."""
    with pytest.raises(UsageError, match="has to be quoted"):
        salts_query(name)
    with pytest.raises(UsageError, match="has to be quoted"):
        salts_query("id", f"lake.{name}")
