"""The question answering pipeline that transformers 5.3 removed: the same calls and returns, with exact decoding.

    from qa_lightning import pipeline

    ask = pipeline("deepset/roberta-base-squad2")
    ask(question="Where do I live?", context="My name is Wolfgang and I live in Berlin")
    # {'score': 0.91..., 'start': 34, 'end': 40, 'answer': 'Berlin'}

Differences from transformers 4.57, unless ``compat="v4"`` asks for its answers and scores: scores are probabilities
over all windows and the null answer together; "no answer" is read at the CLS token, wherever that is; padding on the
left works; a question that is too long is cut; overlapping windows list no answer twice; ties come in reading order; a
list is shorter than ``top_k`` rather than filled with empty answers; one kind of call has one shape; the longest answer
is the one that the model was saved with; and unknown arguments are errors.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import asdict, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import torch
from transformers.pipelines.base import ChunkPipeline

from qa_lightning.decoding.decoder import BrokenLogitsError
from qa_lightning.documents.collection import Collection
from qa_lightning.errors import InputError
from qa_lightning.features.batching import Batch, PaddingCollator, window_batches
from qa_lightning.inference.arguments import Call, Entry, Item, create_sample, in_chunks, understand
from qa_lightning.inference.asking import AskedModel, AskSettings, pipeline_answers
from qa_lightning.inference.building import OLD_TASK, Loading, chosen_dtype, chosen_model, load_parts, refuse_unused
from qa_lightning.inference.cutting import CutQuestions, Windowers
from qa_lightning.inference.engine import CHUNK_FACTOR, AnswerDict, AnswerPolicy, RankedAnswers, answer_all
from qa_lightning.inference.settings import (
    V4_ANSWER_LENGTH,
    Params,
    V4Settings,
    call_settings,
    checked_batch_size,
    checked_settings,
    window_settings,
)
from qa_lightning.inference.v4 import V4Answers, V4Questions, V4Windower
from qa_lightning.models.computing.attention import mask_is_optional
from qa_lightning.models.computing.loss import MODEL_INPUTS, inputs_on
from qa_lightning.models.ensemble import Ensemble, models_of, settings_of
from qa_lightning.models.load_errors import fitting
from qa_lightning.models.loading import max_positions, model_summary, suited
from qa_lightning.models.settings import CONFIG_KEY
from qa_lightning.models.threshold_file import read_threshold_file

Compat = Literal["v4"]
_WINDOW_SETTINGS = ("doc_stride", "max_seq_len", "max_question_len")
_IMPOSSIBLE = "handle_impossible_answer"
_MIN_CHUNK = 256  # questions


class QuestionAnsweringPipeline(ChunkPipeline):  # type: ignore[misc]
    """Answers questions from their contexts; see the module.

    One pipeline may be called from several threads at once. The three steps are those of any transformers pipeline,
    and each can be replaced: another ``postprocess`` gets the outputs for the windows of one question;
    with another ``preprocess``, questions are answered one after the other, and windows one by one.

    Args:
        model: a model with a question answering head, an `onnx.OnnxModel`, or an `Ensemble` of several models.
        tokenizer: its fast tokenizer.
        device: as for any pipeline; None takes the first GPU, or the CPU if there is none.
        batch_size: windows per forward pass.
        compat: ``v4`` returns the answers and scores of transformers 4.57.
        dtype, torch_dtype: what the model is cast to; None and ``auto`` leave it.
        framework: ``pt``, or None.
        task: accepted; it is ``question-answering``, whatever it is called here.
        num_workers: accepted and without effect, as windows are cut in this process.
        **settings: defaults for the settings of a call; see `__call__`.

    Raises:
        InputError: the tokenizer is slow or missing, or an argument has an invalid value.
        TypeError: an argument is unknown.
    """

    default_input_names = "question,context"
    create_sample = staticmethod(create_sample)
    framework = "pt"  # an attribute of every pipeline of transformers 4
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
        dtype: torch.dtype | str | None = None,
        torch_dtype: torch.dtype | str | None = None,
        framework: str | None = None,
        task: str | None = None,
        num_workers: int | None = None,
        **settings: Any,
    ) -> None:
        if compat not in (None, "v4"):
            raise InputError(f"compat {compat!r} is unknown; pass 'v4', or None")
        if not getattr(tokenizer, "is_fast", False):
            raise InputError(
                f"tokenizer {type(tokenizer).__name__} is not a fast tokenizer, so it returns no character offsets; "
                "pass the model's fast tokenizer (AutoTokenizer.from_pretrained with a tokenizer.json)"
            )
        if compat == "v4" and isinstance(model, Ensemble):
            raise InputError("compat 'v4' gives the scores of one model; pass one, or leave compat out")
        settings = refuse_unused(settings, framework)
        settings.pop("local_files_only", None)  # transformers' own function passes it on, after it was heeded
        self.compat = compat
        self._built = False
        settings_there = settings_of(model, tokenizer)  # the defaults, if the model was saved without any
        self._saved = settings_there if hasattr(model.config, CONFIG_KEY) else None
        self._usual = replace(settings_there, max_answer_length=V4_ANSWER_LENGTH)
        self.scaling = settings_there.scaling
        self.scores_at_precision = self._saved.scores_at_precision if self._saved else {}
        self.fitted_version_2 = False  # whether a threshold file was fitted to questions without an answer, too
        self._positions = max_positions(model)
        tokenizer = suited(tokenizer, model)
        self._windowers = Windowers(tokenizer)
        self._v4_windower = V4Windower()
        wanted = chosen_dtype(dtype=dtype, torch_dtype=torch_dtype)
        if isinstance(wanted, torch.dtype) and model.dtype != wanted:
            model.to(dtype=wanted)
        super().__init__(
            model=model,
            tokenizer=tokenizer,
            task=OLD_TASK,
            device=device,
            batch_size=checked_batch_size(batch_size),
            **settings,
        )
        self._built = True
        self._may_lack_mask = all(map(mask_is_optional, models_of(self.model)))
        self._collate = PaddingCollator(tokenizer)
        self.model.eval()

    def __repr__(self) -> str:
        """The model and the default settings of a call; runs no computation."""
        settings: dict[str, Any] = {"batch_size": self._batch_size}
        if self.compat:
            settings["compat"] = self.compat
        elif self._saved:
            settings |= asdict(self._saved.windows) | {"max_answer_len": self._saved.max_answer_length}
            settings |= {"null_score_diff_threshold": self.scaling.threshold, "temperature": self.scaling.temperature}
        settings |= {**self._preprocess_params, **self._postprocess_params}
        shown = (f"{name}={value!r}" for name, value in settings.items())
        return f"QuestionAnsweringPipeline({model_summary(self.model)};\n  {', '.join(shown)})"

    def _sanitize_parameters(self, **settings: Any) -> Params:
        """Check the settings of a call or of the constructor, each on its own, and give them to their steps."""
        lenient = self.compat == "v4"
        return Params.of(checked_settings(settings, lenient, any_name=lenient and self._built))

    @property
    def _defaults(self) -> Params:
        return Params(self._preprocess_params, self._forward_params, self._postprocess_params)

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
                threshold for "no answer", its temperature and its calibrator.

        Returns:
            For one question a dict ``score, start, end, answer``; with ``top_k`` above 1 a list of such dicts, at most
            ``top_k`` and at least one. For a list or a ``datasets.Dataset`` of questions a list of these; for a
            generator an iterator of these; for a torch dataset something to iterate over, with a length if the dataset
            has one. ``answer == context[start:end]``, in characters; ``score`` is a probability. Where a context has
            no possible answer, the answer is "no answer". With ``compat="v4"`` a list of one answer is a dict. From
            documents, the dicts have ``document``, ``context``, ``sentence`` and their offsets too (see
            `answers.DocumentAnswer.as_dict`), and where no answer reaches ``min_score`` the answer is empty and its
            score 0.

        Raises:
            KeyError, ValueError, TypeError: see `understand`, `checked_settings` and `window_settings`.
        """
        if "documents" in keywords:
            return self._ask(*args, **keywords)
        call = understand(args, keywords, v4=self.compat == "v4")
        own = ("question", "context", "data", "X")
        settings = {name: value for name, value in keywords.items() if name not in own}
        batch_size = settings.pop("batch_size", None)
        batch_size = checked_batch_size(self._batch_size if batch_size is None else batch_size)
        settings.pop("num_workers", None)
        params = self._defaults.updated(Params(*self._sanitize_parameters(**settings)))
        if call.length is not None:
            return SizedAnswers(call.length, partial(self._answers, call, params, batch_size))
        answers = self._answers(call, params, batch_size)
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
        params = self._defaults
        defaults = {**params.preprocess, **params.postprocess}
        own = {name: value for name, value in defaults.items() if name in names and name != "top_k"}
        given = {**own, **checked_settings(given)}
        asked = AskSettings(**{"top_k": params.postprocess.get("top_k", 1), **about_asking})
        asked.check()
        windows = window_settings(given, self._saved, self._positions, self.tokenizer)
        saved = self._saved or self._usual
        model = AskedModel(
            self._windowers.of(windows),
            replace(
                saved,
                version_2=given.get(_IMPOSSIBLE, saved.version_2 or self.fitted_version_2),
                max_answer_length=given.get("max_answer_len", saved.max_answer_length),
                null_score_diff_threshold=self.scaling.threshold,
                temperature=self.scaling.temperature,
                scores_at_precision=self.scores_at_precision,
                calibrator=self.scaling.calibrator_as_json,
            ),
            partial(self._logits, params.forward),
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
        preprocess_params: dict[str, Any],
        forward_params: dict[str, Any],
        postprocess_params: dict[str, Any],
    ) -> Iterator[Any]:
        """Answer ``inputs`` in order; windows of many questions are sorted by length and batched together."""
        params = Params(preprocess_params, forward_params, postprocess_params)
        return self._answers(Call(inputs, lazy=True, single=False), params, batch_size)

    def _answers(self, call: Call, params: Params, batch_size: int) -> Iterator[Any]:
        # With batch_size=1 a generator is read one question at a time, so that no answer waits for a later question.
        size = 1 if call.lazy and batch_size == 1 else max(CHUNK_FACTOR * batch_size, _MIN_CHUNK)
        done = 0
        for chunk in in_chunks(call.entries, size):
            items = [item for entry in chunk for item in (entry if isinstance(entry, list) else [entry])]
            try:
                yield from _by_entry(chunk, iter(self._answered(items, params, batch_size)))
            except BrokenLogitsError as error:
                raise BrokenLogitsError([done + number for number in error.numbers]) from None
            done += len(items)

    def _answered(self, items: list[Item], params: Params, batch_size: int) -> Iterable[Any]:
        """The answers to some questions, by the steps that are defined here or that replace them."""
        if not self._is_own("preprocess"):
            return (self.run_single(item, *params) for item in items)
        questions = self._cut(items, params.preprocess)
        if not self._is_own("postprocess"):
            outputs = self._outputs(questions, params.forward, batch_size)
            return (self.postprocess(windows, **params.postprocess) for windows in outputs)
        policy = self._policy(questions, params.postprocess)
        found = answer_all(policy, partial(self._logits, params.forward), self._collate, batch_size)
        return (self._shaped(answers, params.postprocess) for answers in found)

    def _is_own(self, step: str) -> bool:
        """Whether a step of the pipeline is the one defined here, and not that of a subclass or a patch."""
        return getattr(getattr(self, step), "__func__", None) is _STEPS[step]

    def get_inference_context(self) -> Any:
        """Inference mode, which costs less than no gradients, but whose tensors another step could not change."""
        return torch.inference_mode if self._is_own("postprocess") else torch.no_grad

    def _logits(self, forward_params: Mapping[str, Any], batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        if self._is_own("forward") and self._is_own("_forward"):
            with torch.inference_mode():
                return self._span_logits(inputs_on(self.device, batch, self._may_lack_mask))
        outputs = self.forward({name: batch[name] for name in MODEL_INPUTS if name in batch}, **forward_params)
        return outputs["start"], outputs["end"]

    def _outputs(
        self, questions: CutQuestions | V4Questions, forward_params: Mapping[str, Any], batch_size: int
    ) -> list[list[dict[str, Any]]]:
        """What `_forward` gave for the windows of each question, each window as a batch of one."""
        windows: dict[int, dict[str, Any]] = {}
        for batch in window_batches(questions.store, self._collate, batch_size):
            outputs = self.forward(batch, **forward_params)
            for row, number in enumerate(batch["feature"].tolist()):
                windows[number] = {
                    name: value[row : row + 1] if isinstance(value, torch.Tensor) else value
                    for name, value in outputs.items()
                }
        found: list[list[dict[str, Any]]] = [[] for _ in questions.items]
        for number, example in enumerate(questions.store.windows["example"].tolist()):
            found[example].append({**windows[number], "example": questions.items[example], "questions": questions})
        return found

    def _cut(self, items: list[Item], settings: Mapping[str, Any]) -> CutQuestions | V4Questions:
        if self.compat == "v4":
            return self._v4_windower.cut(self.tokenizer, V4Settings(**settings), items)
        return self._windowers.cut(items, window_settings(settings, self._saved, self._positions, self.tokenizer))

    def _policy(
        self, questions: CutQuestions | V4Questions, settings: Mapping[str, Any]
    ) -> AnswerPolicy[list[AnswerDict]]:
        if isinstance(questions, V4Questions):
            return V4Answers(questions, V4Settings(**settings))
        return RankedAnswers(questions, call_settings(settings, self._saved, self.scaling))

    def _shaped(self, answers: list[AnswerDict], settings: Mapping[str, Any]) -> AnswerDict | list[AnswerDict]:
        """One shape for one kind of call; 4.57 went by how many answers there were."""
        alone = len(answers) == 1 if self.compat == "v4" else settings.get("top_k", 1) == 1
        return answers[0] if alone else answers

    def preprocess(self, example: Any, **settings: Any) -> Iterator[dict[str, Any]]:
        """Yield the windows of one question, each as a batch of one.

        Args:
            example: a dict of ``question`` and ``context``.
            **settings: ``doc_stride``, ``max_seq_len``, ``max_question_len``; those left out are the pipeline's own.
        """
        (entry,) = understand((example,), {}, v4=self.compat == "v4").entries
        if isinstance(entry, list):
            raise InputError(f"preprocess takes one question with one context, and got {len(entry)}; pass each alone")
        given = checked_settings(settings, self.compat == "v4")
        questions = self._cut([entry], {**self._defaults.known.preprocess, **given})
        batches = list(window_batches(questions.store, self._collate, 1))
        for number, batch in enumerate(batches, 1):
            yield {**batch, "example": entry, "questions": questions, "is_last": number == len(batches)}

    def _forward(self, inputs: Mapping[str, Any], **_: Any) -> dict[str, Any]:
        """Add ``start`` and ``end`` logits, [B, T], to the model's inputs."""
        start, end = self._span_logits({name: inputs[name] for name in MODEL_INPUTS if name in inputs})
        return {**inputs, "start": start, "end": end}

    def _span_logits(self, inputs: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        output = self.model(**inputs)
        if not hasattr(output, "start_logits"):
            raise InputError(
                f"model {type(self.model).__name__} returns no start and end logits: it has no question answering "
                "head; load it with AutoModelForQuestionAnswering"
            )
        return output.start_logits, output.end_logits

    def postprocess(self, model_outputs: list[dict[str, Any]], **settings: Any) -> Any:
        """The answers to one question.

        Args:
            model_outputs: what `_forward` gave for its windows.
            **settings: those of a call that are not about windows; those left out are the pipeline's own.
        """
        given = {**self._defaults.known.postprocess, **checked_settings(settings, self.compat == "v4")}
        policy = self._policy(model_outputs[0]["questions"], given)
        for output in model_outputs:
            policy.add(output, output["start"], output["end"])
        return self._shaped(policy.answers()[0], given)


_STEPS = {
    step: getattr(QuestionAnsweringPipeline, step) for step in ("preprocess", "forward", "_forward", "postprocess")
}


class SizedAnswers:
    """The answers to the questions of a torch dataset, with its length; they are computed during iteration."""

    def __init__(self, length: int, answers: Callable[[], Iterator[Any]]) -> None:
        self._length = length
        self._answers = answers

    def __len__(self) -> int:
        return self._length

    def __iter__(self) -> Iterator[Any]:
        return self._answers()


def _by_entry(entries: list[Entry], answers: Iterator[Any]) -> Iterator[Any]:
    """The results of the entries of a call, from the answers to their questions."""
    for entry in entries:
        yield [next(answers) for _ in entry] if isinstance(entry, list) else next(answers)


def pipeline(
    task: Any = None,
    model: Any = None,
    config: Any = None,
    tokenizer: Any = None,
    *,
    framework: str | None = None,
    revision: str | None = None,
    use_fast: bool = True,
    token: str | bool | None = None,
    device: int | str | torch.device | None = None,
    device_map: Any = None,
    dtype: torch.dtype | str | None = None,
    torch_dtype: torch.dtype | str | None = None,
    trust_remote_code: bool | None = False,
    use_safetensors: bool = True,
    model_kwargs: Mapping[str, Any] | None = None,
    pipeline_class: type[QuestionAnsweringPipeline] | None = None,
    batch_size: int = 16,
    compat: Compat | None = None,
    threshold_file: str | Path | None = None,
    raw_scores: bool = False,
    **settings: Any,
) -> QuestionAnsweringPipeline:
    """Load a model and its tokenizer as a question answering pipeline; takes what 4.57's ``pipeline`` took.

    Args:
        task: ``question-answering``, the one task; or the model.
        model: a folder, or a name on the Hub, of any question answering model or of an ONNX export of one; the folder
            of a run, or ``last`` for the newest one in ``lightning_logs`` that has a model; or a loaded model. Several
            names, in a list or with commas between them, answer together (see `Ensemble`). None takes 4.57's default, a
            DistilBERT from the Hub.
        config: a name or an object, in place of the model's own.
        tokenizer: a name or an object; None takes the model's own. Needed with a loaded model.
        framework, use_fast: accepted as ``pt`` and True.
        revision: a branch, tag or commit on the Hub, of model and tokenizer.
        token: for the Hub.
        device: None takes the first GPU, or the CPU if there is none.
        device_map: ``auto``, or which part of the model is where; needs accelerate. Not together with ``device``.
        dtype, torch_dtype: of weights and computation, as a dtype or its name. None means float32, ``auto`` the
            weights' own. bfloat16 is faster on hardware that supports it.
        trust_remote_code: run code that comes with the model.
        use_safetensors: False also accepts pickled weights, read by torch's loader that runs no code.
        model_kwargs: for the model's ``from_pretrained``.
        pipeline_class: a subclass to build.
        batch_size, compat, **settings: see `QuestionAnsweringPipeline`.
        threshold_file: written by ``qa-lightning evaluate --output_dir`` for this model: its threshold, temperature and
            calibrator.
        raw_scores: scores are probabilities, also if the model has a calibrator.

    Raises:
        InputError: the model cannot be loaded or has no trained question answering head, ``threshold_file`` belongs to
            another model, or an argument cannot have effect.
        TypeError: an argument is unknown.
    """
    settings = refuse_unused(settings, framework, use_fast)
    if compat == "v4":
        without_effect = {"threshold_file": threshold_file is not None, "raw_scores": raw_scores}
        if given := [name for name, is_given in without_effect.items() if is_given]:
            raise InputError(
                f"{' and '.join(given)}: compat 'v4' gives 4.57's scores, which know neither; leave one out"
            )
    chosen, commit = chosen_model(task, model)
    loading = Loading.of(
        model_kwargs or {},
        dtype=chosen_dtype(dtype=dtype, torch_dtype=torch_dtype),
        trust_remote_code=bool(trust_remote_code),
        use_safetensors=use_safetensors,
        device=device,
        config=config,
        device_map=device_map,
        hub={
            "revision": revision or commit,
            "token": token,
            "local_files_only": settings.pop("local_files_only", None),
        },
    )
    if device is not None and "device_map" in loading.model_options:
        raise InputError(f"device {device!r} and device_map are both given, and say both where the model is; pass one")
    loaded, own_tokenizer = load_parts(chosen, tokenizer, loading)
    if "device_map" in loading.model_options and not hasattr(loaded, "hf_device_map"):
        device = loaded.device  # where the map put it; several parts stay where they are anyway
    with fitting(str(loaded.name_or_path)):  # on its device
        answers = (pipeline_class or QuestionAnsweringPipeline)(
            model=loaded,
            tokenizer=own_tokenizer,
            device=device,
            batch_size=batch_size,
            compat=compat,
            dtype=loading.dtype,
            **settings,
        )
    if threshold_file is not None:
        name = chosen if isinstance(chosen, str) else str(loaded.name_or_path)
        found = read_threshold_file(Path(threshold_file), name, loading.hub)
        fitted = settings_of(loaded, own_tokenizer).fitted(found)
        answers.fitted_version_2 = found.version_2
        answers.scaling = fitted.scaling
        answers.scores_at_precision = fitted.scores_at_precision
    if raw_scores and answers.scaling.calibrator is not None:
        answers.scaling = replace(answers.scaling, calibrator=None)
        answers.scores_at_precision = {}  # calibrated ones
    return answers
