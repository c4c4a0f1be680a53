"""Values of options that several commands have."""

from __future__ import annotations

import pytest
import typer

from saltctl.cli.option import parse_seconds


def test_durations_of_options() -> None:
    """A default is passed on as a number; a bad duration is a usage error that names the formats."""
    assert parse_seconds(1.5) == 1.5
    assert parse_seconds("2m") == 120
    with pytest.raises(typer.BadParameter, match="90s, 15m or 2h"):
        parse_seconds("soon")
