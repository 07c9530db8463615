"""Understand the cells of a row: answers in any of their usual shapes, whole numbers, yes and no.

A value that cannot be understood stays as it is, and `examples.check_row` says what is wrong with it. Nothing in a text
is executed. A text that the context holds as it stands is that text, whatever else it might mean. Words for nothing,
such as "None", and an empty list are texts only where an offset says so.
"""

from __future__ import annotations

import ast
import json
import re
import warnings
from decimal import Decimal
from numbers import Integral
from typing import Any, NamedTuple

from qa_lightning.data.formats import NO_ANSWER, Accepted, simple_name
from qa_lightning.data.repair import repaired

NOTHING = ("", "null", "none", "nan")  # cells of a table that mean "no value"
WRITTEN = ("{", "[", "(", "array(", "np.")  # beginnings of lists and objects in a text
_TRUTH = {"true": True, "1": True, "1.0": True, "yes": True, "false": False, "0": False, "0.0": False, "no": False}
_TEXT = ("text", "answer_text", "answer")  # names of a part of an answer, the usual one first
_START = ("answer_start", "start", "start_char", "offset", "begin")
_END = ("answer_end", "end", "end_char")
_SEPARATORS = ("||", "|", ";", "\n", "//", " / ", "#")  # between answers, the least ambiguous first
_NUMPY = re.compile(r"(str_|bool_?|u?int\d*|float\d*|array|asarray|list|tuple)")  # calls that hold what they print
_ITEM = r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|[+-]?\d+\.?)"""
_SPACED = re.compile(rf"\[\s*{_ITEM}(?:\s+{_ITEM})+\s*\]", re.DOTALL)  # a list as numpy prints it, without commas


class NoSpan(NamedTuple):
    """Two offsets between which no answer stands, in place of the answer's text.

    Attributes:
        start, end: as they were given.
    """

    start: Any
    end: Any


def answers_of(value: Any, start: Any, context: Any, separator: str | None) -> Any:
    """Answers in the usual shape, from a cell that may hold a text, several texts, or answers with their offsets.

    Args:
        value: the cell of ``answers`` or ``answer_text``: a text, JSON, what Python or numpy print, or parsed values.
        start: the cell of ``answer_start``: an offset or a list of them; None if there is none.
        context: is searched for each text that has no offset, and gives the text of a pair of offsets.
        separator: stands between several texts, or offsets, in one cell; None if a cell holds one.

    Returns:
        ``[{"text", "answer_start"}, ...]``; or None for an empty cell; or what cannot be understood, as it is, also
        among answers that can be.
    """
    parsed = parsed_cell(value, context)
    if is_nothing(parsed) or (parsed == [] and isinstance(value, str)):
        offset = whole_number(start)
        if _is_whole(offset) and offset >= 0 and _stands_at(value, offset, context):  # the word "None", say
            return [{"text": value, "answer_start": offset}]
        if parsed == []:  # without an offset it is how lists say that there is no answer
            return parsed
        text_is_lost = isinstance(offset, int) and offset > 0  # an offset without a text: `check_answers` refuses it
        return [{"text": value, "answer_start": offset}] if text_is_lost else None
    if isinstance(parsed, dict):
        return _of_object(parsed, context, separator)
    if isinstance(parsed, str):
        return parsed if _is_broken(parsed, context) else _of_texts([parsed], start, context, separator)
    if isinstance(parsed, list) and parsed:
        if all(isinstance(one, str) for one in parsed):
            return _of_texts(parsed, start, context, separator)
        if all(isinstance(one, dict) or is_nothing(one) for one in parsed):
            several = [_of_object(one, context, separator) if isinstance(one, dict) else one for one in parsed]
            return [answer for one in several for answer in (one if isinstance(one, list) else [one])]
        pairs = [_of_pair(one, context) for one in ([parsed] if is_pair(parsed) else parsed)]
        return pairs if all(pairs) else parsed
    return [{"text": parsed, "answer_start": whole_number(start)}] if not isinstance(parsed, list) else parsed


def answer_between(start: Any, end: Any, context: Any) -> Any:
    """The answer between two offsets, ``end`` exclusive, from the cells of ``answer_start`` and ``answer_end``."""
    first, last = (parsed_cell(cell) for cell in (start, end))
    starts, ends = (cell if isinstance(cell, list) else [cell] for cell in (first, last))
    if len(starts) != len(ends) or all(map(is_nothing, [*starts, *ends])):
        return {"text": ends, "answer_start": starts} if len(starts) != len(ends) else None
    pairs = [_between(whole_number(one), whole_number(other), context) for one, other in zip(starts, ends, strict=True)]
    return pairs


def parsed_cell(value: Any, context: Any = None) -> Any:
    """Parse lists and objects from a text: JSON, or what Python or numpy print; None for an empty cell.

    Args:
        value: a text; any other value stays as it is, but tuples and arrays become lists.
        context: a text that it holds as it stands is no list.
    """
    if not isinstance(value, str):
        return _as_lists(value)
    bare = value.strip()
    if bare.lower() in NOTHING:
        return None
    if not bare.startswith(WRITTEN):
        return value
    try:
        found = json.loads(bare)
    except (ValueError, RecursionError):
        found = _printed(bare)
    return value if found is None or (found != [] and _holds_text(context, bare)) else found


def _printed(text: str) -> Any:
    """What Python or numpy printed, with lists for tuples and arrays; None if it is something else."""
    if _SPACED.fullmatch(text):
        text = "[" + ", ".join(re.findall(_ITEM, text, re.DOTALL)) + "]"
    found = _literal(text)
    if found is None:
        found = _literal(re.sub(r"\}\s+\{", "}, {", text))  # an array of objects
    return _as_lists(found)


def _literal(text: str) -> Any:
    """What Python or numpy printed; None if it is something else."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # invalid escapes in the string are no concern of ours
            return ast.literal_eval(_Numpy().visit(ast.parse(text, mode="eval")))
    except (ValueError, TypeError, SyntaxError, RecursionError, MemoryError):
        return None


class _Numpy(ast.NodeTransformer):
    """Replaces ``array([...], dtype=...)`` and ``np.int64(1)``, which numpy prints, by what is in them."""

    def visit_Call(self, node: ast.Call) -> Any:
        """Return the argument of such a call; other calls stay, and ``ast.literal_eval`` then refuses them."""
        known = len(node.args) == 1 and _NUMPY.fullmatch(_name(node.func)) is not None
        return self.visit(node.args[0]) if known else node

    def visit_Attribute(self, node: ast.Attribute) -> Any:
        """Return what ``np.True_``, ``np.False_`` and ``np.nan`` stand for; others stay."""
        known = {"True_": True, "False_": False, "nan": None}
        return ast.Constant(known[node.attr]) if _name(node) in known else node

    def visit_Name(self, node: ast.Name) -> Any:
        """Return None for ``nan``; other names stay."""
        return ast.Constant(None) if node.id == "nan" else node


def _name(node: ast.expr) -> str:
    """The name of a function: ``array``, or after ``np.`` or ``numpy.``; empty for any other."""
    if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id in ("np", "numpy"):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ""


def _as_lists(value: Any, depth: int = 4) -> Any:
    """Tuples and arrays as lists, as deep as answers are."""
    if hasattr(value, "tolist") and not isinstance(value, (str, bytes)):
        value = value.tolist()
    if depth and isinstance(value, (list, tuple)):
        return [_as_lists(one, depth - 1) for one in value]
    if depth and isinstance(value, dict):
        return {name: _as_lists(one, depth - 1) for name, one in value.items()}
    return value


def _of_object(given: dict[str, Any], context: Any, separator: str | None) -> Any:
    """The answers of an object with a text or texts, offsets, or both; the object itself if it has neither."""
    answers = _simply_named(given)
    names = [_name_in(answers, known) for known in (_TEXT, _START, _END)]
    text, start, end = (None if name is None else answers[name] for name in names)
    is_span = names[1] is not None and names[2] is not None
    if is_span and (names[0] is None or (_is_null(text) and not _is_null(start) and not _is_null(end))):
        return answer_between(start, end, context) or []
    if names[0] is None:
        return given
    if isinstance(text, list):
        if names[1] is None and all(isinstance(one, str) for one in text):
            return _of_texts(text, None, context, separator)
        if not isinstance(start, list) or len(start) != len(text):
            return {"text": text, "answer_start": start}
        offsets = [_offset(one, first, context) for one, first in zip(text, start, strict=True)]
        return {"text": text, "answer_start": offsets}
    if names[1] is None and isinstance(text, str) and text.strip():
        return _of_texts([text], None, context, separator)
    return [{"text": text, "answer_start": _offset(text, start, context)}]


def _simply_named(answers: dict[str, Any]) -> dict[str, Any]:
    """An object whose names may be written as those of columns, with simple names beside them."""
    if {_TEXT[0], _START[0]} <= answers.keys():
        return answers
    return {simple_name(name): value for name, value in answers.items()} | answers


def _name_in(answers: dict[str, Any], known: tuple[str, ...]) -> str | None:
    """The first of the known names that has a value, else the first one that is there, else None."""
    there = [name for name in known if name in answers]  # a table of objects has each name in all of them
    return next((name for name in there if not is_nothing(answers[name])), there[0] if there else None)


def _of_texts(texts: list[str], start: Any, context: Any, separator: str | None) -> Any:
    """Answers from texts, and from their offsets as far as there are any."""
    starts = parsed_cell(start)
    alone = len(texts) == 1 and not isinstance(texts[0], Accepted)
    if separator and alone and separator in texts[0] and not _holds_text(context, texts[0]):
        texts = [part.strip() for part in texts[0].split(separator) if part.strip()]
        if isinstance(starts, str):
            starts = [part.strip() for part in starts.split(separator) if part.strip()]
    starts = starts if isinstance(starts, list) else [starts] * (len(texts) if is_nothing(starts) else 1)
    if len(starts) != len(texts):
        return {"text": texts, "answer_start": starts}
    offsets = [_offset(one, given, context) for one, given in zip(texts, starts, strict=True)]
    return [{"text": one, "answer_start": offset} for one, offset in zip(texts, offsets, strict=True)]


def is_pair(value: Any) -> bool:
    """Whether a list is two offsets; in quotes they are two texts."""
    if not isinstance(value, list) or len(value) != 2 or any(isinstance(one, str) for one in value):
        return False
    return all(_is_whole(whole_number(one)) for one in value)


def _of_pair(value: Any, context: Any) -> dict[str, Any] | None:
    """The answer of ``[start, end]`` or ``[text, start]``; None for anything else."""
    if not isinstance(value, list) or len(value) != 2 or not _is_whole(last := whole_number(value[1])):
        return None
    if isinstance(value[0], str):
        return {"text": value[0], "answer_start": _offset(value[0], last, context)}
    return _between(whole_number(value[0]), last, context) if is_pair(value) else None


def _between(start: Any, end: Any, context: Any) -> dict[str, Any]:
    """The answer from ``start`` to before ``end``.

    Its text is None where there is no answer: without offsets, or with both 0 or both -1; and a `NoSpan` where the two
    are no offsets in the context.
    """
    if (start, end) in ((None, None), (-1, -1), (0, 0)):
        return {"text": None, "answer_start": start}
    fits = _is_whole(start) and _is_whole(end) and isinstance(context, str) and 0 <= start < end <= len(context)
    return {"text": context[start:end] if fits else NoSpan(start, end), "answer_start": start}


def _stands_at(text: Any, offset: int, context: Any) -> bool:
    """Whether a text that is not blank stands at an offset of the context."""
    both = isinstance(text, str) and isinstance(context, str)
    return both and bool(text.strip()) and context.startswith(text, offset)


def _is_whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_nothing(value: Any) -> bool:
    """Whether a cell or a text says that there is none: None, NaN or blank."""
    if isinstance(value, str):
        return not value.strip()
    if isinstance(value, Decimal):
        return value.is_nan()
    return value is None or (isinstance(value, float) and value != value)


def _is_null(cell: Any) -> bool:
    """Whether a cell is None or NaN, or a list of such; an empty text is one that says that there is no answer."""
    if isinstance(cell, list):
        return bool(cell) and all(map(_is_null, cell))
    return is_nothing(cell) and not isinstance(cell, str)


def _is_broken(text: str, context: Any) -> bool:
    """Whether a text begins like JSON or a list, and could not be parsed; unless the context has it."""
    return text.lstrip().startswith(("{", "[")) and not _holds_text(context, text.strip())


def _holds_text(context: Any, text: str) -> bool:
    """Whether the context holds a text as it stands, but for the length of its white space."""
    if not isinstance(context, str) or text in context:
        return isinstance(context, str)
    words = text.split()
    return len(words) > 1 and words[0] in context and " ".join(words) in " ".join(context.split())


def _offset(text: Any, given: Any, context: Any) -> Any:
    """The offset of an answer: the one that is given, else that of its only occurrence as whole words, else None.

    An offset of -1 says that it is not known.
    """
    start = whole_number(given)
    if not (isinstance(text, str) and text.strip()):
        return start
    if start == -1 and not isinstance(start, bool):
        start = None
    if start is not None or not isinstance(context, str):
        return start
    found = repaired(text, None, context)
    return found.start if found and found.text == text else None


def is_unknown(start: Any) -> bool:
    """Whether the offset of a text says that it is not known: there is none, or -1."""
    return whole_number(start) in (None, -1)


def lacks_offsets(answers: Any, depth: int = 4) -> bool:
    """Whether a text among answers, parsed, has an offset that is not known."""
    if isinstance(answers, str):
        return _lacks_offset(answers, None)
    if isinstance(answers, dict):
        named = _simply_named(answers)
        names = (_name_in(named, one) for one in (_TEXT, _START))
        text, start = (None if name is None else named[name] for name in names)
        if isinstance(text, list):
            starts = start if isinstance(start, list) else [start] * len(text)
            return any(map(_lacks_offset, text, starts))
        return _lacks_offset(text, start)
    if not depth or not isinstance(answers, (list, tuple)):
        return False
    if len(answers) == 2 and isinstance(answers[0], str) and not isinstance(answers[1], (str, dict, list)):
        return answers[1] is not None and _lacks_offset(*answers)
    return any(lacks_offsets(one, depth - 1) for one in answers)


def _lacks_offset(text: Any, start: Any) -> bool:
    return isinstance(text, str) and text.strip().lower() not in NOTHING and is_unknown(start)


def unplaced_hint(text: str, context: str) -> str:
    """What an answer that was not found in the context may mean, as the end of a sentence; or empty."""
    word = text.strip().lower()
    if text in context and word not in NOTHING:
        return ""
    if word in (*NO_ANSWER, *NOTHING):
        return "; if it means that there is no answer, leave the cell empty"
    for separator in _SEPARATORS:
        parts = [part.strip() for part in text.split(separator)]
        if len(parts) > 1 and all(part and part in context for part in parts):
            mark = repr(separator.strip() or separator)
            return (
                f"; if {mark} stands between several answers, pass --data.answer_separator {mark}, or write them as "
                f"JSON: {json.dumps(parts, ensure_ascii=False)}"
            )
    return ""


def truth(value: Any) -> Any:
    """Parse True, False or None as tables write them; any other value stays as it is."""
    if value is None or isinstance(value, bool) or not isinstance(value, (str, int, float, Decimal)):
        return value
    text = str(whole_number(value) if isinstance(value, Decimal) else value).strip().lower()
    return None if text in NOTHING else _TRUTH.get(text, value)


def whole_number(value: Any) -> Any:
    """A whole number as tables and exports write it (40.0, "40"); None for NaN or blank; other values as they are."""
    if isinstance(value, bool) or value is None:
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, float):
        return None if value != value else int(value) if value.is_integer() else value
    if isinstance(value, Decimal):  # of Parquet, polars and databases
        return None if value.is_nan() else int(value) if value.is_finite() and value == int(value) else value
    if not isinstance(value, str):
        return value
    text = value.strip()
    if text.lower() in NOTHING:
        return None
    return int(text.partition(".")[0]) if re.fullmatch(r"[+-]?[0-9]{1,18}(\.0*)?", text) else value
