"""New messages of the canary: sort keys in the form of the table, and ids that land on the salts that matter."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from itertools import count
from typing import Any

from saltctl.canary.conversations import BOUND
from saltctl.errors import RefusedError
from saltctl.history.attributes import tagged
from saltctl.history.models import message_id_of
from saltctl.salting import number_text, salt_of
from saltctl.stores.contracts.messages import SortKey, TableKeys
from saltctl.times import iso_utc

MARK = "saltctl_canary"
"""The attribute that only rows of the canary have: when it was written (ISO 8601 UTC)."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_UNITS = {"epoch-s": 1, "epoch-ms": 10**3, "epoch-us": 10**6, "epoch-ns": 10**9}
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KSUID_EPOCH = 1_400_000_000
_FARTHEST = 30
"""The farthest sort key is two to the power of this many seconds ahead."""


def shown_key(sort_key: SortKey) -> str:
    """Return a sort key as the judge compares messages: a number has one spelling."""
    return sort_key if isinstance(sort_key, str) else number_text(sort_key)


@dataclass(frozen=True, slots=True)
class NewRow:
    """A message that is not written yet. ``attributes`` are those besides its keys."""

    sort_key: SortKey
    message_id: str
    attributes: Mapping[str, Any]


@dataclass(frozen=True)
class NewRows:
    """Makes messages for one table.

    Args:
        keys: the keys of the table.
        form: the setting ``sort_key_form``; without it sort keys are ISO 8601, or milliseconds if they are numbers.
        id_attribute: the attribute that holds message ids; None if the sort key does.
        now: the current time.
    """

    keys: TableKeys
    form: str | None
    id_attribute: str | None
    now: Callable[[], datetime]
    rng: random.Random

    def new(self, *, ahead: float = 0.0, boundary: SortKey | None = None) -> NewRow:
        """Return a message whose time is ``ahead`` seconds from now, or so late that it is not below the boundary.

        Its salt is the last one under every N up to BOUND, so that a reader who covers fewer salts misses it.

        Raises RefusedError if no sort key of this form is above the boundary.
        """
        later = (ahead, *(float(1 << power) for power in range(_FARTHEST) if 1 << power > ahead))
        for seconds in later:
            row = self._at(self.now() + timedelta(seconds=seconds))
            if boundary is None or type(boundary) is not type(row.sort_key) or not row.sort_key < boundary:  # type: ignore[operator]
                return row
        raise RefusedError(f"no sort key of the canary is above the boundary {boundary!r:.60}")

    def _at(self, at: datetime) -> NewRow:
        for _ in count():
            name = f"canary-{self.rng.getrandbits(48):012x}"
            sort_key = self._sort_key(at, name)
            attributes = {MARK: iso_utc(self.now())} | ({} if self.id_attribute is None else {self.id_attribute: name})
            row = {**tagged(attributes)["M"], self.keys.sort_key: tagged(sort_key)}
            message_id = message_id_of(row, self.keys, self.id_attribute)
            if message_id and salt_of(message_id, BOUND) == BOUND - 1:
                return NewRow(sort_key, message_id, attributes)
        raise AssertionError("unreachable")

    def _sort_key(self, at: datetime, name: str) -> SortKey:
        micros = (at - _EPOCH) // timedelta(microseconds=1)
        if self.keys.sort_type == "N":
            whole = micros * _UNITS.get(self.form or "", 10**3) // 10**6
            return whole + Decimal(self.rng.randrange(1, 10**12)).scaleb(-12)
        match self.form:
            case None | "iso":
                return f"{iso_utc(at)}#{name}"
            case "ulid":
                return _in_base(_BASE32, micros // 1000, 10) + _in_base(_BASE32, self.rng.getrandbits(80), 16)
            case "uuid7":
                digits = (
                    f"{micros // 1000:012x}7{self.rng.getrandbits(12):03x}{self.rng.getrandbits(62) | 1 << 63:016x}"
                )
                return "-".join((digits[:8], digits[8:12], digits[12:16], digits[16:20], digits[20:]))
            case "ksuid":
                seconds = micros // 10**6 - _KSUID_EPOCH
                return _in_base(_BASE62, seconds << 128 | self.rng.getrandbits(128), 27)
            case unit:
                return f"{micros * _UNITS[unit] // 10**6}#{name}"


def _in_base(alphabet: str, number: int, width: int) -> str:
    digits = ""
    for _ in range(width):
        number, digit = divmod(number, len(alphabet))
        digits = alphabet[digit] + digits
    return digits
