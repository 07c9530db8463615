"""The ways to call a question answering pipeline, as transformers 4.57 had them -> questions with their contexts.

Source of the contract: ``QuestionAnsweringArgumentHandler`` of transformers 4.57.6. Exceptions for missing and empty
input keep their types and messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any

import datasets
from torch.utils.data import Dataset, IterableDataset
from transformers.utils import PaddingStrategy

from qa_lightning.data.answers import has_surrogates
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.settings import AnswerSettings

Item = dict[str, str]  # question, context

_LAZY = (GeneratorType, Dataset, IterableDataset, datasets.Dataset, datasets.IterableDataset)


@dataclass(frozen=True)
class Call:
    """What a call asks.

    Attributes:
        items: the questions; to be iterated over once.
        lazy: they come one by one from a generator or a dataset, and so do the answers.
        single: there is one, and its answer is wanted alone, outside of a list.
    """

    items: Iterable[Any]
    lazy: bool
    single: bool


def create_sample(question: Any, context: Any) -> Any:
    """A question with its context, or a list of them where ``question`` is a list."""
    if isinstance(question, list):
        return [{"question": one, "context": text} for one, text in zip(question, context, strict=False)]
    return {"question": question, "context": context}


def understand(args: tuple[Any, ...], keywords: Mapping[str, Any], v4: bool = False) -> Call:
    """Find the questions in the arguments of a call.

    Args:
        args: one item, dict or iterable of dicts; or question and context; or several dicts.
        keywords: ``question`` and ``context``, texts or lists of the same length, or a text for all of the other's
            list; or the items as ``data`` or ``X``.
        v4: take and refuse exactly what 4.57 did: a single question for several contexts, tuples for lists, and
            items with more than question and context are then refused.

    Raises:
        KeyError: an item without question or context.
        ValueError: an item that is no dict, a text that is None, empty, blank or no valid Unicode, lists of unequal
            lengths, or arguments that cannot be understood.
        TypeError: a text that is none.
    """
    items = _items(args, keywords, v4)
    if isinstance(items, _LAZY):
        return Call(_checked_one_by_one(items, v4), lazy=True, single=False)
    if isinstance(items, Mapping) and isinstance(items.get("question"), list):  # one dict of several questions
        pairs = create_sample(**items) if v4 else _paired(items["question"], items.get("context"), v4)
        return Call([checked_item(item, v4) for item in pairs], lazy=False, single=False)
    if isinstance(items, Mapping):
        items = [items]
    elif isinstance(items, Iterable):
        items = list(items)
    else:
        raise ValueError(f"Invalid arguments {dict(keywords)}")
    checked = [checked_item(item, v4) for item in items]
    return Call(checked, lazy=False, single=len(checked) == 1)


def _items(args: tuple[Any, ...], keywords: Mapping[str, Any], v4: bool) -> Any:
    if len(args) == 1:
        return args[0]
    if len(args) == 2 and {type(arg) for arg in args} == {str}:
        return {"question": args[0], "context": args[1]}
    if args:
        return list(args)
    for name in ("X", "data"):
        if name in keywords:
            return keywords[name]
    if "question" in keywords and "context" in keywords:
        return _paired(keywords["question"], keywords["context"], v4)
    raise ValueError(f"Unknown arguments {dict(keywords)}")


def _paired(question: Any, context: Any, v4: bool) -> Any:
    lists = (list,) if v4 else (list, tuple)
    if isinstance(question, lists) and isinstance(context, lists):
        if len(question) != len(context):
            raise ValueError("Questions and contexts don't have the same lengths")
        return [{"question": one, "context": text} for one, text in zip(question, context, strict=True)]
    if isinstance(question, lists) and isinstance(context, str):
        return [{"question": one, "context": context} for one in question]
    if isinstance(question, str) and isinstance(context, lists) and not v4:
        return [{"question": question, "context": text} for text in context]
    if isinstance(question, str) and isinstance(context, str):
        return [{"question": question, "context": context}]
    raise ValueError("Arguments can't be understood")


def _checked_one_by_one(items: Any, v4: bool) -> Iterator[Item]:
    for item in items:
        yield {name: item[name] for name in ("question", "context")} if v4 else checked_item(item)


def checked_item(item: Any, v4: bool = False) -> Item:
    """One question with its context, once it holds up; for the exceptions see `understand`."""
    if not isinstance(item, Mapping):
        raise ValueError(f"{item} argument needs to be of type (SquadExample, dict)")
    for name in ("question", "context"):
        if name not in item:
            raise KeyError("You need to provide a dictionary with keys {question:..., context:...}")
        text = item[name]
        if text is None:
            raise ValueError(f"`{name}` cannot be None")
        if isinstance(text, str) and len(text) == 0:
            raise ValueError(f"`{name}` cannot be empty")
        if v4:
            continue
        if not isinstance(text, str):
            raise TypeError(f"`{name}` is a {type(text).__name__}, {str(text)[:60]!r}; pass a text")
        if not text.strip():
            raise ValueError(f"`{name}` is nothing but white space, {text[:60]!r}; pass a text with words in it")
        if has_surrogates(text):
            raise ValueError(f"`{name}` holds half of a surrogate pair, {text[:60]!r}; pass it as valid UTF-8")
    sample: Item = create_sample(**item) if v4 else {name: item[name] for name in ("question", "context")}
    return sample


def in_groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """The items, ``size`` at a time; what was read before an exception is given first, then it is raised."""
    group: list[Item] = []
    iterator = iter(items)
    while True:
        try:
            group.append(next(iterator))
        except StopIteration:
            break
        except Exception:
            if group:
                yield group
            raise
        if len(group) == size:
            yield group
            group = []
    if group:
        yield group


_LEAST = {"top_k": 1, "max_answer_len": 1, "doc_stride": 0, "max_seq_len": 1, "max_question_len": 1}


_SWITCHES = ("handle_impossible_answer", "align_to_words")


_QUESTION_LENGTH = 64  # tokens


_WINDOW_LENGTH = 384


_STRIDE = 128


def checked_settings(settings: Mapping[str, Any], lenient: bool = False) -> dict[str, Any]:
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
        given: by the caller; see `checked_settings`.
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
        given: by the caller; see `checked_settings`.
        scaling: the model's threshold and temperature.
    """
    windows = ("doc_stride", "max_seq_len", "max_question_len")
    return CallSettings(scaling=scaling, **{name: value for name, value in given.items() if name not in windows})


@dataclass(frozen=True)
class CallSettings:
    """How one pipeline call is answered.

    Args:
        top_k: the number of answers, at most.
        max_answer_len: the longest answer, in tokens, before it is widened to whole words.
        handle_impossible_answer: whether "no answer" is one.
        align_to_words: widen answers to whole words, and give each text once.
        scaling: how scores become probabilities, with the threshold above which "no answer" comes first.
    """

    top_k: int = 1
    max_answer_len: int = 15
    handle_impossible_answer: bool = False
    align_to_words: bool = True
    scaling: Scaling = field(default_factory=Scaling)


@dataclass(frozen=True)
class V4Settings:
    """The old call's settings, with its defaults; all lengths in tokens.

    Args:
        top_k: answers to give.
        doc_stride: tokens that two windows share; None takes half a window, at most 128.
        max_answer_len: the longest answer.
        max_seq_len: the longest window; None takes the tokenizer's limit, at most 384.
        max_question_len: was without effect, and is.
        handle_impossible_answer: whether "no answer" is one.
        align_to_words: widen answers to whole words.
    """

    top_k: int = 1
    doc_stride: int | None = None
    max_answer_len: int = 15
    max_seq_len: int | None = None
    max_question_len: int = 64
    handle_impossible_answer: bool = False
    align_to_words: bool = True
