"""The ways to call a question answering pipeline, as transformers 4.57 had them -> questions with their contexts.

Source of the contract: ``QuestionAnsweringArgumentHandler`` of transformers 4.57.6. Exceptions for missing and empty
input keep their types and messages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

import datasets
from torch.utils.data import Dataset, IterableDataset

from qa_lightning.data.answers import has_surrogates

Asked = dict[str, str]  # question, context

_LAZY = (GeneratorType, Dataset, IterableDataset, datasets.Dataset, datasets.IterableDataset)


@dataclass(frozen=True)
class Call:
    """What a call asks.

    Attributes:
        asked: the questions; to be iterated over once.
        lazy: they come one by one from a generator or a dataset, and so do the answers.
        single: there is one, and its answer is wanted alone, outside of a list.
    """

    asked: Iterable[Any]
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
        return Call([checked(item, v4) for item in pairs], lazy=False, single=False)
    if isinstance(items, Mapping):
        items = [items]
    elif isinstance(items, Iterable):
        items = list(items)
    else:
        raise ValueError(f"Invalid arguments {dict(keywords)}")
    asked = [checked(item, v4) for item in items]
    return Call(asked, lazy=False, single=len(asked) == 1)


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


def _checked_one_by_one(items: Any, v4: bool) -> Iterator[Asked]:
    for item in items:
        yield {name: item[name] for name in ("question", "context")} if v4 else checked(item)


def checked(item: Any, v4: bool = False) -> Asked:
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
    sample: Asked = create_sample(**item) if v4 else {name: item[name] for name in ("question", "context")}
    return sample


def in_groups(items: Iterable[Asked], size: int) -> Iterator[list[Asked]]:
    """The items, ``size`` at a time; what was read before an exception is given first, then it is raised."""
    group: list[Asked] = []
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
