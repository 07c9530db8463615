"""ARCHITECTURE.md names what there is: rooms, files, and names in them."""

from __future__ import annotations

import ast
import re

import pytest

from tests.helpers.paths import ROOT
from tests.helpers.rooms import ROOMS

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")


def places() -> list[tuple[str, str | None]]:
    """Each file that the page names, and the name in it where it gives one."""
    found = re.findall(r"`((?:[a-z_]+/)+[a-z_0-9]+\.(?:py|md))`(?:: `(\w+)`)?", TEXT)
    return sorted({(path, name or None) for path, name in found}, key=str)


def test_the_page_names_files() -> None:
    assert len(places()) > 30


@pytest.mark.parametrize(("path", "name"), places())
def test_what_the_page_names_is_there(path: str, name: str | None) -> None:
    file = next((folder / path for folder in (ROOT, ROOT / "qa_lightning") if (folder / path).is_file()), None)
    assert file is not None, f"ARCHITECTURE.md names {path}, which is not there"
    if name is not None:
        defined = {getattr(node, "name", None) for node in ast.parse(file.read_text(encoding="utf-8")).body}
        assert name in defined, f"ARCHITECTURE.md names {name} in {path}, which does not define it"


def test_the_page_lists_the_rooms_in_their_order() -> None:
    line = next(line for line in TEXT.splitlines() if line.strip().startswith(ROOMS[0]))
    assert line.replace("|", " ").split() == list(ROOMS)


def test_the_page_names_classes_and_functions_that_exist() -> None:
    words = set(re.findall(r"`([A-Z][a-z]+[A-Z]?\w*)`", TEXT))
    known = {
        node.name
        for file in (ROOT / "qa_lightning").rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, (ast.ClassDef, ast.FunctionDef))
    }
    assert words - known - {"DistributedSampler"} == set()
