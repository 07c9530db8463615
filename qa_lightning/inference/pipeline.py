"""The question answering pipeline that transformers 5.3 removed: the same calls and returns, with exact decoding.

    from qa_lightning import pipeline

    ask = pipeline("deepset/roberta-base-squad2")
    ask(question="Where do I live?", context="My name is Wolfgang and I live in Berlin")
    # {'score': 0.91..., 'start': 34, 'end': 40, 'answer': 'Berlin'}

Differences from transformers 4.57, unless ``compat="v4"`` asks for its answers and scores: scores are probabilities
over all windows and the null answer together; "no answer" is read at the CLS token, wherever that is; padding on the
left works; a question that is too long is cut; overlapping windows list no answer twice; ties come in reading order; a
list is shorter than ``top_k`` rather than filled with empty answers; and unknown arguments are errors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, fields, replace
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import AutoModelForQuestionAnswering
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS
from transformers.pipelines.base import ChunkPipeline

from qa_lightning.decoding.spans import Scaling
from qa_lightning.documents.collection import Collection
from qa_lightning.errors import InputError
from qa_lightning.features.batching import Batch, PaddingCollator, window_batches
from qa_lightning.features.windows import Windower, WindowSettings
from qa_lightning.inference.arguments import (
    V4_ANSWER_LENGTH,
    Call,
    Item,
    V4Settings,
    call_settings,
    checked_batch_size,
    checked_settings,
    create_sample,
    in_chunks,
    understand,
    window_settings,
)
from qa_lightning.inference.asking import AskedModel, AskSettings, pipeline_answers
from qa_lightning.inference.engine import AnswerDict, AnswerPolicy, RankedAnswers, answer_all
from qa_lightning.inference.v4 import V4Answers
from qa_lightning.models.loading import load_answering_model, max_positions, model_summary, name_token_types
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings
from qa_lightning.models.threshold_file import read_threshold_file

TASK = "extractive-qa"
Compat = Literal["v4"]
_WINDOW_SETTINGS = ("doc_stride", "max_seq_len", "max_question_len")
_IMPOSSIBLE = "handle_impossible_answer"
_MODEL_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_CHUNK_FACTOR = 16  # times the batch size: the questions whose windows are cut and sorted by length together
_MIN_CHUNK = 256  # questions
_MAX_WINDOWERS = 8  # cached, one per window settings; each holds its own tokenizer


class QuestionAnsweringPipeline(ChunkPipeline):  # type: ignore[misc]
    """Answers questions from their contexts; see the module.

    Args:
        model: a model with a question answering head, or an `onnx.OnnxModel`.
        tokenizer: its fast tokenizer.
        device: as for any pipeline; None takes the first GPU, or the CPU if there is none.
        batch_size: windows per forward pass.
        compat: ``v4`` returns the answers and scores of transformers 4.57.
        **settings: defaults for the settings of a call; see `__call__`.

    Raises:
        InputError: the tokenizer is slow or missing, or ``compat`` or a setting has an invalid value.
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
            raise InputError(f"compat {compat!r} is unknown; pass 'v4', or None")
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"tokenizer {type(tokenizer).__name__} is not a fast tokenizer, so it returns no character offsets; "
                "pass the model's fast tokenizer (AutoTokenizer.from_pretrained with a tokenizer.json)"
            )
        self.compat = compat
        self._saved = AnswerSettings.of_model(model, tokenizer) if hasattr(model.config, CONFIG_KEY) else None
        self.scaling = self._saved.scaling if self._saved else Scaling()
        self.scores_at_precision = self._saved.scores_at_precision if self._saved else {}
        self._positions = max_positions(model)
        self._windowers: dict[WindowSettings, Windower] = {}
        name_token_types(tokenizer, model)
        super().__init__(model=model, tokenizer=tokenizer, device=device, batch_size=batch_size, **settings)
        self._collate = PaddingCollator(tokenizer)
        self.model.eval()

    def __repr__(self) -> str:
        """The model and the default settings of a call; runs no computation."""
        settings: dict[str, Any] = {"batch_size": self._batch_size}
        if self.compat:
            settings["compat"] = self.compat
        elif self._saved:
            settings |= asdict(self._saved.windows)
            settings |= {"null_score_diff_threshold": self.scaling.threshold, "temperature": self.scaling.temperature}
        shown = (f"{name}={value!r}" for name, value in {**settings, **self._postprocess_params}.items())
        return f"QuestionAnsweringPipeline({model_summary(self.model)};\n  {', '.join(shown)})"

    def _sanitize_parameters(self, **settings: Any) -> tuple[dict[str, Any], dict[str, Any], dict[str, Any]]:
        """Check the settings of a call or of the constructor, each on its own; they all go to ``postprocess``."""
        given = checked_settings(settings, lenient=self.compat == "v4")
        return {}, {}, given

    def __call__(self, *args: Any, **keywords: Any) -> Any:
        """Answer questions.

        Args:
            *args: items ``{"question": ..., "context": ...}``: one, a list, a generator or a dataset; or a question
                and a context.
            **keywords: ``question`` and ``context``, each a text or a list (a single text is paired with every
                element of the other list), or the items as ``data``; and any of these settings (default):

                - ``top_k`` (1): the maximum number of answers.
                - ``doc_stride`` (128, at most half a window): tokens that two windows share.
                - ``max_answer_len`` (15): the longest answer, in tokens, before it is widened to whole words.
                - ``max_seq_len`` (384, or the model's limit if lower): the longest window, in tokens.
                - ``max_question_len`` (64): the longest question, in tokens; a longer one is cut.
                - ``handle_impossible_answer`` (False): whether "no answer" (an empty text at 0) may be an answer.
                - ``align_to_words`` (True): widen answers to whole words, and return each text once; False returns
                  spans of tokens, each with its own probability.
                - ``batch_size``: windows per forward pass.
                - ``padding``: accepted and without effect; a batch is padded to its longest window.

                With ``documents`` in place of ``context``, questions are answered from all of them with one ranking:
                see `reader.Reader.ask`, whose settings are taken too, except that ``top_k`` is 1. Answers are spans,
                and not widened to words.

                A model saved by this package brings its own window lengths in place of these defaults, and its
                threshold for "no answer" and its temperature.

        Returns:
            For one question a dict ``score, start, end, answer``, or a list of such dicts unless there is exactly one
            answer. From documents, the dicts have ``document``, ``context``, ``sentence`` and their offsets too (see
            `answers.DocumentAnswer.as_dict`), and where no answer reaches ``min_score`` the answer is empty and its
            score 0. For a list of questions a list of these; for a generator or a dataset an iterator of these.
            ``answer == context[start:end]``, in characters; ``score`` is a probability.

        Raises:
            KeyError, ValueError, TypeError: see `understand`, `checked_settings` and `window_settings` in `arguments`.
        """
        if "documents" in keywords:
            return self._ask(*args, **keywords)
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
        results = list(answers)
        return results[0] if call.single else results

    def _ask(self, question: str | list[str] | None = None, *, documents: Any, **settings: Any) -> Any:
        """Answer one question or several from documents; see `__call__`."""
        if self.compat == "v4":
            raise InputError("scores of compat 'v4' do not compare between documents; build the pipeline without it")
        names = (*(field.name for field in fields(AskSettings)), "max_answer_len", *_WINDOW_SETTINGS, _IMPOSSIBLE)
        if unknown := [name for name in settings if name not in names]:
            raise TypeError(f"unknown argument {', '.join(map(repr, unknown))}; with documents, known are {names}")
        given = {name: value for name, value in settings.items() if value is not None}
        about_asking = {field.name: given.pop(field.name) for field in fields(AskSettings) if field.name in given}
        own = {name: value for name, value in self._postprocess_params.items() if name in names and name != "top_k"}
        given = {**own, **checked_settings(given)}
        asked = AskSettings(**{"top_k": self._postprocess_params.get("top_k", 1), **about_asking})
        asked.check()
        windows = window_settings(given, self._saved, self._positions, self.tokenizer)
        saved = self._saved or AnswerSettings(max_answer_length=V4_ANSWER_LENGTH)
        model = AskedModel(
            Windower(self.tokenizer, windows, shorten=True),
            replace(
                saved,
                version_2=given.get(_IMPOSSIBLE, saved.version_2),
                max_answer_length=given.get("max_answer_len", saved.max_answer_length),
                null_score_diff_threshold=self.scaling.threshold,
                temperature=self.scaling.temperature,
                scores_at_precision=self.scores_at_precision,
            ),
            self._logits,
            self._collate,
            self._batch_size,
        )
        collection = Collection.read(documents, asked.on_bad)
        questions = question if isinstance(question, (list, tuple)) else [question]
        found = [pipeline_answers(model.ask(one, collection, asked), asked.top_k) for one in questions]
        return found if isinstance(question, (list, tuple)) else found[0]

    def get_iterator(
        self,
        inputs: Any,
        num_workers: int,
        batch_size: int,
        preprocess_params: Mapping[str, Any],
        forward_params: Mapping[str, Any],
        postprocess_params: Mapping[str, Any],
    ) -> Iterator[Any]:
        """Answer ``inputs`` in order; windows of many questions are sorted by length and batched together."""
        return self._answers(Call(inputs, lazy=True, single=False), postprocess_params, batch_size)

    def _answers(self, call: Call, settings: Mapping[str, Any], batch_size: int) -> Iterator[Any]:
        # With batch_size=1 a generator is read one question at a time, so that no answer waits for a later question.
        size = 1 if call.lazy and batch_size == 1 else max(_CHUNK_FACTOR * batch_size, _MIN_CHUNK)
        for chunk in in_chunks(call.items, size):
            policy = self._policy(chunk, settings)
            yield from map(_alone, answer_all(policy, self._logits, self._collate, batch_size))

    def _logits(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        outputs = self.forward(batch)
        return outputs["start"], outputs["end"]

    def _policy(self, items: list[Item], settings: Mapping[str, Any]) -> AnswerPolicy[list[AnswerDict]]:
        if self.compat == "v4":
            return V4Answers(self.tokenizer, V4Settings(**settings), items)
        windows = window_settings(settings, self._saved, self._positions, self.tokenizer)
        if windows not in self._windowers:
            if len(self._windowers) == _MAX_WINDOWERS:
                self._windowers.pop(next(iter(self._windowers)))
            self._windowers[windows] = Windower(self.tokenizer, windows, shorten=True)
        return RankedAnswers(self._windowers[windows], call_settings(settings, self.scaling), items)

    def preprocess(self, example: Any, **settings: Any) -> Iterator[dict[str, Any]]:
        """Yield the windows of one question, each as a batch of one."""
        call = understand((example,), {}, v4=self.compat == "v4")
        policy = self._policy(list(call.items), {**self._postprocess_params, **settings})
        batches = list(window_batches(policy.store, self._collate, 1))
        for number, batch in enumerate(batches, 1):
            yield {**batch, "policy": policy, "is_last": number == len(batches)}

    def _forward(self, inputs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Add ``start`` and ``end`` logits, [B, T], to the model's inputs."""
        output = self.model(**{name: inputs[name] for name in _MODEL_INPUTS if name in inputs})
        if not hasattr(output, "start_logits"):
            raise InputError(
                f"model {type(self.model).__name__} returns no start and end logits: it has no question answering "
                "head; load it with AutoModelForQuestionAnswering"
            )
        return {**inputs, "start": output.start_logits, "end": output.end_logits}

    def postprocess(self, model_outputs: list[dict[str, Any]], **_: Any) -> Any:
        """The answers to one question, from the outputs of `_forward` for its windows."""
        policy: AnswerPolicy[list[AnswerDict]] = model_outputs[0]["policy"]
        for output in model_outputs:
            policy.add(output, output["start"], output["end"])
        return _alone(policy.answers()[0])


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
    """Load a model and its tokenizer as a question answering pipeline.

    Args:
        model: a folder, or a name on the Hub, of any question answering model or of an ONNX export of one.
        device: None takes the first GPU, or the CPU if there is none.
        dtype: of weights and computation; None means float32. bfloat16 is faster on hardware that supports it.
        batch_size, compat, **settings: see `QuestionAnsweringPipeline`.
        trust_remote_code: run code that comes with the model.
        use_safetensors: False also accepts pickled weights, read by torch's loader that runs no code.
        threshold_file: written by ``qa-lightning evaluate --output_dir`` for this model: its threshold and
            temperature.

    Raises:
        InputError: the model cannot be loaded or has no trained question answering head, or ``threshold_file``
            belongs to another model.
    """
    loaded, tokenizer = load_answering_model(
        str(model), dtype=dtype, trust_remote_code=trust_remote_code, use_safetensors=use_safetensors
    )
    answers = QuestionAnsweringPipeline(
        model=loaded, tokenizer=tokenizer, device=device, batch_size=batch_size, compat=compat, **settings
    )
    if threshold_file is not None:
        found = read_threshold_file(Path(threshold_file), str(model))
        answers.scaling, answers.scores_at_precision = found.scaling, found.scores_at_precision
    return answers


def register_pipeline(restore: bool = False) -> None:
    """Make ``transformers.pipeline("extractive-qa", model=...)`` build a `QuestionAnsweringPipeline`.

    Args:
        restore: register it under the task's old name, ``question-answering``, too.
    """
    tasks = [TASK, "question-answering"] if restore else [TASK]
    for task in tasks:
        REMOVED_TASKS.pop(task, None)
        PIPELINE_REGISTRY.supported_tasks.pop(task, None)  # avoids a warning if it was registered before
        PIPELINE_REGISTRY.register_pipeline(
            task, pipeline_class=QuestionAnsweringPipeline, pt_model=AutoModelForQuestionAnswering, type="text"
        )
    # With this attribute, save_pretrained would copy this package's source beside the model as remote code.
    del QuestionAnsweringPipeline._registered_impl
