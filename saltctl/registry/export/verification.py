"""Checks of one data file, in bounded memory, before DuckDB reads it.

DynamoDB writes gzipped lines of JSON, and the manifest has the MD5 of the file and the number of its items. A hostile
file is as small as its manifest says until it is unpacked, so each piece is unpacked alone, and the lines are counted.
"""

from __future__ import annotations

import zlib
from collections import deque
from collections.abc import Iterable, Iterator
from hashlib import md5

from saltctl.registry.export.manifest import DataFile

MAX_LINE_BYTES = 1 << 22
"""The longest line. An item has at most 400 KB (documented), which JSON makes up to seven times as long."""
_PIECE_BYTES = 1 << 20


class DamagedFileError(Exception):
    """A data file cannot be used; the message says why."""


def unzip(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Unpack gzip of one member or more, in pieces of at most 1 MB; raises DamagedFileError."""
    unpacker, started = zlib.decompressobj(31), False
    for chunk in chunks:
        rest = chunk
        while rest:
            if unpacker.eof:
                unpacker, started = zlib.decompressobj(31), False
            started = True
            try:
                piece = unpacker.decompress(rest, _PIECE_BYTES)
            except zlib.error:
                raise DamagedFileError("it is not valid gzip") from None
            rest = unpacker.unused_data if unpacker.eof else unpacker.unconsumed_tail
            if piece:
                yield piece
    while started and not unpacker.eof:  # what the last call left, if its output was as long as allowed
        try:
            piece = unpacker.decompress(unpacker.unconsumed_tail, _PIECE_BYTES)
        except zlib.error:
            raise DamagedFileError("it is not valid gzip") from None
        if not piece:
            raise DamagedFileError("it is truncated: its gzip has no end")
        yield piece


class _Lines:
    """Counts lines, and those that begin as an object does, in pieces of a file."""

    def __init__(self, most: int) -> None:
        self.most, self.objects, self._ended, self._open = most, 0, 0, 0

    @property
    def count(self) -> int:
        """The lines so far; the last one may lack its line feed."""
        return self._ended + (self._open > 0)

    def add(self, piece: bytes) -> None:
        """Count the lines of a piece; raises DamagedFileError if there are too many, or one is too long."""
        self.objects += piece.count(b"\n{") + (not self._open and piece.startswith(b"{"))
        last = piece.rfind(b"\n")
        self._ended += piece.count(b"\n")
        self._open = self._open + len(piece) if last < 0 else len(piece) - last - 1
        if self._open > MAX_LINE_BYTES:
            raise DamagedFileError(f"line {self.count:,} is longer than {MAX_LINE_BYTES >> 20} MB")
        if self.count > self.most:
            others = self.count - self.objects
            found = f": {others:,} of the first {self.count:,} are blank, or no JSON objects" if others else ""
            raise DamagedFileError(f"it has more lines than the manifest has items ({self.most:,}){found}")


def verify(file: DataFile, chunks: Iterable[bytes]) -> None:
    """Check the MD5, the gzip and the number of lines of a data file; raises DamagedFileError."""
    digest, lines, size = md5(usedforsecurity=False), _Lines(file.items), 0

    def hashed() -> Iterator[bytes]:
        nonlocal size
        for chunk in chunks:
            digest.update(chunk)
            size += len(chunk)
            yield chunk

    read, damage = hashed(), None
    try:
        for piece in unzip(read):
            lines.add(piece)
    except DamagedFileError as exc:
        damage = exc
        deque(read, maxlen=0)  # the MD5 of all of it tells a damaged copy from an export that was written so
    if digest.hexdigest() != file.md5:
        found = f": {damage}" if damage else ""
        raise DamagedFileError(f"its MD5 is not the one in the manifest, {size:,} bytes were read{found}")
    if damage:
        raise damage
    if lines.count != file.items:
        raise DamagedFileError(f"it has {lines.count:,} lines, and the manifest {file.items:,} items")
    if lines.objects != lines.count:
        raise DamagedFileError(f"{lines.count - lines.objects:,} of its lines are not JSON objects")


def find_damage(chunks: Iterable[bytes], partition_key: str) -> str:
    """Return which line of a verified file is not an item; an empty string if each of them is one."""
    import msgspec

    decoder = msgspec.json.Decoder()
    for number, line in enumerate(_lines(unzip(chunks)), 1):
        try:
            item = decoder.decode(line)
        except (msgspec.DecodeError, RecursionError, UnicodeDecodeError):
            return f"line {number:,} is not JSON"
        try:
            key = item["Item"][partition_key]["S"]
        except (KeyError, TypeError, IndexError):
            key = None
        if not isinstance(key, str):
            return f"line {number:,} has no Item with the partition key {partition_key!r:.60}"
    return ""


def _lines(pieces: Iterable[bytes]) -> Iterator[bytes]:
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        yield from lines
    if rest:
        yield rest
