"""The layout of the package: which way imports point, and how many modules a folder holds."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import saltctl
import saltctl.aio
import saltctl.testing

PACKAGE = Path(saltctl.__file__).parent
ROOT = PACKAGE.parent
LAZY = {"__init__.py", "aio/__init__.py", "cli/app.py"}
"""The modules that import others by name: public names and commands are loaded when they are used."""
TYPES = PACKAGE / "stores" / "contracts"
"""Declarations alone: the tests of each store hold it to them."""
MOST_MODULES = 11
"""Modules in one folder, its ``__init__`` not counted: as many as a reader takes in at a glance."""


def test_imports_point_one_way() -> None:
    """Every contract of ``[tool.importlinter]`` in pyproject.toml holds; a broken one is printed with its imports."""
    linter = Path(sys.executable).with_name("lint-imports")
    done = subprocess.run([linter, "--no-cache"], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Contracts: 4 kept, 0 broken." in done.stdout


def test_imports_are_statements() -> None:
    """Imports by name are hidden from import-linter; only the lazy modules use them."""
    names = {
        (path.relative_to(PACKAGE).as_posix(), getattr(node, "id", getattr(node, "attr", "")))
        for path in PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Name | ast.Attribute)
    }
    assert {path for path, name in names if name in ("import_module", "__import__")} == LAZY


def test_no_command_imports_the_main_module() -> None:
    """main.py loads the commands through app.py, by name: an import back would be a hidden circle."""
    for path in (PACKAGE / "cli").rglob("*.py"):
        if path.name not in ("main.py", "app.py"):
            source = path.read_text(encoding="utf-8")
            assert "saltctl.cli.main" not in source, path
            assert "saltctl.cli.app" not in source, path


def test_programs_that_use_the_package_see_its_types() -> None:
    """The marker of PEP 561 is in the package, and the wheel has all of the package."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    assert "Typing :: Typed" in project["project"]["classifiers"]
    assert (PACKAGE / "py.typed").is_file()
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    assert wheel["packages"] == ["saltctl"]
    assert not {"include", "exclude", "only-include"} & wheel.keys()


def test_a_name_that_does_not_exist_is_refused() -> None:
    """By the lazy modules, and by type checkers: mypy reports an ignore that ignores nothing."""
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = saltctl.Regsitry  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = saltctl.aio.Histroy  # type: ignore[attr-defined]
    with pytest.raises(AttributeError, match="has no attribute"):
        _ = saltctl.testing.MemoryServer  # type: ignore[attr-defined]


def test_no_folder_is_crowded() -> None:
    """A folder that outgrows the limit is split."""
    for folder in {path.parent for path in PACKAGE.rglob("*.py")}:
        modules = [path.name for path in folder.glob("*.py") if path.name != "__init__.py"]
        assert len(modules) <= MOST_MODULES, folder


def test_tests_mirror_the_packages() -> None:
    """Each package has tests under its name, a folder or a module, so that they are found without a search."""
    for folder in {path.parent for path in PACKAGE.rglob("*.py")} - {TYPES}:
        tests = ROOT / "tests" / folder.relative_to(PACKAGE)
        found = [*tests.glob("test_*.py"), *tests.parent.glob(f"test_{folder.name}.py")]
        assert found, f"{tests.relative_to(ROOT)} has no tests"
