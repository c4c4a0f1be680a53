"""Changes of the configuration file, which keep everything else in it, byte for byte."""

from __future__ import annotations

import json
import os
import re
import shlex
import stat
import tomllib
from collections.abc import Iterator
from contextlib import suppress
from importlib.resources import files
from pathlib import Path

from saltctl.cli.files import replace_file
from saltctl.errors import ConfigurationError, RefusedError

_WHAT = "configuration file"
_ASSIGNMENT = re.compile(
    r"""[ \t]*(?:[A-Za-z0-9_-]+|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')[ \t]*=[ \t]*"""
    r"""(?P<value>\"{3}(?:[^\\]|\\.)*?\"{3,5}|'{3}.*?'{3,5}|"(?:[^"\\\n]|\\.)*"|'[^'\n]*')""",
    re.DOTALL,
)
"""A line that may set a key to a string. :func:`with_default_context` checks which one does."""


def with_default_context(text: str, name: str) -> str:
    """Return a TOML document in which ``default_context`` has this value; nothing else of it changes.

    Every candidate is parsed, and must differ from the document in this one value. So a line in a string or a comment
    that looks like the setting stays as it is.

    Raises:
        ConfigurationError: no candidate is right.
    """
    others, _ = _parsed(text)
    for candidate in _candidates(text, json.dumps(name, ensure_ascii=False).replace("\x7f", "\\u007f")):
        with suppress(tomllib.TOMLDecodeError):
            if _parsed(candidate) == (others, name):
                return candidate
    raise ConfigurationError(f"cannot set default_context to {name!r} in the {_WHAT}", hint="saltctl config path")


def _parsed(text: str) -> tuple[str, object]:
    """Return everything but ``default_context``, as a string, since nan is not equal to itself; and its value."""
    document = tomllib.loads(text)
    name = document.pop("default_context", None)
    return repr(document), name


def _candidates(text: str, value: str) -> Iterator[str]:
    """Yield the document with one string replaced, for each line that may set one; then with a new first line."""
    for line in re.finditer("^", text, re.MULTILINE):
        if found := _ASSIGNMENT.match(text, line.start()):
            yield text[: found.start("value")] + value + text[found.end("value") :]
    newline = "\r\n" if text[: text.find("\n") + 1].endswith("\r\n") else "\n"
    yield f"default_context = {value}{newline}{text}"


def change_default_context(path: Path, name: str, *, dry_run: bool) -> None:
    """Write the default context to the file, atomically. Follows links, and keeps the file's mode.

    Raises:
        ConfigurationError: the file cannot be read, changed or written.
    """
    target = path.resolve()
    try:
        text = target.read_bytes().decode()
        mode = stat.S_IMODE(target.stat().st_mode)
        changed = with_default_context(text, name).encode()
        if not dry_run:
            replace_file(target, changed, _WHAT, mode=mode)
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def create_config(path: Path, *, dry_run: bool) -> None:
    """Write a new file with comments, that only its owner can read, and the directories above it.

    Raises:
        RefusedError: the file exists.
        ConfigurationError: it cannot be written.
    """
    if path.exists() or path.is_symlink():
        raise RefusedError(f"cannot create {str(path)!r}: it exists", hint="saltctl config path")
    if dry_run:
        return
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as exc:
        raise _unwritable(path, exc) from exc
    try:
        _write_new(path, files("saltctl.cli.config").joinpath("template.toml").read_bytes())
    except FileExistsError:
        raise RefusedError(f"cannot create {str(path)!r}: it exists", hint="saltctl config path") from None
    except OSError as exc:
        raise _unwritable(path, exc) from exc


def _write_new(path: Path, content: bytes) -> None:
    # O_EXCL: nothing is replaced, and no link is followed, also if another process is faster.
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as stream:
            stream.write(content)
    except OSError:
        path.unlink(missing_ok=True)  # a part of the file would be in the way the next time
        raise


def _unwritable(path: Path, exc: OSError) -> ConfigurationError:
    hint = shlex.join(["ls", "-ld", str(path.parent), str(path)])
    return ConfigurationError(f"cannot write the {_WHAT} {str(path)!r}: {exc.strerror}", hint=hint)
