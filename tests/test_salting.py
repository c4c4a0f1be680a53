"""Arithmetic of salting: ids, partition keys, read sets, salt counts and buckets."""

from __future__ import annotations

from collections import Counter
from decimal import Decimal
from math import log2

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from saltctl.errors import InvalidConversationIdError, InvalidSaltCountError
from saltctl.salting import (
    MAX_ID_BYTES,
    bucket_of,
    check_conversation_id,
    check_salt_count,
    find_set,
    is_conversation_id,
    is_power_of_two,
    nearest_salt_count,
    needed_n,
    number_text,
    partition_key,
    power_of_two_at_least,
    read_set,
    salt_of,
    split_partition_key,
)

POWERS = [1 << exponent for exponent in range(11)]
utf8 = st.characters(exclude_categories=["Cs"])
conversation_ids = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="#"), min_size=1, max_size=50)
message_ids = st.text(utf8, max_size=50)
powers_of_two = st.sampled_from(POWERS)


# Conversation ids.


@pytest.mark.slow
@given(conversation_ids)
def test_an_id_is_returned_unchanged(conversation_id: str) -> None:
    """An id may contain every character except ``#``: blanks, quotes, any script, control characters."""
    assert check_conversation_id(conversation_id) == conversation_id


@pytest.mark.parametrize(
    "conversation_id",
    [
        "conv_abc123",
        " ",
        "0",
        "\x00\x07\x7f",
        "\x1b[31mred\x1b[0m",
        "[bold]markup[/bold]",
        "=HYPERLINK(1)",
        "a/b:c{d}",
        "é",
        "e\u0301",
        "日本語",
        "😀",
        "\u202etxt.exe",
        "x" * MAX_ID_BYTES,
        "é" * (MAX_ID_BYTES // 2),
        "😀" * (MAX_ID_BYTES // 4),
    ],
    ids=ascii,
)
def test_unusual_ids_are_valid(conversation_id: str) -> None:
    """The chat service creates the ids, and messages have them already."""
    assert check_conversation_id(conversation_id) == conversation_id


@pytest.mark.parametrize(
    ("conversation_id", "says"),
    [
        ("", "empty"),
        ("#", "holds a '#'"),
        ("conv#3", "holds a '#'"),
        ("#lease", "holds a '#'"),
        ("x" * (MAX_ID_BYTES + 1), "has 2001 bytes"),
        ("é" * (MAX_ID_BYTES // 2) + "x", "has 2001 bytes"),
        ("é" * MAX_ID_BYTES, "has 4000 bytes"),
        ("\ud800", "not valid UTF-8"),
        ("conv_\udcff", "not valid UTF-8"),
    ],
    ids=lambda value: ascii(value)[:20],
)
def test_an_invalid_id_is_refused(conversation_id: str, says: str) -> None:
    """The error has a reason and a hint; the limit counts bytes, not characters."""
    with pytest.raises(InvalidConversationIdError, match=says) as refused:
        check_conversation_id(conversation_id)
    assert refused.value.hint


@pytest.mark.parametrize("typed", ["conv#3", "#3", "CONV#77", "CONV#abc"])
def test_an_id_with_a_separator_is_refused_without_a_guess(typed: str) -> None:
    """It may be a salted partition key, or the key of a single-table design, whose first part is no conversation."""
    with pytest.raises(InvalidConversationIdError) as refused:
        check_conversation_id(typed)
    hint = refused.value.hint
    assert "'" + typed.partition("#")[0] + "'" not in hint
    assert "single-table" in hint
    assert "if they are a salt" in hint


@pytest.mark.parametrize(("key", "valid"), [("conv", True), ("", False), ("conv#1", False), ("x" * 2001, False)])
def test_ids_are_told_from_other_strings(key: str, valid: bool) -> None:
    """A scan of a table finds keys of all kinds."""
    assert is_conversation_id(key) is valid


def test_the_longest_id_fits_with_the_largest_salt() -> None:
    """DynamoDB allows 2,048 bytes in a partition key (documented)."""
    key = partition_key("😀" * (MAX_ID_BYTES // 4), 65535)
    assert len(key.encode()) <= 2048


# Powers of two.


@given(st.integers(-10, 1 << 40))
def test_a_power_of_two_has_one_bit(n: int) -> None:
    """It is never zero or negative."""
    assert is_power_of_two(n) == (n > 0 and n.bit_count() == 1)


@given(st.integers(-10, 1 << 40))
def test_the_next_power_of_two_is_the_smallest(n: int) -> None:
    """It is at least n, and its half is below n; for n up to 1 it is 1."""
    above = power_of_two_at_least(n)
    assert is_power_of_two(above)
    assert above >= n
    assert above == 1 or above // 2 < n


@given(st.integers(-5, 600), st.sampled_from([1, 2, 8, 100, 256, 300]))
@example(256, 256)
@example(257, 256)
@example(100, 100)
def test_a_raise_is_allowed_to_powers_of_two_up_to_the_cap(n: int, cap: int) -> None:
    """Every other N is refused, and the hint has an N that is allowed."""
    if 1 <= n <= cap and is_power_of_two(n):
        assert check_salt_count(n, cap) == n
        return
    with pytest.raises(InvalidSaltCountError) as refused:
        check_salt_count(n, cap)
    named = [int(word) for word in refused.value.hint.replace(",", " ").split() if word.isdecimal()]
    if n >= 1:
        assert check_salt_count(named[0], cap) == named[0]


@pytest.mark.parametrize("n", [0, -1, -4])
def test_less_than_one_salt_is_refused_as_such(n: int) -> None:
    """It is not a power of two either, but that is not the fault."""
    with pytest.raises(InvalidSaltCountError, match="at least 1"):
        check_salt_count(n, 64)


def test_the_nearest_salt_count_may_be_the_cap() -> None:
    """Only above the cap it is the next smaller one."""
    assert [nearest_salt_count(n, 8) for n in (3, 5, 8, 9)] == [4, 8, 8, 8]


def test_a_refused_five_suggests_eight() -> None:
    """The hint has the smallest allowed N above the refused one."""
    with pytest.raises(InvalidSaltCountError, match="must be a power of two, not 5") as refused:
        check_salt_count(5, 256)
    assert refused.value.hint == "use 8 instead"


# Partition keys.


@given(conversation_ids, st.none() | st.integers(0, 1 << 20))
def test_a_partition_key_can_be_split(conversation_id: str, salt: int | None) -> None:
    """split_partition_key returns the arguments of partition_key."""
    assert split_partition_key(partition_key(conversation_id, salt)) == (conversation_id, salt)


@given(st.text(utf8, max_size=30))
@example("a#03")
@example("a#")
@example("a#b#3")
@example("a#٣")
@example("a#²")
@example("#")
def test_any_key_can_be_split_and_joined(key: str) -> None:
    """A key either splits into an id and a salt, or is a base partition unchanged."""
    conversation_id, salt = split_partition_key(key)
    assert partition_key(conversation_id, salt) == key


@pytest.mark.parametrize("key", ["a#", "a#x", "a#-1", "a#03", "a# 3", "a#³", "a"])
def test_a_foreign_key_is_not_a_salt(key: str) -> None:
    """A ``#`` that is not followed by a plain number does not separate a salt."""
    assert split_partition_key(key) == (key, None)


# Where messages are.


@given(conversation_ids, st.integers(1, 300))
def test_the_read_set_is_the_base_partition_and_every_salt(conversation_id: str, max_n: int) -> None:
    """The base partition is first; for an unsalted conversation it is the only one."""
    salts = range(max_n) if max_n > 1 else range(0)
    assert read_set(conversation_id, max_n) == [conversation_id, *(f"{conversation_id}#{salt}" for salt in salts)]


def test_an_unsalted_conversation_has_its_base_partition_alone() -> None:
    """A partition more would cost a read on each page of most conversations; one less hides messages."""
    assert [read_set("c", max_n) for max_n in (1, 2)] == [["c"], ["c", "c#0", "c#1"]]


@given(message_ids, st.integers(1, 300))
def test_a_retry_lands_on_the_same_row(message_id: str, n: int) -> None:
    """The salt depends only on the message id and N, and the read set contains it."""
    salt = salt_of(message_id, n)
    assert salt == salt_of(message_id, n)
    assert salt is None if n == 1 else salt is not None and 0 <= salt < n


def test_the_salt_of_a_message_is_pinned() -> None:
    """CRC-32 of the UTF-8 id modulo n: another implementation, or a later version, must find old messages."""
    assert [salt_of("message-1", n) for n in (1, 2, 4, 256)] == [None, 0, 2, 2]
    assert salt_of("😀", 1024) == 324


@pytest.mark.parametrize(
    ("spelling", "text"),
    [
        ("1.10", "1.1"),
        ("1.7E+9", "1700000000"),
        ("-0.0", "0"),
        ("0E+5", "0"),
        ("-2.50", "-2.5"),
        ("1E-7", "0.0000001"),
        ("100", "100"),
        ("12345678901234567890123456789012345678", "12345678901234567890123456789012345678"),
        ("9.9999999999999999999999999999999999999E+125", "9" * 38 + "0" * 88),
    ],
)
def test_a_number_has_one_text(spelling: str, text: str) -> None:
    """It is DynamoDB's, for every spelling of the number, and the salt comes from it."""
    assert number_text(Decimal(spelling)) == text
    assert salt_of(Decimal(spelling), 256) == salt_of(text, 256)


@given(conversation_ids, message_ids, powers_of_two, powers_of_two)
def test_a_message_is_found_under_every_later_n(conversation_id: str, message_id: str, written: int, now: int) -> None:
    """The find set of every later N contains the row, because N only doubles."""
    if written > now:
        written, now = now, written
    row = partition_key(conversation_id, salt_of(message_id, written))
    assert row in find_set(conversation_id, message_id, now)


@given(conversation_ids, message_ids, powers_of_two)
def test_finding_one_message_takes_few_reads(conversation_id: str, message_id: str, max_n: int) -> None:
    """At most log2(N) + 2 partitions, each once, all in the read set, the newest N first."""
    keys = find_set(conversation_id, message_id, max_n)
    assert len(keys) <= log2(max_n) + 2
    assert len(set(keys)) == len(keys)
    assert set(keys) <= set(read_set(conversation_id, max_n))
    assert keys[0] == partition_key(conversation_id, salt_of(message_id, max_n))
    assert keys[-1] == conversation_id


@given(conversation_ids, message_ids, st.integers(1, 300).filter(lambda n: not is_power_of_two(n)))
def test_under_another_n_finding_asks_every_partition(conversation_id: str, message_id: str, max_n: int) -> None:
    """Other tools created such an entry, so the earlier values of N are unknown."""
    assert find_set(conversation_id, message_id, max_n) == read_set(conversation_id, max_n)


def test_messages_spread_evenly() -> None:
    """Consecutive ids fill the salts about equally: the fullest of 16 has less than 1.5 times its share."""
    counts = Counter(salt_of(f"message-{number}", 16) for number in range(16_000))
    assert len(counts) == 16
    assert max(counts.values()) < 1500


# How many salts.


@given(st.floats(0, 1e9), st.sampled_from([1.0, 800.0, 1000.0]), st.sampled_from([1, 2, 256, 300]))
def test_needed_n_is_the_smallest_power_of_two_that_carries_the_rate(rate: float, per_salt: float, cap: int) -> None:
    """No salt gets more than per_salt, except at the cap; half as many are too few; a raise to it is allowed."""
    n = needed_n(rate, per_salt, cap)
    assert check_salt_count(n, cap) == n
    assert n * 2 > cap or n * per_salt >= rate
    assert n == 1 or n // 2 * per_salt < rate


@pytest.mark.parametrize(("rate", "n"), [(0, 1), (800, 1), (800.1, 2), (1600, 2), (1601, 4), (10_000, 16), (1e9, 256)])
def test_needed_n_at_its_steps(rate: float, n: int) -> None:
    """A salt takes 800 write units a second, the default."""
    assert needed_n(rate, 800, 256) == n


# Buckets.


@pytest.mark.slow
@given(conversation_ids, st.sampled_from([1, 64, 16384]))
def test_every_id_has_a_bucket(conversation_id: str, buckets: int) -> None:
    """Its number is from 0 to the bucket count less one."""
    assert 0 <= bucket_of(conversation_id, buckets) < buckets


def test_the_bucket_of_an_id_is_pinned() -> None:
    """CRC-32 of the UTF-8 id modulo the count. It is part of the layout that fences name."""
    assert [bucket_of("conv_abc123", buckets) for buckets in (1, 64, 16384)] == [0, 40, 8104]
