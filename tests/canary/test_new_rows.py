"""New messages have sort keys of the table's form, in the order of time, and land on the last salt."""

from __future__ import annotations

import random
from datetime import UTC, datetime, timedelta
from typing import Literal

import pytest

from saltctl.canary.conversations import BOUND
from saltctl.canary.new_rows import NewRow, NewRows
from saltctl.errors import RefusedError
from saltctl.history.sort_key_form import learn_form
from saltctl.salting import salt_of
from saltctl.settings import SORT_KEY_FORMS
from saltctl.stores.contracts.messages import TableKeys

NOW = datetime(2026, 7, 1, 8, tzinfo=UTC)
FORMS: list[tuple[Literal["S", "N"], str | None]] = [
    *(("S", form) for form in (None, *SORT_KEY_FORMS)),
    *(("N", form) for form in (None, *SORT_KEY_FORMS[1:5])),
]


def new_rows(sort_type: Literal["S", "N"], form: str | None, attribute: str | None = None) -> NewRows:
    """Return a source of messages at a fixed time."""
    return NewRows(TableKeys("room", "at", sort_type), form, attribute, lambda: NOW, random.Random(1))


def later(rows: NewRows) -> list[NewRow]:
    """Return messages of a growing time, seconds apart."""
    return [rows.new(ahead=seconds) for seconds in (0.0, 2.0, 60.0, 7200.0)]


@pytest.mark.parametrize(("sort_type", "form"), FORMS)
def test_sort_keys_have_the_form_of_the_table(sort_type: Literal["S", "N"], form: str | None) -> None:
    """Saltctl reads times in them as in those of the application: that of the message, and no later one."""
    made = later(new_rows(sort_type, form))
    keys = [row.sort_key for row in made]
    assert keys == sorted(keys)
    learned = learn_form(keys, NOW, form)
    assert learned.name == (form or ("iso" if sort_type == "S" else "epoch-ms"))
    assert learned.bound(NOW) <= keys[0] < learned.bound(NOW + timedelta(seconds=1)) < keys[1]  # type: ignore[operator]
    assert {salt_of(row.message_id, n) for row in made for n in (2, 4, BOUND)} == {1, 3, BOUND - 1}
    assert len({row.message_id for row in made}) == 4


@pytest.mark.parametrize(("sort_type", "form"), FORMS)
def test_a_sort_key_is_not_below_a_boundary(sort_type: Literal["S", "N"], form: str | None) -> None:
    """It is as late as needed; above the largest sort key there is none."""
    rows = new_rows(sort_type, form, "message_id")
    boundary = rows.new(ahead=3600.0).sort_key
    row = rows.new(boundary=boundary)
    assert boundary <= row.sort_key <= rows.new(ahead=8192.0).sort_key  # type: ignore[operator]
    assert row.attributes["message_id"] == row.message_id
    if sort_type == "S":
        with pytest.raises(RefusedError, match="above the boundary"):
            rows.new(boundary="~")
