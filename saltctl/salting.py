"""Arithmetic of salting: pure functions that servers, the service and the command share.

A conversation with ``max_n`` N lives on N + 1 partition keys: the base partition, which is the bare
conversation id, and the salts ``id#0`` … ``id#N-1``. N is 1 for a conversation that was never salted; it has only
the base partition.
"""

from __future__ import annotations

import math
from binascii import crc32
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Literal

from saltctl.errors import InvalidConversationIdError, InvalidSaltCountError, UsageError

SEPARATOR = "#"
_PROOF_BITS = 20
_ENOUGH_BITS = 64
UnprovenCause = Literal["", "misplaced", "without-id", "too-few"]
MAX_ID_BYTES = 2000
"""DynamoDB allows 2,048 bytes in a partition key (documented); the rest is room for ``#`` and the salt."""


def check_conversation_id(conversation_id: str) -> str:
    """Return the id unchanged if it is valid.

    Raises InvalidConversationIdError if it is not a string, or one that is empty, longer than 2,000 UTF-8 bytes, not
    encodable, or has a ``#``.
    """
    if not isinstance(conversation_id, str):
        raise InvalidConversationIdError(
            f"the conversation id {conversation_id!r:.60} is not a string", hint='give a string, such as "conv_abc123"'
        )
    if not conversation_id:
        raise InvalidConversationIdError("the conversation id is empty", hint="give the id of a conversation")
    if SEPARATOR in conversation_id:
        raise InvalidConversationIdError(
            f"the conversation id {conversation_id!r} holds a '#', which separates an id from its salt",
            hint="leave out '#' and the number if they are a salt, as in the partition keys of messages. If partition "
            "keys hold a '#' by design, as in single-table designs, they can be neither salted nor read: give "
            "conversations ids without it",
        )
    try:
        size = len(conversation_id) if conversation_id.isascii() else len(conversation_id.encode())
    except UnicodeEncodeError:
        raise InvalidConversationIdError(
            f"the conversation id {conversation_id!r} is not valid UTF-8", hint="check the terminal's encoding"
        ) from None
    if size > MAX_ID_BYTES:
        raise InvalidConversationIdError(
            f"the conversation id has {size} bytes; at most {MAX_ID_BYTES} fit beside a salt in a partition key",
            hint=f"it begins with {conversation_id[:40]!r}: check that it is one id and not a list",
        )
    return conversation_id


def is_conversation_id(conversation_id: str) -> bool:
    """Return whether the id can be one, as :func:`check_conversation_id` has it."""
    try:
        check_conversation_id(conversation_id)
    except InvalidConversationIdError:
        return False
    return True


def is_power_of_two(n: int) -> bool:
    """Return whether n is 1, 2, 4, 8 and so on."""
    return n > 0 and n & (n - 1) == 0


def power_of_two_at_least(n: int) -> int:
    """Return the smallest power of two that is not below n, and at least 1."""
    return 1 << max(n - 1, 0).bit_length()


def nearest_salt_count(n: int, cap: int) -> int:
    """Return the smallest power of two that is not below n; if it is above ``cap``, the one below it."""
    above = power_of_two_at_least(n)
    return above if above <= cap else above // 2


def check_salt_count(n: int, cap: int) -> int:
    """Return n unchanged if a raise to it is allowed: a power of two, so that a message is found on few partitions.

    Raises InvalidSaltCountError if it is not, is below 1, or above ``cap``. The hint names an allowed number.
    """
    if type(n) is not int or n < 1:
        raise InvalidSaltCountError(
            f"N must be at least 1, and a whole number, not {n!r:.60}",
            hint="an unsalted conversation has N 1; use a power of two such as 4",
        )
    if n > cap:
        raise InvalidSaltCountError(
            f"N {n} is above the cap of {cap}",
            hint=f"use {1 << (cap.bit_length() - 1)}, or raise the setting max_n_cap (SALTCTL_MAX_N_CAP)",
        )
    if not is_power_of_two(n):
        raise InvalidSaltCountError(
            f"N must be a power of two, not {n}", hint=f"use {nearest_salt_count(n, cap)} instead"
        )
    return n


def partition_key(conversation_id: str, salt: int | None) -> str:
    """Return ``conv#3`` for salt 3, and the bare id for ``None``, the base partition.

    Raises UsageError if the salt is not a whole number from 0: no reader would ask that partition.
    """
    if salt is None:
        return conversation_id
    if type(salt) is not int or salt < 0:
        raise UsageError(f"a salt must be a whole number from 0, not {salt!r:.60}")
    return f"{conversation_id}{SEPARATOR}{salt}"


def split_partition_key(key: str) -> tuple[str, int | None]:
    """Return the conversation id and the salt of a partition key; the salt is None for a base partition.

    A key with a ``#`` that is not followed by a plain decimal number was not written by saltctl. It is returned whole,
    as a base partition.
    """
    conversation_id, separator, salt = key.rpartition(SEPARATOR)
    if separator and salt.isascii() and salt.isdigit() and (salt == "0" or salt[0] != "0"):
        return conversation_id, int(salt)
    return key, None


def read_set(conversation_id: str, max_n: int) -> list[str]:
    """Return every partition key that may hold a message: the base partition, then the salts; at most ``max_n`` + 1.

    The base partition is always included: it has the messages from before the conversation was salted.

    Raises InvalidSaltCountError if ``max_n`` is not a whole number from 1: partitions would be missing.
    """
    salts = range(max_n) if _count(max_n) > 1 else ()
    return [conversation_id, *(f"{conversation_id}{SEPARATOR}{salt}" for salt in salts)]


def _count(n: int) -> int:
    if type(n) is not int or n < 1:
        raise InvalidSaltCountError(f"N must be a whole number from 1, not {n!r:.60}")
    return n


def number_text(number: int | Decimal) -> str:
    """Return a finite number as DynamoDB returns it: without an exponent, a final zero or a sign of zero.

    DynamoDB does not keep the spelling of a number. ``1.10``, ``1.1`` and ``11E-1`` are one message id, ``1.1``.
    """
    digits = format(Decimal(number), "f") if number else "0"  # normalize() would round to the precision of the context
    return digits.rstrip("0").rstrip(".") if "." in digits else digits


def salt_of(message_id: str | int | Decimal, n: int) -> int | None:
    """Return the salt of a message that is written at ``write_n`` n; None if the conversation is unsalted.

    It is the CRC-32 of the UTF-8 message id modulo n, so that a retry of the same message writes the same row. An id
    that is a number counts in the form of :func:`number_text`.

    Raises:
        InvalidSaltCountError: n is not a whole number from 1: no reader would find the message.
        UsageError: the id is a float, a bool, not finite, or no id at all.
    """
    if _count(n) == 1:
        return None
    return crc32((message_id if isinstance(message_id, str) else _id_text(message_id)).encode()) % n


def _id_text(message_id: int | Decimal) -> str:
    if type(message_id) is not int and not (isinstance(message_id, Decimal) and message_id.is_finite()):
        raise UsageError(f"a message id must be a string, an int or a finite Decimal, not {message_id!r:.60}")
    return number_text(message_id)


def find_set(conversation_id: str, message_id: str, max_n: int) -> list[str]:
    """Return the partition keys that hold one message if every N was a power of two; the likeliest first.

    These are at most log2(N) + 1 keys: one for each N, and the base partition. For any other N, which saltctl never
    creates, it is the whole read set. An N of the past may have been another one: only the whole read set proves that
    a message does not exist.
    """
    if not is_power_of_two(max_n):
        return read_set(conversation_id, max_n)
    halved = (max_n >> times for times in range(max_n.bit_length()))
    return list(dict.fromkeys(partition_key(conversation_id, salt_of(message_id, n)) for n in halved))


@dataclass(slots=True)
class SaltEvidence:
    """Counts rows that may be on salts of one conversation, and judges whether they are.

    ``CONV#77`` is salt 77 of ``CONV``, or conversation 77 of a table whose partition keys hold a ``#`` by design. To
    take the second for the first would show messages of different people in one history. The rows tell them apart: a
    message on salt k was written under an N above k, so its CRC-32 modulo the power of two above k is k. ``misplaced``
    rows are not, such as the one on ``example``. Rows ``without_id`` show neither. ``bits`` says how unlikely it is
    that all others are by chance.
    """

    rows: int = 0
    misplaced: int = 0
    without_id: int = 0
    bits: int = 0
    example: int = 0
    _counted: set[int] = field(default_factory=set)

    def add(self, salt: int, message_id: str | None) -> bool:
        """Count one row; None if it has no message id. Returns whether it proves more than the rows before it."""
        return self.add_crc(salt, None if message_id is None else crc32(message_id.encode()))

    def add_crc(self, salt: int, crc: int | None) -> bool:
        """Count one row by the CRC-32 of its message id, as :meth:`add` does."""
        self.rows += 1
        if crc is None:
            self.without_id += 1
            return self.without_id == 1
        span = max(power_of_two_at_least(salt + 1), 2)
        if crc % span != salt:
            self.misplaced += 1
            self.example = salt
            return self.misplaced == 1
        if self.bits >= _ENOUGH_BITS or crc in self._counted:
            return False
        self._counted.add(crc)
        self.bits += span.bit_length() - 1
        if self.bits >= _ENOUGH_BITS:
            self._counted.clear()  # bounded memory for each of many conversations
        return True

    def cause(self, candidates: int = 1, *, registered: bool = False) -> UnprovenCause:
        """Return why the rows are not proved to be salted; empty if they are.

        Among all ``candidates`` the chance that any is accepted by mistake is one in a million. If the registry has
        salts of the conversation, a few rows are enough.
        """
        if self.misplaced:
            return "misplaced"
        if self.without_id:
            return "without-id"
        return "" if registered or self.bits >= _needed_bits(candidates) else "too-few"

    def problem(self, candidates: int = 1, *, registered: bool = False) -> str:
        """Return the :meth:`cause` in words, with counts; empty if the rows are proved to be salted."""
        without = f"rows without a message id: {self.without_id:,} of {self.rows:,}"
        match self.cause(candidates, registered=registered):
            case "misplaced":
                off = f"{self.misplaced:,} of {self.rows:,} rows are not on the salt of their message id"
                return f"{off}, such as one on salt {self.example}{f'; {without}' if self.without_id else ''}"
            case "without-id":
                return without
            case "too-few":
                few = "1 row is" if self.rows == 1 else f"{self.rows:,} rows are"
                each = self.bits / max(len(self._counted), 1) or 1
                more = math.ceil((_needed_bits(candidates) - self.bits) / each)
                return f"{few} too few to show that the key has a salt: it needs about {more:,} more"
            case _:
                return ""


def _needed_bits(candidates: int) -> int:
    return _PROOF_BITS + (candidates - 1).bit_length()


def needed_n(rate: float, per_salt: float, cap: int) -> int:
    """Return the N for ``rate`` write units a second: rate / per_salt, rounded up to a power of two within ``cap``."""
    return min(power_of_two_at_least(math.ceil(rate / per_salt)), 1 << (cap.bit_length() - 1))


def bucket_of(conversation_id: str, buckets: int) -> int:
    """Return the registry bucket of a conversation: CRC-32 of its UTF-8 id modulo the bucket count."""
    return crc32(conversation_id.encode()) % buckets
