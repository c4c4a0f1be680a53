"""Commands that merge entries: complete and well-formed whatever the ids are, and within the limits of one call."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from saltctl.salting import bucket_of
from saltctl.stores.redis.buckets import Buckets
from saltctl.stores.redis.merge_commands import ENTRIES_A_CHUNK, MERGE_ENTRIES, MergePacker, bulk

BUCKETS = Buckets("salt:r:", 16, "v2:16")
SHA = "5ca1ab1e" * 5
HOSTILE_IDS = ["\r\n", "$3\r\nfoo\r\n", "*1\r\n$8\r\nFLUSHALL\r\n", "%b %d", "\x00", "é" * 1000, "😀", " ", "-"]
Entries = Sequence[tuple[str, int]]


def packer(numbers: Iterable[int] = range(16), *, clustered: bool = False) -> MergePacker:
    """A packer for a primary that has these buckets."""
    return MergePacker(map(BUCKETS.key, numbers), BUCKETS, SHA, clustered=clustered)


def parse(packed: bytes) -> list[list[bytes]]:
    """Parse commands as a server does: by the lengths, and never by what the arguments hold."""
    commands: list[list[bytes]] = []
    at = 0

    def number(mark: bytes) -> int:
        nonlocal at
        end = packed.index(b"\r\n", at)
        assert packed[at : at + 1] == mark
        value, at = int(packed[at + 1 : end]), end + 2
        return value

    while at < len(packed):
        words = []
        for _ in range(number(b"*")):
            size = number(b"$")
            words.append(packed[at : at + size])
            assert packed[at + size : at + size + 2] == b"\r\n"
            at += size + 2
        commands.append(words)
    return commands


def pairs_of_call(words: list[bytes]) -> dict[str, list[tuple[str, int]]]:
    """Return the entries of one call of the merge script, by bucket, as the script reads its arguments."""
    assert words[:2] == [b"EVALSHA", SHA.encode()]
    count = int(words[2])
    keys, (layout, *arguments) = words[3 : 3 + count], words[3 + count :]
    assert layout == BUCKETS.layout.encode()
    found: dict[str, list[tuple[str, int]]] = {}
    for key in keys:
        size = int(arguments[0])
        own, arguments = arguments[1 : 1 + 2 * size], arguments[1 + 2 * size :]
        assert key.decode() not in found
        found[key.decode()] = [(own[i].decode(), int(own[i + 1])) for i in range(0, len(own), 2)]
    assert arguments == []
    return found


def script_calls(entries: Entries, *, clustered: bool = False) -> list[dict[str, list[tuple[str, int]]]]:
    """Return the calls of the merge script for these entries; each is one command."""
    calls = [parse(packed) for packed in packer(clustered=clustered).script_calls(entries)]
    assert all(len(call) == 1 for call in calls)
    return [pairs_of_call(call[0]) for call in calls]


def entries_of(calls: Sequence[Mapping[str, Entries]]) -> Counter[tuple[str, int]]:
    """Return how often each entry is in these calls."""
    return Counter(pair for call in calls for pairs in call.values() for pair in pairs)


def of_one_bucket(count: int) -> list[tuple[str, int]]:
    """Entries of bucket 3."""
    ids = (i for i in map(str, range(100 * count)) if bucket_of(i, BUCKETS.count) == 3)
    return [(conversation_id, 4) for conversation_id, _ in zip(ids, range(count), strict=False)]


def test_a_bulk_string_has_its_length_in_bytes() -> None:
    """And not in characters."""
    assert bulk("é") == b"$2\r\n\xc3\xa9\r\n"
    assert bulk("") == b"$0\r\n\r\n"


def test_hostile_ids_are_arguments() -> None:
    """Each is one argument of one command, in all forms, whatever it holds of the protocol."""
    entries = [(conversation_id, 2 << number) for number, conversation_id in enumerate(HOSTILE_IDS)]
    commands = parse(b"".join(packer().new_entries(entries)))
    assert commands == [
        [b"HSETNX", BUCKETS.key_of(conversation_id).encode(), conversation_id.encode(), str(n).encode()]
        for conversation_id, n in entries
    ]
    commands = parse(b"".join(packer().existing_entries(entries)))
    assert commands == [
        [b"HGET", BUCKETS.key_of(conversation_id).encode(), conversation_id.encode()] for conversation_id, _ in entries
    ]
    assert sorted(pair for call in script_calls(entries) for pairs in call.values() for pair in pairs) == sorted(
        entries
    )


def test_new_entries_come_in_chunks() -> None:
    """So that the server works on the first ones while the others are packed. None are left out."""
    entries = [(f"conv_{number}", 4) for number in range(2 * ENTRIES_A_CHUNK + 1)]
    chunks = [parse(chunk) for chunk in packer().new_entries(entries)]
    assert [len(chunk) for chunk in chunks] == [ENTRIES_A_CHUNK, ENTRIES_A_CHUNK, 1]
    assert [words[2].decode() for chunk in chunks for words in chunk] == [entry[0] for entry in entries]
    assert list(packer().new_entries([])) == []


@pytest.mark.parametrize("count", [0, 1, MERGE_ENTRIES - 1, MERGE_ENTRIES, MERGE_ENTRIES + 1, 3 * MERGE_ENTRIES + 7])
@pytest.mark.parametrize("clustered", [False, True], ids=["one-server", "cluster"])
def test_calls_are_within_the_limits(count: int, clustered: bool) -> None:
    """At most MERGE_ENTRIES in a call; in a cluster one bucket in a call; every entry once."""
    entries = [(f"conv_{number}", number + 1) for number in range(count)]
    calls = script_calls(entries, clustered=clustered)
    assert entries_of(calls) == Counter(entries)
    for call in calls:
        assert 0 < sum(map(len, call.values())) <= MERGE_ENTRIES
        assert len(call) == 1 or not clustered
        assert all(BUCKETS.key_of(entry[0]) == key for key, pairs in call.items() for entry in pairs)


@pytest.mark.parametrize("count", [MERGE_ENTRIES, MERGE_ENTRIES + 1, 2 * MERGE_ENTRIES, 2 * MERGE_ENTRIES + 500])
def test_a_full_bucket_takes_several_calls(count: int) -> None:
    """unpack() in the script takes about 8,000 values. No call has the bucket twice."""
    entries = of_one_bucket(count)
    calls = script_calls([*entries, *((f"other_{number}", 2) for number in range(300))])
    assert [entry for call in calls for entry in call.get(BUCKETS.key(3), []) if entry[1] == 4] == entries
    assert all(sum(map(len, call.values())) <= MERGE_ENTRIES for call in calls)


def test_thin_buckets_share_a_call() -> None:
    """The more entries a call has, the less each costs the server."""
    assert len(script_calls([(f"conv_{number}", 4) for number in range(MERGE_ENTRIES)])) == 1


def test_entries_of_another_bucket_are_refused() -> None:
    """No form names a bucket that the primary did not have."""
    bucket = bucket_of("conv", BUCKETS.count)
    others = packer(number for number in range(16) if number != bucket)
    with pytest.raises(KeyError):
        list(others.new_entries([("conv", 4)]))
    with pytest.raises(KeyError):
        list(others.existing_entries([("conv", 4)]))
    with pytest.raises(KeyError):
        list(others.script_calls([("conv", 4)]))
    assert list(packer([bucket]).new_entries([("conv", 4)]))


def test_entries_may_have_more_fields() -> None:
    """A scan also returns write_n, which Redis does not hold."""
    assert parse(b"".join(packer().new_entries([("conv", 4, 2)])))[0][2:] == [b"conv", b"4"]
    [packed] = packer().script_calls([("conv", 4, 2)])
    assert pairs_of_call(parse(packed)[0]) == {BUCKETS.key_of("conv"): [("conv", 4)]}


@given(st.lists(st.tuples(st.text(min_size=1), st.integers(1, 1 << 40)), max_size=60), st.booleans())
@hypothesis_settings(max_examples=60)
def test_any_entries_arrive(entries: list[tuple[str, int]], clustered: bool) -> None:
    """Any ids and any numbers, in any mix, the same id more than once: both forms have each entry once."""
    commands = parse(b"".join(packer().new_entries(entries)))
    assert [(words[2].decode(), int(words[3])) for words in commands] == entries
    calls = script_calls(entries, clustered=clustered)
    assert entries_of(calls) == Counter(entries)
