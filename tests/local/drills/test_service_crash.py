"""The drill ``service-crash`` passes, and fails if raises are lost."""

from __future__ import annotations

import pytest

from saltctl.local.drills import service_crash
from saltctl.salting import needed_n

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


@pytest.mark.long
@pytest.mark.exhaustive  # the gate runs the README's `saltctl drill`, where all drills have to pass
def test_the_drill_passes() -> None:
    """Killed alone and all together, the service loses no raise and does none twice, and replay does the same."""
    steps = list(service_crash.run())
    assert [(step.what, step.detail) for step in steps if not step.ok] == []
    assert any("NOT detected" in step.what for step in steps)
    assert any("stream replay" in step.what for step in steps)
    kinds = {line.split()[2] for line in steps[-1].detail.splitlines()}
    assert kinds >= {"heat", "raise", "unverified", "verified", "service-started"}


def test_the_drill_fails_if_the_service_decides_wrongly() -> None:
    """If conversations need more than they get, the drill fails: a drill that cannot fail shows nothing."""
    steps = []
    for step in service_crash.run(needed=lambda rate, per_salt, cap: 2 * needed_n(rate, per_salt, cap), step_seconds=4):
        steps.append(step)
        if not step.ok:
            break
    assert not steps[-1].ok
    assert "lost" in steps[-1].detail
