"""The exceptions for bad input, worded for their reader: flags for a command line, arguments for a Python caller."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

Rules = Mapping[str, tuple[Callable[[Any], bool], str]]

# A command in backticks; or a flag as messages write it, with a value that can only be one.
_FLAG = re.compile(
    r"`(?:qa-lightning|python) [^`]*`|--(?:(?:data|model|trainer)\.)?([a-z][\w.]*\w)"
    r"(?: (true|false|skip|repair|error|first|all|eager|sdpa|bf16-mixed|NAME|FILE|\d+(?:\.\d+)?)(?![\w.]))?"
)
_command_runs = False


class InputError(ValueError):
    """Something a person gave is wrong: a file, a row, a flag or a name.

    Args:
        problems: one line each, naming what is wrong, where, and the fix; flags as ``--data.max_length``. All that
            were found, not only the first.
        shown: how many lines the message lists; the rest is counted.
    """

    def __init__(self, problems: str | Sequence[str], shown: int = 20) -> None:
        self.problems = [worded(problem) for problem in ([problems] if isinstance(problems, str) else problems)]
        lines = self.problems[:shown]
        if len(self.problems) > shown:
            lines.append(f"... and {len(self.problems) - shown:,} more")
        super().__init__("\n".join(lines))


class DivergedError(RuntimeError):
    """Training produced a loss that is not a number: there is nothing left to learn from."""


@contextmanager
def naming_flags() -> Iterator[None]:
    """Have messages name flags within, as a command does, and not arguments. Also a decorator."""
    global _command_runs
    before, _command_runs = _command_runs, True
    try:
        yield
    finally:
        _command_runs = before


class LostProcessError(RuntimeError):
    """Another process of this run has ended; the message says what is known of it, and how the run goes on."""


def worded(message: str) -> str:
    """A message that names flags, worded for whoever reads it.

    Messages are written for the command line: ``pass --data.max_length 256``. Where no command runs they name the
    argument: ``pass max_length=256``. A whole command, in backticks, stays as it is.
    """
    return message if _command_runs else _FLAG.sub(_argument, message)


def _argument(found: re.Match[str]) -> str:
    name, value = found.groups()
    if name is None:  # a whole command
        return found[0]
    if value is None:
        return str(name)
    plain = value in ("true", "false") or value[0].isdigit()
    return f"{name}={value.capitalize()}" if plain else f'{name}="{value}"'


def broken_rules(given: Mapping[str, Any], rules: Rules, prefix: str) -> list[str]:
    """What is wrong with values that each have a rule of their own.

    Args:
        given: name -> value; a name without a rule, or a value of None, is right.
        rules: name -> a test of the value, and what it must be, as the end of a sentence.
        prefix: of the flags, such as ``data``.
    """
    return [
        f"--{prefix}.{name} is {given[name]}; it {rule}"
        for name, (holds, rule) in rules.items()
        if given.get(name) is not None and not holds(given[name])
    ]
