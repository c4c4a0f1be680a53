"""A history of all conversations in memory."""

from __future__ import annotations

import pytest

from saltctl.history.history import History
from saltctl.testing import MemoryMessages
from tests.support.lookups import FixedLookups


@pytest.fixture
def messages() -> MemoryMessages:
    """Return an empty messages table."""
    return MemoryMessages()


@pytest.fixture
def lookups() -> FixedLookups:
    """Return a registry in which ``hot`` has 16 salts and ``warm`` has 4."""
    return FixedLookups({"hot": 16, "warm": 4})


@pytest.fixture
def history(messages: MemoryMessages, lookups: FixedLookups) -> History:
    """Return the history of all conversations."""
    return History(lookups, messages)
