"""The query for the N of each conversation, in the SQL that DuckDB, Athena (Trino) and Spark have in common.

It has no quoted names and no backslashes, since the dialects differ in them. It cannot check that message ids are on
their salts: CRC-32 has another name, or other arguments, in each dialect.
"""

from __future__ import annotations

import re

from saltctl.errors import UsageError

TABLE = "messages_export"
"""The default name of the table that has the items of the export."""
MAX_N = 65536
"""The largest N that the setting max_n_cap permits. Above it max_n is NULL, which ``registry import`` lists."""
MAX_DIGITS = 9
"""Digits of a salt: longer ones are not counted. As a number they could exceed 64 bits."""
_PLAIN = re.compile("[A-Za-z_][A-Za-z0-9_]*")
# fmt: off
_RESERVED = {
    "all", "alter", "and", "any", "as", "between", "by", "case", "cast", "constraint", "create", "cross", "cube",
    "current", "deallocate", "default", "delete", "describe", "distinct", "drop", "else", "end", "escape", "except",
    "exec", "exists", "explain", "extract", "false", "for", "from", "full", "group", "grouping", "having", "in",
    "inner", "insert", "intersect", "into", "is", "join", "left", "like", "listagg", "localtime", "natural",
    "normalize", "not", "null", "on", "or", "order", "outer", "prepare", "recursive", "right", "rollup", "select",
    "skip", "some", "table", "then", "to", "trim", "true", "uescape", "union", "unique", "unnest", "user", "using",
    "values", "when", "where", "with",
}
# fmt: on


def _is_name(name: str) -> bool:
    return _PLAIN.fullmatch(name) is not None and name.lower() not in _RESERVED


def salts_query(partition_key: str, table: str = TABLE) -> str:
    """Return the query. Its columns are ``conversation_id``, ``max_n`` and ``highest_salt``.

    Args:
        partition_key: the name of the partition key of the messages.
        table: the name of the table, such as ``database.table``; it has one column, the struct ``Item``.

    Raises:
        UsageError: a name would have to be quoted, which each dialect does in its own way.
    """
    for what, names in (("table", table.split(".")), ("partition key", [partition_key])):
        if not all(map(_is_name, names)):
            raise UsageError(
                f"the {what} {'.'.join(names)!r:.120} has to be quoted in SQL, in each dialect in another way",
                hint="a name of letters, digits and _ that is no word of SQL needs no quotes; --from-export takes any "
                "partition key",
            )
    steps = "\n".join(f"    WHEN MAX(salt) < {1 << bits} THEN {1 << bits}" for bits in range(1, MAX_N.bit_length()))
    return f"""\
SELECT
  conversation_id,
  CASE
{steps}
  END AS max_n,
  MAX(salt) AS highest_salt
FROM (
  SELECT
    conversation_id,
    CASE
      WHEN LENGTH(digits) BETWEEN 1 AND {MAX_DIGITS}
        AND TRANSLATE(digits, '0123456789', '') = ''
        AND (digits = '0' OR SUBSTR(digits, 1, 1) <> '0')
      THEN CAST(digits AS BIGINT)
    END AS salt
  FROM (
    SELECT
      SUBSTR(Item.{partition_key}.S, 1, POSITION('#' IN Item.{partition_key}.S) - 1) AS conversation_id,
      SUBSTR(Item.{partition_key}.S, POSITION('#' IN Item.{partition_key}.S) + 1) AS digits
    FROM {table}
    WHERE POSITION('#' IN Item.{partition_key}.S) > 1
  ) AS split_keys
) AS salted_keys
WHERE salt IS NOT NULL
GROUP BY conversation_id
"""  # noqa: S608  both names are plain
