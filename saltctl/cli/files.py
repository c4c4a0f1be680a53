"""Files that commands write for other programs: only a regular file is ever replaced or touched."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from saltctl.errors import ConfigurationError

_SYSTEM = ("/dev", "/proc", "/sys")
_SHARED_MEMORY = "/dev/shm"  # noqa: S108  not a temporary file: the one directory of files below /dev


def is_special(file: Path) -> bool:
    """Return whether a path is a FIFO, device, socket or directory, a link to one, or below /dev, /proc or /sys.

    Links such as /dev/stdout may lead to a regular file, but nothing may replace them.
    """
    try:
        directory = file.parent.resolve()
        below = [str(parent) for parent in (directory, *directory.parents)]
        system = any(name in below for name in _SYSTEM) and _SHARED_MEMORY not in below
        return system or (file.exists() and not file.is_file())
    except (OSError, RuntimeError):  # such as a name that is too long, or a loop of links
        return True


def require_touchable(file: Path, what: str, hint: str = "") -> None:
    """Refuse a file that is special or a link, or that can be neither written nor created; ``what`` names its use.

    Raises:
        ConfigurationError: with the hint.
    """
    if is_special(file) or file.is_symlink() or not (os.access(file, os.W_OK) if file.exists() else _is_open(file)):
        raise ConfigurationError(
            f"cannot touch the {what} {str(file)!r}: it must be a writable regular file, or a new one in a writable "
            "directory",
            hint=hint,
        )


def _is_open(file: Path) -> bool:
    """Return whether files can be created beside a file. A read-only file system refuses root, too."""
    return file.parent.is_dir() and os.access(file.parent, os.W_OK | os.X_OK)


def require_replaceable(file: Path, what: str, hint: str = "") -> None:
    """Refuse a file that is special or in a directory that is not writable; ``what`` names its use.

    A link to a regular file is accepted: it is replaced, and not followed.

    Raises:
        ConfigurationError: with the hint.
    """
    if is_special(file) or not _is_open(file):
        raise ConfigurationError(
            f"cannot write the {what} {str(file)!r}: it must be a regular file in a writable directory", hint=hint
        )


def replace_file(file: Path, content: bytes, what: str, *, mode: int = 0o644) -> None:
    """Replace a regular file atomically. ``mode``: its permissions; by default every user can read it.

    Raises:
        ConfigurationError: as :func:`require_replaceable` does; the file may have become another one meanwhile.
        OSError: it cannot be written.
    """
    new = file.with_name(f".{file.name[:200]}.{secrets.token_hex(8)}")
    try:
        # O_EXCL: a link that another user put there must not be followed.
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600), "wb") as stream:
            os.fchmod(stream.fileno(), mode)
            stream.write(content)
        require_replaceable(file, what)
        new.replace(file)
    finally:
        with suppress(OSError):
            new.unlink()
