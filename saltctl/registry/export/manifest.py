"""The manifests of an export of a DynamoDB table to S3. What is not understood is refused.

``manifest-summary.json`` describes the export. ``manifest-files.json`` has one line of JSON for each data file. A
checksum file beside each of them has its MD5. An export may be copied: only the names of the data files count, and
not the bucket and the prefix that they were written to.
"""

from __future__ import annotations

import json
import re
from base64 import b64decode
from binascii import Error as Base64Error
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import md5, sha256
from typing import Any

from saltctl.errors import RefusedError, UsageError

SUMMARY = "manifest-summary"
FILES = "manifest-files"
MAX_MANIFEST_BYTES = 1 << 27
"""A line has about 250 bytes, so this is half a million data files."""
_VERSION = "2020-06-30"
_TABLE = re.compile(r"arn:[\w-]+:dynamodb:[\w-]+:[0-9]*:table/([A-Za-z0-9_.-]{1,255})")
_EXPORT = re.compile(_TABLE.pattern + r"/export/([A-Za-z0-9_-]{1,100})")
_KEY = re.compile(
    r"(?:(?P<prefix>.+)/)?AWSDynamoDB/(?P<id>[^/]+)/data/(?P<name>[A-Za-z0-9_-][A-Za-z0-9._-]*\.json\.gz)"
)
_TIME = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]{5,20}Z")
_HINT = "make a full export of the table, in the format DYNAMODB_JSON"


@dataclass(frozen=True, slots=True)
class DataFile:
    """One data file. ``name`` is relative to the export; ``md5`` in hexadecimal; ``etag`` empty if there is none."""

    name: str
    items: int
    md5: str
    etag: str


@dataclass(frozen=True, slots=True)
class Manifest:
    """A full export: the table's ARN and name, the time that it shows (ISO 8601), and its data files by name."""

    export_arn: str
    table_arn: str
    table: str
    time: str
    items: int
    files: tuple[DataFile, ...]

    @property
    def identity(self) -> str:
        """A checksum of all fields, those of the files included."""
        return sha256(repr(self).encode()).hexdigest()


def read_manifest(read: Callable[[str, int], bytes | None], where: str) -> Manifest:
    """Read and check both manifests.

    Args:
        read: returns the content of a file of the export, up to that many bytes; None if there is no such file.
        where: names the export in errors.

    Raises:
        UsageError: this is not an export, or it is not complete.
        RefusedError: it is an export that saltctl cannot read, or a manifest is damaged.
    """
    summary = _summary(_document(_checked(read, SUMMARY, where), f"{SUMMARY}.json"), where)
    table, export = _matched(_TABLE, summary, "tableArn"), _matched(_EXPORT, summary, "exportArn")
    time, items = _matched(_TIME, summary, "exportTime"), _count(summary, f"{SUMMARY}.json")
    if not export[0].startswith(f"{table[0]}/"):
        raise _refused(f"{SUMMARY}.json names two tables")
    lines = _checked(read, FILES, where).splitlines()
    files = [_data_file(line, number, export[2], summary.get("s3Prefix")) for number, line in enumerate(lines, 1)]
    if len({file.name for file in files}) < len(files):
        raise _refused(f"{FILES}.json names a file twice")
    if (found := sum(file.items for file in files)) != items:
        raise _refused(f"{FILES}.json has {found:,} items, and {SUMMARY}.json {items:,}: one of them is not complete")
    return Manifest(export[0], table[0], table[1], time[0], items, tuple(sorted(files, key=lambda file: file.name)))


def _checked(read: Callable[[str, int], bytes | None], name: str, where: str) -> bytes:
    """Return a manifest. Its checksum is compared if there is one: people copy exports without it."""
    content = read(f"{name}.json", MAX_MANIFEST_BYTES)
    if content is None:
        raise UsageError(
            f"{where} is not a complete export: it has no {name}.json",
            hint="give the directory that has manifest-summary.json, such as s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT-ID/",
        )
    checksum = read(f"{name}.checksum", 1000)
    if checksum is not None:
        digest, expected = md5(content, usedforsecurity=False).digest(), checksum.decode("ascii", "replace").strip()
        if expected != digest.hex() and _md5(expected) != digest.hex():
            raise _refused(f"{name}.json does not have the checksum in {name}.checksum", "copy both files again")
    return content


def _document(content: bytes, what: str) -> dict[str, Any]:
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        raise _refused(f"{what} is not a JSON object", "copy the file again")
    return document


def _summary(summary: dict[str, Any], where: str) -> dict[str, Any]:
    """Return a summary that describes a full export in DynamoDB's JSON."""
    kind, form, version = summary.get("exportType", "FULL_EXPORT"), summary.get("outputFormat"), summary.get("version")
    if kind != "FULL_EXPORT":
        raise _refused(f"{where} is an export of the type {kind!r:.60}: it has changes, and not every message", _HINT)
    if form != "DYNAMODB_JSON":
        raise _refused(f"{where} has the format {form!r:.60}, which saltctl does not read", _HINT)
    if version != _VERSION:
        raise _refused(f"{where} has the version {version!r:.60} of exports, and saltctl reads {_VERSION}", _HINT)
    return summary


def _matched(pattern: re.Pattern[str], summary: dict[str, Any], name: str) -> re.Match[str]:
    value = summary.get(name)
    found = pattern.fullmatch(value) if isinstance(value, str) else None
    if found is None:
        raise _refused(f"{SUMMARY}.json has no valid {name}: {value!r:.120}")
    return found


def _count(record: dict[str, Any], what: str) -> int:
    count = record.get("itemCount")
    if type(count) is not int or not 0 <= count < 1 << 53:
        raise _refused(f"{what} has no valid itemCount: {count!r:.60}")
    return count


def _md5(text: object) -> str:
    """Return the MD5 in hexadecimal of one in Base64; an empty string if it is none."""
    try:
        digest = b64decode(text, validate=True) if isinstance(text, str) else b""
    except (Base64Error, ValueError):
        return ""
    return digest.hex() if len(digest) == 16 else ""


def _data_file(line: bytes, number: int, export_id: str, prefix: object) -> DataFile:
    """Return the data file of a line; refuses one outside of the export."""
    what = f"line {number} of {FILES}.json"
    record = _document(line, what)
    key, etag = record.get("dataFileS3Key"), record.get("etag", "")
    found = _KEY.fullmatch(key) if isinstance(key, str) else None
    if found is None or found["id"] != export_id or found["prefix"] not in (None, _stripped(prefix)):
        raise _refused(f"{what} names a file that is not in the directory data of this export: {key!r:.120}")
    digest = _md5(record.get("md5Checksum"))
    if not digest or not isinstance(etag, str):
        raise _refused(f"{what} has no valid md5Checksum or etag")
    return DataFile(f"data/{found['name']}", _count(record, what), digest, etag)


def _stripped(prefix: object) -> str | None:
    return prefix.strip("/") or None if isinstance(prefix, str) else None


def _refused(problem: str, hint: str = "check where the export comes from, or make another one") -> RefusedError:
    return RefusedError(f"cannot read the export: {problem}", hint=hint)
