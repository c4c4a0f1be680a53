"""Where a rebuild was when it ended before its time, so that another one can go on there.

A checkpoint says: everything up to here was merged into buckets that carried this token, on primaries that went by
these replication ids. That it still stands is for Redis to prove (design: rebuild, step 5), whatever the file says;
what the file alone says is which part of the backup need not be read again. So a file that somebody else may have
written, or that is damaged, is refused.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from saltctl.errors import CheckpointRefusedError
from saltctl.settings import Settings
from saltctl.urls import mask_url

VERSION = 2
LARGEST = 64 << 20
"""Bytes of a checkpoint: positions of a million segments have less."""
_RESTART = "saltctl rebuild --restart"


@dataclass(frozen=True, slots=True)
class Bound:
    """What a checkpoint is for. ``table`` is the table's identity, which a table of the same name made later lacks."""

    table: str
    key_prefix: str
    layout: str
    segments: int


@dataclass(frozen=True, slots=True)
class Primary:
    """A Redis process and its data, as they were marked."""

    run_id: str
    replication_id: str


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """How far a rebuild was. Counters as in ``RebuildReport``; ``began`` and ``written`` in seconds since the epoch.

    ``after``: by segment, the id up to which it was read and merged, None where that is its end. ``half_done`` are
    raises that the rebuild was to complete at its end.
    """

    bound: Bound
    token: str
    primaries: Mapping[str, Primary]
    after: Mapping[int, str | None]
    half_done: tuple[tuple[str, int], ...]
    entries: int
    restored: int
    skipped: int
    consumed_rcu: float
    began: float
    written: float


class CheckpointStore(Protocol):
    """Keeps one checkpoint."""

    def load(self) -> Checkpoint | None:
        """The one that is kept, None where there is none. Raises CheckpointRefusedError."""
        ...

    def save(self, checkpoint: Checkpoint) -> None:
        """Replace it, as a whole or not at all. Raises OSError."""
        ...

    def remove(self) -> None:
        """Forget it. Raises OSError."""
        ...


def state_directory(settings: Settings) -> Path:
    """Where checkpoints are: the setting ``state_dir``, else ``$XDG_STATE_HOME/saltctl``."""
    if settings.state_dir is not None:
        return settings.state_dir
    home = os.environ.get("XDG_STATE_HOME", "")
    base = Path(home) if Path(home).is_absolute() else Path(os.path.expanduser("~/.local/state"))  # noqa: PTH111  never raises
    return base / "saltctl"


class CheckpointFile:
    """A checkpoint in a file of mode 0600, in a directory of mode 0700 that is made at need."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def of(cls, settings: Settings) -> CheckpointFile:
        """The file for a registry: one for each table, endpoint, Redis and prefix."""
        identity = (settings.backup_table, settings.aws_region, settings.aws_endpoint_url, settings.key_prefix)
        redis = mask_url(settings.redis_url or "")
        digest = hashlib.sha256(repr((*identity, redis)).encode()).hexdigest()[:12]
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", settings.backup_table)[:60]
        return cls(state_directory(settings) / f"rebuild-{readable}-{digest}.json")

    def load(self) -> Checkpoint | None:
        """The checkpoint, None where there is none.

        Raises:
            CheckpointRefusedError: the file is damaged, or somebody else may have written it.
        """
        try:
            with self._directory() as directory:
                text = _read(self.path.name, directory)
        except FileNotFoundError:
            return None
        except (OSError, _NotOursError) as exc:
            raise self._refused(getattr(exc, "strerror", None) or str(exc)) from exc
        try:
            return decode(text)
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as exc:
            raise self._refused(f"it is damaged ({type(exc).__name__})") from exc

    def save(self, checkpoint: Checkpoint) -> None:
        """Write it beside the old one, then put it in its place.

        Without fsync: what a power failure leaves is refused by its checksum, and costs time alone.
        """
        text = encode(checkpoint)
        self.path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        new = f"{self.path.name}.new"
        with self._directory() as directory:
            with suppress(FileNotFoundError):
                os.unlink(new, dir_fd=directory)
            flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
            with os.fdopen(os.open(new, flags, 0o600, dir_fd=directory), "wb") as file:
                file.write(text)
            os.rename(new, self.path.name, src_dir_fd=directory, dst_dir_fd=directory)

    def remove(self) -> None:
        """Forget it."""
        for path in (self.path, self.path.with_name(f"{self.path.name}.new")):
            path.unlink(missing_ok=True)

    @contextmanager
    def _directory(self) -> Iterator[int]:
        """Its directory, held open, so that nobody can put another one in its place meanwhile."""
        flags = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
        directory = os.open(self.path.parent, flags)
        try:
            _check_owner(os.fstat(directory), "its directory")
            yield directory
        finally:
            os.close(directory)

    def _refused(self, why: str) -> CheckpointRefusedError:
        return CheckpointRefusedError(f"the checkpoint {str(self.path)!r} cannot be used: {why}", hint=_RESTART)


class _NotOursError(OSError):
    """Somebody else may have written it."""


def _check_owner(status: os.stat_result, what: str) -> None:
    if status.st_uid != os.geteuid():
        raise _NotOursError(f"{what} belongs to another user")
    if status.st_mode & 0o022:
        raise _NotOursError(f"{what} may be written by others")


def _read(name: str, directory: int) -> bytes:
    # O_NONBLOCK: a pipe in its place must not make the rebuild wait for a writer.
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    with os.fdopen(os.open(name, flags, dir_fd=directory), "rb") as file:
        status = os.fstat(file.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise _NotOursError("it is no file")
        _check_owner(status, "it")
        if status.st_size > LARGEST:
            raise _NotOursError("it is larger than any checkpoint")
        return file.read(LARGEST + 1)


# The format.


def encode(checkpoint: Checkpoint) -> bytes:
    """JSON with its own SHA-256, which tells damage; against malice there are the owner and the mode."""
    content = asdict(checkpoint) | {"version": VERSION}
    content["after"] = {str(segment): last for segment, last in checkpoint.after.items()}
    body = json.dumps(content, sort_keys=True)
    return json.dumps({"sha256": hashlib.sha256(body.encode()).hexdigest(), "checkpoint": body}).encode()


def decode(text: bytes) -> Checkpoint:
    """The checkpoint in a text. Raises ValueError, KeyError, TypeError or AttributeError where it is none."""
    outer = json.loads(text)
    body = outer["checkpoint"]
    if hashlib.sha256(body.encode()).hexdigest() != outer["sha256"]:
        raise ValueError("the checksum differs")
    found: dict[str, Any] = json.loads(body)
    if found.pop("version") != VERSION:
        raise ValueError("of another version")
    bound = Bound(**found.pop("bound"))
    primaries = {name: Primary(**ids) for name, ids in found.pop("primaries").items()}
    after = {int(segment): last for segment, last in found.pop("after").items()}
    half_done = tuple((conversation_id, n) for conversation_id, n in found.pop("half_done"))
    checkpoint = Checkpoint(bound=bound, primaries=primaries, after=after, half_done=half_done, **found)
    _check(checkpoint)
    return checkpoint


def _check(checkpoint: Checkpoint) -> None:
    """Raise ValueError where a value cannot be what saltctl wrote."""
    bound = checkpoint.bound
    sound = (
        all(isinstance(text, str) for text in (bound.table, bound.key_prefix, bound.layout))
        and _is_count(bound.segments)
        and re.fullmatch("[0-9a-f]{32}", checkpoint.token) is not None
        and bool(checkpoint.primaries)
        and all(isinstance(one.run_id, str) for one in checkpoint.primaries.values())
        and all(re.fullmatch("[0-9a-f]{40}", one.replication_id) for one in checkpoint.primaries.values())
        and all(0 <= segment < bound.segments for segment in checkpoint.after)
        and all(last is None or _is_key(last) for last in checkpoint.after.values())
        and all(_is_key(conversation_id) and _is_count(n) for conversation_id, n in checkpoint.half_done)
        and all(_is_count(number) for number in (checkpoint.entries, checkpoint.restored, checkpoint.skipped))
        and all(0 <= float(number) < 1e18 for number in (checkpoint.consumed_rcu, checkpoint.began, checkpoint.written))
    )
    if not sound:
        raise ValueError("a value is not as saltctl writes it")


def _is_count(number: object) -> bool:
    return isinstance(number, int) and not isinstance(number, bool) and 0 <= number < 2**63


def _is_key(text: object) -> bool:
    return isinstance(text, str) and 1 <= len(text) <= 2048  # bytes of a partition key (documented)
