"""Parse the arguments of a pipeline call into questions with contexts, and into checked settings.

Calls take every form that transformers 4.57.6 accepted (its ``QuestionAnsweringArgumentHandler``). Exceptions for
missing and empty input keep 4.57's types and messages.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sized
from dataclasses import dataclass, field
from types import GeneratorType
from typing import Any, NamedTuple

from torch.utils.data import Dataset
from transformers.utils import PaddingStrategy

from qa_lightning.data.answers import has_surrogates
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.features.windows import WindowSettings
from qa_lightning.models.settings import AnswerSettings

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
        items = self.items if self.length is None else (self.items[index] for index in range(self.length))
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
    if problems:
        raise InputError(problems)
    return given


def checked_batch_size(value: Any) -> int:
    """The batch size; raises `InputError` unless it is an int of at least 1."""
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise InputError(f"batch_size is {value!r}; pass an int of at least 1")
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
        scaling: how scores become probabilities, and the threshold above which "no answer" comes first.
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
