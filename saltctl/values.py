"""Values that people and callers give: each is understood, or refused, and never replaced by another one.

``parse_`` functions take the text of a setting or of an option, ``check_`` functions the argument of a caller.
"""

from __future__ import annotations

import re
from pathlib import Path
from stat import S_ISREG
from typing import Any

from saltctl.errors import ConfigurationError, UsageError
from saltctl.urls import check_http_url, parse_redis_url

MAX = 1_000_000_000
"""The largest number of an option that has no smaller one."""
REGISTRY_ID = "[0-9a-f]{12}|[0-9a-f]{16}"
"""The id of a registry; those of 16 digits are of registries from before."""
NEW_ID_DIGITS = 12
"""The digits of a new id. A fence, which names it, then has at most 64 bytes, and Redis keeps buckets as listpacks
(hash-max-listpack-value). With more digits an entry takes 53 to 89 bytes, not 24 (tests/benchmarks/memory.py)."""
LONGEST = 100 * 366 * 86400
"""Seconds of the longest duration, as of those that are written."""


def parse_text(value: Any) -> str:
    """Return a string that is not empty. Raises ValueError for any other value, as all of these functions do."""
    if not isinstance(value, str) or not value.strip():
        raise ValueError("must be a string that is not empty")
    return value


def parse_shown_text(value: Any) -> str:
    """Refuse a password in a value that is printed, stored with raises, or quoted in errors."""
    if re.search(r"://[^\s:/@]*:\S*@", text := parse_text(value)):
        raise ValueError("looks like a URL with a password; only redis_url may contain one")
    return text


def parse_line(value: Any) -> str:
    """Return a string of one line, which is printed and stored: control characters are refused."""
    if re.search("[\x00-\x1f\x7f-\x9f\u2028\u2029]", text := parse_shown_text(value)):
        raise ValueError("must be one line without control characters")
    return text


def parse_name(value: Any) -> str:
    """Return the name of a table or region, or a prefix. Raises ValueError for any other value."""
    if not re.fullmatch(r"[A-Za-z0-9_.:/-]{1,1024}", text := parse_text(value)):
        raise ValueError("must be 1 to 1,024 letters, digits and _ . : / -")
    return text


def parse_region(value: Any) -> str:
    """Return the name of an AWS Region."""
    if not re.fullmatch(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)", text := parse_text(value)):
        raise ValueError("must be the name of a region, such as eu-central-1")
    return text


def parse_registry_id(value: Any) -> str:
    """Return the id of a registry. Raises ValueError for any other value."""
    if not re.fullmatch(REGISTRY_ID, text := parse_text(value)):
        raise ValueError("must be the 12 or 16 digits (0-9, a-f) that `saltctl status` shows")
    return text


def parse_path(value: Any) -> Path:
    """Return a path; ``~`` is expanded."""
    text = parse_shown_text(value)
    if "\0" in text:
        raise ValueError("contains a NUL character")
    try:
        return Path(text).expanduser()
    except RuntimeError:
        raise ValueError("begins with ~ and an unknown user name, or HOME is not set") from None


def parse_whole(value: Any, minimum: int, maximum: int = 2**31 - 1, *, power_of_two: bool = False) -> int:
    """Return the whole number of a setting, also of a string."""
    whole = re.fullmatch(r"[0-9]{1,10}", value.strip()) if isinstance(value, str) else type(value) is int
    if not whole:
        raise ValueError(f"must be a whole number from {minimum} to {maximum}")
    number = int(value)
    if not minimum <= number <= maximum:
        raise ValueError(f"must be from {minimum} to {maximum}")
    if power_of_two and number.bit_count() != 1:
        raise ValueError("must be a power of two")
    return number


def parse_url(value: Any) -> str:
    """Return the URL of a Redis."""
    parse_redis_url(url := parse_text(value))
    return url


def parse_endpoint(value: Any) -> str:
    """Return the URL of an AWS endpoint."""
    check_http_url(url := parse_text(value))
    return url


def parse_one_of(value: Any, names: tuple[str, ...]) -> str:
    """Return one of the names."""
    if (text := parse_text(value)) not in names:
        raise ValueError(f"must be one of {', '.join(names)}")
    return text


def parse_flag(value: Any) -> bool:
    """Return whether a setting is on: ``true`` or ``false``, also as a string."""
    known = {"true": True, "false": False}.get(value.strip().lower()) if isinstance(value, str) else value
    if not isinstance(known, bool):
        raise ValueError("must be true or false")
    return known


def parse_cache_name(value: Any) -> str:
    """Return the name of a managed Redis."""
    if not re.fullmatch(r"[A-Za-z][A-Za-z0-9-]{0,62}", text := parse_text(value)):
        raise ValueError("must be the name of a replication group, serverless cache or cluster, not its endpoint")
    return text


def parse_message_id_from(value: Any) -> str:
    """Return where message ids are."""
    text = parse_shown_text(value)
    if text != "sort_key" and not re.fullmatch(r"attribute:.{1,255}", text, re.DOTALL):
        raise ValueError("must be sort_key, or attribute: and a name, such as attribute:message_id")
    return text


def check_number(name: str, value: object, least: float, most: float = MAX, *, hint: str = "") -> None:
    """Refuse what is not a number from ``least`` to ``most``: also nan, infinity, a bool, or a string.

    Raises:
        UsageError: it names the range, and the value.
    """
    if type(value) not in (int, float) or not least <= value <= most:  # type: ignore[operator]
        raise UsageError(f"{name} must be a number from {least:,} to {most:,}, not {value!r:.60}", hint=hint)


def check_whole(name: str, value: object, least: int, most: int = MAX, *, hint: str = "") -> None:
    """Refuse what is not a whole number from ``least`` to ``most``, as :func:`check_number` does; also 2.0."""
    if type(value) is not int or not least <= value <= most:
        raise UsageError(f"{name} must be a whole number from {least:,} to {most:,}, not {value!r:.60}", hint=hint)


def check_flag(name: str, value: object) -> None:
    """Refuse what is not True or False, such as the string "false"; raises UsageError."""
    if not isinstance(value, bool):
        raise UsageError(f"{name} must be True or False, not {value!r:.60}")


def check_kind(name: str, value: object, kind: type, hint: str) -> None:
    """Refuse an argument of another class; raises UsageError. The hint says what to pass."""
    if not isinstance(value, kind):
        raise UsageError(f"{name} must be of the class {kind.__name__}, not {type(value).__name__}", hint=hint)


def read_password(path: Path, setting: str = "redis_password_file") -> str:
    """Return the password in a file, without its final newline.

    Raises ConfigurationError if it cannot be read, is empty, or has several lines.
    """
    try:
        regular = S_ISREG(path.stat().st_mode)  # a pipe would block, and a device may never end
        password = path.read_text(encoding="utf-8").rstrip("\r\n") if regular else ""
    except (OSError, UnicodeDecodeError) as exc:
        raise ConfigurationError(
            f"{setting} {str(path)!r} cannot be read: {getattr(exc, 'strerror', None) or 'it is not UTF-8'}",
            hint="check its path and its permissions",
        ) from exc
    problem = "is empty" if regular else "is not a regular file"
    if password:
        problem = "has several lines" if re.search("[\r\n]", password) else ""
    if password.startswith("\ufeff"):
        problem = "begins with a byte order mark (BOM)"
    if problem:
        raise ConfigurationError(f"{setting} {str(path)!r} {problem}", hint="write the password alone, on one line")
    return password
