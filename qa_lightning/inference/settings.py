"""Check the settings of a pipeline call, and turn them into those of windows and answers.

`CallSettings` is for the pipeline's own answers, `V4Settings` for those of transformers 4.57.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from transformers.utils import PaddingStrategy

from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import MOST, InputError, is_too_large
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.wording import shown

_MIN = {"top_k": 1, "max_answer_len": 1, "doc_stride": 0, "max_seq_len": 1, "max_question_len": 1}
_SWITCHES = ("handle_impossible_answer", "align_to_words")
_ABOUT_WINDOWS = ("doc_stride", "max_seq_len", "max_question_len")
# Defaults of transformers 4.57, in tokens; they are not ours, though equal.
V4_QUESTION_LENGTH = 64
V4_WINDOW_LENGTH = 384
V4_STRIDE = 128
V4_ANSWER_LENGTH = 15


class Params(NamedTuple):
    """The settings of a call for each of the pipeline's three steps, as a transformers pipeline keeps them."""

    preprocess: dict[str, Any]
    forward: dict[str, Any]
    postprocess: dict[str, Any]

    @property
    def known(self) -> Params:
        """These settings without those that only a subclass knows."""
        known = (*_MIN, *_SWITCHES)
        return Params(*({name: own[name] for name in known if name in own} for own in self))

    @classmethod
    def of(cls, given: Mapping[str, Any]) -> Params:
        """Those from `checked_settings`: windows are cut by ``preprocess``, answers are chosen by ``postprocess``."""
        about_windows = {name: given[name] for name in _ABOUT_WINDOWS if name in given}
        return cls(about_windows, {}, {name: value for name, value in given.items() if name not in about_windows})

    def updated(self, by: Params) -> Params:
        """These settings, replaced with those of ``by`` where it has them."""
        return Params(*({**own, **other} for own, other in zip(self, by, strict=True)))


def checked_settings(settings: Mapping[str, Any], lenient: bool = False, any_name: bool = False) -> dict[str, Any]:
    """The settings that are not None, by their current names, each checked against its own limits.

    Args:
        settings: of a call or of the constructor.
        lenient: check only the limits that 4.57 checked.
        any_name: ignore unknown names, as calls of 4.57 did.

    Raises:
        InputError: (a ValueError) values out of range or of the wrong type, all of them together.
        TypeError: unknown names.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if "topk" in given:  # the name of top_k before transformers 4.0
        given.setdefault("top_k", given.pop("topk"))
    padding = given.pop("padding", None)
    if not isinstance(padding, bool) and padding is not None:
        PaddingStrategy(padding)  # raises a ValueError that lists the valid values
    known = (*_MIN, *_SWITCHES)
    unknown = [name for name in given if name not in known]
    if unknown and not any_name:
        names = f"argument{'s' if len(unknown) > 1 else ''} {', '.join(map(repr, unknown))}"
        raise TypeError(f"unknown {names}; known are {', '.join(known)}, batch_size")
    given = {name: value for name, value in given.items() if name in known}
    problems = []
    for name, value in given.items():
        minimum = _MIN.get(name)
        if lenient:
            if name in ("top_k", "max_answer_len") and value < minimum:
                problems.append(f"{name} parameter should be >= {minimum} (got {value})")
        elif minimum is None:
            if not isinstance(value, bool):
                problems.append(f"{name} is {value!r}; pass True or False")
        elif isinstance(value, bool) or not isinstance(value, int):
            problems.append(f"{name} is {value!r}, of type {type(value).__name__}; pass an int")
        elif value < minimum:
            problems.append(f"{name} parameter should be >= {minimum} (got {value})")
        elif is_too_large(value):
            problems.append(f"{name} is {shown(value)}; pass at most {MOST}")
    if problems:
        raise InputError(problems)
    return given


def checked_batch_size(value: Any) -> int:
    """The batch size; raises `InputError` unless it is an int of at least 1 and at most `MOST`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"batch_size is {value!r}; pass an int of at least 1")
    if is_too_large(value):
        raise InputError(f"batch_size is {shown(value)}; pass at most {MOST}")
    return value


def window_settings(
    given: Mapping[str, Any], saved: AnswerSettings | None, positions: int | None, tokenizer: Any
) -> WindowSettings:
    """How contexts are cut into windows for a call; all lengths in tokens.

    Args:
        given: the caller's settings, from `checked_settings`.
        saved: the settings that the model was saved with; None for a model from elsewhere, which gets 4.57's defaults.
        positions: the longest input that the model takes; None if there is no limit.
        tokenizer: the model's.

    Raises:
        InputError: windows are longer than the model takes, too short for a question and a context, or shorter than
            their overlap.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    length = given.get("max_seq_len")
    if length is None:
        length = saved.max_length if saved else min(tokenizer.model_max_length, V4_WINDOW_LENGTH)
        length = min(length, positions or length)
    elif positions and length > positions:
        raise InputError(f"max_seq_len {length} is more than the model's {positions} positions; pass at most that")
    if length < special + 2:
        raise InputError(
            f"max_seq_len {length} leaves no room for a question and a context beside {special} special tokens; pass "
            f"at least {special + 2}"
        )
    stride = given.get("doc_stride")
    if stride is None:
        stride = min(length // 2, saved.doc_stride if saved else V4_STRIDE)
    if stride > length:
        raise InputError(f"`doc_stride` ({stride}) is larger than `max_seq_len` ({length})")
    question = given.get("max_question_len", saved.max_question_length if saved else V4_QUESTION_LENGTH)
    return WindowSettings(length, stride, min(question, length - special - 1))


def call_settings(given: Mapping[str, Any], saved: AnswerSettings | None, scaling: Scaling) -> CallSettings:
    """How the answers of a call are chosen and scored.

    Args:
        given: the caller's settings that are not about windows, from `checked_settings`.
        saved: the settings that the model was saved with; None for a model from elsewhere, which gets 4.57's defaults.
        scaling: the model's threshold and temperature.
    """
    own = {"max_answer_len": saved.max_answer_length} if saved else {}
    return CallSettings(scaling=scaling, **{**own, **given})


@dataclass(frozen=True)
class CallSettings:
    """How the answers of one pipeline call are chosen and scored.

    Args:
        top_k: the maximum number of answers.
        max_answer_len: the longest answer, in tokens, before it is widened to whole words.
        handle_impossible_answer: whether "no answer" may be an answer.
        align_to_words: widen answers to whole words, and return each text once.
        scaling: how scores become probabilities, and the threshold: "no answer" comes first if its odds against the
            best span are above it.
    """

    top_k: int = 1
    max_answer_len: int = V4_ANSWER_LENGTH
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    scaling: Scaling = field(default_factory=Scaling)


@dataclass(frozen=True)
class V4Settings:
    """The settings of a call of transformers 4.57, with its defaults; all lengths in tokens.

    Args:
        top_k: the maximum number of answers.
        doc_stride: tokens that two windows share; None means half a window, at most 128.
        max_answer_len: the longest answer.
        max_seq_len: the longest window; None means the tokenizer's limit, at most 384.
        max_question_len: has no effect, as in 4.57.
        handle_impossible_answer: whether "no answer" may be an answer.
        align_to_words: widen answers to whole words.
    """

    top_k: int = 1
    doc_stride: int | None = None
    max_answer_len: int = V4_ANSWER_LENGTH
    max_seq_len: int | None = None
    max_question_len: int = V4_QUESTION_LENGTH
    handle_impossible_answer: bool = False
    align_to_words: bool = True
