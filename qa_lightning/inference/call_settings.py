"""The settings of a pipeline call: known by name, checked, and filled up from the model's own and 4.57's defaults."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from transformers.utils import PaddingStrategy

from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.features.windows import WindowSettings
from qa_lightning.inference.engine import CallSettings
from qa_lightning.inference.reader import AnswerSettings
from qa_lightning.inference.v4 import V4Settings

_LEAST = {"top_k": 1, "max_answer_len": 1, "doc_stride": 0, "max_seq_len": 1, "max_question_len": 1}
_SWITCHES = ("handle_impossible_answer", "align_to_words")
_QUESTION_LENGTH = 64  # tokens
_WINDOW_LENGTH = 384
_STRIDE = 128


def checked(settings: Mapping[str, Any], lenient: bool = False) -> dict[str, Any]:
    """Settings that are not None, by their proper names, each within its own limits.

    Args:
        settings: of a call.
        lenient: check only what 4.57 did, and pass over names that are not known.

    Raises:
        InputError: (a ValueError) values out of range or of another type; all of them together.
        TypeError: a name that is not known.
    """
    given = {name: value for name, value in settings.items() if value is not None}
    if "topk" in given:  # its name before 4.0
        given.setdefault("top_k", given.pop("topk"))
    padding = given.pop("padding", None)
    if not isinstance(padding, bool) and padding is not None:
        PaddingStrategy(padding)  # a ValueError that lists the values
    known = (*_LEAST, *_SWITCHES)
    unknown = [name for name in given if name not in known]
    if unknown and not lenient:
        raise TypeError(f"unknown argument {', '.join(map(repr, unknown))}; there are {', '.join(known)}, batch_size")
    given = {name: value for name, value in given.items() if name in known}
    problems = []
    for name, value in given.items():
        least = _LEAST.get(name)
        if lenient:
            if name in ("top_k", "max_answer_len") and value < least:
                problems.append(f"{name} parameter should be >= {least} (got {value})")
        elif least is None:
            if not isinstance(value, bool):
                problems.append(f"{name} is {value!r}; pass True or False")
        elif isinstance(value, bool) or not isinstance(value, int):
            problems.append(f"{name} is {value!r}, a {type(value).__name__}; pass a whole number")
        elif value < least:
            problems.append(f"{name} parameter should be >= {least} (got {value})")
    if problems:
        raise InputError(problems)
    return given


def checked_batch_size(value: Any) -> int:
    """The batch size, at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"batch_size is {value!r}; pass a whole number from 1 on")
    return value


def v4_settings(given: Mapping[str, Any]) -> V4Settings:
    """The settings of a call in 4.57's manner."""
    return V4Settings(**given)


def window_settings(
    given: Mapping[str, Any], saved: AnswerSettings | None, positions: int | None, tokenizer: Any
) -> WindowSettings:
    """How contexts are cut for a call.

    Args:
        given: by the caller; see `checked`.
        saved: what the model was saved with; None for models of others, which get 4.57's defaults.
        positions: the longest input that the model can take, in tokens; None where there is no limit.
        tokenizer: the model's.

    Raises:
        InputError: windows longer than the model can take, too short for anything, or shorter than their overlap.
    """
    special = tokenizer.num_special_tokens_to_add(pair=True)
    longest = given.get("max_seq_len")
    if longest is None:
        longest = saved.max_length if saved else min(tokenizer.model_max_length, _WINDOW_LENGTH)
        longest = min(longest, positions or longest)
    elif positions and longest > positions:
        raise InputError(f"max_seq_len {longest}: the model has positions for {positions} tokens; pass at most these")
    if longest < special + 2:
        raise InputError(
            f"max_seq_len {longest} leaves no room for question and context beside {special} special tokens; pass at "
            f"least {special + 2}"
        )
    stride = given.get("doc_stride")
    if stride is None:
        stride = min(longest // 2, saved.doc_stride if saved else _STRIDE)
    if stride > longest:
        raise InputError(f"`doc_stride` ({stride}) is larger than `max_seq_len` ({longest})")
    question = given.get("max_question_len", saved.max_question_length if saved else _QUESTION_LENGTH)
    return WindowSettings(longest, stride, min(question, longest - special - 1))


def call_settings(given: Mapping[str, Any], scaling: Scaling) -> CallSettings:
    """How a call is answered.

    Args:
        given: by the caller; see `checked`.
        scaling: the model's threshold and temperature.
    """
    windows = ("doc_stride", "max_seq_len", "max_question_len")
    return CallSettings(scaling=scaling, **{name: value for name, value in given.items() if name not in windows})
