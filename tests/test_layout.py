"""The layout of the package: what a module may import, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import saltctl

ROOT = Path(saltctl.__file__).parent
MODULES = {str(path.relative_to(ROOT)): path for path in sorted(ROOT.rglob("*.py"))}
LAZY = {"__init__.py", "cli/app.py"}
"""The modules that import others by name: public names and commands are loaded when they are used."""


def _imported(path: Path) -> Iterator[str]:
    """Yield the absolute names that a module imports, inside functions as well."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize("name", sorted(MODULES.keys() - LAZY))
def test_imports_are_statements(name: str) -> None:
    """Imports by name hide arrows of the layout; only the two lazy modules use them."""
    source = MODULES[name].read_text(encoding="utf-8")
    assert "import_module" not in source
    assert "__import__" not in source


@pytest.mark.parametrize("name", [name for name in MODULES if not name.startswith("cli/")])
def test_only_the_command_line_knows_a_terminal(name: str) -> None:
    """Operations return or yield values; only ``cli`` imports typer or rich."""
    assert not [found for found in _imported(MODULES[name]) if found.split(".")[0] in ("typer", "rich")]


def test_no_command_imports_the_main_module() -> None:
    """main.py imports the commands by way of app.py: an import back would be a circle."""
    importers = {name for name, path in MODULES.items() if any("saltctl.cli.main" in n for n in _imported(path))}
    assert importers == {"__main__.py"}
