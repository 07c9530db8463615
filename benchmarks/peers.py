"""The usual implementations, written from their published descriptions, as peers to measure against.

Sources: the question answering chapter of the Hugging Face course (every window padded to 384 tokens, labels by a
Python loop over offsets, a plain training loop), the post-processing of the ``run_qa.py`` example of transformers
(the top 20 starts by the top 20 ends of each window, in NumPy and Python loops), and transformers' own Trainer as a
careful user sets it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from numpy.typing import NDArray

MAX_LENGTH = 384
DOC_STRIDE = 128


def padded_features(
    tokenizer: Any, rows: Mapping[str, Sequence[Any]], training: bool, pad: bool = True
) -> dict[str, Any]:
    """Windows padded to `MAX_LENGTH`, or not at all: with labels for training, else with example ids and offsets."""
    encoded = tokenizer(
        [question.strip() for question in rows["question"]],
        rows["context"],
        max_length=MAX_LENGTH,
        stride=DOC_STRIDE,
        truncation="only_second",
        padding="max_length" if pad else False,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
    )
    owners = encoded.pop("overflow_to_sample_mapping")
    if not training:
        ids, kept = [], []
        for number, offsets in enumerate(encoded["offset_mapping"]):
            sequence = encoded.sequence_ids(number)
            ids.append(rows["id"][owners[number]])
            kept.append([pair if sequence[index] == 1 else None for index, pair in enumerate(offsets)])
        return dict(encoded) | {"example_id": ids, "offset_mapping": kept}
    starts, ends = [], []
    for number, offsets in enumerate(encoded.pop("offset_mapping")):
        answers = rows["answers"][owners[number]]
        start, end = _label(offsets, encoded.sequence_ids(number), answers)
        starts.append(start)
        ends.append(end)
    return dict(encoded) | {"start_positions": starts, "end_positions": ends}


def _label(
    offsets: Sequence[tuple[int, int]], sequence: Sequence[int | None], answers: Mapping[str, Any]
) -> tuple[int, int]:
    if not answers["text"]:
        return 0, 0
    begin = answers["answer_start"][0]
    finish = begin + len(answers["text"][0])
    first = 0
    while sequence[first] != 1:
        first += 1
    last = len(sequence) - 1
    while sequence[last] != 1:
        last -= 1
    if offsets[first][0] > begin or offsets[last][1] < finish:
        return 0, 0
    start = first
    while start <= last and offsets[start][0] <= begin:
        start += 1
    end = last
    while end >= first and offsets[end][1] >= finish:
        end -= 1
    return start - 1, end + 1


def train_grouped(
    folder: str,
    rows: Sequence[Mapping[str, Any]],
    batch_size: int,
    steps: int,
    bf16: bool,
    on_step: Callable[[Any], None],
    **config: Any,
) -> Any:
    """Train with transformers' Trainer: batches grouped by length and padded to their longest window.

    Args:
        folder: of a BERT model.
        rows: windows without padding: ``input_ids``, ``length``, ``start_positions``, ``end_positions``, and perhaps
            ``token_type_ids``.
        batch_size: windows per step.
        steps: number of steps.
        bf16: whether to compute in bfloat16.
        on_step: called after each step with its attention mask, [B, T].
        **config: settings of the model that differ from the folder's.

    Returns:
        The trained model.
    """
    import torch
    from torch.nn.utils.rnn import pad_sequence
    from transformers import BertForQuestionAnswering, Trainer, TrainerCallback, TrainingArguments

    masks: list[torch.Tensor] = []
    padded = [name for name in ("input_ids", "token_type_ids") if name in rows[0]]

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            on_step(masks.pop())

    class Model(BertForQuestionAnswering):  # type: ignore[misc]
        def forward(self, **inputs: Any) -> Any:
            masks[:] = [inputs["attention_mask"]]
            return super().forward(**inputs)

    def collate(batch: list[Any]) -> dict[str, torch.Tensor]:
        columns = {name: [torch.tensor(row[name]) for row in batch] for name in padded}
        lengths = torch.tensor([len(ids) for ids in columns["input_ids"]])
        return {
            **{name: pad_sequence(values, batch_first=True) for name, values in columns.items()},
            "attention_mask": (torch.arange(int(lengths.max())) < lengths[:, None]).long(),
            **{name: torch.tensor([row[name] for row in batch]) for name in ("start_positions", "end_positions")},
        }

    model = Model.from_pretrained(folder, dtype=torch.float32, **config)
    with TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            scratch,
            per_device_train_batch_size=batch_size,
            max_steps=steps,
            bf16=bf16,
            use_cpu=not torch.cuda.is_available(),
            train_sampling_strategy="group_by_length",
            report_to=[],
            save_strategy="no",
            logging_steps=50,
            disable_tqdm=True,
            remove_unused_columns=False,
        )
        Trainer(model, arguments, data_collator=collate, train_dataset=list(rows), callbacks=[Clock()]).train()
    return model


def top_20_answers(
    examples: Sequence[Mapping[str, Any]],
    features: Any,
    start_logits: NDArray[np.float32],
    end_logits: NDArray[np.float32],
    n_best: int = 20,
    max_answer_length: int = 30,
) -> dict[str, tuple[str, float]]:
    """The best answer of each example by ``run_qa.py``'s search: id -> (text, start logit + end logit).

    Args:
        examples: dicts with ``id`` and ``context``.
        features: a ``datasets.Dataset`` of ``example_id`` and ``offset_mapping`` (None outside the context).
        start_logits, end_logits: [F, T].
        n_best: how many of the largest start and end logits of a window are combined.
        max_answer_length: in tokens.
    """
    of_example = defaultdict(list)
    owners = features["example_id"] if hasattr(features, "features") else [row["example_id"] for row in features]
    for number, owner in enumerate(owners):
        of_example[owner].append(number)
    answers = {}
    for example in examples:
        candidates = []
        for number in of_example[example["id"]]:
            start, end = start_logits[number], end_logits[number]
            offsets = features[number]["offset_mapping"]  # reads one row from disk
            starts = np.argsort(start)[-1 : -n_best - 1 : -1].tolist()
            ends = np.argsort(end)[-1 : -n_best - 1 : -1].tolist()
            for first in starts:
                for last in ends:
                    if first >= len(offsets) or last >= len(offsets) or not offsets[first] or not offsets[last]:
                        continue
                    if last < first or last - first + 1 > max_answer_length:
                        continue
                    score = start[first] + end[last]
                    candidates.append((score, offsets[first][0], offsets[last][1]))
        best = sorted(candidates, key=lambda candidate: candidate[0], reverse=True)[:n_best]
        texts = [example["context"][begin:finish] for _, begin, finish in best]
        scores = np.array([score for score, _, _ in best] or [0.0])
        probabilities = np.exp(scores - scores.max())
        probabilities /= probabilities.sum()
        answers[example["id"]] = (texts[0], float(scores[0])) if texts else ("", 0.0)
    return answers
