"""Find the questions with their contexts in the arguments of a pipeline call; `settings` checks the other arguments.

Calls take every form that transformers 4.57.6 accepted (its ``QuestionAnsweringArgumentHandler``). Exceptions for
missing and empty input keep 4.57's types and messages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass
from types import GeneratorType
from typing import Any

from torch.utils.data import Dataset, IterableDataset

from qa_lightning.data.answers import has_surrogates

Item = dict[str, str]  # question, context
Entry = Item | list[Item]  # a list has one result too: the list of its answers


@dataclass(frozen=True)
class Call:
    """The questions of a call, and the form of its result.

    Attributes:
        entries: what gets a result each; iterate over them once, or, if there is a ``length``, as often as you like.
        lazy: the entries come from a generator or a torch dataset, so the results are an iterator too.
        single: there is one entry, and its result is returned without a list around it.
        length: the number of entries of a lazy call, where it is known.
    """

    entries: Iterable[Entry]
    lazy: bool
    single: bool
    length: int | None = None


def create_sample(question: Any, context: Any) -> Any:
    """A dict of one question and its context; a list of such dicts if ``question`` is a list."""
    if isinstance(question, list):
        return [{"question": one, "context": text} for one, text in zip(question, context, strict=False)]
    return {"question": question, "context": context}


def understand(args: tuple[Any, ...], keywords: Mapping[str, Any], v4: bool = False) -> Call:
    """Find the questions in the arguments of a call.

    Args:
        args: a dict, an iterable of dicts, several dicts, or a question and a context.
        keywords: ``question`` and ``context``, each a text or several: a list, a column of a dataset, a pandas Series
            or a NumPy array. Two of these have the same length, and a single text is paired with every element of the
            other. Or the items as ``data`` or ``X``. The question and context of an item may be several too.
        v4: accept and refuse exactly what 4.57 did. Then one question for several contexts, tuples in place of
            lists, and items with keys beyond question and context are errors.

    Raises:
        KeyError: an item lacks its question or context.
        ValueError: an item is no dict; a text is None, empty, blank or invalid Unicode; two lists differ in length;
            or the arguments have no known form.
        TypeError: a question or context is not a str.
    """
    items = _items(args, keywords, v4)
    if _is_lazy(items, v4):
        length = len(items) if isinstance(items, Sized) else None
        return Call(_Checked(items, length, v4), lazy=True, single=False, length=length)
    if isinstance(items, Mapping):
        items = [items]
    elif isinstance(items, str) and not v4:
        raise ValueError("a question needs a context: pass question=... and context=...")
    elif isinstance(items, Iterable):
        items = list(items)
    else:
        raise ValueError(f"Invalid arguments {dict(keywords)}")
    entries = [checked_entry(item, v4) for item in items]
    return Call(entries, lazy=False, single=len(entries) == 1)


def _is_lazy(items: Any, v4: bool) -> bool:
    """Whether items are read one by one, and answers returned likewise. 4.57 read the library's streams whole first."""
    if isinstance(items, (GeneratorType, Dataset)):
        return True
    library = sys.modules.get("datasets")  # a caller with one of its streams has imported it
    return library is not None and not v4 and isinstance(items, library.IterableDataset)


@dataclass(frozen=True)
class _Checked:
    """The entries of a generator or a dataset, checked one by one; 4.57 checked only that the two texts are there."""

    items: Any
    length: int | None
    v4: bool

    def __iter__(self) -> Iterator[Entry]:
        # By index, because a dataset need not say by an IndexError where it ends.
        by_index = self.length is not None and not isinstance(self.items, IterableDataset)
        items = (self.items[index] for index in range(self.length or 0)) if by_index else self.items
        for item in items:
            yield {name: item[name] for name in ("question", "context")} if self.v4 else checked_entry(item)


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
        question, context = keywords["question"], keywords["context"]
        if isinstance(question, str) and not v4 and _several(context, v4) is not None:
            return {"question": question, "context": context}  # one item, whose result is a list of any length
        return _paired(question, context, v4)
    raise ValueError(f"Unknown arguments {dict(keywords)}")


def _paired(question: Any, context: Any, v4: bool) -> list[dict[str, Any]]:
    questions, contexts = _several(question, v4), _several(context, v4)
    if questions is not None and contexts is not None:
        if len(questions) != len(contexts):
            counts = "" if v4 else f": {len(questions)} and {len(contexts)}"
            raise ValueError(f"Questions and contexts don't have the same lengths{counts}")
        return [{"question": one, "context": text} for one, text in zip(questions, contexts, strict=True)]
    if questions is not None and isinstance(context, str):
        return [{"question": one, "context": context} for one in questions]
    if contexts is not None and isinstance(question, str) and not v4:
        return [{"question": question, "context": text} for text in contexts]
    if isinstance(question, str) and isinstance(context, str):
        return [{"question": question, "context": context}]
    if v4:
        raise ValueError("Arguments can't be understood")
    raise ValueError(
        f"Arguments can't be understood: question is of type {type(question).__name__}, context of type "
        f"{type(context).__name__}; pass a str, or a list of str, for each"
    )


def _several(texts: Any, v4: bool) -> list[Any] | None:
    """The elements of a list, a column of a dataset, a pandas Series or a NumPy array; None for anything else."""
    if isinstance(texts, (str, bytes, Mapping)) or (v4 and isinstance(texts, tuple)):
        return None
    if hasattr(texts, "tolist"):
        texts = texts.tolist()  # NumPy's strings become Python's
    return list(texts) if hasattr(texts, "__len__") and hasattr(texts, "__getitem__") else None


def checked_entry(item: Any, v4: bool = False) -> Entry:
    """Check one item; a list if its question, or outside of ``v4`` its context, is several. See `understand`."""
    if not isinstance(item, Mapping):
        raise ValueError(
            f"an item is of type {type(item).__name__}, {str(item)[:60]!r}; pass a dict of question and context"
        )
    for name in ("question", "context"):
        if name not in item:
            raise KeyError("You need to provide a dictionary with keys {question:..., context:...}")
        if item[name] is None:
            raise ValueError(f"`{name}` cannot be None")
        if isinstance(item[name], str) and not item[name]:
            raise ValueError(f"`{name}` cannot be empty")
    if v4:
        sample: Entry = create_sample(**item)
        return sample
    texts = {name: item[name] for name in ("question", "context")}
    if any(_several(text, v4) is not None for text in texts.values()):
        return [_checked_item(one) for one in _paired(**texts, v4=v4)]
    return _checked_item(texts)


def _checked_item(item: dict[str, Any]) -> Item:
    for name, text in item.items():
        if text is None or text == "":
            raise ValueError(f"`{name}` cannot be {'None' if text is None else 'empty'}")
        if not isinstance(text, str):
            raise TypeError(f"`{name}` is of type {type(text).__name__}, {str(text)[:60]!r}; pass a str")
        if not text.strip():
            raise ValueError(f"`{name}` has only white space, {text[:60]!r}; pass a text with words")
        if has_surrogates(text):
            raise ValueError(f"`{name}` holds half of a surrogate pair, {text[:60]!r}; pass it as valid UTF-8")
    return item


def in_chunks(entries: Iterable[Entry], size: int) -> Iterator[list[Entry]]:
    """Yield the entries in lists of ``size``. If reading one raises, first yield those read before it."""
    chunk: list[Entry] = []
    iterator = iter(entries)
    while True:
        try:
            chunk.append(next(iterator))
        except StopIteration:
            break
        except Exception:
            if chunk:
                yield chunk
            raise
        if len(chunk) == size:
            yield chunk
            chunk = []
    if chunk:
        yield chunk
