"""The contract of ``saltctl.Registry``, held by ``saltctl.aio.Registry``: the same tests, over a loop."""

import pytest

from tests.registry.test_registry import *  # noqa: F403  the tests and their fixtures

del test_an_interrupted_try_lets_the_next_caller_try  # noqa: F821  ^C in a coroutine ends the loop
pytestmark = pytest.mark.usefixtures("on_loop")
