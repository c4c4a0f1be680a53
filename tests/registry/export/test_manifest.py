"""Manifests: what is not understood is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from saltctl.errors import RefusedError, UsageError
from saltctl.registry.export.manifest import Manifest, read_manifest
from tests.support.exports import ACCOUNT, EXPORT_ID, file_record, summary_of, write_manifests

GOOD = file_record("a", b"x", 3)


def read(directory: Path) -> Manifest:
    """Read the manifests of a directory."""

    def content(name: str, most: int) -> bytes | None:
        path = directory / name
        return path.read_bytes()[:most] if path.exists() else None

    return read_manifest(content, "here")


@pytest.mark.parametrize(("prefix", "stated"), [("", None), ("", "2026/nov"), ("2026/nov/", "2026/nov"), ("p/", "p/")])
def test_an_export_is_read(tmp_path: Path, prefix: str, stated: str | None) -> None:
    """With or without the prefix in keys; checksums may be missing, or hexadecimal."""
    records = [file_record("b", b"y", 4, prefix), file_record("a", b"x", 3, prefix)]
    write_manifests(tmp_path, summary_of(7, "chat", s3Prefix=stated), records)
    (tmp_path / "manifest-files.checksum").unlink()
    manifest = read(tmp_path)
    assert (manifest.table, manifest.time, manifest.items) == ("chat", "2026-11-04T07:28:34.028Z", 7)
    assert [(file.name, file.items) for file in manifest.files] == [("data/a.json.gz", 3), ("data/b.json.gz", 4)]
    write_manifests(tmp_path, summary_of(7, "chat", s3Prefix=stated), [records[0], records[1] | {"etag": "other"}])
    assert read(tmp_path).identity != manifest.identity


def _key(key: object) -> list[dict[str, object]]:
    return [GOOD | {"dataFileS3Key": key}]


REFUSED: dict[str, tuple[dict[str, object], list[Any], str]] = {
    "incremental": ({"exportType": "INCREMENTAL_EXPORT"}, [GOOD], "has changes, and not every message"),
    "ion": ({"outputFormat": "ION"}, [GOOD], "has the format 'ION'"),
    "no format": ({"outputFormat": None}, [GOOD], "has the format None"),
    "version": ({"version": "2030-01-01"}, [GOOD], "the version '2030-01-01' of exports"),
    "table": ({"tableArn": "messages"}, [GOOD], "no valid tableArn"),
    "two tables": ({"tableArn": f"{ACCOUNT}/other"}, [GOOD], "names two tables"),
    "time": ({"exportTime": "\x1b[31m"}, [GOOD], "no valid exportTime"),
    "count": ({"itemCount": "3"}, [GOOD], "no valid itemCount"),
    "bool": ({"itemCount": True}, [GOOD], "no valid itemCount"),
    "cut off": ({"itemCount": 4}, [GOOD], "one of them is not complete"),
    "twice": ({"itemCount": 6}, [GOOD, GOOD], "names a file twice"),
    "parent": ({}, _key(f"AWSDynamoDB/{EXPORT_ID}/data/../../x.json.gz"), "not in the directory data"),
    "absolute": ({}, _key("/etc/passwd"), "not in the directory data"),
    "bucket": ({}, _key(f"s3://other/AWSDynamoDB/{EXPORT_ID}/data/a.json.gz"), "not in the directory data"),
    "export": ({}, _key("AWSDynamoDB/1-2/data/a.json.gz"), "not in the directory data"),
    "prefix": ({}, _key(f"other/AWSDynamoDB/{EXPORT_ID}/data/a.json.gz"), "not in the directory data"),
    "hidden": ({}, _key(f"AWSDynamoDB/{EXPORT_ID}/data/..json.gz"), "not in the directory data"),
    "ion file": ({}, _key(f"AWSDynamoDB/{EXPORT_ID}/data/a.ion.gz"), "not in the directory data"),
    "no key": ({}, _key(None), "not in the directory data"),
    "md5": ({}, [GOOD | {"md5Checksum": "eA=="}], "no valid md5Checksum"),
    "no list": ({}, [["a"]], "line 1 of manifest-files.json is not a JSON object"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_not_understood_is_refused(tmp_path: Path, case: str) -> None:
    """Exit 6, with the reason."""
    more, records, reason = REFUSED[case]
    write_manifests(tmp_path, summary_of(3) | more, records)
    with pytest.raises(RefusedError, match=reason):
        read(tmp_path)


@pytest.mark.parametrize(("content", "checked"), [(None, True), (b"[", False), (b"[" * 100_000, False)])
@pytest.mark.parametrize("name", ["manifest-summary", "manifest-files"])
def test_a_damaged_manifest_is_refused(tmp_path: Path, name: str, content: bytes | None, checked: bool) -> None:
    """A line too few would hide the salts of its file."""
    write_manifests(tmp_path, summary_of(3), [GOOD])
    path = tmp_path / f"{name}.json"
    path.write_bytes(content or path.read_bytes() + b" ")
    if not checked:
        path.with_suffix(".checksum").unlink()
    with pytest.raises(RefusedError, match="does not have the checksum" if checked else "is not a JSON object"):
        read(tmp_path)


def test_an_export_that_is_not_complete_is_no_export(tmp_path: Path) -> None:
    """DynamoDB writes the manifests last."""
    write_manifests(tmp_path, summary_of(3), [GOOD])
    for name in ("manifest-files.json", "manifest-summary.json"):
        (tmp_path / name).unlink()
        with pytest.raises(UsageError, match=f"has no {name}"):
            read(tmp_path)
