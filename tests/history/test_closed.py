"""A registry and a history that were closed refuse every call by an error of saltctl, as those of saltctl.aio do."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from saltctl.errors import UsageError
from saltctl.history.history import History
from saltctl.registry.lookups import Lookup
from saltctl.registry.registry import Registry
from saltctl.testing import MemoryMessages, MemoryServers
from tests.support.lookups import FixedLookups

CALLS: dict[str, Callable[[Registry, History], object]] = {
    "lookup": lambda registry, _: registry.lookup("conv"),
    "lookup_many": lambda registry, _: registry.lookup_many(["conv"]),
    "raise_to": lambda registry, _: registry.raise_to("conv", 2),
    "complete": lambda registry, _: registry.complete("conv"),
    "with registry": lambda registry, _: registry.__enter__(),
    "put": lambda _, history: history.put("conv", "t#m1", {}),
    "history.lookup": lambda _, history: history.lookup("conv"),
    "page": lambda _, history: history.page("conv"),
    "pages": lambda _, history: list(history.pages("conv")),
    "messages": lambda _, history: list(history.messages("conv")),
    "explain": lambda _, history: history.explain("conv"),
    "find": lambda _, history: history.find("conv", "m1"),
    "with history": lambda _, history: history.__enter__(),
}


@pytest.mark.parametrize("call", CALLS)
def test_a_closed_object_refuses_calls(call: str) -> None:
    """It names the object, and a second close does nothing."""
    servers = MemoryServers()
    for _ in range(2):
        servers.history.close()
        servers.registry.close()
    name = "history" if list(CALLS).index(call) >= list(CALLS).index("put") else "registry"
    with pytest.raises(UsageError, match=f"this {name} is closed") as refused:
        CALLS[call](servers.registry, servers.history)
    assert refused.value.hint == "open another one"


def test_a_page_during_which_the_history_is_closed_fails_likewise() -> None:
    """Its next queries find no threads any more."""

    class Closing(FixedLookups):
        """Closes the history during the lookup of its page."""

        def lookup(self, conversation_id: str) -> Lookup:
            """Close it, and look up."""
            history.close()
            return super().lookup(conversation_id)

    history = History(Closing(), MemoryMessages())
    with pytest.raises(UsageError, match="this history is closed"):
        history.page("conv")
