"""The flags of every command but ``train``, which has LightningCLI's: how they are read, shown and refused."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from qa_lightning.wording import flag_problem, usage_name

if TYPE_CHECKING:
    from qa_lightning.data.columns import Columns

COLUMN_NAMES = ("id", "question", "context", "answers", "answer_text", "answer_start", "is_impossible")


class Flags(ArgumentParser):  # type: ignore[misc]
    """The flags of one command.

    Flags are written with underscores, ``--batch_size``; with dashes they are understood, too. ``--columns.NAME`` may
    be called ``--data.columns.NAME``, as it is in ``train``. Texts come through as they are: use ``type=str`` with a
    default of None, never ``str | None``, which takes the text "null" for None.

    Args:
        command: its name.
        description: what it does, in a sentence.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=usage_name(command),
            description=description,
            formatter_class=_HelpFormatter,
            print_config=None,
            allow_abbrev=False,  # a flag that is added later would make an abbreviation ambiguous
        )
        self.add_argument("--config", action="config", metavar="FILE", help="flags from a YAML file")

    def add_columns(self) -> None:
        """Add the flags that name the columns of data."""
        group = self.add_argument_group("columns of the data, where they are not guessed")
        for name in COLUMN_NAMES:
            group.add_argument(f"--columns.{name}", type=str, metavar="NAME", help=f"the column that is the {name}")

    def read(self, words: Sequence[str]) -> Namespace:
        """The values of the flags; ends the process with status 2 where they are wrong."""
        own = [self._own_name(word) for word in words]
        given = itertools.takewhile(lambda word: word != "--", own)
        flags = [found[0] for word in given if (found := re.match(r"--[A-Za-z][\w.-]*(?==|$)", word))]
        # Before parsing: a flag within another, such as --data.x beside --data, is not always seen to be none.
        if unknown := [flag for flag in flags if flag not in self._option_string_actions]:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return self.parse_args(own)

    def _own_name(self, word: str) -> str:
        """A flag by its own name; whatever is no flag stays as it is."""
        flag, equals, value = word.partition("=")
        if flag.startswith("--data.columns."):
            flag = flag.replace("--data.columns.", "--columns.")
        own = "--" + flag[2:].replace("-", "_")
        return (own if own in self._option_string_actions else flag) + equals + value

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Say what is wrong with the flags, each problem on a line, and end with status 2."""
        print(f"error: {flag_problem(message, self._option_string_actions)}", file=sys.stderr)
        sys.exit(2)


class _HelpFormatter(argparse.HelpFormatter):
    """Shows a default in square brackets, where the help does not do so itself."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, argparse.SUPPRESS)
        return (action.help or "") + ("  [%(default)s]" if shown else "")


def columns_of(options: Namespace) -> Columns:
    """The columns that the flags name."""
    from qa_lightning.data.columns import Columns

    return Columns(**{name: options.columns[name] for name in COLUMN_NAMES})


class _ValueError(argparse.ArgumentTypeError, ValueError):
    """What a value is not: the first for the command line, which then shows the message, the second for a file."""


def positive(text: Any) -> int:
    """A whole number of at least 1."""
    try:
        number = int(str(text))  # from a file it may be a number already, and not a whole one
    except ValueError:
        raise _ValueError(f"{text} is not a whole number") from None
    if number < 1:
        raise _ValueError(f"{number} is less than 1")
    return number


def decimal(text: Any) -> float:
    """Any number."""
    try:
        return float(text)
    except ValueError:
        raise _ValueError(f"{text} is not a number") from None
