"""Writes one message, on the salt of its id, only while the lookup of its conversation is recent."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from saltctl.errors import MismatchedResponseError, SortKeyTakenError, StaleLookupError, UsageError
from saltctl.history.attributes import tagged
from saltctl.history.models import PutResult, message_id_of
from saltctl.history.rows import sort_key_of
from saltctl.registry.lookups import Lookup
from saltctl.salting import partition_key, salt_of
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.contracts.messages import Item, MessageStore, SortKey


@dataclass(frozen=True)
class MessageWriter:
    """Writes messages.

    Args:
        id_attribute: the attribute that holds message ids; None if the sort key does.
        uptime: monotonic seconds that also pass while the machine is suspended.
        longest: seconds that a lookup may be old when its message is sent, and that the sending may take.
    """

    store: MessageStore
    id_attribute: str | None
    uptime: Callable[[], float]
    longest: float

    def put(self, found: Lookup, looked_up: float, sort_key: SortKey | int, attributes: Mapping[str, Any]) -> PutResult:
        """Write one message of the conversation that was looked up. Raises as ``History.put``.

        ``looked_up`` is the uptime just before the lookup.
        """
        keys = self.store.keys
        key = sort_key_of(sort_key, keys)
        if not isinstance(attributes, Mapping):
            raise UsageError(f"attributes must be a mapping, not {type(attributes).__name__}", hint="pass {} for none")
        row = tagged(attributes)["M"]
        if taken := {keys.partition_key, keys.sort_key} & row.keys():
            raise UsageError(f"{min(taken)!r} is a key of the table, not an attribute", hint="leave it out")
        message_id = message_id_of({**row, keys.sort_key: tagged(key)}, keys, self.id_attribute)
        if not message_id:
            raise UsageError(
                f"the message has no id in {self.id_attribute or keys.sort_key!r}: it must be a string or a number",
                hint="set message_id_from (SALTCTL_MESSAGE_ID_FROM) to the attribute that holds ids",
            )
        # write_n, not max_n: readers look before writers leap.
        partition = partition_key(found.conversation_id, salt_of(message_id, found.write_n))
        if self._put_in_time(looked_up, partition, key, row):
            return PutResult(True, partition, message_id)
        held = self.store.get(partition, key)
        if held is None:
            raise MismatchedResponseError(
                f"DynamoDB says that {partition!r} has a row of this message, and has none", hint="repeat the call"
            )
        if message_id_of(held, keys, self.id_attribute) != message_id:
            raise SortKeyTakenError(
                f"another message has the sort key {key} in {partition!r}: nothing was written",
                hint="a sort key must be unique in its conversation, such as timestamp#message_id",
            )
        return PutResult(False, partition, message_id)

    def _put_in_time(self, looked_up: float, partition: str, key: SortKey, row: Item) -> bool:
        """Write a row unless it exists; return whether it was written. Send it only while its lookup is recent.

        Cooling makes readers look away from a salt once every lookup that names it must be out of use.
        """
        age, oldest = self.uptime() - looked_up, self.longest
        if age >= oldest:
            raise StaleLookupError(
                f"the message was not written to {partition!r}: {age:,.0f} s have passed since its lookup, and after "
                f"{oldest:,.0f} s readers may not cover this partition",
                hint="repeat the call",
            )
        with TimeBudget(oldest - age):  # the store may try several times
            return self.store.put(partition, key, row)
