"""The drill ``service-crash`` passes, and fails where raises are lost."""

from __future__ import annotations

import pytest

from saltctl.local.drills import service_crash
from saltctl.salting import needed_n


@pytest.mark.timeout(400)
def test_the_drill_passes() -> None:
    """Killed alone and all together, the service loses no raise and does none twice, and replay does the same."""
    steps = list(service_crash.run())
    assert [(step.what, step.detail) for step in steps if not step.ok] == []
    assert any("NOT detected" in step.what for step in steps)
    assert any("stream replay" in step.what for step in steps)


@pytest.mark.timeout(400)
def test_the_drill_fails_where_the_service_decides_wrongly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where conversations need more than they get, the drill says so: a drill that cannot fail shows nothing."""
    monkeypatch.setattr(service_crash, "needed_n", lambda rate, per_salt, cap: 2 * needed_n(rate, per_salt, cap))
    steps = []
    for step in service_crash.run():
        steps.append(step)
        monkeypatch.setattr(service_crash, "WAIT", 4.0)  # once the instances run, however long that took
        if not step.ok:
            break
    assert not steps[-1].ok
    assert "lost" in steps[-1].detail
