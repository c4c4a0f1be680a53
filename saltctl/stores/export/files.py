"""The files of an export: in a local directory, or in S3 below a prefix."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Protocol

from saltctl.errors import AwsUnavailableError, ConfigurationError, UsageError
from saltctl.settings import Settings
from saltctl.stores.aws.client import ClientOfProcess, create_client
from saltctl.stores.aws.failures.errors import aws_errors, error_code
from saltctl.stores.bounded.deadline import TimeBudget
from saltctl.stores.bounded.errors import UnreadableResponseError

CHUNK_BYTES = 1 << 22
"""Bytes of one read. One request to S3 has to end within ``aws_timeout``, so a file takes many of them."""
_ATTEMPTS = 3
_S3 = re.compile(r"s3://(?P<bucket>[a-z0-9][a-z0-9.-]{1,61}[a-z0-9])/(?P<prefix>.*)", re.DOTALL)
_RANGE = re.compile(r"bytes ([0-9]+)-([0-9]+)/([0-9]+)")


class UnusableFileError(Exception):
    """One file of an export cannot be read; the message says why. Others may be readable."""


class MissingFileError(UnusableFileError):
    """It does not exist."""

    def __init__(self) -> None:
        super().__init__("it does not exist")


class ExportFiles(Protocol):
    """The files of an export. Names are relative to it. ``where`` names it in messages. Thread-safe."""

    where: str

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file in chunks.

        Raises:
            UnusableFileError: it does not exist, cannot be read, or changes meanwhile.
            MissingFileError: it does not exist.
            UnavailableError, AccessDeniedError, ConfigurationError: no file of the export can be read.
        """

    def path(self, name: str) -> Path | None:
        """Return the file itself if it is a local one."""


def open_files(url: str, settings: Settings) -> ExportFiles:
    """Return the files of an export: ``s3://BUCKET/PREFIX/``, or a local directory.

    Raises:
        UsageError: it is neither.
    """
    if url.startswith("s3://"):
        return S3Files(url, settings)
    path = Path(url)
    if "://" in url or not path.is_dir():
        problem, hint = "it is no directory", "give a directory, or s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT-ID/"
        if "://" in url:
            problem, hint = "its URL does not begin with s3://", "write s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT-ID/"
        elif path.is_file():
            problem, hint = "it is a file", "give the directory that has manifest-summary.json"
        raise UsageError(f"cannot read the export {url!r:.120}: {problem}", hint=hint)
    return LocalFiles(path)


def read_file(files: ExportFiles, name: str, most: int) -> bytes | None:
    """Return the content of a small file; None if it does not exist.

    Raises:
        UsageError: it is longer than ``most`` bytes.
        ConfigurationError: it cannot be read.
    """
    content = bytearray()
    try:
        for chunk in files.chunks(name):
            content += chunk
            if len(content) > most:
                raise UsageError(f"{name} in {files.where} has more than {most:,} bytes", hint="check the URL")
    except MissingFileError:
        return None
    except UnusableFileError as exc:
        raise ConfigurationError(f"cannot read {name} in {files.where}: {exc}", hint="check the export") from exc
    return bytes(content)


class LocalFiles:
    """An export in a local directory."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.where = repr(str(directory))

    def path(self, name: str) -> Path:
        """Return the path of a file."""
        return self.directory / name

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield a file in chunks. What is no regular file, such as a FIFO, is refused: it could block."""
        path = self.path(name)
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb", buffering=0) as stream:
                if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
                    raise UnusableFileError("it is no regular file")
                while chunk := stream.read(CHUNK_BYTES):
                    yield chunk
        except (FileNotFoundError, NotADirectoryError):
            raise MissingFileError from None
        except OSError as exc:
            raise UnusableFileError(f"it cannot be read: {exc.strerror or exc}") from exc


class S3Files:
    """An export in S3, read by GetObject alone. Each request reads a range within ``aws_timeout``."""

    def __init__(self, url: str, settings: Settings, *, client: Any = None) -> None:
        if url.endswith(".json"):
            raise UsageError(
                f"{url!r:.120} is a file of an export", hint="leave out its name: give s3://…/AWSDynamoDB/EXPORT-ID/"
            )
        found = _S3.fullmatch(url if url.endswith("/") else f"{url}/")
        if found is None or found["prefix"].startswith("/"):
            raise UsageError(
                f"{url!r:.120} is not the URL of an export",
                hint="write s3://BUCKET/PREFIX/AWSDynamoDB/EXPORT-ID/, with the name of a bucket",
            )
        self.bucket, self.prefix, self.where = found["bucket"], found["prefix"], repr(url)
        self._timeout = settings.aws_timeout
        self._client = ClientOfProcess(lambda: create_client(settings, "s3"), client)

    def path(self, name: str) -> None:
        """Return None: objects are no local files."""

    def chunks(self, name: str) -> Iterator[bytes]:
        """Yield an object in ranges, all of the same version."""
        offset, size, etag = 0, 1, ""
        while offset < size:
            chunk, size, etag = self._range(name, offset, etag)
            offset += len(chunk)
            if chunk:
                yield chunk

    def _range(self, name: str, offset: int, etag: str) -> tuple[bytes, int, str]:
        """Return a range, the size of the object, and its ETag, which must be the given one unless that is empty."""
        where = f"{self.where} ({name})"
        request = {"Bucket": self.bucket, "Key": self.prefix + name}
        request |= {"Range": f"bytes={offset}-{offset + CHUNK_BYTES - 1}"} | ({"IfMatch": etag} if etag else {})
        try:
            with aws_errors(where):
                return _retried(lambda: self._get(request, offset, etag), self._meaning)
        except AwsUnavailableError as exc:
            advice, separator, _ = exc.hint.partition("\nsaltctl doctor")  # which asks DynamoDB
            if not separator:
                raise
            advice = advice.replace("AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
            raise exc.with_hint(f"{advice}; check the URL of the export, too") from exc

    def _get(self, request: dict[str, Any], offset: int, etag: str) -> tuple[bytes, int, str]:
        client = self._client.get()
        with TimeBudget(self._timeout):
            response = client.get_object(**request)
            body = response["Body"].read(CHUNK_BYTES + 1)
        found = _RANGE.fullmatch(str(response.get("ContentRange")))
        first, last, size = (int(number) for number in found.groups()) if found else (-1, -1, -1)
        expected = min(offset + CHUNK_BYTES, size) - offset
        if (first, last) != (offset, offset + expected - 1) or len(body) != expected or not response.get("ETag"):
            raise UnreadableResponseError("it is not the range that was requested")
        if etag and response["ETag"] != etag:
            raise UnreadableResponseError("the object has changed")
        return body, size, response["ETag"]

    def _meaning(self, exc: Exception) -> Exception | tuple[bytes, int, str] | None:
        """Return what a refusal of S3 means; None if other services have it, too."""
        match error_code(exc):
            case "NoSuchKey" | "404":
                return MissingFileError()
            case "InvalidRange" | "416":
                return b"", 0, ""  # the object is empty
            case "PreconditionFailed" | "412":
                return UnusableFileError("it changes while it is read")
            case "InvalidObjectState":
                return UnusableFileError("it is archived, and has to be restored first (aws s3api restore-object)")
            case "NoSuchBucket":
                return ConfigurationError(
                    f"there is no bucket {self.bucket!r}", hint="check the URL, and the account (AWS_PROFILE)"
                )
        return None


def _retried(
    get: Callable[[], tuple[bytes, int, str]],
    meaning: Callable[[Exception], Exception | tuple[bytes, int, str] | None],
) -> tuple[bytes, int, str]:
    """Get a range; again if the body broke off, which botocore does not repeat by itself."""
    from botocore.exceptions import ClientError, HTTPClientError

    for attempt in range(_ATTEMPTS):
        try:
            return get()
        except ClientError as exc:
            found = meaning(exc)
            if isinstance(found, Exception):
                raise found from exc
            if found is None:
                raise
            return found
        except (HTTPClientError, UnreadableResponseError):
            if attempt == _ATTEMPTS - 1:
                raise
    raise AssertionError
