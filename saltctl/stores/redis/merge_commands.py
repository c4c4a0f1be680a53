"""Packs entries into commands that merge them, in the Redis protocol.

Not by redis-py, because its packing costs more than the rest of a rebuild (measured: 1.6 µs an entry; this, 0.6).

There are two ways to max-merge. If Redis lacks the entry, HSETNX sets it; else HSETNX does nothing. It takes 1.7 µs of
the server. If Redis has the entry, the merge script compares. It takes 3.6 µs an entry if a bucket gets two entries at
once, 2.2 if it gets eight (measured on valkey 9.1.2 with its AOF on, 16,384 buckets).
"""

from __future__ import annotations

from binascii import crc32
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

from saltctl.stores.redis.buckets import Buckets

MERGE_ENTRIES = 1000
"""Entries in one call of the merge script: for one to three milliseconds the server serves no other client."""


Entry = tuple[str, int] | tuple[str, int, int]
"""A tuple that begins with a conversation id and its max_n."""
NEW_A_CHUNK = 2000
"""Entries that are packed while the server works on the previous ones."""


def bulk(text: str) -> bytes:
    """Return a bulk string of the Redis protocol."""
    encoded = text.encode()
    return b"$%d\r\n%b\r\n" % (len(encoded), encoded)


class NewPacker:
    """Packs entries that Redis probably lacks, a command each.

    Args:
        buckets: the buckets of the registry.
        own: the numbers of the buckets that may be written.
    """

    def __init__(self, buckets: Buckets, own: Iterable[int]) -> None:
        self._bucket_count = buckets.count
        self._heads = {number: b"*4\r\n$6\r\nHSETNX\r\n" + bulk(buckets.key(number)) for number in own}
        self._numbers = _Numbers()

    def chunks(self, entries: Sequence[Entry]) -> Iterator[bytes]:
        """Yield the commands in chunks; a reply is 1 if the entry was set, and 0 if Redis had one.

        Raises:
            KeyError: an entry belongs to another bucket.
        """
        heads, numbers, buckets = self._heads, self._numbers, self._bucket_count
        for start in range(0, len(entries), NEW_A_CHUNK):
            packed = []
            for entry in entries[start : start + NEW_A_CHUNK]:
                encoded = entry[0].encode()
                head = heads[crc32(encoded) % buckets]
                packed.append(b"%b$%d\r\n%b\r\n%b" % (head, len(encoded), encoded, numbers[entry[1]]))
            yield b"".join(packed)


class _Numbers(dict[int, bytes]):
    """Cache of packed numbers. Most are powers of two; the size is bounded for the rest."""

    def __missing__(self, n: int) -> bytes:
        packed = bulk(str(n))
        if len(self) < 1000:
            self[n] = packed
        return packed


class MergePacker:
    """Packs merges into the buckets of one layout.

    Args:
        sha: the SHA-1 of the merge script.
        buckets: the buckets of the registry.
        keys_a_call: the most buckets in one command: 1 in a cluster, where they are in different slots.
    """

    def __init__(self, sha: str, buckets: Buckets, *, keys_a_call: int) -> None:
        self._head = bulk("EVALSHA") + bulk(sha)
        self._buckets = buckets
        self._bucket_count = buckets.count
        self._layout = bulk(buckets.layout)
        self._keys_a_call = keys_a_call
        self._numbers = _Numbers()

    def by_bucket(self, entries: Iterable[Entry]) -> dict[int, list[bytes]]:
        """Return the packed entries by bucket."""
        by_bucket: dict[int, list[bytes]] = defaultdict(list)
        numbers, buckets = self._numbers, self._bucket_count
        for entry in entries:
            encoded, n = entry[0].encode(), entry[1]
            by_bucket[crc32(encoded) % buckets].append(b"$%d\r\n%b\r\n%b" % (len(encoded), encoded, numbers[n]))
        return by_bucket

    def commands(self, by_bucket: dict[int, list[bytes]]) -> Iterator[bytes]:
        """Yield the commands that merge them, each of about MERGE_ENTRIES at most.

        The more entries share a bucket, the less each costs the server.
        """
        keys: list[bytes] = []
        arguments: list[bytes] = []
        entries = 0
        # unpack() in the script fails above about 8,000 values, and no call may have a bucket twice.
        while full := {bucket: pairs for bucket, pairs in by_bucket.items() if len(pairs) > MERGE_ENTRIES}:
            for bucket, pairs in full.items():
                by_bucket[bucket] = pairs[MERGE_ENTRIES:]
                yield self._command(
                    [self._key(bucket)], [bulk(str(MERGE_ENTRIES)), *pairs[:MERGE_ENTRIES]], MERGE_ENTRIES
                )
        for bucket, pairs in by_bucket.items():
            keys.append(self._key(bucket))
            arguments.append(bulk(str(len(pairs))))
            arguments += pairs
            entries += len(pairs)
            if entries >= MERGE_ENTRIES or len(keys) >= self._keys_a_call:
                yield self._command(keys, arguments, entries)
                keys, arguments, entries = [], [], 0
        if keys:
            yield self._command(keys, arguments, entries)

    def _key(self, bucket: int) -> bytes:
        return bulk(self._buckets.key(bucket))

    def _command(self, keys: list[bytes], arguments: list[bytes], entries: int) -> bytes:
        # EVALSHA sha n key... layout, then of each key: its pairs' number, id, n, id, n...
        words = 4 + 2 * len(keys) + 2 * entries
        head = b"*%d\r\n" % words
        return b"".join((head, self._head, bulk(str(len(keys))), *keys, self._layout, *arguments))
