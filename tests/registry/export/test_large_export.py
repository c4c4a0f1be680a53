"""An export of ten million items: the memory does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.registry.export import large_export

ITEMS = 10_000_000
MOST_MIB = 350
"""DuckDB's limit is 256 MB; the interpreter and its libraries take about 80."""


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_ten_million_items_in_bounded_memory(tmp_path: Path) -> None:
    """In a process of its own, whose peak is its own."""
    words = [sys.executable, "-m", large_export.__name__, str(tmp_path / "export"), str(ITEMS)]
    report = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
    assert (report["items"], report["behind"]) == (ITEMS, 2000)
    assert report["peak_mib"] < MOST_MIB
