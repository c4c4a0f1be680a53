"""How the id of a message is learned from its row: the salt of a message follows from its id."""

from __future__ import annotations

from dataclasses import dataclass

from saltctl.stores.contracts import Item, TableKeys

IN_SORT_KEY = "sort_key"
_ATTRIBUTE = "attribute:"
_SEPARATOR = "#"


@dataclass(frozen=True, slots=True)
class MessageIds:
    """The setting ``message_id_from``, applied. ``attribute`` is None where the sort key has the id."""

    attribute: str | None

    @classmethod
    def of(cls, setting: str) -> MessageIds:
        """The rule of a setting: ``sort_key`` or ``attribute:NAME``."""
        return cls(setting.removeprefix(_ATTRIBUTE) if setting.startswith(_ATTRIBUTE) else None)

    def read(self, item: Item, keys: TableKeys) -> str | None:
        """The id of a row's message; None where the row has none.

        In a sort key it is what follows the first ``#``, or all of it without one.
        """
        value = item.get(self.attribute or keys.sort_key, {})
        text: str | None = value.get("S", value.get("N"))
        if text is None or self.attribute is not None:
            return text
        time, separator, message_id = text.partition(_SEPARATOR)
        return message_id if separator else time
