"""The logs of a run hold what the processes wrote."""

from __future__ import annotations

from math import inf
from pathlib import Path

from tests.checker.log import Log, read_logs


def test_logs_are_read_as_they_were_written(tmp_path: Path) -> None:
    """An operation without an end may have happened; an unfinished line is ignored."""
    log = Log(tmp_path, "w1")
    log.end(log.begin("put", "conv", "a"), acknowledged=True, value=8)
    log.begin("put", "conv", "b")
    log.end(log.begin("raise", "conv", 4), acknowledged=True, value=8)
    log.end(log.begin("raise", "conv", 16), acknowledged=False)
    log.observe("lookup", "conv", 0.0, [4, None, "redis"])
    log.observe("read", "conv", 0.0, ["a"])
    log.observe("sample", "conv", 0.0, [8, 4, [8], False])
    log.note("error", "throttled")
    log.loss(1.0, 0.5, both=True)
    with (tmp_path / "w1.jsonl").open("a") as file:
        file.write('{"kind": "read"')
    history = read_logs(tmp_path)
    assert [(one.message, one.acknowledged, one.ended < inf, one.needed_n) for one in history.puts] == [
        ("a", True, True, 8),
        ("b", False, False, 1),
    ]
    assert [(one.began, one.kept, one.both) for one in history.losses] == [(1.0, 0.5, True)]
    assert [(one.n, one.after, one.acknowledged) for one in history.raises] == [(4, 8, True), (16, 16, False)]
    assert [one[4:] for one in history.lookups] == [(4, None, "redis")]
    assert [one.messages for one in history.reads] == [("a",)]
    assert [one[4:] for one in history.samples] == [(8, 4, (8,), False)]
    assert history.notes_of("error") == {"throttled": 1}
    assert sum(history.operations.values()) == 7
