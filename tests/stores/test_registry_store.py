"""The registry in Redis: entries, fence, merge."""

from __future__ import annotations

import pytest

from saltctl.errors import UnverifiedError
from saltctl.stores.registry import RedisRegistry, script_sha
from tests.support import Rebuilder


def test_a_new_server_is_not_verified(store: RedisRegistry) -> None:
    """A process that was never rebuilt answers lookups with an error, and not with "no entry"."""
    store.merge("conv", 4)
    with pytest.raises(UnverifiedError):
        store.lookup(store.primaries()[0], ["conv"])
    assert store.verified() == {store.primaries()[0]: False}


def test_a_rebuilt_server_answers(store: RedisRegistry, rebuild: Rebuilder) -> None:
    """After a rebuild lookups return entries, and None where there is none."""
    rebuild()
    store.merge("conv", 4)
    assert store.lookup(store.primaries()[0], ["conv"]) == [4]
    assert store.lookup(store.primaries()[0], ["other", "conv"]) == [None, 4]


def test_the_lookup_script_is_pinned() -> None:
    """Clients know the script by its SHA-1: changing its text is a change of the protocol."""
    assert script_sha("lookup") == "057704f76a3a43cf015f0ee75426c8169696f339"
