"""``saltctl local load``: its load is detected while it runs, and is refused on real servers."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest

from saltctl.detection.write_meter import WriteMeter
from saltctl.errors import RefusedError
from saltctl.local.load import Load, LoadOptions, require_local
from saltctl.registry.registry import Registry
from saltctl.settings import Settings
from saltctl.stores.aws.backup_table import BackupTable
from saltctl.stores.aws.messages_table import MessagesTable
from saltctl.stores.heat.stream import HeatStream
from tests.cli.conftest import Runner


@pytest.mark.slow
def test_a_load_is_detected(configured: Settings, registry: Registry, backup: BackupTable, saltctl: Runner) -> None:
    """The meters' reports of a Zipf load reach the stream, and replaying them raises the hottest conversation."""
    MessagesTable(configured).create()
    HeatStream(configured).create_group()
    meters = [WriteMeter(HeatStream(configured), server=f"app-{number}") for number in range(4)]
    options = LoadOptions(rate=20_000, servers=4, seconds=2.5, conversations=100)
    *_, report = Load(options, meters, registry, MessagesTable(configured), rng=random.Random(7)).run()
    for meter in meters:
        meter.close()
    assert report.writes == 50_000
    assert report.written > 0
    assert report.failed == 0
    outcome = saltctl("stream", "replay", "-o", "json")
    assert outcome.code == 0
    raised = {row["conversation_id"]: row["after"] for row in outcome.json["raises"]}
    assert raised["conv_load_0001"] >= 4
    entry = backup.get("conv_load_0001")
    assert entry is not None
    assert entry.max_n == raised["conv_load_0001"]


def test_a_load_is_refused_on_real_servers() -> None:
    """Redis or AWS elsewhere: refused before anything is written."""
    local = Settings(redis_url="redis://127.0.0.1:1", aws_endpoint_url="http://127.0.0.1:1")
    require_local(local)
    for elsewhere in (
        replace(local, redis_url="redis://cache.example"),
        replace(local, aws_endpoint_url=None),
        replace(local, aws_endpoint_url="https://dynamodb.us-east-1.amazonaws.com"),
    ):
        with pytest.raises(RefusedError) as refused:
            require_local(elsewhere)
        assert refused.value.hint == "saltctl local run -- saltctl local load"
