"""Runs discoveries from exports in a local directory, over a backup in memory."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from saltctl.history.models import message_id_of
from saltctl.registry.discover import Discovery
from saltctl.registry.export.discovery import DamagedFile, Event, ExportDiscovery, scope_of
from saltctl.registry.export.manifest import read_manifest
from saltctl.settings import Settings
from saltctl.stores.contracts.messages import TableKeys
from saltctl.stores.export.database import open_database
from saltctl.stores.export.files import ExportFiles, open_files, read_file

KEYS = TableKeys("conversation_id", "sort_key", "S")
Discover = Callable[..., list[Event]]


def empty_backup() -> Any:
    """Return a backup without an entry."""
    return SimpleNamespace(get_many=lambda ids: {})


@pytest.fixture
def discover(tmp_path: Path) -> Discover:
    """``discover(export)`` returns the events; the last one is the discovery. The checkpoint is that of the test."""

    def run(
        export: Path | ExportFiles,
        *,
        keys: TableKeys = KEYS,
        attribute: str | None = None,
        checkpoint: Path = tmp_path / "checkpoint",
        restart: bool = False,
        seen: list[Event] | None = None,
    ) -> list[Event]:
        files = open_files(str(export), Settings()) if isinstance(export, Path) else export
        manifest = read_manifest(lambda name, most: read_file(files, name, most), files.where)
        message_id = partial(message_id_of, keys=keys, attribute=attribute)
        events = [] if seen is None else seen
        with open_database(checkpoint, scope_of(manifest, keys, attribute), restart=restart) as database:
            job = ExportDiscovery(files, manifest, database, keys, message_id, attribute)
            events += job.run(empty_backup(), cap=256, any_salting=False)
        return events

    return run


def discovery(events: list[Event]) -> Discovery:
    """Return the result."""
    assert isinstance(events[-1], Discovery)
    return events[-1]


def damaged(events: list[Event]) -> dict[str, str]:
    """Return the problem of each damaged file."""
    return {event.name: event.problem for event in events if isinstance(event, DamagedFile)}
