"""Files of answers and of null odds, of this project or of others -> id and answer, id and number."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path

from qa_lightning.errors import InputError


def read_null_odds(path: Path, wanted: Sequence[str]) -> dict[str, float]:
    """Id -> number of a JSON object; `InputError` for each of the ``wanted`` ids that has none."""
    try:
        odds = json.loads(path.read_text(encoding="utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"--null-odds {path}: cannot be read as JSON ({error})") from None
    if not isinstance(odds, dict):
        raise InputError(f'--null-odds {path}: expected one object {{"id": number, ...}}')
    bad = [
        f"--null-odds {path}: {key!r} has {odds.get(key, 'nothing')!r}; a number is wanted"
        for key in wanted
        if isinstance(odds.get(key), bool) or not isinstance(odds.get(key), (int, float)) or math.isnan(odds[key])
    ]
    if bad:
        raise InputError(bad)
    return {key: float(odds[key]) for key in wanted}


def read_predictions(path: Path) -> dict[str, str]:
    """Id -> answer, of either layout."""
    unreadable = f"--predictions {path}: cannot be read as JSON"
    try:
        content = path.read_text(encoding="utf-8-sig")
    except (OSError, ValueError) as error:
        raise InputError(f"{unreadable} ({error})") from None
    if content.startswith('{"row": '):
        return _read_answer_lines(path, content)
    try:
        predictions = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{unreadable} ({error})") from None
    if not isinstance(predictions, dict) or not all(isinstance(text, str) for text in predictions.values()):
        raise InputError(f'--predictions {path}: expected one object {{"id": "answer", ...}} with texts as answers')
    return predictions


def _read_answer_lines(path: Path, content: str) -> dict[str, str]:
    """Id -> answer of the lines that `run.answer_file` writes."""
    predictions: dict[str, str] = {}
    problems = []
    for number, line in enumerate(content.rstrip("\n").split("\n"), 1):
        place = f"--predictions {path} line {number}"
        try:
            row = json.loads(line)
            key, answer = str(row["id"]), str(row["answer"])
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            problems.append(f"{place}: no JSON object with id and answer ({error!r}); is the file whole?")
            continue
        if predictions.setdefault(key, answer) != answer:
            problems.append(f"{place}: id {key!r} has another answer in a line before; ids must be unique")
    if problems:
        raise InputError(problems)
    return predictions
