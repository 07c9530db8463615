"""The rooms of the package: which exist, which may import which, and that each public name has one place.

Every import of every file counts: at the top, inside functions, and under ``TYPE_CHECKING``.
"""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

from tests.helpers.paths import ROOT
from tests.helpers.rooms import ROOMS

PACKAGE = ROOT / "qa_lightning"

MAX_FILES = 10  # in a room, without its __init__.py: what a person takes in at a glance


def modules() -> dict[str, Path]:
    """Dotted name, without the package's own, of each file -> the file."""
    found = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return found


def room_of(module: str) -> str:
    """The most specific room that a module lies in; empty for ``qa_lightning`` itself."""
    rooms = [room for room in ROOMS if module == room or module.startswith(f"{room}.")]
    return max(rooms, key=len, default="")


def imports(module: str, path: Path, known: dict[str, Path]) -> Iterator[tuple[int, str]]:
    """Line and module of each import from the package, wherever it stands in the file."""
    package = ["qa_lightning", *module.split(".")] if module else ["qa_lightning"]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = ".".join(package[: len(package) - node.level + 1]) if node.level else ""
            source = ".".join(filter(None, [base, node.module]))
            names = [f"{source}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            if name == "qa_lightning" or name.startswith("qa_lightning."):
                inner = name.removeprefix("qa_lightning").removeprefix(".")
                while inner not in known:
                    inner = inner.rpartition(".")[0]
                yield node.lineno, inner


def graph(known: dict[str, Path]) -> dict[str, dict[str, int]]:
    """Module -> imported module -> line. The package's own ``__init__`` counts not: it names what is public, lazily."""
    return {
        module: {target: line for line, target in imports(module, path, known)}
        for module, path in known.items()
        if module and module != "__main__"
    }


def test_every_file_lies_in_a_room() -> None:
    outside = [module for module in modules() if module not in ("", "__main__") and not room_of(module)]
    assert not outside, f"no room for {', '.join(outside)}; the rooms are {', '.join(ROOMS)}"


def test_every_import_goes_to_the_left() -> None:
    wrong = []
    known = modules()
    for module, targets in graph(known).items():
        for target, line in targets.items():
            if target == "":
                wrong.append(f"{known[module].relative_to(ROOT)}:{line} imports the package itself")
            elif ROOMS.index(room_of(target)) > ROOMS.index(room_of(module)):
                where = known[module].relative_to(ROOT)
                wrong.append(f"{where}:{line} {room_of(module)} -> {target}: {room_of(target)} is to the right")
    assert not wrong, "\n".join(wrong)


def test_no_circle_of_imports_within_a_room() -> None:
    arrows = graph(modules())
    done: set[str] = set()

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, " -> ".join([*path[path.index(module) :], module])
        if module not in done:
            for target in arrows.get(module, {}):
                visit(target, (*path, module))
            done.add(module)

    for module in arrows:
        visit(module, ())


def test_a_room_has_few_files() -> None:
    count: dict[str, list[str]] = defaultdict(list)
    for module, path in modules().items():
        if path.name != "__init__.py" and module != "__main__":
            count[room_of(module)].append(path.name)
    too_many = {room: names for room, names in count.items() if len(names) > MAX_FILES}
    assert not too_many, "\n".join(
        f"{room}: {len(names)} files: {', '.join(names)}" for room, names in too_many.items()
    )


def test_a_public_name_stands_at_the_top_of_one_module() -> None:
    places = defaultdict(list)
    for module, path in modules().items():
        for node in ast.parse(path.read_text(encoding="utf-8")).body:
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
                names = [node.name]
            elif isinstance(node, ast.Assign):
                names = [target.id for target in node.targets if isinstance(target, ast.Name)]
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                names = [node.target.id]
            else:
                continue
            for name in names:
                if not name.startswith("_") and name != "log":
                    places[name].append(module or "__init__")
    twice = [f"{name}: {', '.join(found)}" for name, found in sorted(places.items()) if len(set(found)) > 1]
    assert not twice, "\n".join(twice)
