"""Reads, shows and refuses the flags of every command except ``train``, which uses LightningCLI."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

from jsonargparse import ArgumentParser, Namespace

from qa_lightning.wording import flag_problem, usage_name, visible

if TYPE_CHECKING:
    from qa_lightning.data.columns import Columns

COLUMN_NAMES = ("id", "question", "context", "answers", "answer_text", "answer_start", "is_impossible")


class Flags(ArgumentParser):  # type: ignore[misc]
    """The flags of one command.

    Flags are written with underscores, ``--batch_size``; dashes are accepted, too. ``--columns.NAME`` can also be
    written ``--data.columns.NAME``, as in ``train``. Texts stay as they are: use ``type=str`` with a default of None,
    never ``str | None``, which reads the text "null" as None.

    Args:
        command: the command's name.
        description: what the command does, in a sentence.
    """

    def __init__(self, command: str, description: str) -> None:
        super().__init__(
            prog=usage_name(command),
            description=description,
            formatter_class=_HelpFormatter,
            print_config=None,
        )
        self.add_argument("--config", action="config", metavar="FILE", help="flags from a YAML file")

    def add_columns(self) -> None:
        """Add the flags that name the columns of data."""
        group = self.add_argument_group("columns of the data, if they do not have the usual names")
        for name in COLUMN_NAMES:
            group.add_argument(f"--columns.{name}", type=str, metavar="NAME", help=f"name of the {name} column")

    def read(self, words: Sequence[str]) -> Namespace:
        """Parse the flags; wrong ones end the process with status 2."""
        own = [self._own_name(word) for word in words]
        given = itertools.takewhile(lambda word: word != "--", own)
        flags = [found[0] for word in given if (found := re.match(r"--[A-Za-z][\w.-]*(?==|$)", word))]
        # Checked before parsing: the parser can miss an unknown flag below a known one, such as --data.x beside --data.
        if unknown := [flag for flag in flags if flag not in self._option_string_actions]:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return self.parse_args(own)

    def _own_name(self, word: str) -> str:
        """Turn a flag into the spelling it was added with; any other word stays as it is."""
        if not word.startswith("--"):
            return word
        flag, equals, value = word.partition("=")
        if flag.startswith("--data.columns."):
            flag = flag.replace("--data.columns.", "--columns.")
        own = "--" + flag[2:].replace("-", "_")
        return (own if own in self._option_string_actions else flag) + equals + value

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong with the flags, one problem per line, and end the process with status 2."""
        if not self.exit_on_error:  # a parser within, of one of several classes that a value may be of
            super().error(message, ex)
        print(f"error: {visible(flag_problem(message, self._option_string_actions), lines=True)}", file=sys.stderr)
        sys.exit(2)


class _HelpFormatter(argparse.HelpFormatter):
    """Adds the default to a help text, in square brackets; a default of None or False is not shown."""

    def _get_help_string(self, action: argparse.Action) -> str:
        shown = action.default not in (None, False, argparse.SUPPRESS)
        return (action.help or "") + ("  [%(default)s]" if shown else "")


def columns_of(options: Namespace) -> Columns:
    """The names of the data's columns, from the flags of `Flags.add_columns`."""
    from qa_lightning.data.columns import Columns

    return Columns(**{name: options.columns[name] for name in COLUMN_NAMES})


class _ValueError(argparse.ArgumentTypeError, ValueError):
    """A bad value. The command line shows the message of an ArgumentTypeError; a file of flags needs a ValueError."""


def positive(text: Any) -> int:
    """Parse a whole number of at least 1, for ``type=`` of a flag."""
    try:
        number = int(str(text))  # a file can give a number that is not whole, which int() would cut
    except ValueError:
        raise _ValueError(f"{text} is not a whole number") from None
    if number < 1:
        raise _ValueError(f"{number} is less than 1")
    return number


def decimal(text: Any) -> float:
    """Parse any number, for ``type=`` of a flag."""
    try:
        return float(text)
    except ValueError:
        raise _ValueError(f"{text} is not a number") from None
