"""The logs of a run: each process writes its operations to its own file; together they are the history of the run.

An operation without a logged end, because its process was killed, may still have happened: its outcome is "maybe".
Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
"""

from __future__ import annotations

import json
import os
import time
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import Any, Literal

from saltctl.canary.operations import BackupLoss, LookupAnswer, Operations, Put, RaiseAttempt, Read, Sample


@dataclass
class RunHistory(Operations):
    """All logs of a run. ``notes`` counts everything except operations, by kind and detail: errors, kills, faults."""

    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def operations(self) -> dict[str, int]:
        """The number of operations of each kind. "maybe" counts puts and raises that were not acknowledged."""
        return {
            "puts": sum(put.acknowledged for put in self.puts),
            "puts, maybe": sum(not put.acknowledged for put in self.puts),
            "reads": len(self.reads),
            "lookups": len(self.lookups),
            "raises": sum(attempt.acknowledged for attempt in self.raises),
            "raises, maybe": sum(not attempt.acknowledged for attempt in self.raises),
            "samples": len(self.samples),
        }

    def notes_of(self, kind: str) -> dict[str, int]:
        """Return the notes of one kind with their counts, the most frequent first."""
        found = Counter({detail: number for (of, detail), number in self.notes.items() if of == kind})
        return dict(found.most_common())


class Log:
    """The log file of one process.

    Each line is one write(2), so that SIGKILL leaves whole lines, even if several processes share the file.
    """

    def __init__(self, directory: Path, process: str) -> None:
        self.process = process
        self.directory = directory
        self._file = os.open(directory / f"{process}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def begin(self, kind: Literal["put", "raise"], conversation: str, value: Any) -> str:
        """Log the start of an operation that changes data; return the id to pass to ``end``."""
        number = f"{os.getpid()}:{time.monotonic_ns()}"
        self._write(number=number, kind=kind, conversation=conversation, began=time.monotonic(), value=value)
        return number

    def end(self, number: str, *, acknowledged: bool, value: Any = None) -> None:
        """Log the end of an operation. If it is not acknowledged, it may have happened."""
        self._write(number=number, ended=time.monotonic(), acknowledged=acknowledged, result=value)

    def observe(self, kind: Literal["read", "lookup", "sample"], conversation: str, began: float, value: Any) -> None:
        """Log the result of an operation that changes nothing and has just ended."""
        self._write(kind=kind, conversation=conversation, began=began, ended=time.monotonic(), value=value)

    def loss(self, began: float, kept: float, *, both: bool) -> None:
        """Log a loss of the backup table that has just ended: see :class:`BackupLoss`."""
        self._write(loss=[began, time.monotonic(), kept, both])

    def note(self, kind: str, detail: str) -> None:
        """Log another event."""
        self._write(note=kind, detail=detail, at=time.monotonic())

    def _write(self, **line: Any) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read_logs(directory: Path) -> RunHistory:
    """Read all logs of a run, also while the run is in progress."""
    history = RunHistory()
    for file in sorted(directory.glob("*.jsonl")):
        with file.open() as lines:
            # A process may be in the middle of writing the last line.
            _add(history, file.stem, (json.loads(line) for line in lines if line.endswith("\n")))
    return history


def _add(history: RunHistory, process: str, lines: Iterable[dict[str, Any]]) -> None:
    unfinished: dict[str, dict[str, Any]] = {}
    for line in lines:
        if "note" in line:
            history.notes[line["note"], line["detail"]] += 1
        elif "loss" in line:
            history.losses.append(BackupLoss(*line["loss"]))
        elif "number" not in line:
            _add_observation(history, process, line)
        elif "kind" in line:
            unfinished[line["number"]] = line
        else:
            _add_change(history, process, {**unfinished.pop(line["number"]), **line})
    for line in unfinished.values():
        _add_change(history, process, {**line, "ended": inf, "acknowledged": False, "result": None})


def _add_observation(history: RunHistory, process: str, line: dict[str, Any]) -> None:
    common = (process, line["conversation"], line["began"], line["ended"])
    value: Sequence[Any] = line["value"]
    if line["kind"] == "read":
        history.reads.append(Read(*common, tuple(value)))
    elif line["kind"] == "lookup":
        history.lookups.append(LookupAnswer(*common, *value))
    else:
        history.samples.append(Sample(*common, value[0], value[1], tuple(value[2]), value[3]))


def _add_change(history: RunHistory, process: str, line: dict[str, Any]) -> None:
    common = (process, line["conversation"], line["began"], line["ended"])
    value, acknowledged = line["value"], line["acknowledged"]
    if line["kind"] == "put":
        history.puts.append(Put(*common, value, acknowledged, line["result"] or 1))
    else:
        history.raises.append(RaiseAttempt(*common, value, line["result"] or value, acknowledged))
