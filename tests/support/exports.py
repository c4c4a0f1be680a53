"""Exports of a messages table to S3, as DynamoDB writes them."""

from __future__ import annotations

import gzip
import json
from base64 import b64encode
from collections.abc import Iterable, Mapping, Sequence
from hashlib import md5
from pathlib import Path
from typing import Any

from saltctl.salting import partition_key, salt_of

EXPORT_ID = "01693685827463-2d8752fd"
ACCOUNT = "arn:aws:dynamodb:us-east-1:123456789012:table"
Row = Mapping[str, Mapping[str, Any]]


def row(key: str, message_id: str, **more: Mapping[str, Any]) -> Row:
    """Return an item of a table that saltctl creates."""
    return {"conversation_id": {"S": key}, "sort_key": {"S": f"2026-01-01T00:00:00Z#{message_id}"}, **more}


def rows_of(conversation_id: str, n: int, count: int) -> list[Row]:
    """Return messages of a conversation, each on the salt of its id."""
    ids = [f"{conversation_id}-m{number}" for number in range(count)]
    return [row(partition_key(conversation_id, salt_of(message_id, n)), message_id) for message_id in ids]


def pack(rows: Iterable[Row]) -> bytes:
    """Return a data file."""
    return gzip.compress("".join(json.dumps({"Item": item}) + "\n" for item in rows).encode(), 1)


def checksum(content: bytes) -> str:
    """Return the MD5 in Base64."""
    return b64encode(md5(content, usedforsecurity=False).digest()).decode()


def file_record(name: str, content: bytes, items: int, prefix: str = "") -> dict[str, object]:
    """Return the line of a data file in the manifest."""
    key = f"{prefix}AWSDynamoDB/{EXPORT_ID}/data/{name}.json.gz"
    etag = f"{md5(content, usedforsecurity=False).hexdigest()}-1"
    return {"itemCount": items, "md5Checksum": checksum(content), "etag": etag, "dataFileS3Key": key}


def summary_of(items: int, table: str = "messages", **more: object) -> dict[str, object]:
    """Return a summary manifest."""
    return {
        "version": "2020-06-30",
        "exportArn": f"{ACCOUNT}/{table}/export/{EXPORT_ID}",
        "startTime": "2026-11-04T07:28:34.028Z",
        "endTime": "2026-11-04T07:33:43.897Z",
        "tableArn": f"{ACCOUNT}/{table}",
        "tableId": "12345a12-abcd-123a-ab12-1234abc12345",
        "exportTime": "2026-11-04T07:28:34.028Z",
        "s3Bucket": "a-bucket",
        "s3Prefix": None,
        "s3SseAlgorithm": "AES256",
        "s3SseKmsKeyId": None,
        "manifestFilesS3Key": f"AWSDynamoDB/{EXPORT_ID}/manifest-files.json",
        "billedSizeBytes": 0,
        "itemCount": items,
        "outputFormat": "DYNAMODB_JSON",
        "exportType": "FULL_EXPORT",
    } | more


def write_manifests(directory: Path, summary: Mapping[str, object], records: Sequence[Mapping[str, object]]) -> None:
    """Write both manifests with their checksums."""
    directory.mkdir(parents=True, exist_ok=True)
    contents = {
        "manifest-summary": json.dumps(summary).encode(),
        "manifest-files": "".join(json.dumps(record) + "\n" for record in records).encode(),
    }
    for name, content in contents.items():
        (directory / f"{name}.json").write_bytes(content)
        (directory / f"{name}.checksum").write_text(checksum(content))


def write_export(directory: Path, files: Mapping[str, Sequence[Row]], table: str = "messages", **more: object) -> Path:
    """Write an export with these rows in each of its files; return its directory."""
    (directory / "data").mkdir(parents=True)
    records = []
    for name, rows in files.items():
        content = pack(rows)
        (directory / "data" / f"{name}.json.gz").write_bytes(content)
        records.append(file_record(name, content, len(rows)))
    write_manifests(directory, summary_of(sum(map(len, files.values())), table, **more), records)
    return directory
