"""A repository's name, a question for its model, and helpers that read its files and its card."""

from __future__ import annotations

import json
import re
from pathlib import Path

from huggingface_hub import ModelCard

from qa_lightning.export.card import EXAMPLE

REPO = "anna/reads-cities"
QUESTION = "Where lives Anna ?"
CONTEXT = "Ben works in Rome . " * 12 + "Anna lives in Oslo . " + "The baker works at the city . " * 9


def written(folder: Path, files: dict[str, bytes]) -> Path:
    folder.mkdir(parents=True)
    for name, content in files.items():
        (folder / name).write_bytes(content)
    return folder


def card_of(files: dict[str, bytes], folder: Path) -> ModelCard:
    (folder / "card.md").write_bytes(files["README.md"])
    return ModelCard.load(folder / "card.md")


def run_json(model: Path) -> dict:
    return json.loads((model.parent / "run.json").read_text())[-1]


def blocks(card: ModelCard, folder: Path, question: str, context: str) -> list[str]:
    """The Python blocks of a card, changed to load ``folder`` and to ask ``question`` about ``context``."""
    code = re.findall(r"```python\n(.*?)```", card.text, re.DOTALL)
    replaced = {f'"{REPO}"': repr(str(folder)), f'"{EXAMPLE["question"]}"': repr(question)}
    replaced[f'"{EXAMPLE["context"]}"'] = repr(context)
    for old, new in replaced.items():
        code = [block.replace(old, new) for block in code]
    return code
