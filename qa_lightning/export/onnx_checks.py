"""An ONNX export against the model that it was made from: the same logits, and, quantized, answers as good.

Logits are compared on windows of real questions, from short to as long as the model is ever given, alone and padded in
batches; only those of tokens count, those of padding are nobody's.
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
from qa_lightning.models.loss import model_logits
from qa_lightning.models.settings import AnswerSettings

log = logging.getLogger("qa_lightning")

TOLERANCE = 1e-4  # of float32 logits, absolute


def comparison_batches(tokenizer: Any, settings: AnswerSettings, rows: Sequence[Example]) -> list[Batch]:
    """Windows of some questions in batches of 1 to 8, from the shortest to the longest that the model is given."""
    questions = [row["question"] for row in rows]
    contexts = [row["context"] for row in rows]
    everything = " ".join(contexts)
    long = everything * (1 + 8 * settings.max_length // len(everything))  # more than a window's worth
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
    """Hold the logits of an export against those of its model.

    Args:
        name: of the model, for messages.
        model, exported: the two, on one device.
        batches: what both compute.

    Raises:
        InputError: some differ by more than `TOLERANCE`, or are not numbers.
    """
    worst = 0.0
    for batch in batches:
        real = batch["attention_mask"].bool()
        with torch.inference_mode():
            pairs = zip(model_logits(model, batch), model_logits(exported, batch), strict=True)
        for own, other in pairs:
            if not own[real].isfinite().all():
                raise InputError(f"model {name!r}: its logits are not numbers, its weights are broken")
            worst = max(worst, float((own - other)[real].abs().nan_to_num(torch.inf).max()))
    if worst > TOLERANCE:
        raise InputError(
            f"model {name!r}: the logits of its ONNX export differ from PyTorch's by up to {worst:.2g}, more than "
            f"{TOLERANCE:g}; nothing was written. Ask it as it is, or try other versions of torch and onnxruntime"
        )
    lengths = [batch["input_ids"].shape[1] for batch in batches]
    windows = sum(len(batch["input_ids"]) for batch in batches)
    log.info(
        f"checked    {windows} windows of up to {max(lengths)} tokens, alone and in batches: "
        f"logits differ from PyTorch's by {worst:.1g} at most"
    )


def score_answers(model: Any, tokenizer: Any, rows: Sequence[Example]) -> tuple[float, float]:
    """EM and F1, 0-100, of a model's answers to some questions."""
    answers = Reader(model, tokenizer).answer([row["question"] for row in rows], [row["context"] for row in rows])
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
    """Hold the answers of a quantized model against those of the model that it was made from; tell of both.

    Args:
        name: of the model, for messages.
        models: what it is called, the model and its size in bytes; the original, then the quantized one.
        tokenizer: of both.
        rows: questions with answers.
        max_f1_drop: F1 points (0-100) that may be lost.

    Raises:
        InputError: more are.
    """
    found = []
    for kind, model, size in models:
        exact, f1 = score_answers(model, tokenizer, rows)
        log.info(f"{kind:<10} EM {exact:6.2f}  F1 {f1:6.2f}  {size / 1e6:,.1f} MB")
        found.append(f1)
    if found[0] - found[1] > max_f1_drop:
        raise InputError(
            f"--quantize {models[1][0]} costs model {name!r} {found[0] - found[1]:.2f} F1 points on {len(rows):,} "
            f"questions ({found[0]:.2f} to {found[1]:.2f}), more than --max-f1-drop {max_f1_drop:g}; nothing was "
            "written. Export it without --quantize, or allow more"
        )
