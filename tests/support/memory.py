"""Stores in memory that keep the contracts, and fail where a test tells them to."""

from __future__ import annotations

from collections.abc import Generator, Mapping, Sequence
from dataclasses import replace

from saltctl.errors import ConfigurationError, SaltctlError, UnverifiedError
from saltctl.stores.contracts import BackupEntry, BackupPage, Raise, RaiseOutcome, RebuildSession


class Faults:
    """Errors to raise, by the name of the method. ``after`` raises them once the work was done."""

    def __init__(self) -> None:
        self.before: dict[str, SaltctlError] = {}
        self.after: dict[str, SaltctlError] = {}
        self.calls: list[str] = []

    def begin(self, method: str) -> None:
        """Note the call, and raise what it is to raise before it did anything."""
        self.calls.append(method)
        if method in self.before:
            raise self.before[method]

    def end(self, method: str) -> None:
        """Raise what it is to raise although the work was done."""
        if method in self.after:
            raise self.after[method]

    def clear(self) -> None:
        """Fail no more, and forget the calls."""
        self.before.clear()
        self.after.clear()
        self.calls.clear()


class MemoryBackup:
    """The backup table as a dictionary."""

    def __init__(self) -> None:
        self.items: dict[str, BackupEntry] = {}
        self.layout: tuple[str, str] | None = None
        self.faults = Faults()

    def get(self, conversation_id: str) -> BackupEntry | None:
        """Strongly consistent read."""
        self.faults.begin("get")
        return self.items.get(conversation_id)

    def get_many(self, conversation_ids: Sequence[str]) -> dict[str, BackupEntry]:
        """Strongly consistent reads."""
        self.faults.begin("get_many")
        return {i: self.items[i] for i in conversation_ids if i in self.items}

    def raise_max_n(self, conversation_id: str, entry: Raise) -> RaiseOutcome:
        """Step 1 of a raise."""
        self.faults.begin("raise_max_n")
        held = self.items.get(conversation_id, BackupEntry(conversation_id, 1, 1))
        changed = conversation_id not in self.items or held.max_n < entry.n
        if changed:
            self.items[conversation_id] = replace(held, max_n=entry.n, raises=(*held.raises, entry))
        self.faults.end("raise_max_n")
        return RaiseOutcome(held.max_n, changed)

    def commit_write_n(self, conversation_id: str, n: int) -> bool:
        """Step 3 of a raise."""
        self.faults.begin("commit_write_n")
        held = self.items[conversation_id]
        changed = held.write_n < n <= held.max_n
        if changed:
            self.items[conversation_id] = replace(held, write_n=n)
        self.faults.end("commit_write_n")
        return changed

    def claim_layout(self, layout: str, key_prefix: str) -> None:
        """Bind the table to one layout."""
        self.faults.begin("claim_layout")
        self.layout = self.layout or (layout, key_prefix)
        if self.layout != (layout, key_prefix):
            raise ConfigurationError(f"laid out as {self.layout}")

    def check_layout(self, layout: str, key_prefix: str) -> None:
        """Refuse another layout."""
        if self.layout not in (None, (layout, key_prefix)):
            raise ConfigurationError(f"laid out as {self.layout}")

    def scan(
        self, segments: int, *, limit: int | None = None, only: int | None = None, **_: object
    ) -> Generator[BackupPage, None, None]:
        """Everything, a page of ``limit`` at a time; an item is in the segment of its length's remainder."""
        mine = [e for e in self.items.values() if only is None or len(e.conversation_id) % segments == only]
        step = limit or len(mine) or 1
        for start in range(0, len(mine), step):
            some = mine[start : start + step]
            yield BackupPage([(e.conversation_id, e.max_n, e.write_n) for e in some], [], float(len(some)), 0)


class MemoryRegistry:
    """The registry as dictionaries, one for each primary; an id is on the primary of its length's remainder."""

    def __init__(self, primaries: int = 1) -> None:
        self.held: dict[str, dict[str, int]] = {f"redis-{number}:6379": {} for number in range(primaries)}
        self.verified_primaries = set(self.held)
        self.faults = {primary: Faults() for primary in self.held}
        self.routing_fault: SaltctlError | None = None

    def primaries(self) -> Sequence[str]:
        """The names of all primaries."""
        return tuple(self.held)

    def primary_of(self, conversation_id: str) -> str:
        """The primary that has an id."""
        return self.primaries()[len(conversation_id) % len(self.held)]

    def by_primary(self, conversation_ids: Sequence[str]) -> Mapping[str, Sequence[str]]:
        """The ids grouped."""
        if self.routing_fault is not None:
            raise self.routing_fault
        groups: dict[str, list[str]] = {}
        for conversation_id in conversation_ids:
            groups.setdefault(self.primary_of(conversation_id), []).append(conversation_id)
        return groups

    def lookup(self, primary: str, conversation_ids: Sequence[str]) -> list[int | None]:
        """max_n of each id."""
        self.faults[primary].begin("lookup")
        if primary not in self.verified_primaries:
            raise UnverifiedError(f"{primary} is not verified")
        return [self.held[primary].get(i) for i in conversation_ids]

    def raw(self, conversation_ids: Sequence[str]) -> dict[str, int | None]:
        """What is held, verified or not."""
        return {i: self.held[self.primary_of(i)].get(i) for i in conversation_ids}

    def merge(self, conversation_id: str, n: int) -> bool:
        """Max-merge one entry."""
        primary = self.primary_of(conversation_id)
        self.faults[primary].begin("merge")
        held = self.held[primary]
        changed = held.get(conversation_id, 0) < n
        held[conversation_id] = max(n, held.get(conversation_id, 0))
        self.faults[primary].end("merge")
        return changed

    def verified(self) -> dict[str, bool]:
        """Which primaries are verified."""
        return {primary: primary in self.verified_primaries for primary in self.held}

    def sessions(self) -> Sequence[RebuildSession]:
        """None: rebuilds are tested on real servers."""
        raise NotImplementedError
