"""Compare an ONNX export with the model it was made from: equal logits or, if quantized, about the same F1.

Logits are compared on windows of real questions, from short ones to the longest the model is given, alone and padded
in batches. Logits of padding are ignored, because nothing reads them.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from qa_lightning.data.examples import Example
from qa_lightning.errors import InputError
from qa_lightning.features.batching import Batch, FeatureDataset, PaddingCollator
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import Windower
from qa_lightning.inference.reader import Reader
from qa_lightning.metrics.squad import SquadMetric
from qa_lightning.models.computing.loss import model_logits
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.wording import counted

log = logging.getLogger("qa_lightning")

TOLERANCE = 1e-4  # largest absolute difference of float32 logits


def comparison_batches(tokenizer: Any, settings: AnswerSettings, rows: Sequence[Example]) -> list[Batch]:
    """Batches of 1 to 8 windows, from the shortest to the longest window of ``rows`` and of one very long context."""
    questions = [row["question"] for row in rows]
    contexts = [row["context"] for row in rows]
    joined = " ".join(contexts)
    long = joined * (1 + 8 * settings.max_length // len(joined))  # fills at least one window
    questions += questions[:4]
    contexts += [long] * (len(questions) - len(contexts))
    windower = Windower(tokenizer, settings.windows)
    store = FeatureStore.of_batch(windower(questions, contexts, [None] * len(questions)))
    dataset, collate = FeatureDataset(store, None, False), PaddingCollator(tokenizer)
    order = np.argsort(store.windows["length"], kind="stable")
    picks = [order[:1], order[-1:], order[[0, -1]]]
    picks += [order[np.linspace(0, len(order) - 1, count).astype(int)] for count in (3, 5, 8)]
    return [collate([dataset[int(index)] for index in pick]) for pick in picks]


def compare_logits(name: str, model: Any, exported: Any, batches: Sequence[Batch]) -> None:
    """Check that an export and its model compute the same logits.

    Args:
        name: of the model, for messages.
        model, exported: on the same device.
        batches: the inputs.

    Raises:
        InputError: logits differ by more than `TOLERANCE`, or are not numbers.
    """
    worst = 0.0
    for batch in batches:
        real = batch["attention_mask"].bool()
        with torch.inference_mode():
            pairs = zip(model_logits(model, batch), model_logits(exported, batch), strict=True)
        for own, other in pairs:
            if not own[real].isfinite().all():
                raise InputError(
                    f"model {name!r}: its logits are not numbers: its weights are broken; use another model"
                )
            worst = max(worst, float((own - other)[real].abs().nan_to_num(torch.inf).max()))
    if worst > TOLERANCE:
        raise InputError(
            f"model {name!r}: the logits of its ONNX export differ from PyTorch's by up to {worst:.2g}, more than "
            f"{TOLERANCE:g}; nothing was written. Use the PyTorch model, or try other versions of torch and onnxruntime"
        )
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    windows = sum(len(batch["input_ids"]) for batch in batches)
    log.info(
        f"checked    {windows} windows of up to {max(lengths)} tokens, alone and in batches: "
        f"logits differ from PyTorch's by at most {worst:.1g}"
    )


def score_answers(model: Any, tokenizer: Any, rows: Sequence[Example], what: str | None = None) -> tuple[float, float]:
    """EM and F1 (0-100) of a model's answers to ``rows``; for ``what`` see `Reader.answer`."""
    questions, contexts = ([row[name] for row in rows] for name in ("question", "context"))
    answers = Reader(model, tokenizer).answer(questions, contexts, what=what)
    metric = SquadMetric(version_2=any(not row["answers"]["text"] for row in rows))
    metric.update(
        [{"id": row["id"], "prediction_text": answer.text} for row, answer in zip(rows, answers, strict=True)],
        [{"id": row["id"], "answers": row["answers"]} for row in rows],
    )
    scores = metric.compute()
    return scores["exact" if "exact" in scores else "exact_match"], scores["f1"]


def compare_answers(
    name: str, models: Sequence[tuple[str, Any, int]], tokenizer: Any, rows: Sequence[Example], max_f1_drop: float
) -> None:
    """Log EM, F1 and size of a quantized model and of its original, and check that F1 does not drop too much.

    Args:
        name: of the model, for messages.
        models: (label, model, size in bytes) of the original, then of the quantized one.
        tokenizer: of both.
        rows: questions with answers.
        max_f1_drop: F1 points (0-100) that may be lost.

    Raises:
        InputError: more F1 points are lost.
    """
    scores = []
    for label, model, size in models:
        exact, f1 = score_answers(model, tokenizer, rows, label)
        log.info(f"{label:<10} EM {exact:6.2f}  F1 {f1:6.2f}  {size / 1e6:,.1f} MB")
        scores.append(f1)
    drop = scores[0] - scores[1]
    if drop > max_f1_drop:
        raise InputError(
            f"--quantize {models[1][0]} costs model {name!r} {drop:.2f} F1 points on {counted(len(rows), 'question')} "
            f"({scores[0]:.2f} to {scores[1]:.2f}), more than --max_f1_drop {max_f1_drop:g}; nothing was written. "
            "Export it without --quantize, or raise --max_f1_drop"
        )
