"""Converts attribute values between DynamoDB's tagged form and Python, without loss of a digit or a type.

======================  =======================================
DynamoDB                Python
======================  =======================================
S, BOOL, NULL           ``str``, ``bool``, ``None``
N                       ``Decimal``, or ``int`` when writing; never ``float``, which would round
B                       ``bytes``
L, M                    ``list``, ``dict``
SS, NS, BS              ``set`` of ``str``, ``Decimal`` or ``bytes``
======================  =======================================
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from hashlib import sha256
from typing import Any

from saltctl.errors import UsageError
from saltctl.salting import number_text
from saltctl.stores.contracts.messages import Item

MAX_DIGITS = 38
"""Digits of a number that DynamoDB keeps (documented)."""
_LARGEST_EXPONENT, _SMALLEST_EXPONENT = 125, -130  # powers of ten that it keeps (documented)
_NUMBER = re.compile(r"[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]{1,6})?")
_MAX_CHARACTERS = 1000


def plain(value: Mapping[str, Any]) -> Any:
    """Return a tagged value as a Python value."""
    ((kind, content),) = value.items()
    return _CONVERT[kind](content)


_CONVERT: dict[str, Callable[[Any], Any]] = {
    "S": str,
    "BOOL": bool,
    "NULL": lambda _: None,
    "N": Decimal,
    "B": bytes,
    "L": lambda values: [plain(value) for value in values],
    "M": lambda values: {name: plain(value) for name, value in values.items()},
    "SS": set,
    "NS": lambda numbers: set(map(Decimal, numbers)),
    "BS": lambda binaries: set(map(bytes, binaries)),
}


def plain_item(item: Item) -> dict[str, Any]:
    """Return the attributes of a row as Python values."""
    # Most attributes are strings. Without a call for each of them, a page of messages costs half as much.
    return {name: value["S"] if "S" in value else plain(value) for name, value in item.items()}


def tagged(value: Any) -> dict[str, Any]:
    """Return a Python value in DynamoDB's tagged form. Raises UsageError if DynamoDB cannot store it exactly.

    It cannot store a float, a number of more than 38 digits, an empty or mixed set, a map key that is not a string,
    or a type that it does not have.
    """
    if value is None:
        return {"NULL": True}
    if isinstance(value, bool):  # before int, which it also is
        return {"BOOL": value}
    if isinstance(value, int | Decimal):
        return {"N": number_text(exact_number(value))}
    if isinstance(value, str):
        return {"S": _valid_string(value)}
    if isinstance(value, bytes | bytearray | memoryview):
        return {"B": bytes(value)}
    if isinstance(value, Mapping):
        if not all(isinstance(name, str) for name in value):
            raise UsageError("the keys of a map must be strings", hint="convert the keys before you put the message")
        return {"M": {_valid_string(name): tagged(inner) for name, inner in value.items()}}
    if isinstance(value, list | tuple):
        return {"L": [tagged(inner) for inner in value]}
    if isinstance(value, set | frozenset):
        return _set(value)
    hint = "use Decimal, which keeps every digit" if isinstance(value, float) else "see saltctl.history.attributes"
    raise UsageError(f"a {type(value).__name__} cannot be stored in DynamoDB", hint=hint)


def _valid_string(value: str) -> str:
    try:
        value.encode()
    except UnicodeEncodeError:
        raise UsageError(f"the string {value[:40]!r} is not valid UTF-8", hint="store it as bytes") from None
    return value


def exact_number(value: Any) -> Decimal:
    """Return an int, a Decimal, or the number of a string; raise UsageError if DynamoDB cannot store it exactly.

    A string has ASCII digits with a sign, a point and an exponent at most. Python also accepts spaces, underscores and
    the digits of other scripts; DynamoDB and other clients do not.
    """
    known = isinstance(value, int | Decimal) and not isinstance(value, bool)
    if not known and not (isinstance(value, str) and len(value) <= _MAX_CHARACTERS and _NUMBER.fullmatch(value)):
        hint = "use Decimal, which keeps every digit" if isinstance(value, float) else ""
        raise UsageError(f"{value!r:.60} is not a number", hint=hint)
    number = Decimal(value)
    if not number.is_finite():
        raise UsageError(f"{number} cannot be stored in DynamoDB", hint="leave the attribute out, or store a string")
    if number and not _SMALLEST_EXPONENT <= number.adjusted() <= _LARGEST_EXPONENT:
        raise UsageError(f"the number {number:.3E} is out of DynamoDB's range", hint="store it as a string")
    digits = "".join(map(str, number.as_tuple().digits)).strip("0")
    if len(digits) > MAX_DIGITS:
        raise UsageError(
            f"the number {number:.3E} has {len(digits)} digits; DynamoDB keeps {MAX_DIGITS}",
            hint="store it as a string",
        )
    return number


def _set(values: set[Any] | frozenset[Any]) -> dict[str, Any]:
    members = [tagged(value) for value in values]
    kinds = {kind for member in members for kind in member}
    if len(kinds) != 1 or not kinds <= {"S", "N", "B"}:
        raise UsageError("a set must hold strings, numbers or bytes, all of one type", hint="use a list")
    kind = kinds.pop()
    return {f"{kind}S": sorted(member[kind] for member in members)}


def fingerprint(item: Item, *, without: str | None = None) -> str:
    """Return a string of 32 digits that two rows share if and only if all their attributes are equal.

    The attribute ``without`` is left out. Values of different types differ: the number 1 is not true. The order of a
    set and the final zeros of a number, which DynamoDB drops, make no difference.
    """
    content = {name: _canonical(value) for name, value in item.items() if name != without}
    return sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]


def _canonical(value: Mapping[str, Any]) -> list[Any]:
    """Return a tagged value as JSON that is the same for equal values."""
    ((kind, content),) = value.items()
    match kind:
        case "M":
            return [kind, {name: _canonical(inner) for name, inner in content.items()}]
        case "L":
            return [kind, [_canonical(inner) for inner in content]]
        case "SS" | "NS" | "BS":
            return [kind, sorted({_canonical({kind[0]: member})[1] for member in content})]
        case "N":
            return [kind, number_text(Decimal(content))]
        case "B":
            return [kind, bytes(content).hex()]
        case _:
            return [kind, plain(value)]
