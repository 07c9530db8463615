"""What tests share stands in tests/helpers/, and fixtures in a conftest.py: no module imports a test module."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.paths import ROOT

TESTS = ROOT / "tests"


def imported(path: Path) -> Iterator[tuple[int, str]]:
    """Line and dotted name of each import, wherever it stands in the file; relative ones begin with a point."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            source = "." * node.level + (node.module or "")
            yield from ((node.lineno, f"{source}.{alias.name}") for alias in node.names)


def test_no_test_module_is_imported() -> None:
    modules = {path.stem for path in TESTS.rglob("*.py") if path.stem.startswith("test_") or path.stem == "conftest"}
    wrong = [
        f"{path.relative_to(ROOT)}:{line} imports {name}"
        for path in sorted(TESTS.rglob("*.py"))
        for line, name in imported(path)
        if modules & set(name.split("."))
    ]
    assert not wrong, "\n".join([*wrong, "move what they share into tests/helpers/"])
