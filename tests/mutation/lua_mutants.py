"""Mutants of a Lua script: changed comparisons, conditions and numbers, and deleted statements."""

from __future__ import annotations

import re
from collections.abc import Iterator

from tests.mutation.mutant import Mutant

_SWAPS = {" == ": " ~= ", " ~= ": " == ", " < ": " <= ", " > ": " >= ", " and ": " or ", " or ": " and ", "not ": ""}
_STATEMENT = re.compile(r"redis\.call\(|return redis\.error_reply\(|[a-z]+(\[.*\])? = |return held")
_CONDITION = re.compile(r"\bif (.*) then$")
_STRING = re.compile(r"'[^']*'")
_NUMBER = re.compile(r"(?<![\w%])\d+")


def lua_mutants(path: str, source: str) -> Iterator[Mutant]:
    """Yield the mutants of a script, in the order of its lines. Comments and strings stay as they are."""
    lines = source.splitlines(keepends=True)
    for number, line in enumerate(lines):
        code = line.split("--")[0].rstrip() if "'" not in line.split("--")[0] else line.rstrip()
        if not code or code.startswith("#!"):
            continue
        for changed in _changes(code):
            text = "".join([*lines[:number], changed + "\n", *lines[number + 1 :]])
            yield Mutant(path, number + 1, "script", code, changed, text)


def _changes(code: str) -> Iterator[str]:
    hidden = _STRING.sub(lambda found: "'" + "_" * (len(found[0]) - 2) + "'", code)
    for old, new in _SWAPS.items():
        for found in re.finditer(re.escape(old), hidden):
            yield code[: found.start()] + new + code[found.end() :]
    for found in _NUMBER.finditer(hidden):
        yield f"{code[: found.start()]}{int(found[0]) + 1}{code[found.end() :]}"
    if condition := _CONDITION.search(hidden):
        start, end = condition.span(1)
        yield f"{code[:start]}not ({code[start:end]}){code[end:]}"
    statement = code.strip()
    if _STATEMENT.match(statement):
        yield code.replace(statement, "")
