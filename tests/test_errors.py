"""The tree of errors, as the docstring of its module draws it."""

from __future__ import annotations

import pickle
import re
from copy import copy
from typing import Any

import pytest

import saltctl.errors
from saltctl.errors import HistoryUnavailableError, RaiseIncompleteError, SaltctlError


def subclasses(root: type[SaltctlError]) -> list[type[SaltctlError]]:
    """Return the class and all of its subclasses."""
    return [root, *(found for child in root.__subclasses__() for found in subclasses(child))]


EVERY_ERROR = subclasses(SaltctlError)


def drawn_tree() -> dict[str, tuple[str | None, int]]:
    """Parse the docstring: class name → (parent's name, exit code). A class without a number inherits the code."""
    tree: dict[str, tuple[str | None, int]] = {}
    path: list[str] = []
    for line in (saltctl.errors.__doc__ or "").splitlines():
        drawn = re.fullmatch(r"    ((?:│   |    )*(?:├── |└── )?)(\w+Error)\b *(\d+)?(?: .*)?", line)
        if drawn is None:
            continue
        depth = len(drawn[1]) // 4
        del path[depth:]
        parent = path[-1] if path else None
        inherited = tree[parent][1] if parent is not None else None
        code = int(drawn[3]) if drawn[3] else inherited
        assert code is not None, line
        tree[drawn[2]] = parent, code
        path.append(drawn[2])
    return tree


def test_the_drawn_tree_is_the_real_one() -> None:
    """Every class, its parent and its exit code are in the docstring as they are in the code."""
    real = {
        error.__name__: (
            None if error is SaltctlError else error.__base__.__name__ if error.__base__ else None,
            error.exit_code,
        )
        for error in EVERY_ERROR
    }
    assert drawn_tree() == real


def test_every_error_has_a_code_of_its_own() -> None:
    """Scripts distinguish errors by ``code``: each class has a different one."""
    codes = [error.code for error in EVERY_ERROR]
    assert len(set(codes)) == len(codes)
    assert all(re.fullmatch(r"[a-z_]+", code) for code in codes)


@pytest.mark.parametrize("error", EVERY_ERROR, ids=lambda error: error.__name__)
def test_an_error_has_a_message_and_a_hint(error: type[SaltctlError]) -> None:
    """They are separate attributes, and a traceback shows the message."""
    more: dict[str, object] = {}
    if issubclass(error, RaiseIncompleteError):
        more = {"step": "backup"}
    elif issubclass(error, HistoryUnavailableError):
        more = {"partitions": {}}
    made = error("it failed", hint="do this", **more)
    assert (made.message, made.hint, str(made)) == ("it failed", "do this", "it failed")
    assert error.__doc__


@pytest.mark.parametrize("error", EVERY_ERROR)
def test_an_error_can_be_pickled_and_copied(error: type[SaltctlError]) -> None:
    """A pool of processes hangs, or ends, if it cannot read the exception of a worker."""
    more: dict[type[SaltctlError], dict[str, Any]]
    more = {
        RaiseIncompleteError: {"step": "backup"},
        HistoryUnavailableError: {"partitions": {"c#1": SaltctlError("x")}},
    }
    original = error("it failed", hint="do this", **more.get(error, {}))
    for again in (pickle.loads(pickle.dumps(original)), copy(original)):  # noqa: S301
        assert type(again) is error
        assert str(again) == "it failed"
        assert vars(again).keys() == vars(original).keys()
        assert (again.hint, getattr(again, "step", "")) == ("do this", getattr(original, "step", ""))


def test_a_hint_may_be_missing() -> None:
    """It is empty then."""
    assert SaltctlError("it failed").hint == ""


def test_with_hint_copies_the_error() -> None:
    """Class, message and other attributes are kept; the original keeps its hint."""
    original = RaiseIncompleteError("stopped", step="backup", hint="old")
    copied = original.with_hint("new")
    assert type(copied) is RaiseIncompleteError
    assert (str(copied), copied.message, copied.step, copied.hint) == ("stopped", "stopped", "backup", "new")
    assert original.hint == "old"
