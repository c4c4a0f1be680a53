"""The identity of a registry in memory, for rebuilds over fakes."""

from __future__ import annotations

from collections.abc import Callable, Collection

from saltctl.stores.contracts.registry import RegistryIdentity


class FakeRegistryItem:
    """The item ``#registry`` of a table that was never lost. ``step`` is called with the name of each access."""

    def __init__(self, step: Callable[[str], None] = lambda name: None, rebuild_token: str = "") -> None:
        self._step = step
        self.identity = RegistryIdentity("feed0123456789ab", rebuild_token=rebuild_token)

    def read(self, *, recheck: bool = False) -> RegistryIdentity:
        """Return the identity."""
        self._step("check registry")
        return self.identity

    def check(self, item: object) -> RegistryIdentity:
        """Return the identity, whatever was read."""
        return self.identity

    def forget_check(self) -> None:
        """Do nothing: no table is compared."""

    def note_rebuild(self, before: RegistryIdentity, token: str, replication_ids: Collection[str]) -> RegistryIdentity:
        """Replace the note."""
        self._step("note primaries")
        self.identity = RegistryIdentity(before.registry_id, frozenset(replication_ids), token)
        return self.identity

    def table_identity(self) -> str:
        """Return the identity of the only table."""
        return "table"
