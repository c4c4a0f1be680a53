"""The layout of the package: what a module may import, read from the sources."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import saltctl

ROOT = Path(saltctl.__file__).parent
LAZY = {"__init__.py", "cli/app.py"}
"""The modules that import others by name: public names and commands are loaded when they are used."""


def sources() -> Iterator[tuple[str, str]]:
    """Yield the path of each module in the package, and its source."""
    for path in sorted(ROOT.rglob("*.py")):
        yield path.relative_to(ROOT).as_posix(), path.read_text(encoding="utf-8")


def imported(source: str) -> Iterator[str]:
    """Yield the absolute names that a module imports, inside functions as well."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_imports_are_statements() -> None:
    """Imports by name hide arrows of the layout; only the two lazy modules use them."""
    by_name = {name for name, source in sources() if "import_module" in source or "__import__" in source}
    assert by_name == LAZY


def test_only_the_command_line_knows_a_terminal() -> None:
    """Operations return or yield values; only ``cli`` imports typer or rich."""
    for name, source in sources():
        if not name.startswith("cli/"):
            assert not [found for found in imported(source) if found.split(".")[0] in ("typer", "rich")], name


def test_only_stores_import_drivers() -> None:
    """Only ``stores`` imports redis or boto3, so that errors of drivers are translated in one place."""
    for name, source in sources():
        if not name.startswith("stores/"):
            drivers = ("redis", "hiredis", "boto3", "botocore")
            assert not [found for found in imported(source) if found.split(".")[0] in drivers], name


def test_no_command_imports_the_main_module() -> None:
    """main.py imports the commands by way of app.py: an import back would be a circle."""
    importers = {name for name, source in sources() if any("saltctl.cli.main" in found for found in imported(source))}
    assert importers == {"__main__.py"}
