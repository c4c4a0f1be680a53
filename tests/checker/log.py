"""What each process saw, one line an event, in a file of its own; and all of it together as a history.

An operation whose end is not on record, since its process was killed, may still have happened: its outcome is
"maybe". Times are seconds of CLOCK_MONOTONIC, which all processes of a machine share.
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
from typing import Any, Literal, NamedTuple

Source = Literal["redis", "backup"]


class Put(NamedTuple):
    """A message written, or perhaps written."""

    who: str
    conversation: str
    began: float
    ended: float
    message: str
    acknowledged: bool


class Read(NamedTuple):
    """A complete read of a history. What failed, or said that it was incomplete, is no read."""

    who: str
    conversation: str
    began: float
    ended: float
    messages: tuple[str, ...]


class Looked(NamedTuple):
    """A lookup that was answered. ``write_n`` is None where only max_n was learned."""

    who: str
    conversation: str
    began: float
    ended: float
    max_n: int
    write_n: int | None
    source: Source


class Raised(NamedTuple):
    """A raise to ``n``, or perhaps none. Acknowledged, everybody covers ``after``, which is n or more."""

    who: str
    conversation: str
    began: float
    ended: float
    n: int
    after: int
    acknowledged: bool


class Sample(NamedTuple):
    """An item of the backup, read strongly consistently; ``raises`` are the N of its records, in order."""

    who: str
    conversation: str
    began: float
    ended: float
    max_n: int
    write_n: int
    raises: tuple[int, ...]


@dataclass
class History:
    """Everything that was written down. ``notes`` counts what is no operation: errors, deaths, faults, by kind."""

    puts: list[Put] = field(default_factory=list)
    reads: list[Read] = field(default_factory=list)
    lookups: list[Looked] = field(default_factory=list)
    raises: list[Raised] = field(default_factory=list)
    samples: list[Sample] = field(default_factory=list)
    notes: Counter[tuple[str, str]] = field(default_factory=Counter)

    @property
    def operations(self) -> dict[str, int]:
        """How many of each kind; of puts and raises, those that were acknowledged and those that may have happened."""
        return {
            "puts": sum(put.acknowledged for put in self.puts),
            "puts, maybe": sum(not put.acknowledged for put in self.puts),
            "reads": len(self.reads),
            "lookups": len(self.lookups),
            "raises": sum(made.acknowledged for made in self.raises),
            "raises, maybe": sum(not made.acknowledged for made in self.raises),
            "samples": len(self.samples),
        }

    def noted(self, kind: str) -> dict[str, int]:
        """The notes of one kind, the commonest first."""
        found = Counter({detail: number for (of, detail), number in self.notes.items() if of == kind})
        return dict(found.most_common())


class Log:
    """Where one process writes. A line is one write(2), so that SIGKILL leaves whole lines, also of several writers."""

    def __init__(self, directory: Path, who: str) -> None:
        self.who = who
        self.directory = directory
        self._file = os.open(directory / f"{who}.jsonl", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def begin(self, kind: Literal["put", "raise"], conversation: str, value: Any) -> str:
        """An operation begins that changes something; what it is called at its end."""
        number = f"{os.getpid()}:{time.monotonic_ns()}"
        self._write(number=number, kind=kind, conversation=conversation, began=time.monotonic(), value=value)
        return number

    def end(self, number: str, *, acknowledged: bool, value: Any = None) -> None:
        """It ended. Where it is not acknowledged it may have happened."""
        self._write(number=number, ended=time.monotonic(), acknowledged=acknowledged, result=value)

    def saw(self, kind: Literal["read", "lookup", "sample"], conversation: str, began: float, value: Any) -> None:
        """An operation that changes nothing has ended now with this."""
        self._write(kind=kind, conversation=conversation, began=began, ended=time.monotonic(), value=value)

    def note(self, kind: str, detail: str) -> None:
        """Something else happened."""
        self._write(note=kind, detail=detail, at=time.monotonic())

    def _write(self, **line: Any) -> None:
        os.write(self._file, json.dumps(line).encode() + b"\n")


def read_logs(directory: Path) -> History:
    """All that is on record so far."""
    history = History()
    for file in sorted(directory.glob("*.jsonl")):
        with file.open() as lines:
            # The last line may be half there while its process is at it.
            _add(history, file.stem, (json.loads(line) for line in lines if line.endswith("\n")))
    return history


def _add(history: History, who: str, lines: Iterable[dict[str, Any]]) -> None:
    begun: dict[str, dict[str, Any]] = {}
    for line in lines:
        if "note" in line:
            history.notes[line["note"], line["detail"]] += 1
        elif "number" not in line:
            _add_seen(history, who, line)
        elif "kind" in line:
            begun[line["number"]] = line
        else:
            _add_changed(history, who, {**begun.pop(line["number"]), **line})
    for line in begun.values():
        _add_changed(history, who, {**line, "ended": inf, "acknowledged": False, "result": None})


def _add_seen(history: History, who: str, line: dict[str, Any]) -> None:
    of = (who, line["conversation"], line["began"], line["ended"])
    value: Sequence[Any] = line["value"]
    if line["kind"] == "read":
        history.reads.append(Read(*of, tuple(value)))
    elif line["kind"] == "lookup":
        history.lookups.append(Looked(*of, *value))
    else:
        history.samples.append(Sample(*of, value[0], value[1], tuple(value[2])))


def _add_changed(history: History, who: str, line: dict[str, Any]) -> None:
    of = (who, line["conversation"], line["began"], line["ended"])
    value, acknowledged = line["value"], line["acknowledged"]
    if line["kind"] == "put":
        history.puts.append(Put(*of, value, acknowledged))
    else:
        history.raises.append(Raised(*of, value, line["result"] or value, acknowledged))
