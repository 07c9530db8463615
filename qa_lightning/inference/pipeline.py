"""The question answering pipeline that transformers had until 5.3, with its call contract, decoded exactly.

    from qa_lightning import pipeline

    ask = pipeline("deepset/roberta-base-squad2")
    ask(question="Where do I live?", context="My name is Wolfgang and I live in Berlin")
    # {'score': 0.91..., 'start': 34, 'end': 40, 'answer': 'Berlin'}

What differs from transformers 4.57, unless ``compat="v4"`` asks for its scores: they are probabilities over all
windows and the null answer together; "no answer" is read at the CLS token wherever it stands; padding on the left
works; a question that is too long is cut; overlapping windows list no answer twice; ties come in reading order; there
are fewer than ``top_k`` answers rather than empty ones; and an argument that is not known is refused.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForQuestionAnswering
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS
from transformers.pipelines.base import ChunkPipeline

from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.features.batching import Batch, PaddingCollator, window_batches
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.inference.arguments import (
    Call,
    Item,
    call_settings,
    checked_batch_size,
    checked_settings,
    create_sample,
    in_groups,
    understand,
    v4_settings,
    window_settings,
)
from qa_lightning.inference.engine import AnswerDict, RankedAnswers, Reading, read
from qa_lightning.inference.v4 import V4Answers
from qa_lightning.models.loading import load_answering_model, max_positions, model_summary, name_token_types
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings
from qa_lightning.models.threshold_file import read_threshold_file

TASK = "extractive-qa"
Compat = Literal["v4"]
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_TOGETHER = 16  # batches whose windows are cut, and sorted by length, together
_WINDOWERS = 8  # are kept; each holds a tokenizer of its own


class QuestionAnsweringPipeline(ChunkPipeline):  # type: ignore[misc]
    """Answers questions from their contexts; see the module.

    Args:
        model: a model with a question answering head, or an `onnx.OnnxModel`.
        tokenizer: its fast tokenizer.
        device: as for any pipeline; None takes the first GPU, or else the CPU.
        batch_size: windows a forward pass.
        compat: ``v4`` gives the answers and scores of transformers 4.57.
        **settings: what a call takes, as its default; see `__call__`.

    Raises:
        InputError: a slow tokenizer, no question answering head, or settings that cannot be.
    """

    default_input_names = "question,context"
    create_sample = staticmethod(create_sample)
    _load_tokenizer = True
    _load_processor = _load_image_processor = _load_feature_extractor = False

    def __init__(
        self,
        model: Any,
        tokenizer: Any,
        *,
        device: int | str | torch.device | None = None,
        batch_size: int = 16,
        compat: Compat | None = None,
        **settings: Any,
    ) -> None:
        if compat not in (None, "v4"):
            raise InputError(f"compat {compat!r}: the one value there is, is 'v4'")
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"tokenizer {type(tokenizer).__name__} is a slow one, or none, and gives no character offsets; pass "
                "the model's fast tokenizer (AutoTokenizer.from_pretrained with a tokenizer.json)"
            )
        self.compat = compat
        self._saved = AnswerSettings.of_model(model) if hasattr(model.config, CONFIG_KEY) else None
        self.scaling = self._saved.scaling if self._saved else Scaling()
        self._positions = max_positions(model)
        self._windowers: dict[WindowSettings, Windower] = {}
        name_token_types(tokenizer, model)
        super().__init__(model=model, tokenizer=tokenizer, device=device, batch_size=batch_size, **settings)
        self._collate = PaddingCollator(tokenizer)
        self.model.eval()

    def __repr__(self) -> str:
        """The model, and how it is asked unless a call says otherwise; nothing is computed."""
        settings: dict[str, Any] = {"batch_size": self._batch_size}
        if self.compat:
            settings["compat"] = self.compat
        elif self._saved:
            settings |= asdict(self._saved.windows)
            settings |= {"null_score_diff_threshold": self.scaling.threshold, "temperature": self.scaling.temperature}
        shown = (f"{name}={value!r}" for name, value in {**settings, **self._postprocess_params}.items())
        return f"QuestionAnsweringPipeline({model_summary(self.model)};\n  {', '.join(shown)})"

    def _sanitize_parameters(self, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Settings of a call, or of the constructor: known ones, each on its own within its limits."""
        given = checked_settings(settings, lenient=self.compat == "v4")
        return {}, {}, given

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Answer questions.

        Args:
            *args: items ``{"question": ..., "context": ...}``: one, a list, a generator or a dataset; or question
                and context.
            **keywords: ``question`` and ``context``, each a text or a list (a single text goes with all of the
                other's), or the items as ``data``; and any of these settings:

                - ``top_k`` (1): answers to give, at most.
                - ``doc_stride`` (128, at most half a window): tokens that two windows share.
                - ``max_answer_len`` (15): the longest answer, in tokens, before it is widened to whole words.
                - ``max_seq_len`` (384, or what the model can take): the longest window, in tokens.
                - ``max_question_len`` (64): a longer question is cut to so many tokens.
                - ``handle_impossible_answer`` (False): whether "no answer" (an empty text at 0) is an answer.
                - ``align_to_words`` (True): widen answers to whole words, and give each text once; False gives
                  spans of tokens, each with its own probability.
                - ``batch_size``: windows a forward pass.
                - ``padding``: accepted and without effect; a batch is padded to its longest window.

                A model saved by this package brings its own windows in place of these defaults, and the threshold
                for "no answer" and the temperature of its probabilities.

        Returns:
            For one question a dict ``score, start, end, answer``, or a list of them where there is not exactly one
            answer; for a list a list of these; for a generator or a dataset an iterator of these.
            ``answer == context[start:end]``; ``score`` is a probability.

        Raises:
            KeyError, ValueError, TypeError: see `arguments.understand` and `call_settings`.
        """
        call = understand(args, keywords, v4=self.compat == "v4")
        own = ("question", "context", "data", "X")
        settings = {name: value for name, value in keywords.items() if name not in own}
        batch_size = settings.pop("batch_size", None)
        batch_size = checked_batch_size(self._batch_size if batch_size is None else batch_size)
        settings.pop("num_workers", None)
        _, _, given = self._sanitize_parameters(**settings)
        answers = self._answers(call, {**self._postprocess_params, **given}, batch_size)
        if call.lazy:
            return answers
        every = list(answers)
        return every[0] if call.single else every

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: Mapping[str, Any],
        forward_params: Mapping[str, Any],
        postprocess_params: Mapping[str, Any],
    ) -> Iterator[Any]:
        """Answer ``inputs`` in their order, their windows batched together and sorted by length."""
        return self._answers(Call(inputs, lazy=True, single=False), postprocess_params, batch_size)

    def _answers(self, call: Call, settings: Mapping[str, Any], batch_size: int) -> Iterator[Any]:
        # From a generator that is asked for one window at a time, one question at a time is taken.
        together = 1 if call.lazy and batch_size == 1 else _TOGETHER * max(batch_size, _TOGETHER)
        for group in in_groups(call.items, together):
            reading = self._reading(group, settings)
            yield from map(_alone, read(reading, self._logits, self._collate, batch_size))

    def _logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.forward(batch)
        return outputs["start"], outputs["end"]

    def _reading(self, items: list[Item], settings: Mapping[str, Any]) -> Reading[list[AnswerDict]]:
        if self.compat == "v4":
            return V4Answers(self.tokenizer, v4_settings(settings), items)
        windows = window_settings(settings, self._saved, self._positions, self.tokenizer)
        if windows not in self._windowers:
            if len(self._windowers) == _WINDOWERS:
                self._windowers.pop(next(iter(self._windowers)))
            self._windowers[windows] = Windower(self.tokenizer, windows, yielding=True)
        return RankedAnswers(self._windowers[windows], call_settings(settings, self.scaling), items)

    def preprocess(self, example: Any, **settings: Any) -> Iterator[dict[str, Any]]:
        """The windows of one question, each as a batch of one."""
        call = understand((example,), {}, v4=self.compat == "v4")
        reading = self._reading(list(call.items), {**self._postprocess_params, **settings})
        batches = list(window_batches(reading.store, self._collate, 1))
        for number, batch in enumerate(batches, 1):
            yield {**batch, "reading": reading, "is_last": number == len(batches)}

    def _forward(self, inputs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Add ``start`` and ``end`` logits, [B, T], to the model's inputs."""
        output = self.model(**{name: inputs[name] for name in _MODEL_INPUTS if name in inputs})
        if not hasattr(output, "start_logits"):
            raise InputError(
                f"model {type(self.model).__name__} gives no start and end logits: it has no question answering head; "
                "load it with AutoModelForQuestionAnswering"
            )
        return {**inputs, "start": output.start_logits, "end": output.end_logits}

    def postprocess(self, model_outputs: list[dict[str, Any]], **_: Any) -> Any:
        """The answers to the question whose windows these are."""
        reading: Reading[list[AnswerDict]] = model_outputs[0]["reading"]
        for output in model_outputs:
            reading.add(output, output["start"], output["end"])
        return _alone(reading.answers()[0])


def _alone(answers: list[AnswerDict]) -> AnswerDict | list[AnswerDict]:
    return answers[0] if len(answers) == 1 else answers


def pipeline(
    model: str | Path,
    *,
    device: int | str | torch.device | None = None,
    dtype: torch.dtype | None = None,
    batch_size: int = 16,
    compat: Compat | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    threshold_file: str | Path | None = None,
    **settings: Any,
) -> QuestionAnsweringPipeline:
    """Load a model to be asked.

    Args:
        model: a folder, or a name on the Hub: any question answering model, or an ONNX export of one.
        device: None takes the first GPU, or else the CPU.
        dtype: what it computes in; None takes float32, bfloat16 is faster where the hardware has it.
        batch_size, compat, **settings: see `QuestionAnsweringPipeline`.
        trust_remote_code: run code that comes with the model.
        use_safetensors: False also takes pickled weights, by torch's loader that runs nothing.
        threshold_file: of ``qa-lightning evaluate --output_dir``: threshold and temperature for this very model.

    Raises:
        InputError: the model is not to be had, or has no trained question answering head; a file for another model.
    """
    loaded, tokenizer = load_answering_model(
        str(model), dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=use_safetensors
    )
    answers = QuestionAnsweringPipeline(
        model=loaded, tokenizer=tokenizer, device=device, batch_size=batch_size, compat=compat, **settings
    )
    if threshold_file is not None:
        answers.scaling = read_threshold_file(Path(threshold_file), str(model)).scaling
    return answers


def register_pipeline(restore: bool = False) -> None:
    """Make ``transformers.pipeline("extractive-qa", model=...)`` build a `QuestionAnsweringPipeline`.

    Args:
        restore: also under the task's old name, ``question-answering``.
    """
    tasks = [TASK, "question-answering"] if restore else [TASK]
    for task in tasks:
        REMOVED_TASKS.pop(task, None)
        PIPELINE_REGISTRY.supported_tasks.pop(task, None)  # registered before: no warning
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=QuestionAnsweringPipeline, pt_model=AutoModelForQuestionAnswering, type="text"
        )
    # By it save_pretrained would copy this package's source beside the model, to be run as remote code.
    del QuestionAnsweringPipeline._registered_impl
