"""Learns how a table writes times in its sort keys, and turns a time into a sort key of that form.

A bound in another form than the rows would silently hide or show everything, since DynamoDB compares bytes. So a form
is used only if it is the only one that fits all sampled rows. The sample has rows from both ends of a conversation:
all rows between two that share a prefix share it, too.

The sort key of a time is the smallest one that a row of that time, or of a later one, can have. So it serves as an
included lower bound and as an excluded upper one, whatever follows the time in the rows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from typing import TYPE_CHECKING, Any

from saltctl.errors import UsageError
from saltctl.history.models import ReadOptions
from saltctl.settings import SORT_KEY_FORMS
from saltctl.stores.contracts.messages import SortKey
from saltctl.times import parse_iso

if TYPE_CHECKING:
    from saltctl.history.history import History

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = 10**6  # all times here are in microseconds
_EARLIEST = (datetime(2010, 1, 1, tzinfo=UTC) - _EPOCH) // timedelta(microseconds=1)
_YEAR = 366 * 86400 * _SECOND
"""A number is a time only if that time is after 2010 and at most a year ahead: others are counters or other ids.
Nanoseconds have as many digits as snowflake ids, so the newest of them must also be at most a year old."""
_PREFIX = r"(?P<prefix>[#:|/_]*(?:[A-Za-z][A-Za-z0-9]*(?:[^A-Za-z0-9.+-]+|[.-]))*)"
"""Words that begin with a letter: no time does. A hyphen after another separator is a minus."""
_END = r"(?![0-9A-Za-z]|[:.,][0-9])"
_ISO = re.compile(
    _PREFIX
    + r"(?P<time>\d{4}-\d\d-\d\d[T ]\d\d:\d\d(?::\d\d)?|\d{8}T?\d{6})(?P<fraction>[.,]\d{1,9})?"
    + r"(?P<zone>Z| ?(?:UTC|GMT)|[+-]\d\d(?::?\d\d)?(?!\d)|(?! ?[A-Za-z\[]))"
    + _END,
    re.ASCII,
)
_DATE = re.compile(
    _PREFIX + r"(?P<time>\d{4}-\d\d-\d\d|\d{8})(?P<fraction>)(?P<zone>)(?!.?\d?\d:\d\d|[ T_/-]\d)" + _END, re.ASCII
)
_DIGITS = re.compile(
    rf"{_PREFIX}(?P<digits>0*[1-9](?:\d{{18}}|\d{{15}}|\d{{12}}|\d{{9}}))(?P<fraction>\.\d{{1,9}})?{_END}", re.ASCII
)
_ULID = re.compile(rf"{_PREFIX}(?P<id>[0-7][0-9A-HJKMNP-TV-Z]{{25}}|[0-7][0-9a-hjkmnp-tv-z]{{25}})(?![0-9A-Za-z])")
_HEX = "(?P<id>X{8}(?P<dash>-?)X{4}(?P=dash)7X{3}(?P=dash)[89abAB]X{3}(?P=dash)X{12})(?![0-9A-Za-z])"
_UUID = re.compile(_PREFIX + _HEX.replace("X", "[0-9a-fA-F]"))
_KSUID = re.compile(rf"{_PREFIX}(?P<id>[0-9A-Za-z]{{27}})(?![0-9A-Za-z])")
_BASE32 = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_BASE62 = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_KSUID_EPOCH = 1_400_000_000
_UNITS = {"epoch-s": 9, "epoch-ms": 12, "epoch-us": 15, "epoch-ns": 18}
"""The names of numbers that are times, and the power of ten of such a number today."""


_NEWEST, _OLDEST = 50, 10
"""Messages that show the form of sort keys. Those between the newest and the oldest share the prefix of both."""


@dataclass(frozen=True)
class SortKeyForm:
    """How sort keys hold times.

    Args:
        name: one of SORT_KEY_FORMS.
        prefix: the characters before the time, equal in all rows.
        style: how the form is written: the separators, length and offset of ISO 8601; the digits of a number.
        step: the microseconds of its smallest unit, fractions aside.
        fractions: the fractions of seconds that the sampled rows have, such as ``.000``.
    """

    name: str
    prefix: str = ""
    style: tuple[Any, ...] = ()
    step: int = _SECOND
    fractions: frozenset[str] = field(default=frozenset({""}), compare=False)

    def bound(self, at: datetime) -> SortKey:
        """Return the smallest sort key of a row at this time or later.

        Raises:
            UsageError: the rows have fractions of seconds of several lengths, which do not sort by time, and the
                time has a fraction.
        """
        micros = (at - _EPOCH) // timedelta(microseconds=1)
        if self.style == (Decimal,):
            return Decimal(micros) * Decimal(10) ** (_UNITS[self.name] - 15)
        whole, rest = divmod(micros, self.step)
        fraction = self._fraction(rest)
        if rest and not fraction:
            whole += 1
        try:
            return self.prefix + _WRITERS[self.name](self.style, whole) + fraction
        except OverflowError:  # before, or after, all times that this form can hold
            return self.prefix + ("0" if micros < 0 else "~")

    def _fraction(self, rest: int) -> str:
        """Return the next fraction of a second from ``rest`` microseconds on; none if it is the next unit."""
        if not rest or self.fractions == {""}:
            return ""
        if len(self.fractions) > 1:
            raise UsageError(
                "the sort keys have fractions of seconds of several lengths, which do not sort by time",
                hint="give whole seconds, or a raw sort key: --since-key, --until-key",
            )
        (zeros,) = self.fractions
        digits = str(-(-rest * 10 ** (len(zeros) - 1) // _SECOND)).zfill(len(zeros) - 1)
        return f"{zeros[0]}{digits}" if len(digits) < len(zeros) else ""


@dataclass(frozen=True)
class _Reading:
    """One way to read a sort key: its form, the fraction as zeros, and the time in microseconds."""

    form: SortKeyForm
    fraction: str
    at: int


def learn_form(keys: Sequence[SortKey], now: datetime, named: str | None = None) -> SortKeyForm:
    """Return the form of sort keys, of which there is at least one.

    ``named`` is the name of the form, if it is known: keys of other forms are skipped then, and any time is accepted.

    Raises:
        UsageError: no form, or more than one, fits all keys.
    """
    current = (now - _EPOCH) // timedelta(microseconds=1)
    found = {key: [r for r in _read(key, named) if named or _is_plausible(r, current)] for key in keys}
    found = {key: readings for key, readings in found.items() if readings or not named}
    forms = set.intersection(*map(_forms, found.values())) if found else set()
    fitting = {form: [r for readings in found.values() for r in readings if r.form == form] for form in forms}
    if not named:
        fitting = {form: readings for form, readings in fitting.items() if _is_current(readings, current)}
    if len(fitting) != 1:
        raise _refusal(found or {key: [] for key in keys}, several=len(fitting) > 1)
    ((form, readings),) = fitting.items()
    return replace(form, fractions=frozenset(r.fraction for r in readings))


def _refusal(found: Mapping[SortKey, Sequence[_Reading]], *, several: bool) -> UsageError:
    """Return the error about these keys and their readings, with the first key and one that differs from it."""
    first = next(iter(found))
    other = next((key for key, readings in found.items() if _forms(readings) != _forms(found[first])), None)
    if other is not None:
        problem = f"do not all have the same form of a time: {str(first)!r:.60} and {str(other)!r:.60}"
    else:
        known = "fit several forms of times" if several else "have no form of a time that is known"
        problem = f"{known}, such as {str(first)!r:.60}"
    return UsageError(
        f"a time cannot become a sort key of this table: its sort keys {problem}",
        hint="give raw sort keys: --since-key, --until-key; or name the form of the keys that hold times: "
        f"SALTCTL_SORT_KEY_FORM={'|'.join(SORT_KEY_FORMS)}",
    )


def _forms(readings: Sequence[_Reading]) -> set[SortKeyForm]:
    return {reading.form for reading in readings}


def _is_current(readings: Sequence[_Reading], current: int) -> bool:
    return readings[0].form.name != "epoch-ns" or max(r.at for r in readings) >= current - _YEAR


def _is_plausible(reading: _Reading, current: int) -> bool:
    """Return whether a key is a time and not a number of another meaning. Hyphens alone show ISO 8601."""
    return (reading.form.name == "iso" and not reading.form.style[1]) or _EARLIEST <= reading.at <= current + _YEAR


def _read(key: SortKey, named: str | None) -> Iterator[_Reading]:
    if isinstance(key, Decimal):
        for name, power in _UNITS.items():
            if named == name or (not named and 10**power <= key < 10 ** (power + 1)):
                yield _Reading(SortKeyForm(name, style=(Decimal,)), "", int(key * Decimal(10) ** (15 - power)))
        return
    for reader in (_read_iso, _read_digits, _read_ulid, _read_uuid, _read_ksuid):
        if (reading := reader(key)) is not None and named in (None, reading.form.name):
            yield reading


def _read_iso(key: str) -> _Reading | None:
    match = _ISO.match(key) or _DATE.match(key)
    if match is None:
        return None
    plain, fraction, zone = match["time"], match["fraction"] or "", match["zone"]
    length = len(plain)
    if length == 16 and fraction:
        return None
    try:
        at = datetime.fromisoformat(plain if length != 14 else f"{plain[:8]}T{plain[8:]}")
        noon = parse_iso(f"2000-01-01T12:00{zone if zone[:1] in ('+', '-') else 'Z'}")
    except ValueError:
        return None
    offset = noon.replace(tzinfo=UTC) - noon
    separator = next((mark for mark in "T " if mark in plain), "")
    style = (separator, "-" not in plain, length, offset, bool(zone))
    micros = (at.replace(tzinfo=UTC) - offset - _EPOCH) // timedelta(microseconds=1)
    return _Reading(SortKeyForm("iso", match["prefix"], style, _iso_step(length)), re.sub(r"\d", "0", fraction), micros)


def _iso_step(length: int) -> int:
    return _SECOND * {8: 86400, 10: 86400, 16: 60}.get(length, 1)


def _write_iso(style: tuple[Any, ...], whole: int) -> str:
    separator, basic, length, offset, _ = style
    at = (_EPOCH + timedelta(microseconds=whole * _iso_step(length))).astimezone(timezone(offset)).replace(tzinfo=None)
    text = at.isoformat(separator or "T", "seconds")
    if not basic:
        return text[:length]
    text = text.replace("-", "").replace(":", "")
    return (text if separator else text.replace("T", ""))[:length]


def _read_digits(key: str) -> _Reading | None:
    if (match := _DIGITS.match(key)) is None:
        return None
    digits, fraction = match["digits"], match["fraction"] or ""
    power = len(digits.lstrip("0")) - 1
    name = next(name for name, of_unit in _UNITS.items() if of_unit == power)
    if fraction and name != "epoch-s":
        return None
    step = max(10 ** (15 - power), 1) if power <= 15 else 1
    form = SortKeyForm(name, match["prefix"], (len(digits), power), step)
    return _Reading(form, re.sub(r"\d", "0", fraction), int(digits) * step if power <= 15 else int(digits) // 1000)


def _write_digits(style: tuple[Any, ...], whole: int) -> str:
    width, power = style
    number = whole if power <= 15 else whole * 1000
    if number < 0 or len(text := f"{number:0{width}d}") > width:
        raise OverflowError
    return text


def _read_ulid(key: str) -> _Reading | None:
    if (match := _ULID.match(key)) is None:
        return None
    form = SortKeyForm("ulid", match["prefix"], (match["id"].upper() == match["id"],), 1000)
    return _Reading(form, "", _from_base(_BASE32, match["id"][:10].upper()) * 1000)


def _write_ulid(style: tuple[Any, ...], whole: int) -> str:
    text = _in_base(_BASE32, whole, 10)
    if text > "7ZZZZZZZZZ":
        raise OverflowError
    return text if style[0] else text.lower()


def _read_uuid(key: str) -> _Reading | None:
    if (match := _UUID.match(key)) is None:
        return None
    text = match["id"]
    if text not in (text.upper(), text.lower()):
        return None  # the bytes of digits in both cases do not sort by their values
    form = SortKeyForm("uuid7", match["prefix"], (match["dash"], text.lower() == text), 1000)
    return _Reading(form, "", int(text.replace("-", "")[:12], 16) * 1000)


def _write_uuid(style: tuple[Any, ...], whole: int) -> str:
    dash, lower = style
    if not 0 <= whole < 2**48:
        raise OverflowError
    text = f"{whole:012x}"
    text = f"{text[:8]}{dash}{text[8:]}"
    return text if lower else text.upper()


def _read_ksuid(key: str) -> _Reading | None:
    if (match := _KSUID.match(key)) is None:
        return None
    seconds = (_from_base(_BASE62, match["id"]) >> 128) + _KSUID_EPOCH
    return _Reading(SortKeyForm("ksuid", match["prefix"]), "", seconds * _SECOND)


def _write_ksuid(_: tuple[Any, ...], whole: int) -> str:
    seconds = whole - _KSUID_EPOCH
    if seconds >= 2**32:
        raise OverflowError
    return _in_base(_BASE62, max(seconds, 0) << 128, 27)


def _from_base(alphabet: str, text: str) -> int:
    return sum(alphabet.index(character) * len(alphabet) ** place for place, character in enumerate(reversed(text)))


def _in_base(alphabet: str, number: int, width: int) -> str:
    if number < 0:
        raise OverflowError
    digits = ""
    while number or len(digits) < width:
        number, digit = divmod(number, len(alphabet))
        digits = alphabet[digit] + digits
    if len(digits) > width:
        raise OverflowError
    return digits


_WRITERS: dict[str, Callable[[tuple[Any, ...], int], str]] = dict(
    zip(SORT_KEY_FORMS, (_write_iso, *[_write_digits] * 4, _write_ulid, _write_uuid, _write_ksuid), strict=True)
)


def sample_keys(history: History, conversation_id: str, like: ReadOptions) -> list[SortKey]:
    """Return sort keys of a conversation, the newest first, and then the oldest if they are not among those.

    They are read as consistent and as partial as ``like`` says.

    Raises:
        SaltctlError: as ``History.page``.
    """

    def read(limit: int, *, oldest_first: bool) -> tuple[list[SortKey], bool]:
        consistent, partial = like.consistent, like.allow_partial
        options = ReadOptions(limit, oldest_first=oldest_first, consistent=consistent, allow_partial=partial)
        page = history.page(conversation_id, options)
        return [message.sort_key for message in page.messages], page.next_cursor is not None

    newest, more = read(_NEWEST, oldest_first=False)
    return newest + (read(_OLDEST, oldest_first=True)[0][::-1] if more else [])
