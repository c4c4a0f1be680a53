"""An export of ten million items: the memory does not grow with it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest


@pytest.mark.long
@pytest.mark.exhaustive
@pytest.mark.timeout(1800)
def test_ten_million_items_in_bounded_memory(tmp_path: Path) -> None:
    """Each in a process of its own, whose peak is its own: a tenth of it takes almost as much memory."""
    peaks = []
    for items in (1_000_000, 10_000_000):
        words = [
            sys.executable,
            "-m",
            "tests.registry.export.large_export",
            str(tmp_path / str(items) / "e"),
            str(items),
        ]
        report = json.loads(subprocess.run(words, capture_output=True, text=True, check=True).stdout)
        assert (report["items"], report["behind"]) == (items, 2000)
        peaks.append(report["peak_mib"])
    assert peaks[1] < peaks[0] * 1.3
    assert peaks[1] < 600
