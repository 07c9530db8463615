"""The table of sample predictions, for TensorBoard and other loggers that show text."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from qa_lightning.decoding.predictions import Answer, Predictions
from qa_lightning.metrics.squad import Scoring, SquadMetric, answer_scores
from qa_lightning.runs.curves import last_step, log_table
from qa_lightning.wording import visible

AROUND = 60  # characters of context on either side of the answer
_HEADER = ("question", "gold answers", "prediction", "F1", "score", "context")


class SamplePredictions(Callback):
    """Logs a table of some validation questions: gold answers, predictions, scores, and the context around the answer.

    The first half are answers that are no exact match, where there are such; the others are spread evenly over the
    validation set, the same ones every epoch.

    Args:
        count: the number of questions, at most.
    """

    def __init__(self, count: int = 20) -> None:
        self.count = count

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Log the table."""
        module: Any = pl_module
        predictions: Predictions | None = module.predictions
        if not trainer.is_global_zero or trainer.sanity_checking or not predictions:
            return
        metric = module.metrics[int(predictions.version_2)]
        assert isinstance(metric, SquadMetric)
        numbers = sampled(len(predictions), module.wrong.tolist(), self.count)
        rows = [sample(example, answer, metric.scoring) for _, example, answer in predictions.rows(numbers)]
        shown = [row.markdown for row in rows]
        table = "\n".join(["| question | prediction | context |", "|---|---|---|", *shown])
        for logger in trainer.loggers:
            log_table(logger, "val/samples", _HEADER, [row.plain for row in rows], table, last_step(trainer))


def sampled(total: int, wrong: list[int], count: int) -> list[int]:
    """Which of ``total`` answers are shown, without repeats: some of the wrong ones, then every so-many-th.

    Args:
        total: answers.
        wrong: numbers of those that are wrong.
        count: how many to show, at most; half of them are wrong ones where there are so many.
    """
    always = _spread(list(range(total)), count - count // 2)
    return _spread([number for number in wrong if number not in always], count // 2) + always


def _spread(numbers: list[int], count: int) -> list[int]:
    return numbers[:: max(1, len(numbers) // count)][:count] if count else []


@dataclass(frozen=True)
class Sample:
    """A row of the table; no line breaks in it.

    Attributes:
        cells: all cells but the last.
        before, marked, after: the last one: the answer in its context; without an answer, ``marked`` is empty.
    """

    cells: tuple[str, ...]
    before: str
    marked: str
    after: str

    @property
    def plain(self) -> list[str]:
        """All cells as text, for loggers with tables of their own."""
        return [*self.cells, f"{self.before}{self.marked and f'**{self.marked}**'}{self.after}"]

    @property
    def markdown(self) -> str:
        """The row of a Markdown table; nothing in the data has a meaning in it (TensorBoard itself escapes HTML).

        F1, score and gold answers stand beside the prediction: TensorBoard breaks words in narrow columns anywhere.
        """
        question, golds, prediction, f1, score = map(_escaped, self.cells)
        context = _escaped(self.before) + (f"**{_escaped(self.marked)}**" if self.marked else "") + _escaped(self.after)
        return f"| {question} | {prediction} (F1 {f1}, score {score}), gold: {golds} | {context} |"


def sample(example: dict[str, Any], answer: Answer, scoring: Scoring) -> Sample:
    """The row of a question; where the answer is "no answer", the first gold answer is marked in its context."""
    golds: list[str] = example["answers"]["text"]
    _, f1 = answer_scores(answer.text, golds, scoring)
    start, end = answer.start, answer.end
    if not answer.text and golds:
        start = example["answers"]["answer_start"][0]
        end = start + len(golds[0])
    cells = (
        _line(example["question"]).strip(),
        "; ".join(dict.fromkeys(_line(gold).strip() for gold in golds)) or "(no answer)",
        _line(answer.text).strip() or "(no answer)",
        f"{100 * f1:.0f}",
        f"{answer.score:.3f}",
    )
    return Sample(cells, *excerpt(example["context"], start, end))


def excerpt(context: str, start: int, end: int) -> tuple[str, str, str]:
    """What stands before, in and after ``context[start:end]``, on one line; without a span the context's beginning."""
    first, last = max(0, start - AROUND), min(len(context), end + AROUND)
    if start == end:
        first, start, end, last = 0, 0, 0, min(len(context), 2 * AROUND)
    before, marked, after = (_line(context[i:j]) for i, j in ((first, start), (start, end), (end, last)))
    if first:  # not half a word, in scripts with spaces
        before = "…" + re.sub(r"^\S{0,15}\s", "", before)
    if last < len(context):
        after = re.sub(r"\s\S{0,15}$", "", after) + "…"
    return before, marked.strip(), after


def _line(text: str) -> str:
    return visible(re.sub(r"\s+", " ", text))


def _escaped(text: str) -> str:
    return re.sub(r"([\\`*_{}\[\]|])", r"\\\1", text)
