"""Items of the backup table: their format, strongly consistent reads and conditional updates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from saltctl.commands import hint_of
from saltctl.errors import DamagedEntryError
from saltctl.salting import number_text
from saltctl.stores.aws.failures.errors import NEW_OR_LOST, error_code, none_if_condition_fails
from saltctl.stores.aws.table import Table
from saltctl.stores.contracts.entries import CooledEntry, parse_boundary
from saltctl.stores.contracts.registry import BackupEntry, Cooling, DamagedEntry, Raise

KEY = "conversation_id"
OWN_ITEM_PREFIX = "#"
"""Ids with this prefix are saltctl's own items (the lease, the identity, a checkpoint) and not conversations."""
LARGEST_N = 65_536
"""The upper bound of the setting max_n_cap, so saltctl never wrote a larger N."""
_LONGEST = 40
"""Digits of a number that are converted and shown. DynamoDB has 38 (documented), and Python converts no 5,000."""

_ATTRIBUTES = ("max_n", "write_n", "raises", "cooling")
_COOLING_NUMBERS = ("epoch", "target", "cool_to", "era", "recent_n")
_REFUSED_ITEMS = ("operand type", "incorrect data type", "Item size")
"""Parts of the messages with which DynamoDB refuses to update an item for its contents. Others concern the table."""


class BackupItems(Table):
    """Reads and updates single items of the backup table. Thread-safe."""

    missing_hint = f"check SALTCTL_BACKUP_TABLE, and AWS_REGION ({{region}}); {NEW_OR_LOST}"
    if_lost = "saltctl recover --dry-run"

    def read_item(self, item_id: str) -> dict[str, Any] | None:
        """Read one item, strongly consistent; None if the table does not have it."""
        with self.errors():
            return self.get_item({KEY: {"S": item_id}})

    def update_item(
        self,
        item_id: str,
        update: str,
        condition: str = "",
        values: dict[str, Any] | None = None,
        names: dict[str, str] | None = None,
    ) -> dict[str, Any] | None:
        """Update one item if it meets a condition; return it as it was ({} if it is new), or None if it does not."""
        request: dict[str, Any] = {
            "Key": {KEY: {"S": item_id}},
            "UpdateExpression": update,
            "ReturnValues": "ALL_OLD",
        }
        optional = {
            "ConditionExpression": condition,
            "ExpressionAttributeValues": values,
            "ExpressionAttributeNames": names,
        }
        request |= {name: value for name, value in optional.items() if value}
        with self.errors():
            response = none_if_condition_fails(lambda: self._update(request))
        return None if response is None else response.get("Attributes", {})

    def _update(self, request: dict[str, Any]) -> dict[str, Any]:
        from botocore.exceptions import ClientError

        try:
            response = self.send("update_item", request, request["Key"])
        except ClientError as exc:
            message, item_id = str(exc.response["Error"].get("Message", "")), request["Key"][KEY]["S"]
            if error_code(exc) != "ValidationException" or not any(part in message for part in _REFUSED_ITEMS):
                raise
            raise DamagedEntryError(
                f"the item of {item_id!r} in table {self.where} is damaged: {message}",
                hint=hint_of(
                    "it was edited by hand: its `raises` must be a list of a few kilobytes at most",
                    "" if "Item size" in message else DamagedEntry(item_id, message).cure,
                ),
            ) from exc
        return response


def string_attribute(item: Mapping[str, Any], name: str) -> str:
    """Read a string of one of saltctl's own items; empty if it is missing or of another type."""
    return str(item.get(name, {}).get("S", ""))


def number_attribute(item: Mapping[str, Any], name: str) -> float:
    """Read a number of one of saltctl's own items; 0 if it is missing or of another type."""
    return float(item.get(name, {}).get("N", 0))


def raise_attribute(entry: Raise) -> dict[str, Any]:
    """Return the element of ``raises`` that records a raise."""
    note: dict[str, Any] = {"n": {"N": str(entry.n)}, "at": {"S": entry.at}, "by": {"S": entry.by}}
    if entry.reason:  # DynamoDB Local refuses empty strings
        note["reason"] = {"S": entry.reason}
    if entry.cooled:
        note["cooled"] = {"BOOL": True}
    return {"M": note}


def cooling_attribute(cooling: Cooling) -> dict[str, Any]:
    """Return the attribute ``cooling`` of an item."""
    found: dict[str, Any] = {name: {"N": str(getattr(cooling, name))} for name in _COOLING_NUMBERS}
    if cooling.narrowed_at:
        found["narrowed_at"] = {"S": cooling.narrowed_at}
    boundary = cooling.boundary
    if boundary is not None:
        found["boundary"] = {"S": boundary} if isinstance(boundary, str) else {"N": number_text(boundary)}
    return {"M": found}


def find_damage(item: Mapping[str, Any]) -> str:
    """Describe why an item cannot be an entry of saltctl; empty if it can."""
    if "max_n" not in item:
        return "it has no max_n"
    for name in ("max_n", "write_n"):
        if name not in item:
            continue
        number = item[name].get("N") if isinstance(item[name], Mapping) else None
        if not isinstance(number, str):
            return f"its {name} is not a number"
        if not (number.isascii() and number.isdigit()) or not number.strip("0"):
            return f"its {name} is {number[:_LONGEST]}, not a positive whole number"
        if len(number) > _LONGEST or int(number) > LARGEST_N:
            return f"its {name} is {number[:_LONGEST]}, more than any registry allows"
    return _cooling_damage(item) if "cooling" in item else ""


def _cooling_damage(item: Mapping[str, Any]) -> str:
    try:
        cooling = _parse_cooling(item["cooling"])
    except (KeyError, TypeError, ValueError, AttributeError):
        return "its cooling cannot be read"
    write_n = int(item["write_n"]["N"]) if "write_n" in item else 1
    entry = BackupEntry("", int(item["max_n"]["N"]), write_n, cooling=cooling).entry
    assert isinstance(entry, CooledEntry)
    sound = entry.plausible and write_n <= cooling.target and 1 <= cooling.cool_to <= cooling.target
    return "" if sound else "its cooling has numbers that contradict each other"


def _parse_cooling(attribute: Any) -> Cooling:
    found = attribute["M"]
    numbers = {name: found[name]["N"] for name in _COOLING_NUMBERS}
    if not all(number.isascii() and number.isdigit() and len(number) <= _LONGEST for number in numbers.values()):
        raise ValueError
    boundary = None
    if "boundary" in found:
        [(kind, text)] = found["boundary"].items()
        boundary = parse_boundary(kind, text)
        if boundary is None:
            raise ValueError
    narrowed_at = found["narrowed_at"]["S"] if "narrowed_at" in found else ""
    return Cooling(**{name: int(n) for name, n in numbers.items()}, boundary=boundary, narrowed_at=narrowed_at)


def parse_entry(conversation_id: str, item: Mapping[str, Any], where: str) -> BackupEntry:
    """Convert an item to an entry. ``where`` names the table in messages.

    Raises:
        DamagedEntryError: saltctl cannot have written the item.
    """
    damage = find_damage(item)
    if damage:
        raise DamagedEntryError(
            f"the item of {conversation_id!r} in table {where} is damaged: {damage}",
            hint=hint_of("it was edited by hand", DamagedEntry(conversation_id, damage).cure),
        )
    raises = tuple(
        Raise(
            int(attributes["n"]["N"]),
            string_attribute(attributes, "at"),
            string_attribute(attributes, "by"),
            string_attribute(attributes, "reason"),
            bool(attributes.get("cooled", {}).get("BOOL", False)),
        )
        for attributes in (element.get("M", {}) for element in item.get("raises", {}).get("L", []))
        if attributes.get("n", {}).get("N", "").isdigit()
    )
    write_n = int(item["write_n"]["N"]) if "write_n" in item else 1
    cooling = _parse_cooling(item["cooling"]) if "cooling" in item else None
    return BackupEntry(conversation_id, int(item["max_n"]["N"]), write_n, raises, cooling)


# Damaged items: what they still show, and how one is replaced by a sound one.


@dataclass(frozen=True, slots=True)
class DamagedItem:
    """A damaged item. ``at_least`` is the largest N that it shows, or 1; ``epoch`` the one that it shows, or 0."""

    conversation_id: str
    problem: str
    at_least: int
    epoch: int
    attributes: Mapping[str, Any]


def read_damage(table: BackupItems, conversation_id: str) -> DamagedItem | None:
    """Read an item, strongly consistent, and return its damage; None if it is missing or sound."""
    item = table.read_item(conversation_id)
    if item is None:
        return None
    problem = find_damage(item)
    if not problem and "L" not in item.get("raises", {"L": []}):
        problem = "its raises are not a list"
    attributes = {name: item[name] for name in _ATTRIBUTES if name in item}
    if not problem:
        return None
    at_least = max(_numbers(attributes), default=1)
    return DamagedItem(conversation_id, problem, at_least, _epoch(attributes.get("cooling")), attributes)


def _epoch(cooling: Any) -> int:
    """Return the epoch that a damaged attribute shows; 0 if there is none, 1 if it cannot be read."""
    if cooling is None:
        return 0
    try:
        return max(int(cooling["M"]["epoch"]["N"]), 1)
    except (KeyError, TypeError, ValueError):
        return 1


def _numbers(attributes: Mapping[str, Any]) -> Iterator[int]:
    """Yield every N that the item shows: those of its raises, and of a number that was written as a string."""
    raises = attributes.get("raises", {}).get("L", [])
    shown = [attributes.get("max_n"), attributes.get("write_n"), *(one.get("M", {}).get("n") for one in raises)]
    for value in shown:
        for text in (value or {}).values():
            if isinstance(text, str) and text.isascii() and text.isdigit() and len(text) <= len(str(LARGEST_N)):
                yield max(min(int(text), LARGEST_N), 1)


def replace_damage(table: BackupItems, found: DamagedItem, entry: Raise, epoch: int) -> bool:
    """Set max_n to that of ``entry``, as step 1 of a raise, and remove the rest; return whether it was done.

    It is not if the item has changed since it was read. An ``epoch`` above 0 takes every older boundary back.
    """
    old = {f":old_{name}": value for name, value in found.attributes.items()}
    unchanged = [f"#{n} = :old_{n}" if n in found.attributes else f"attribute_not_exists(#{n})" for n in _ATTRIBUTES]
    kept = "L" in found.attributes.get("raises", {})
    update = (
        f"SET #max_n = :n, updated_at = :at, #raises = {'list_append(#raises, :raise)' if kept else ':raise'}"
        f"{', #cooling = :cooling REMOVE #write_n' if epoch else ' REMOVE #write_n, #cooling'}"
    )
    values = {":n": {"N": str(entry.n)}, ":at": {"S": entry.at}, ":raise": {"L": [raise_attribute(entry)]}}
    if epoch:
        values[":cooling"] = cooling_attribute(Cooling(epoch, entry.n, entry.n, epoch, entry.n))
    names = {f"#{name}": name for name in _ATTRIBUTES}
    return table.update_item(found.conversation_id, update, " AND ".join(unchanged), values | old, names) is not None
