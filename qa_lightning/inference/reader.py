"""Answer questions from their contexts with the windows and the decoding of validation.

`Reader` has a model of its own; a `QuestionSet` is for a Trainer, which has one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, Dataset

from qa_lightning.decoding.predictions import Answer
from qa_lightning.documents.answers import DocumentAnswer
from qa_lightning.documents.sources import OnBad, unaskable
from qa_lightning.errors import InputError
from qa_lightning.features.batching import Batch, PaddingCollator
from qa_lightning.features.defaults import EVAL_BATCH_SIZE
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.inference.arguments import Item
from qa_lightning.inference.asking import CANDIDATES, PRIOR, TOP_K, AskedModel, AskSettings
from qa_lightning.inference.engine import CHUNK_FACTOR, BestAnswers, answer_all
from qa_lightning.inference.settings import checked_batch_size
from qa_lightning.models.computing.attention import without_reads
from qa_lightning.models.computing.device import known_device, usable_device
from qa_lightning.models.computing.loss import inputs_on, model_logits
from qa_lightning.models.ensemble import load_asked, models_of, settings_of
from qa_lightning.models.load_errors import fitting
from qa_lightning.models.loading import lasting_names, model_summary, suited
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.models.threshold_file import read_threshold_file


class Reader:
    """A trained model that answers questions from their contexts; `answer` returns one answer per question.

    Args:
        model: a question answering model, or an `Ensemble` of several.
        tokenizer: its fast tokenizer.
        settings: None takes those that the model was saved with.
    """

    def __init__(self, model: Any, tokenizer: Any, settings: AnswerSettings | None = None) -> None:
        self.model = model.eval()
        self.tokenizer = suited(tokenizer, model)
        self.settings = settings or settings_of(model, tokenizer)
        self._windower = Windower(self.tokenizer, self.settings.windows)

    @classmethod
    def from_pretrained(
        cls,
        name: str | PathLike[str] | Sequence[str | PathLike[str]],
        device: str | torch.device | None = None,
        dtype: torch.dtype | None = None,
        threshold_file: str | PathLike[str] | None = None,
        raw_scores: bool = False,
    ) -> Reader:
        """Load a model and its tokenizer.

        Args:
            name: a model's or a run's folder, ``last`` for the newest run in ``lightning_logs`` that has a model, or a
                name on the Hub; several, in a list or with commas between them, answer together (see `Ensemble`).
            device: None takes the first GPU, or the CPU if there is none.
            dtype: of weights and computation; None means float32.
            threshold_file: written by ``qa-lightning evaluate --output_dir`` for this model: its threshold,
                temperature and calibrator.
            raw_scores: scores are probabilities, also if the model has a calibrator.

        Raises:
            InputError: the model cannot be loaded, has no question answering head or a tokenizer that does not fit;
                several do not read the same windows; or ``threshold_file`` cannot be read or belongs to another model.
        """
        name, place = lasting_names(name), known_device(device)
        model, tokenizer = load_asked(name, dtype, device=place)
        found = read_threshold_file(Path(threshold_file), name) if threshold_file else None
        settings = settings_of(model, tokenizer)
        settings = settings.fitted(found) if found else settings
        if any(isinstance(one, torch.nn.Module) for one in models_of(model)):  # ONNX Runtime knows devices of its own
            with fitting(name):
                model.to(usable_device(place))
        if model.device.type == "cuda":
            for one in models_of(model):
                without_reads(one)
        return cls(model, tokenizer, settings.raw() if raw_scores else settings)

    load = from_pretrained

    def __repr__(self) -> str:
        """The model and its answer settings; runs no computation."""
        settings, scaling = self.settings, self.settings.scaling
        return (
            f"Reader({model_summary(self.model)};\n"
            f"  max_length={settings.max_length}, doc_stride={settings.doc_stride}, "
            f"max_answer_length={settings.max_answer_length}, version_2={settings.version_2}, "
            f"null_score_diff_threshold={scaling.threshold:g}, temperature={scaling.temperature:g}, "
            f"calibrated={scaling.calibrator is not None})"
        )

    def answer(
        self,
        questions: Sequence[str],
        contexts: Sequence[str],
        batch_size: int = EVAL_BATCH_SIZE,
        what: str | None = None,
    ) -> list[Answer]:
        """Answer each question from its own context, in order.

        Args:
            questions, contexts: of the same length.
            batch_size: windows per forward pass.
            what: name of the loop in the lines about progress; None shows no progress.

        Raises:
            InputError: questions and contexts are not lists of the same length; one is no text, empty or invalid
                Unicode; ``batch_size`` is not at least 1; or the model's logits are not numbers.
        """
        batch_size = checked_batch_size(batch_size)
        items = _checked_items(questions, contexts)
        if not items:
            return []
        policy = BestAnswers(self._windower, self.settings, items)
        return answer_all(policy, self._forward, PaddingCollator(self.tokenizer), batch_size, what)

    def ask(
        self,
        question: str,
        documents: Any,
        *,
        top_k: int = TOP_K,
        candidates: int = CANDIDATES,
        prior: float = PRIOR,
        overlap: bool | float = False,
        min_score: float | None = None,
        precision: float | None = None,
        batch_size: int = EVAL_BATCH_SIZE,
        on_bad: OnBad = "error",
    ) -> list[DocumentAnswer]:
        """Answer a question from several documents, with one ranking of all answers.

        Args:
            question: to answer.
            documents: one or several texts, dicts of ``text``, ``id`` and ``meta``, and ``Path`` objects of files,
                folders and patterns; see `sources.read_documents`. Or a `Collection`, which is read and cut only once.
            top_k, candidates, prior, overlap, min_score, precision, batch_size, on_bad: see `asking.AskSettings`.

        Returns:
            At most ``top_k`` answers, best first. Their scores are probabilities over all spans of all that was read
            and "no answer", which is one of the answers if the model knows it. Empty if no answer reaches
            ``min_score``.

        Raises:
            InputError: the question is empty, documents cannot be read, a setting is out of range, the model has no
                scores for ``precision``, or its logits are not numbers.
        """
        settings = AskSettings(top_k, candidates, prior, overlap, min_score, precision, batch_size, on_bad)
        return self.asked.ask(question, documents, settings)

    @property
    def asked(self) -> AskedModel:
        """The model as documents need it."""
        collate = PaddingCollator(self.tokenizer)
        return AskedModel(self._windower, self.settings, self._forward, collate, EVAL_BATCH_SIZE)

    @torch.inference_mode()
    def _forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        return model_logits(self.model, inputs_on(self.model.device, batch))


def _checked_items(questions: Iterable[str], contexts: Iterable[str]) -> list[Item]:
    """Each question with its context; see `Reader.answer`."""
    given = {"questions": questions, "contexts": contexts}
    problems = [
        f"{name} is of type {type(texts).__name__}; pass a list of str"
        for name, texts in given.items()
        if isinstance(texts, str | bytes | Mapping) or not isinstance(texts, Iterable)
    ]
    if problems:
        raise InputError(problems)
    asked, read = list(questions), list(contexts)
    if len(asked) != len(read):
        raise InputError(f"questions and contexts have different lengths, {len(asked)} and {len(read)}; pass pairs")
    items = [{"question": question, "context": context} for question, context in zip(asked, read, strict=True)]
    problems = [
        f"{name} {number if len(items) > 1 else ''}".strip() + f" {problem}"
        for number, item in enumerate(items)
        for name, text in item.items()
        if (problem := unaskable(text))
    ]
    if problems:
        raise InputError(problems)
    return items


class QuestionSet(Dataset[Any]):
    """Questions in memory, for ``trainer.predict``; a loader gives them in order, in lists.

    A list holds 16 times as many questions as a batch has windows: its windows are sorted by length, so that little is
    padded.

    Args:
        questions: each with ``id``, ``question`` and ``context``.
        tokenizer: of the model that is to answer.
        windows: how contexts are cut into windows.
        batch_size: windows per forward pass.
    """

    def __init__(self, questions: list[Item], tokenizer: Any, windows: WindowSettings, batch_size: int) -> None:
        self.questions = questions
        self.windows = windows
        self._batch_size = batch_size
        self._collate = PaddingCollator(tokenizer)
        self._windower = Windower(tokenizer, windows)

    def __len__(self) -> int:
        return len(self.questions)

    def __getitem__(self, index: int) -> Item:
        return self.questions[index]

    def loader(self) -> DataLoader[Any]:
        """Lists of questions, in order."""
        return DataLoader(self, batch_size=CHUNK_FACTOR * self._batch_size, collate_fn=list)

    def answers(
        self,
        questions: Sequence[Item],
        settings: AnswerSettings,
        forward: Callable[[Batch], tuple[torch.Tensor, torch.Tensor]],
    ) -> list[Answer]:
        """Answer some of the questions; see `engine.answer_all`."""
        policy = BestAnswers(self._windower, settings, questions)
        return _Answers(answer_all(policy, forward, self._collate, self._batch_size))


class _Answers(list[Answer]):
    """Answers that a Trainer leaves as they are: it would copy them, field by field, to move tensors to the CPU."""

    def to(self, device: torch.device) -> _Answers:
        """Nothing here is on a device."""
        return self
