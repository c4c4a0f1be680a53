"""The files of an export: in a directory, and in S3 by moto over HTTP."""

from __future__ import annotations

import io
import os
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from uuid import uuid4

import pytest

from saltctl.errors import AwsUnavailableError, ConfigurationError, UsageError
from saltctl.local.servers import LocalMoto
from saltctl.settings import Settings
from saltctl.stores.aws.client import create_client
from saltctl.stores.export import files
from saltctl.stores.export.files import LocalFiles, MissingFileError, S3Files, UnusableFileError, open_files, read_file

PREFIX = "2026/nov/AWSDynamoDB/1-2/"
CONTENT = bytes(range(256)) * 5


@pytest.fixture
def aws(moto: LocalMoto) -> Settings:
    """Settings for S3."""
    return Settings(aws_region="us-east-1", aws_endpoint_url=moto.url)


@pytest.fixture
def bucket(aws: Settings, monkeypatch: pytest.MonkeyPatch) -> str:
    """A bucket with an object of several ranges, and an empty one."""
    monkeypatch.setattr(files, "CHUNK_BYTES", 512)
    client, name = create_client(aws, "s3"), f"bucket-{uuid4().hex}"
    client.create_bucket(Bucket=name)
    client.put_object(Bucket=name, Key=f"{PREFIX}data/a.json.gz", Body=CONTENT)
    client.put_object(Bucket=name, Key=f"{PREFIX}empty")
    return name


def test_objects_are_read_in_ranges(aws: Settings, bucket: str) -> None:
    """With or without the slash at the end of the URL."""
    for url in (f"s3://{bucket}/{PREFIX}", f"s3://{bucket}/{PREFIX}".rstrip("/")):
        opened = open_files(url, aws)
        chunks = list(opened.chunks("data/a.json.gz"))
        assert (b"".join(chunks), len(chunks)) == (CONTENT, 3)
        assert read_file(opened, "empty", 0) == b""
        assert read_file(opened, "data/b.json.gz", 9) is None
        assert opened.path("empty") is None
    with pytest.raises(UsageError, match="more than 600 bytes"):
        read_file(opened, "data/a.json.gz", 600)
    with pytest.raises(ConfigurationError, match="there is no bucket"):
        list(S3Files(f"s3://{uuid4().hex}/x", aws).chunks("a"))


def test_an_object_that_changes_is_not_two_halves(aws: Settings, bucket: str) -> None:
    """The second range is of the version of the first."""
    chunks = S3Files(f"s3://{bucket}/{PREFIX}", aws).chunks("data/a.json.gz")
    next(chunks)
    create_client(aws, "s3").put_object(Bucket=bucket, Key=f"{PREFIX}data/a.json.gz", Body=CONTENT[::-1])
    with pytest.raises(UnusableFileError, match="changes while it is read"):
        list(chunks)


ANSWERS: dict[str, dict[str, Any]] = {
    "another range": {"ContentRange": "bytes 512-1023/1280"},
    "no range": {"ContentRange": None},
    "short body": {"Body": b"x" * 511},
    "long body": {"Body": b"x" * 513},
    "no etag": {"ETag": ""},
}


@pytest.mark.parametrize("case", ANSWERS)
@pytest.mark.parametrize("times", [2, 3])
def test_a_wrong_answer_is_not_used(aws: Settings, case: str, times: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """It is asked again, three times in all."""
    monkeypatch.setattr(files, "CHUNK_BYTES", 512)
    right = {"ContentRange": "bytes 0-511/512", "Body": b"x" * 512, "ETag": "e"}
    answers = [right | ANSWERS[case]] * times + [right]

    def get_object(**request: Any) -> dict[str, Any]:
        answer = answers.pop(0)
        return answer | {"Body": io.BytesIO(answer["Body"])}

    opened = S3Files("s3://bucket/x", aws, client=SimpleNamespace(get_object=get_object))
    if times == 3:
        with pytest.raises(AwsUnavailableError, match="does not come from AWS"):
            list(opened.chunks("a"))
    else:
        assert list(opened.chunks("a")) == [right["Body"]]


def test_an_endpoint_of_s3_alone_counts_more(moto: LocalMoto, bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A context's endpoint may be that of an emulator of DynamoDB, which has no S3."""
    elsewhere = replace(Settings(aws_region="us-east-1"), aws_endpoint_url="http://127.0.0.1:1")
    monkeypatch.setenv("AWS_ENDPOINT_URL_S3", moto.url)
    assert read_file(S3Files(f"s3://{bucket}/{PREFIX}", elsewhere), "empty", 0) == b""


@pytest.mark.parametrize("url", ["s3://", "s3://b", "s3://Bucket/x", "s3://buck et/x", "s3://bucket//x", "http://x/y"])
def test_what_is_no_export_is_refused(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is asked."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UsageError):
        open_files(url, Settings())


def test_local_files(tmp_path: Path) -> None:
    """A FIFO would block for ever."""
    (tmp_path / "a").write_bytes(CONTENT)
    os.mkfifo(tmp_path / "fifo")
    opened = open_files(str(tmp_path), Settings())
    assert isinstance(opened, LocalFiles)
    assert b"".join(opened.chunks("a")) == CONTENT
    for name, error in (("fifo", UnusableFileError), ("b", MissingFileError), ("a/b", MissingFileError)):
        with pytest.raises(error):
            list(opened.chunks(name))
    with pytest.raises(ConfigurationError, match="no regular file"):
        read_file(opened, "fifo", 9)
