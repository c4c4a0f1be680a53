"""Rows of the messages table as messages, and the sort keys of callers as those of the table."""

from __future__ import annotations

from decimal import Decimal

from saltctl.errors import UsageError
from saltctl.history.attributes import exact_number, plain_item, tagged
from saltctl.history.models import Message, message_id_of
from saltctl.salting import number_text
from saltctl.stores.contracts.messages import Item, SortKey, TableKeys


def message_of(conversation_id: str, item: Item, keys: TableKeys, id_attribute: str | None) -> Message:
    """Return a row of the table as a message. ``id_attribute`` holds message ids; None if the sort key does."""
    row, message_id = plain_item(item), message_id_of(item, keys, id_attribute)
    return Message(conversation_id, row[keys.partition_key], row[keys.sort_key], message_id, row)


def sort_key_of(value: SortKey | int, keys: TableKeys) -> SortKey:
    """Return a sort key of the table's type, exact; raise UsageError if the value cannot be one."""
    if keys.sort_type == "S":
        if not isinstance(value, str) or not value:
            raise UsageError(f"the sort key {keys.sort_key!r} must be a string that is not empty, not {value!r:.60}")
        tagged(value)
        return value
    try:
        return Decimal(number_text(exact_number(value)))
    except UsageError as exc:
        raise UsageError(f"the sort key {keys.sort_key!r} must be a number: {exc.message}", hint=exc.hint) from None


def bound_of(value: SortKey | int | None, keys: TableKeys) -> SortKey | None:
    """Return a bound as :func:`sort_key_of` does; None is no bound."""
    return None if value is None else sort_key_of(value, keys)
