"""The canary: writes, raises, cools and reads the reserved conversations from this host, and judges the answers."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from math import inf
from typing import Any, Self

from saltctl.canary.checks.fork import fork
from saltctl.canary.checks.lookups import lookup
from saltctl.canary.checks.messages import find, read, shared_read, write
from saltctl.canary.checks.outcomes import HOST_ERRORS, Broken, Skipped, Unjudged
from saltctl.canary.checks.raises import can_be_raised, cool, raise_, unfinished_raise
from saltctl.canary.checks.strangers import foreign_client, late_merge
from saltctl.canary.checks.substitutes import Away
from saltctl.canary.classes import Classes
from saltctl.canary.clients import Client, Recorder
from saltctl.canary.conversations import BOUND, RESERVED
from saltctl.canary.judge import Violation
from saltctl.canary.report import CHECK_NAMES, NO_TIME, CanaryReport, Check
from saltctl.canary.round import Round, Servers
from saltctl.canary.servers import open_servers
from saltctl.errors import (
    AccessDeniedError,
    AwsUnavailableError,
    ConfigurationError,
    SaltctlError,
    UnavailableError,
)
from saltctl.settings import Settings

CHECKS: dict[str, Callable[[Round], str]] = dict(
    zip(
        CHECK_NAMES,
        (lookup, write, read, shared_read, find, unfinished_raise, raise_, cool, late_merge, foreign_client, fork),
        strict=True,
    )
)
"""The check of each name, in the order in which they run."""


@dataclass
class _Results:
    """The outcome of each check before the judges have spoken: a detail, or why it says nothing, or what is broken."""

    done: dict[str, str] = field(default_factory=dict)
    unjudged: dict[str, str] = field(default_factory=dict)
    skipped: dict[str, str] = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)
    refusal: SaltctlError | None = None
    """An error that no retry mends: a permission or a setting."""
    outage: str = ""
    """Why the rest of the round is left out."""


class Canary:
    """Checks the promise on the reserved conversations, in one round or many. Close it, or use it in a ``with``.

    Args:
        servers: the stores, which the canary does not close.
        allow_cooling: cool, even if no conversation of the registry was ever cooled; clients that know no cooled
            entries are refused from then on.
        rng: chooses conversations and message ids.
        now: the current time.
    """

    def __init__(
        self,
        servers: Servers,
        *,
        allow_cooling: bool = False,
        rng: random.Random | None = None,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        if servers.settings.max_n_cap < BOUND:
            raise ConfigurationError(
                f"the canary raises its conversations to {BOUND}, and max_n_cap is {servers.settings.max_n_cap}",
                hint=f"set SALTCTL_MAX_N_CAP to {BOUND} or more",
            )
        self._servers = servers
        self._allow_cooling = allow_cooling
        self._rng = rng or random.Random()
        self._now = now
        self._close: Callable[[], None] = lambda: None
        settings = replace(servers.settings, share_reads=False, hedge_reads=False)
        over = servers.classes.registry.over

        def client(name: str, store: Any) -> Client:
            return Client(name, servers.classes, over(settings, store, servers.backup), servers.messages, settings)

        self._by_redis = client("redis", servers.store)
        self._by_backup = client("the backup", Away(servers.store))

    @classmethod
    def open(cls, settings: Settings, *, classes: Classes | None = None, allow_cooling: bool = False) -> Self:
        """Return a canary with these settings. Connects to no server.

        Raises ConfigurationError if a setting is missing or does not allow the rounds.
        """
        servers, close = open_servers(settings, classes or Classes())
        try:
            canary = cls(servers, allow_cooling=allow_cooling)
        except SaltctlError:
            close()
            raise
        canary._close = close
        return canary

    def run(self, within: float = inf) -> CanaryReport:
        """Run one round. ``within``: seconds after which nothing further begins, so that the checks before are judged.

        An outage is not an error: the checks that it prevents are reported as not judged. Raises AccessDeniedError or
        ConfigurationError if a permission or a setting does not allow the round, and it has found no violation.
        """
        started = time.monotonic()
        try:
            on = self._begin()
        except UnavailableError as exc:
            checks = [Check(name, None, exc.message) for name in CHECK_NAMES]
            return CanaryReport(checks, time.monotonic() - started)
        results = _Results()

        def has_time() -> bool:
            return time.monotonic() - started <= within

        for name, check in CHECKS.items():
            if not results.outage and not has_time():
                results.outage = f"{NO_TIME} after {within:g} s"
            _attempt(on, results, name, check)
        violations, unread = on.judge()
        if results.refusal is not None and not violations and not results.broken:
            raise results.refusal
        checks = [_verdict(name, results, violations, on.missed, unread) for name in CHECK_NAMES]
        report = CanaryReport(checks, time.monotonic() - started)
        if report.ok and unread is None:  # otherwise all rows stay, to look into
            with suppress(UnavailableError):  # the next round deletes them
                on.delete_old_rows(has_time)
        return replace(report, seconds=time.monotonic() - started)

    def _begin(self) -> Round:
        """Read the identity of the registry and what it holds of the reserved conversations; return a round."""
        began = time.monotonic()
        identity = self._servers.identify()
        held = self._servers.entries.get_many(RESERVED)
        can = [conversation for conversation in RESERVED if can_be_raised(held.get(conversation))]
        begun = [conversation for conversation in can if conversation in held and held[conversation].target > 1]
        recorder = Recorder()
        for client in (self._by_redis, self._by_backup):
            client.recorder = client.lookups.recorder = recorder
        return Round(
            self._servers,
            self._by_redis,
            self._by_backup,
            recorder,
            self._rng,
            self._now,
            identity,
            self._allow_cooling or self._servers.cooled(),
            held,
            began,
            steady=self._rng.choice(RESERVED),
            raised=self._rng.choice(begun or can) if can else None,
        )

    def close(self) -> None:
        """End the threads, and close the connections that :meth:`open` opened."""
        for client in (self._by_redis, self._by_backup):
            client.close()
        self._close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _attempt(on: Round, results: _Results, name: str, check: Callable[[Round], str]) -> None:
    if results.outage:
        results.unjudged[name] = results.outage
        return
    on.recorder.check = name
    try:
        results.done[name] = check(on)
    except Unjudged as exc:
        results.unjudged[name] = str(exc)
    except Skipped as exc:
        results.skipped[name] = str(exc)
    except Broken as exc:
        results.broken[name] = str(exc)
    except (AccessDeniedError, ConfigurationError) as exc:
        results.refusal, results.unjudged[name] = results.refusal or exc, exc.message
    except SaltctlError as exc:
        results.unjudged[name] = exc.message
        if isinstance(exc, AwsUnavailableError):  # each further check would wait as long
            results.outage = exc.message
    except HOST_ERRORS as exc:
        results.unjudged[name] = f"this host cannot run the check: {exc!r:.200}"
    except Exception as exc:  # a client that ends with it keeps no promise
        results.broken[name] = f"internal error: {exc!r:.200}"


def _verdict(
    name: str, results: _Results, violations: list[Violation], missed: Mapping[str, str], unread: SaltctlError | None
) -> Check:
    """Return the result of one check: first what the judges found in its operations."""
    found = [one for one in violations if one.process.partition(" by ")[0] == name]
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        told = missed.get(found[0].conversation) or f"{found[0].check} in {found[0].conversation}: {_untimed(found[0])}"
        return Check(name, False, f"{told}{more}")
    if name in results.broken:
        return Check(name, False, results.broken[name])
    if name in results.unjudged:
        return Check(name, None, results.unjudged[name])
    if name in results.skipped:
        return Check(name, None, results.skipped[name], skipped=True)
    if unread is not None:
        return Check(name, None, f"the messages cannot be read for comparison: {unread.message}")
    return Check(name, True, results.done[name])


def _untimed(violation: Violation) -> str:
    """Return what the judge said without the times, which are those of a monotonic clock."""
    return re.sub(r" (?:from [\d.]+ to|at) [\d.]+", "", violation.message)
