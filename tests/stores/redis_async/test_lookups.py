"""The contract of lookups in Redis, held by those of an event loop: the same tests, on real servers and on stubs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.stores.redis.test_connections import (  # noqa: F401  the tests and their fixtures
    silent_server,
    socket_path,
    store_of,
    test_a_frozen_server_is_left_alone_after_one_timeout,
    test_a_host_that_does_not_exist,
    test_a_late_answer_is_never_taken_for_the_next,
    test_a_lookup_does_not_wait_for_a_silent_server,
    test_a_plain_server_does_not_speak_tls,
    test_a_reply_of_another_command,
    test_a_socket_works_as_well,
    test_a_user_who_may_look_up_and_nothing_else,
    test_an_unasked_answer_is_never_taken_for_the_next,
    test_lookups_survive_a_restart_without_an_error_of_their_own,
    test_nobody_at_the_port,
)
from tests.stores.redis.test_fence import (  # noqa: F401
    raised,
    test_a_client_of_another_bucket_count_is_never_answered,
    test_a_lost_bucket_is_fenced_alone,
    test_a_restart_with_its_aof_is_fenced,
    test_script_flush_is_fenced,
)
from tests.stores.redis.test_registry import test_any_id_can_be_an_entry  # noqa: F401
from tests.stores.redis.test_time_budgets import (  # noqa: F401
    test_a_lookup_falls_back_in_time,
    test_a_reply_of_another_shape_is_no_number,
    test_replies_that_drip_after_the_first_byte_end_in_time,
)
from tests.stores.redis.test_tls import (  # noqa: F401
    authority,
    opened,
    options,
    test_every_kind_of_redis_by_tls,
    test_tls_on_one_side,
)
from tests.support.on_loop import LoopThread, on_a_loop
from tests.support.redis_servers import find_engine

pytestmark = pytest.mark.usefixtures("on_loop")


@pytest.fixture
def on_loop(monkeypatch: pytest.MonkeyPatch) -> Iterator[LoopThread]:
    """Registries and their stores do their work by saltctl.aio."""
    with on_a_loop(monkeypatch) as loop:
        yield loop


@pytest.fixture
def redis_binary() -> Path:
    """One engine: both answer alike, as the synchronous tests show."""
    return find_engine("valkey")
