"""The contract of ``saltctl.History``, held by ``saltctl.aio.History``: the same tests, over a loop."""

import pytest

from tests.history.conftest import *  # noqa: F403
from tests.history.test_find import *  # noqa: F403
from tests.history.test_history import *  # noqa: F403  the tests and their fixtures

pytestmark = pytest.mark.usefixtures("on_loop")
