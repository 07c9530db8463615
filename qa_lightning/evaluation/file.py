"""Score the answers in a file as the official SQuAD scripts do."""

from __future__ import annotations

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from qa_lightning.data.answers import has_surrogates
from qa_lightning.data.columns import ReadSettings, with_usual_columns
from qa_lightning.data.examples import SKIPPING, OnBadRows, RowChanges, changed_lines, read_examples
from qa_lightning.data.sources import count_rows, read_rows
from qa_lightning.errors import InputError
from qa_lightning.evaluation.result import ScoreResult
from qa_lightning.evaluation.saved import read_null_odds, read_predictions
from qa_lightning.metrics.squad import MixedScript, SquadMetric, answer_scores
from qa_lightning.metrics.thresholds import squad_v2_metrics
from qa_lightning.progress import tracked
from qa_lightning.wording import counted

log = logging.getLogger("qa_lightning")


def score_file(
    path: Path,
    data: str,
    max_examples: int | None = None,
    mixed_script: bool | MixedScript = False,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
    on_bad_rows: OnBadRows = "error",
    null_odds: Path | None = None,
) -> ScoreResult:
    """Score the answers in a file as the official scripts do.

    A question without an answer in the file counts as wrong, and answers to other questions count for nothing; log
    lines say so. The texts of gold answers are enough: their offsets may be wrong.

    Args:
        path: answers, in a layout that `saved.read_predictions` reads.
        null_odds: a JSON object ``{"id": number}``; a higher number makes "no answer" more likely (the v2.0 scorer's
            ``--na-prob-file``). The scores then include best thresholds and average precisions.
        data, max_examples, mixed_script, reading, on_bad_rows: see `model.score_model`.

    Raises:
        InputError: a file is missing or has another layout, answers are not texts, or none is to one of the questions.
    """
    predictions = read_predictions(path)
    broken = [key for key, text in predictions.items() if has_surrogates(key + text)]
    if broken:
        raise InputError(f"--predictions {path}: {broken[0]!r} holds half of a surrogate pair; save it as valid UTF-8")
    references = _references(data, max_examples, reading, on_bad_rows)
    texts = {row["id"]: predictions[row["id"]] for row in references if row["id"] in predictions}
    if predictions and references and not texts:
        theirs, ours = next(iter(predictions)), references[0]["id"]
        first = f"the first {counted(max_examples, 'question')} of {data}" if max_examples else f"a question of {data}"
        or_else = "leave --max_examples out, or " if max_examples else ""
        raise InputError(
            f"--predictions {path}: none of its {counted(len(predictions), 'answer')} is to {first}: "
            f"their ids differ ({theirs!r} there, {ours!r} here); {or_else}name the data that was answered. An id "
            "that a row lacks is made from its question, context and the answers that are read: give the rows ids, or "
            "name the columns of answers (--columns.answer_text) to both commands"
        )
    for line in _id_lines(predictions, [row["id"] for row in references], data, max_examples is not None):
        log.info(f"note: {line}")
    has_answer = [bool(row["answers"]["text"]) for row in references]
    version_2 = not all(has_answer)
    if null_odds and not version_2:
        raise InputError(f"--null_odds {null_odds}: every question of {data} has an answer; leave the flag out")
    metric = SquadMetric(version_2, mixed_script)
    scores = [
        answer_scores(texts[row["id"]], row["answers"]["text"], metric.scoring) if row["id"] in texts else (0, 0.0)
        for row in references
    ]
    exact, f1 = np.array(scores, float).reshape(-1, 2).T
    metric.update_scores(exact, f1, has_answer)
    result = ScoreResult(metric.compute(), texts, references, version_2)
    if null_odds is None:
        return result
    odds = read_null_odds(null_odds, list(texts))
    ids = [row["id"] for row in references]
    # No threshold makes "no answer" of a question that was not answered at all: it is wrong.
    each, empty = [odds.get(key, -math.inf) for key in ids], [texts.get(key) == "" for key in ids]
    more = squad_v2_metrics(exact, f1, has_answer, each, math.inf, empty)
    return replace(result, metrics=more, null_odds=odds, best_texts=texts, threshold=math.inf)


def _references(
    data: str, max_examples: int | None, reading: ReadSettings, on_bad_rows: OnBadRows
) -> list[dict[str, Any]]:
    """Ids and gold answers of a source, and log lines about what was repaired, left out or has a wrong offset."""
    changes = RowChanges()
    total = None if max_examples else count_rows(data, "validation")
    read = tracked(read_rows(data, "validation", reading), total, what=data)
    rows = with_usual_columns(read, reading, log.info, skips=on_bad_rows in SKIPPING)
    examples = read_examples(rows, on_bad_rows, changes, max_examples=max_examples, texts_alone=True)
    references = [{"id": row["id"], "answers": row["answers"]} for row in examples]
    for line in changed_lines(changes):
        log.info(line)
    return references


def _id_lines(predictions: Mapping[str, str], ids: Sequence[str], data: str, cut: bool) -> Iterator[str]:
    """Lines about questions without a prediction, and predictions without a question.

    Args:
        cut: whether only the first questions are scored; then predictions for others are to be expected.
    """
    missing, known = [key for key in ids if key not in predictions], set(ids)
    if missing:
        counts = "it counts" if len(missing) == 1 else "they count"
        yield (
            f"no answer for {len(missing):,} of the {counted(len(ids), 'question')} of {data}; {counts} as wrong; the "
            f"first: {', '.join(missing[:5])}"
        )
    extra = [key for key in predictions if key not in known]
    if extra and not cut:
        yield (
            f"{counted(len(extra), 'answer')} to no question of {data} {'is' if len(extra) == 1 else 'are'} left out; "
            f"the first: {', '.join(extra[:5])}"
        )
