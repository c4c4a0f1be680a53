"""Numbers that the command refuses are refused by the library, too: nan, infinity, bools, strings, and so on."""

from __future__ import annotations

import threading
from collections.abc import Callable
from decimal import Decimal
from types import SimpleNamespace
from typing import Any

import pytest

from saltctl.detection.replay import ReplayOptions
from saltctl.detection.service import Service
from saltctl.detection.write_meter import WriteMeter
from saltctl.detection.write_window import WeightedWrite, WriteWindow
from saltctl.errors import ConfigurationError, InvalidSaltCountError, SaltctlError, UsageError
from saltctl.history.history import History
from saltctl.history.models import FindOptions, ReadOptions
from saltctl.local.load import LoadOptions
from saltctl.rebuild.options import RebuildOptions
from saltctl.registry.discover import scan_salts
from saltctl.registry.drift import ComparisonOptions, Sample
from saltctl.registry.registry import Registry
from saltctl.registry.transfer import ImportOptions
from saltctl.salting import check_salt_count, partition_key, read_set, salt_of
from saltctl.settings import SPECS, Settings
from saltctl.testing import MemoryServers
from saltctl.throttling.alarms import AlarmOptions
from saltctl.throttling.analysis import TimeRange
from saltctl.throttling.scan import ScanOptions

NO_NUMBERS: list[Any] = [float("nan"), float("inf"), float("-inf"), -1, True, "1", Decimal(4), [], b"4"]
NOT_WHOLE: list[Any] = [*NO_NUMBERS, 2.0, 10**30, None]
Call = Callable[[Any], object]

SERVERS = MemoryServers()
WHOLE: dict[str, Call] = {
    "read limit": lambda n: SERVERS.history.page("c", ReadOptions(limit=n)),
    "raise": lambda n: SERVERS.registry.raise_to("c", n),
    "check_salt_count": lambda n: check_salt_count(n, 256),
    "read_set": lambda n: read_set("c", n) if n != 10**30 else check_salt_count(n, 256),
    "salt_of": lambda n: salt_of("m", n) if n != 10**30 else check_salt_count(n, 256),
    "sample": lambda n: Sample(1, n),
    "part": lambda n: Sample(n, 24),
    "rebuild segments": lambda n: RebuildOptions(segments=n),
    "rebuild batch": lambda n: RebuildOptions(batch=n),
    "comparison segments": lambda n: ComparisonOptions(segments=n),
    "comparison batch_size": lambda n: ComparisonOptions(batch_size=n),
    "import cap": ImportOptions,
    "load rate": lambda n: LoadOptions(rate=n),
    "load servers": lambda n: LoadOptions(servers=n),
    "load conversations": lambda n: LoadOptions(conversations=n),
    "registry cap": lambda n: Registry(SERVERS.redis, SERVERS.backup, cap=n),
    "history concurrency": lambda n: History(SERVERS.registry, SERVERS.messages, concurrency=n),
    "history first_page": lambda n: History(SERVERS.registry, SERVERS.messages, first_page=n),
    "meter capacity": lambda n: WriteMeter(SERVERS, capacity=n),  # type: ignore[arg-type]
    "discover segments": lambda n: list(scan_salts(*(SimpleNamespace(after={}),) * 2, attribute=None, segments=n)),  # type: ignore[arg-type]
}
"""Whole numbers from 1."""
MAYBE_WHOLE: dict[str, Call] = {
    "rebuild page_limit": lambda n: RebuildOptions(page_limit=n),
    "comparison page_limit": lambda n: ComparisonOptions(page_limit=n),
    "replay max_events": lambda n: ReplayOptions("c", max_events=n),
}
"""Whole numbers from 1, or None."""
NUMBERS: dict[str, Call] = {
    "find timeout": lambda n: FindOptions(timeout=n),
    "load seconds": lambda n: LoadOptions(seconds=n),
    "alarm threshold": lambda n: AlarmOptions("t", (), n),
    "scan threshold": lambda n: ScanOptions("t", TimeRange(0, 60, 60), n),
    "history cool_wait": lambda n: History(SERVERS.registry, SERVERS.messages, cool_wait=n),
    "history page_timeout": lambda n: History(SERVERS.registry, SERVERS.messages, page_timeout=n),
    "rebuild max_rcu": lambda n: RebuildOptions(max_rcu=n),
    "import rate": lambda n: ImportOptions(256, rate=n),
    "replay rate": lambda n: ReplayOptions("c", rate=n),
    "service block": lambda n: service(block=n),
    "service claim_idle": lambda n: service(claim_idle=n),
}
"""Numbers above 0."""
WAITS: dict[str, Call] = {
    "rebuild wait_redis": lambda n: RebuildOptions(wait_redis=n),
    "rebuild lock_wait": lambda n: RebuildOptions(lock_wait=n),
    "rebuild checkpoint_every": lambda n: RebuildOptions(checkpoint_every=n),
    "comparison grace": lambda n: ComparisonOptions(grace=n),
    "registry breaker_seconds": lambda n: Registry(SERVERS.redis, SERVERS.backup, breaker_seconds=n),
    "meter floor": lambda n: WriteMeter(SERVERS, floor=n),  # type: ignore[arg-type]
}
"""Numbers from 0."""


def service(**options: Any) -> Service:
    """Make a service over nothing."""
    parts: Any = SimpleNamespace(counters=None)
    return Service(parts, parts, consumer="c", settings=Settings(), stop=threading.Event(), **options)


def cases() -> list[Any]:
    """Return each call with each number that it must refuse."""
    kinds: list[tuple[dict[str, Call], list[Any]]] = [
        (WHOLE, [*NOT_WHOLE, 0]),
        (MAYBE_WHOLE, [*(n for n in NOT_WHOLE if n is not None), 0]),
        (NUMBERS, [*NO_NUMBERS, 0]),
        (WAITS, NO_NUMBERS),
    ]
    return [
        pytest.param(call, number, id=f"{name}-{number!r:.9}")
        for calls, numbers in kinds
        for name, call in calls.items()
        for number in numbers
    ]


@pytest.mark.parametrize(("call", "number"), cases())
def test_what_cannot_be_meant_is_refused(call: Call, number: object) -> None:
    """Before anything is done, with an error of the library and the value."""
    with pytest.raises((UsageError, InvalidSaltCountError)) as refused:
        call(number)
    assert isinstance(refused.value, SaltctlError)
    assert repr(number)[:5] in refused.value.message or str(number) in refused.value.message


@pytest.mark.parametrize("call", [*WHOLE, *MAYBE_WHOLE, *NUMBERS, *WAITS])
def test_two_is_meant(call: str) -> None:
    """So that the refusals above are not those of every number."""
    calls = WHOLE | MAYBE_WHOLE | NUMBERS | WAITS
    if call == "discover segments":
        pytest.skip("it needs a table")
    calls[call](2)


@pytest.mark.parametrize("salt", [*NO_NUMBERS, 2.0], ids=repr)
def test_a_salt_is_a_whole_number(salt: Any) -> None:
    """No reader asks for ``c#nan`` or ``c#2.0``: a message there is lost."""
    with pytest.raises(UsageError, match="a salt must be"):
        partition_key("c", salt)


@pytest.mark.parametrize("number", NO_NUMBERS, ids=repr)
@pytest.mark.parametrize("name", [s.name for s in SPECS if type(getattr(Settings, s.name)) in (int, float)])
def test_settings_made_by_a_program_are_checked(name: str, number: object) -> None:
    """As those of the environment are; strings are for :func:`load_settings`."""
    with pytest.raises(ConfigurationError, match=f"{name} .argument of Settings. must be"):
        Settings(**{name: number})  # type: ignore[arg-type]


@pytest.mark.parametrize("value", ["false", 1, 0, None, "on"], ids=repr)
@pytest.mark.parametrize("name", ["hedge_reads", "share_reads"])
def test_a_switch_is_true_or_false(name: str, value: Any) -> None:
    """The string "false" is true for Python."""
    with pytest.raises(UsageError, match=f"{name} must be True or False"):
        History(SERVERS.registry, SERVERS.messages, **{name: value})
    with pytest.raises(ConfigurationError, match=f"{name} .argument of Settings. must be true or false"):
        Settings(**{name: value})
    settings = Settings(**{name: True})  # type: ignore[arg-type]
    assert getattr(History.over(settings, SERVERS.registry, SERVERS.messages), name) is True


@pytest.mark.parametrize("message_id", [0.1, 1.0, True, Decimal("nan"), Decimal("inf"), None, b"m1"], ids=repr)
def test_a_message_id_is_no_float(message_id: Any) -> None:
    """0.1 has 55 digits in binary: its salt is that of no message that DynamoDB returns."""
    with pytest.raises(UsageError, match="a message id must be"):
        salt_of(message_id, 4)


@pytest.mark.parametrize("units", [float("nan"), float("inf"), -1, "2"])
def test_a_write_of_no_size_is_invalid(units: Any) -> None:
    """It never fails; nan would hide the conversation's other writes, and a negative number would undo them."""
    window = WriteWindow(0, 1, 10)
    window.log += ["a", "a", WeightedWrite("a", units)]
    window.count_log(wait=True)
    assert (window.counts, window.invalid) == ({"a": 2}, 1)
