"""Tables fit into 80 columns, even if a slow machine makes numbers wider."""

from __future__ import annotations

from tests.benchmarks.report import WIDTH, Table


def test_columns_move_together_if_numbers_are_wide() -> None:
    """The same rows with wider numbers have narrower gaps, and no value is cut off."""
    for number, gap in ("1.0", "  "), ("1000000.0", " "):
        table = Table("title", ("", "a", "b", "c", "d", "e", "f", "g"), [("name", *[number] * 7)])
        _, rule, _, row = table.render().splitlines()
        assert row == gap.join(["name", *[number] * 7])
        assert len(rule) == len(row) <= WIDTH
