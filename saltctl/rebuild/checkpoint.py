"""Checkpoint of an interrupted rebuild.

A checkpoint says up to where the backup was merged into Redis, under which token, and on which primaries. Redis has to
prove that these merges are still there (saltctl/help/protocol.txt: rebuild, step 5). The file alone decides which part
of the backup is not read again. So a file that is damaged, or that another user may have written, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from saltctl.errors import CheckpointRefusedError
from saltctl.settings import Settings
from saltctl.urls import mask_url

VERSION = 2
MAX_BYTES = 64 << 20
"""Largest checkpoint file that is read. The positions of a million segments, the most possible, need less."""
_MAX_INT = 2**63
_MAX_KEY = 2048
"""Bytes of a partition key (documented)."""
RESTART = "saltctl rebuild --restart"


@dataclass(frozen=True, slots=True)
class CheckpointScope:
    """The rebuild that a checkpoint belongs to. ``table`` is the identity of the table, not only its name."""

    table: str
    key_prefix: str
    layout: str
    segments: int

    def difference(self, other: CheckpointScope) -> str:
        """Return how this scope differs from that of the current rebuild, or an empty string."""
        if self.table != other.table:
            return "it is of another backup table, or the table was created again"
        if (self.layout, self.key_prefix) != (other.layout, other.key_prefix):
            return f"it is of the layout {self.layout} under {self.key_prefix!r}"
        if self.segments != other.segments:
            return f"it has {self.segments} segments (--segments {self.segments})"
        return ""


@dataclass(frozen=True, slots=True)
class Primary:
    """A Redis process and its data, as they were when they were marked."""

    run_id: str
    replication_id: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """Progress of a rebuild. Counts as in ``RebuildReport``; ``started`` and ``written`` in seconds since the epoch.

    ``after`` is by segment: the id up to which it was merged, or None at its end. ``half_done`` are the raises that the
    rebuild has to complete at its end.
    """

    scope: CheckpointScope
    token: str
    primaries: Mapping[str, Primary]
    after: Mapping[int, str | None]
    half_done: tuple[tuple[str, int], ...]
    entries: int
    restored: int
    skipped: int
    consumed_rcu: float
    started: float
    written: float


def state_directory(settings: Settings) -> Path:
    """Return the directory of checkpoints: the setting ``state_dir``, else ``$XDG_STATE_HOME/saltctl``."""
    if settings.state_dir is not None:
        return settings.state_dir
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path(os.path.expanduser("~/.local/state"))  # noqa: PTH111  never raises
    return base / "saltctl"


class CheckpointFile:
    """A checkpoint in a file of mode 0600, in a directory of mode 0700 that is created if it is missing."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, settings: Settings) -> CheckpointFile:
        """Return the file of a registry: one for each table, endpoint, Redis and prefix."""
        identity = (settings.backup_table, settings.aws_region, settings.aws_endpoint_url, settings.key_prefix)
        redis = mask_url(settings.redis_url or "")
        digest = hashlib.sha256(repr((*identity, redis)).encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", settings.backup_table)[:60]
        return cls(state_directory(settings) / f"rebuild-{readable}-{digest}.json")

    def load(self) -> Checkpoint | None:
        """Return the checkpoint; None if there is none.

        Raises:
            CheckpointRefusedError: the file is damaged, or another user may have written it.
        """
        try:
            with self._directory() as directory:
                content = _read(self.path.name, directory)
        except FileNotFoundError:
            return None
        except OSError as exc:
            raise self._refused(exc.strerror or str(exc)) from exc
        try:
            return decode(content)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise self._refused(f"it is damaged ({type(exc).__name__})") from exc

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace the checkpoint as a whole or not at all. Raises OSError.

        It is not synced to disk: a file that a power failure damages is refused by its checksum, and only costs time.
        """
        content = encode(checkpoint)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = f"{self.path.name}.new"
        with self._directory() as directory:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(new, flags, 0o600, dir_fd=directory), "wb") as file:
                file.write(content)
            os.rename(new, self.path.name, src_dir_fd=directory, dst_dir_fd=directory)

    def remove(self) -> None:
        """Delete the checkpoint. Raises OSError."""
        for path in (self.path, self.path.with_name(f"{self.path.name}.new")):
            path.unlink(missing_ok=True)

    @contextmanager
    def _directory(self) -> Iterator[int]:
        """Open the directory, so that another user cannot replace it in between."""
        directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            _check_owner(os.fstat(directory), "its directory")
            yield directory
        finally:
            os.close(directory)

    def _refused(self, reason: str) -> CheckpointRefusedError:
        return CheckpointRefusedError(f"cannot use the checkpoint {str(self.path)!r}: {reason}", hint=RESTART)


def _check_owner(status: os.stat_result, name: str) -> None:
    if status.st_uid != os.geteuid():
        raise OSError(f"{name} belongs to another user")
    if status.st_mode & 0o022:
        raise OSError(f"{name} may be written by others")


def _read(name: str, directory: int) -> bytes:
    # O_NONBLOCK: a pipe with this name must not make the rebuild wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise OSError("it is not a file")
        _check_owner(status, "it")
        if status.st_size > MAX_BYTES:
            raise OSError("it is too large for a checkpoint")
        return file.read(MAX_BYTES + 1)


# The format.


def encode(checkpoint: Checkpoint) -> bytes:
    """Return JSON with its own SHA-256, which detects damage; the file's owner and mode protect against forgery."""
    content = asdict(checkpoint) | {"version": VERSION}
    content["after"] = {str(segment): last for segment, last in checkpoint.after.items()}
    body = json.dumps(content, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "checkpoint": body}).encode()


def decode(content: bytes) -> Checkpoint:
    """Return the checkpoint. Raises ValueError, KeyError, TypeError or AttributeError if the content is not valid."""
    import msgspec

    outer = json.loads(content)
    body = outer["checkpoint"]
    if hashlib.sha256(body.encode()).hexdigest() != outer["sha256"]:
        raise ValueError("the checksum differs")
    values: dict[str, Any] = json.loads(body)
    if values.pop("version") != VERSION or set(values) != {field.name for field in fields(Checkpoint)}:
        raise ValueError("it is of another version")
    checkpoint: Checkpoint = msgspec.convert(values, Checkpoint, str_keys=True)  # refuses values of another type
    if not _is_plausible(checkpoint):
        raise ValueError("a value is not one that saltctl writes")
    return checkpoint


def _is_plausible(checkpoint: Checkpoint) -> bool:
    segments = checkpoint.scope.segments
    keys = [last for last in checkpoint.after.values() if last is not None]
    counts = [segments, checkpoint.entries, checkpoint.restored, checkpoint.skipped]
    for conversation_id, n in checkpoint.half_done:
        keys.append(conversation_id)
        counts.append(n)
    return (
        re.fullmatch("[0-9a-f]{32}", checkpoint.token) is not None
        and bool(checkpoint.primaries)
        and all(re.fullmatch("[0-9a-f]{40}", primary.replication_id) for primary in checkpoint.primaries.values())
        and all(0 <= segment < segments for segment in checkpoint.after)
        and all(1 <= len(key) <= _MAX_KEY for key in keys)
        and all(0 <= count < _MAX_INT for count in counts)
        and all(0 <= number < 1e18 for number in (checkpoint.consumed_rcu, checkpoint.started, checkpoint.written))
    )
