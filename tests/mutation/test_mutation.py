"""The mutation run: which changes it makes, and that it tells a test that notices one from a test that does not."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from tests.mutation.lua_mutants import lua_mutants
from tests.mutation.mutant import Mutant
from tests.mutation.python_mutants import python_mutants
from tests.mutation.run import BaselineError, Copy, run
from tests.mutation.survivors import known_survivors
from tests.mutation.targets import ROOT, TARGETS, Target


def changes(source: str) -> set[str]:
    """Return the changes that are made in a Python source, as ``before -> after``."""
    mutants = python_mutants("m.py", textwrap.dedent(source))
    return {mutant.key.removeprefix("m.py ").partition(": ")[2] for mutant in mutants}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def f(a, b):\n    return a < b", {"a < b -> a <= b", "a < b -> not a < b"}),
        ("def f(a):\n    return a is None", {"a is None -> a is not None"}),
        ("def f(a, b):\n    return a and b", {"a and b -> b", "a and b -> a"}),
        ("def f(a):\n    while a: g()", {"a -> not (a)", "g() -> pass"}),
        ("def f():\n    return g(consistent=True)", {"g(consistent=True) -> g()", "True -> False"}),
        (
            "def f(t):\n    return {'ConsistentRead': True, 'T': t}",
            {
                "{'ConsistentRead': True, 'T': t} -> {'T': t}",
                "{'ConsistentRead': True, 'T': t} -> {'ConsistentRead': True}",
                "True -> False",
            },
        ),
        ("def f(a):\n    if not a:\n        raise E('x')", {"not a -> a", "raise E('x') -> pass"}),
        ("def f(a):\n    self.b = a\n    c = a", {"self.b = a -> pass"}),
        ("def f(a):\n    with suppress(E):\n        a.b()", {"suppress(E) -> suppress()", "a.b() -> pass"}),
        (
            "C = 'n >= :n AND a < :b'",
            {f"'n >= :n AND a < :b' -> '{left}'" for left in ("a < :b", "n >= :n", "n > :n AND a < :b")}
            | {"'n >= :n AND a < :b' -> 'n >= :n AND a <= :b'"},
        ),
    ],
)
def test_a_place_is_changed_in_each_way(source: str, expected: set[str]) -> None:
    """Comparisons, conditions, flags, arguments, keys, statements, handlers, and expressions of DynamoDB."""
    assert changes(source) == expected


def test_messages_and_declarations_stay() -> None:
    """No part of the promise depends on log events, counters, hints, annotations, and sizes at the top of a module."""
    source = """
        SIZE = 100
        def f(a: int = 7, *, b: "x" = None) -> list[3]:
            '''Docstring 1.'''
            log_event(INFO, "done", count=1)
            self.counters.raised += 1
            raise SomeError(f"{a + 1}", hint="x" * 2)
    """
    assert changes(source) == {"7 -> 8", 'raise SomeError(f"{a + 1}", hint="x" * 2) -> pass'}


def test_a_mutant_is_the_whole_file_with_one_change() -> None:
    """With characters of several bytes before the change, and a name that no other line changes."""
    source = 'NAME = "é…"\n\nclass C:\n    def f(self, a):\n        return "ü", a == 1\n'
    found = {mutant.key: mutant for mutant in python_mutants("m.py", source)}
    mutant = found["m.py C.f: a == 1 -> a != 1"]
    assert (mutant.line, mutant.source) == (5, source.replace("a == 1", "(a != 1)"))
    moved = python_mutants("m.py", "# a comment\n" + source)
    assert {mutant.key for mutant in moved} == found.keys()


def test_a_script_is_changed_in_each_way() -> None:
    """Comparisons, conditions, numbers and statements, but no comments and no strings."""
    source = textwrap.dedent("""\
        #!lua
        -- 1 == 2
        if a == ARGV[1] and b then  -- c < d
          redis.call('HSET', key, 'x == 1', 2)
        end
    """)
    changed = {(mutant.line, mutant.after.strip()) for mutant in lua_mutants("s.lua", source)}
    assert changed == {
        (3, "if a ~= ARGV[1] and b then"),
        (3, "if a == ARGV[1] or b then"),
        (3, "if a == ARGV[2] and b then"),
        (3, "if not (a == ARGV[1] and b) then"),
        (4, "redis.call('HSET', key, 'x == 1', 3)"),
        (4, ""),
    }


def test_targets_and_known_survivors_exist() -> None:
    """Each target names a module and tests; each known survivor belongs to a target and has a reason."""
    paths = {target.path for target in TARGETS}
    assert len(paths) == len(TARGETS)
    for target in TARGETS:
        assert all((ROOT / path).exists() for path in (target.path, *target.tests)), target
    for key, reason in known_survivors().items():
        assert key.partition(" ")[0] in paths, key
        assert reason.endswith("."), key


@pytest.mark.slow
def test_a_mutant_survives_only_if_no_test_notices_it(tmp_path: Path) -> None:
    """Two mutants of one function, of which the tests of the target notice one; the tree itself stays as it is."""
    path = "saltctl/salting.py"
    source = (ROOT / path).read_text(encoding="utf-8")
    (noticed,) = (m for m in python_mutants(path, source) if m.key.endswith("is_power_of_two: n > 0 -> n >= 0"))
    harmless = Mutant(path, 1, "module", "", "", source + "\nUNUSED = 1\n")
    target = Target(path, ("tests/test_salting.py",), "one_bit")
    copies = [Copy(tmp_path / "copy")]
    outcomes = list(run(target, [harmless, noticed, harmless], copies, ["not long"]))
    assert [outcome.killed_by for outcome in outcomes][::2] == ["", ""]
    assert outcomes[1].killed_by == "tests/test_salting.py::test_a_power_of_two_has_one_bit"
    assert (
        (ROOT / path).read_text(encoding="utf-8") == source == (copies[0].directory / path).read_text(encoding="utf-8")
    )
    copies[0].write(path, noticed.source)
    with pytest.raises(BaselineError, match="fail without a mutation: tests/test_salting"):
        list(run(target, [harmless], copies, ["not long"]))
