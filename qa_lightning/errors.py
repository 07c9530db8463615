"""Exceptions for bad input. Messages name flags on the command line and arguments in Python."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from importlib import import_module
from types import NoneType
from typing import Any, Literal, get_args, get_origin, get_type_hints

from qa_lightning.wording import did_you_mean, one_of, shown, visible

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]
MOST = 2**32 - 1  # of a whole number that a flag takes: libraries count in 32 or 64 bits, and seeds are as large

# A command in backticks; or a flag as messages write it, with its value if the next word can only be a value. A flag
# begins a word: names of files hold "--", too, as those of the Hub's cache do.
_FLAG = re.compile(
    r"`(?:qa-lightning|'[^'`]*python[\d.]*'|[^` ]*python[\d.]*) [^`]*`"
    r"|(?<![^\s(\['\"`])--((?:data|model|trainer)\.)?([a-z][\w.]*\w)"
    r"(?: (true|false|auto|none|skip|repair_or_skip|repair|error|first|all|cp1252|utf-16-[lb]e|eager|sdpa|bf16-mixed"
    r"|NAME|FILE|'[^']{1,3}'|\d+(?:\.\d+)?)(?![\w.]))?"
)


@dataclass(frozen=True)
class Voice:
    """How messages name options.

    Args:
        flags: by flags, because a command runs; otherwise by arguments.
        groups: the command's flags have groups, as in ``--data.max_length``; otherwise it is ``--max_length``.
        names: group and name -> the command's own flag, where it is called otherwise.
    """

    flags: bool = False
    groups: bool = True
    names: Mapping[str, str] = field(default_factory=dict)


_voice = Voice()


class InputError(ValueError):
    """The user's input is wrong: a file, a row, a flag or a name.

    Args:
        problems: all problems found, not only the first. Each is one line that says what is wrong, where, and the
            fix; flags are written as ``--data.max_length``.
        shown: the message lists at most this many problems, and counts the rest.
    """

    def __init__(self, problems: str | Sequence[str], shown: int = 20) -> None:
        given = [problems] if isinstance(problems, str) else problems
        self.problems = [visible(worded(problem)) for problem in given]
        lines = self.problems[:shown]
        if len(self.problems) > shown:
            lines.append(f"... and {len(self.problems) - shown:,} more")
        super().__init__("\n".join(lines))


def one_line(error: object, limit: int = 200, first: bool = False) -> str:
    """The message of an exception, for use within another message: on one line, at most ``limit`` characters.

    Args:
        error: an exception, or its message.
        limit: characters to keep.
        first: keep only the first line, where the others list types or links.

    Returns:
        The message; the name of the exception's class, if it has none.
    """
    text = str(error).strip()
    return " ".join((text.partition("\n")[0] if first else text).split())[:limit] or type(error).__name__


def import_extra(module: str, what: str, extra: str) -> Any:
    """Import a package that only a part of the users has.

    Args:
        module: its name.
        what: a flag, or whatever needs it, for the message.
        extra: the extra of this package that installs it.

    Raises:
        InputError: it cannot be imported.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise InputError(f"{what} needs the package {module} ({one_line(error)}); run {install_extra(extra)}") from None


def install_extra(extra: str) -> str:
    """The command that installs an extra of this package; quoted, as zsh would take the brackets for a pattern."""
    return f'pip install "qa-lightning[{extra}]"'


class DivergedError(RuntimeError):
    """Training diverged: a loss is not finite or a logit is NaN, so training cannot continue."""


@contextmanager
def naming_flags(groups: bool = True, names: Mapping[str, str] | None = None) -> Iterator[None]:
    """Inside this context, messages name flags instead of arguments; commands use it. Also a decorator.

    Args:
        groups, names: see `Voice`.
    """
    with speaking(Voice(True, groups, names or {})):
        yield


@contextmanager
def renaming(**names: str) -> Iterator[None]:
    """Inside this context, messages name other options in place of some: name -> the other one, without dashes.

    Not those of ``train``, whose flags are written as they are.
    """
    with speaking(replace(_voice, names={**_voice.names, **names})):
        yield


@contextmanager
def speaking(voice: Voice) -> Iterator[None]:
    """Inside this context, messages name options so: for a process that works for another, which hands it its own."""
    global _voice
    before, _voice = _voice, voice
    try:
        yield
    finally:
        _voice = before


def current_voice() -> Voice:
    """How messages name options now."""
    return _voice


class LostProcessError(RuntimeError):
    """Another process of this run has ended; the message says what is known of it, and how the run goes on."""


def worded(message: str) -> str:
    """Adapt a message that names flags to its reader.

    Messages are written for ``train``: ``pass --data.max_length 256``. Other commands have no groups: ``pass
    --max_length 256``. If no command runs, flags become arguments: ``pass max_length=256``. A whole command in
    backticks does not change.
    """
    if _voice.flags and _voice.groups:
        return message
    return _FLAG.sub(_own_flag if _voice.flags else _argument, message)


def _own_flag(found: re.Match[str]) -> str:
    group, name, value = found.groups()
    if name is None:
        return found[0]
    own = _voice.names.get(f"{group or ''}{name}", name)
    return f"--{own} {value}" if value is not None else f"--{own}"


def _argument(found: re.Match[str]) -> str:
    _, name, value = found.groups()
    if name is None:
        return found[0]
    name = _voice.names.get(name, name)
    if value is None:
        return str(name)
    is_literal = value in ("true", "false") or value[0].isdigit() or value[0] == "'"
    given = value.capitalize() if is_literal else f'"{value}"'
    group, _, key = name.partition(".")
    return f'{group}={{"{key}": {given}}}' if key else f"{name}={given}"


def broken_rules(
    given: Mapping[str, Any], rules: Rules, prefix: str, kinds: Mapping[str, Any] | None = None
) -> list[str]:
    """One line for each value that is of another type than its argument, or breaks its rule, or is above `MOST`.

    Args:
        given: name -> value; no rule is for None.
        rules: name -> a test of the value, and the end of the sentence "it ...", such as "must be at least 1".
        prefix: prefix of the flags, such as ``data``.
        kinds: name -> annotation, of the arguments whose types are checked; see `argument_kinds`. None checks none.
    """
    problems = []
    kinds = kinds or {}
    for name in dict.fromkeys([*rules, *kinds]):
        value = given.get(name)
        if value is None:
            if name in given and name in kinds and NoneType not in _kinds_in(kinds[name]):
                problems.append(f"--{prefix}.{name} is None; it must be {_in_words(kinds[name])}")
        elif name in kinds and not _is_of(value, kinds[name]):
            problems.append(f"--{prefix}.{name} is {shown(value, 80)}{_what_type(value, kinds[name])}")
        elif name in rules and not rules[name][0](value):
            problems.append(f"--{prefix}.{name} is {shown(value)}; it {rules[name][1]}")
        elif is_too_large(value) and float not in _kinds_in(kinds.get(name)):
            problems.append(f"--{prefix}.{name} is {shown(value)}; it must be at most {MOST}")
    return problems


def is_too_large(value: Any) -> bool:
    """Whether a whole number is above `MOST`; no other value is too large."""
    return isinstance(value, int) and value > MOST


def is_finite(value: float) -> bool:
    """As `math.isfinite`; also of whole numbers, of which no float holds those that are too large."""
    return abs(value) <= sys.float_info.max


_WORDS = {int: ("a whole number",), float: ("a number",), bool: ("True", "False"), str: ("a text",)}


def argument_kinds(function: Callable[..., Any]) -> dict[str, Any]:
    """Name -> annotation of the arguments that hold numbers, texts, truth values or one of some words."""
    hints = get_type_hints(function)
    hints.pop("return", None)
    return {name: hint for name, hint in hints.items() if all(_is_plain(kind) for kind in _kinds_in(hint))}


def _kinds_in(hint: Any) -> list[Any]:
    """The alternatives of an annotation."""
    return [hint] if get_origin(hint) is Literal or not get_args(hint) else list(get_args(hint))


def _is_plain(kind: Any) -> bool:
    return kind in _WORDS or kind is NoneType or get_origin(kind) is Literal


def _is_of(value: Any, hint: Any) -> bool:
    def is_one(kind: Any) -> bool:
        if get_origin(kind) is Literal:
            return isinstance(value, str) and value in get_args(kind)
        if kind in (int, float):
            return isinstance(value, (int, kind)) and not isinstance(value, bool)
        return isinstance(value, kind)

    return any(is_one(kind) for kind in _kinds_in(hint))


def _in_words(hint: Any) -> str:
    """What an annotation allows, for a message."""
    kinds = [kind for kind in _kinds_in(hint) if kind is not NoneType]
    return one_of(word for kind in kinds for word in (_WORDS[kind] if kind in _WORDS else get_args(kind)))


def _what_type(value: Any, hint: Any) -> str:
    """The end of the message about a value of another type."""
    words = _in_words(hint)
    if not isinstance(value, str):
        return f", of type {type(value).__name__}; it must be {words}"
    choices = [word for kind in _kinds_in(hint) for word in get_args(kind)]
    numeric = {int, float} & set(_kinds_in(hint))
    try:
        float(value)
    except ValueError:
        numeric = set()
    if numeric:
        return f", a text; it must be {words}: write it without quotes"
    return f"; it must be {words}{did_you_mean(value, choices)}" if choices else f", a text; it must be {words}"
