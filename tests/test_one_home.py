"""Defaults and names of files that several modules use are written in one of them."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

from qa_lightning import layout
from qa_lightning.features import defaults
from tests.helpers.paths import ROOT

DEFAULTS = {
    "max_length": defaults.MAX_LENGTH,
    "doc_stride": defaults.DOC_STRIDE,
    "max_question_length": defaults.MAX_QUESTION_LENGTH,
    "max_answer_length": defaults.MAX_ANSWER_LENGTH,
    "batch_size": defaults.BATCH_SIZE,
    "eval_batch_size": defaults.EVAL_BATCH_SIZE,
}
NAMES = {
    value for name, value in vars(layout).items() if name.isupper() and value not in (layout.MODEL_FOLDER, "confidence")
}


def trees() -> Iterator[tuple[Path, ast.Module]]:
    for path in sorted((ROOT / "qa_lightning").rglob("*.py")):
        yield path, ast.parse(path.read_text(encoding="utf-8"))


def defaults_of(tree: ast.AST) -> Iterator[tuple[str, object]]:
    """Name and literal default of each argument and each field."""
    for node in ast.walk(tree):
        pairs: list[tuple[str, ast.expr | None]] = []
        if isinstance(node, ast.arguments):
            positional = [*node.posonlyargs, *node.args]
            pairs = [(arg.arg, value) for arg, value in zip(positional[::-1], node.defaults[::-1], strict=False)]
            pairs += [(arg.arg, value) for arg, value in zip(node.kwonlyargs, node.kw_defaults, strict=True)]
        elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
            pairs = [(node.target.id, node.value)]
        for name, value in pairs:
            if isinstance(value, ast.Constant):
                yield name, value.value


def test_lengths_and_batch_sizes_have_their_default_in_one_module() -> None:
    again = [
        f"{path.name}: {name} = {value}"
        for path, tree in trees()
        for name, value in defaults_of(tree)
        if name in DEFAULTS and value == DEFAULTS[name]
    ]
    assert again == []


def test_names_in_a_run_folder_are_written_in_one_module() -> None:
    again = [
        f"{path.name}:{node.lineno}: {node.value}"
        for path, tree in trees()
        for node in ast.walk(tree)
        if isinstance(node, ast.Constant) and node.value in NAMES and path.name != "layout.py"
    ]
    assert again == []
