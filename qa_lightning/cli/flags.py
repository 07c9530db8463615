"""Reads, shows and refuses the flags of every command except ``train``, which uses LightningCLI."""

from __future__ import annotations

import argparse
import itertools
import re
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn
from urllib.parse import urlsplit

from jsonargparse import ArgumentParser, Namespace

from qa_lightning.errors import MOST, is_too_large
from qa_lightning.paths import usable_path
from qa_lightning.wording import flag_problem, shown, usage_name, visible

if TYPE_CHECKING:
    from qa_lightning.data.columns import ReadSettings
    from qa_lightning.inference.bulk.shards import Shard

DATA_HELP = "file (SQuAD JSON, JSON lines, CSV, Excel, Parquet), files, or dataset on the Hub"
MODEL_HELP = "folder of a run or of a model, `last` for the newest run that has a model, or a name on the Hub"
MODELS_HELP = f"{MODEL_HELP}; several, as A,B,C, answer together"
COLUMN_NAMES = (
    *("id", "question", "context", "answers", "answer_text", "answer_start", "answer_end"),
    *("is_impossible", "title"),
)
READING = (*(f"columns.{name}" for name in COLUMN_NAMES), "encoding", "answer_separator")  # the flags of `add_reading`


class Flags(ArgumentParser):  # type: ignore[misc]
    """The flags of one command.

    Flags are written with underscores, ``--batch_size``; dashes are accepted, too. A flag can also be written with its
    group in ``train``: ``--data.columns.NAME``, ``--data.on_bad_rows``. Texts stay as they are: use ``type=str`` with a
    default of None, never ``str | None``, which reads the text "null" as None.

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

    def add_reading(self) -> None:
        """Add the flags that say how data is read: `READING`."""
        group = self.add_argument_group("how the data is read, if it is not as usual")
        for name in COLUMN_NAMES:
            group.add_argument(f"--columns.{name}", type=str, metavar="NAME", help=f"name of the {name} column")
        group.add_argument(
            "--encoding", type=str, metavar="NAME", help="of text files that are not UTF-8, such as cp1252 (Windows)"
        )
        group.add_argument(
            "--answer_separator",
            type=str,
            metavar="MARK",
            help=r"what stands between several answers in one cell; '\n' is a line end, '\t' a tab",
        )

    def add_raw_scores(self) -> None:
        """Add the flag that turns a model's calibrator off."""
        self.add_argument(
            "--raw_scores", action="store_true", help="scores are the model's probabilities, without its calibrator"
        )

    def add_mixed_script(self) -> None:
        """Add the flag that chooses how answers in other scripts are scored; `_script` parses it."""
        self.add_argument(
            "--mixed_script",
            type=_script,
            nargs="?",
            const="mlqa",
            default=None,
            metavar="RULES",
            help="how F1 counts scripts without spaces, and Korean: mlqa (if no RULES are given) each ideograph as a "
            "word, kana each ideograph and kana, korquad each character",
        )

    def add_evaluation(self) -> None:
        """Add the flags of the commands that score a model on data: by which rules, how much at a time."""
        from qa_lightning.features.defaults import DTYPES, EVAL_BATCH_SIZE

        self.add_mixed_script()
        self.add_argument("--batch_size", type=positive, default=EVAL_BATCH_SIZE, metavar="N", help="windows per step")
        self.add_argument("--dtype", choices=DTYPES, default=DTYPES[0], help="number type that the model computes in")
        self.add_argument("--max_examples", type=positive, metavar="N", help="score only the first N questions")
        self.add_argument(
            "--on_bad_rows",
            choices=("error", "skip", "repair", "repair_or_skip"),
            default="error",
            help="what to do with rows that cannot be used; a wrong answer_start makes none such",
        )

    def read(self, words: Sequence[str]) -> Namespace:
        """Parse the flags; wrong ones end the process with status 2."""
        own = [self._own_name(word) for word in words]
        given = itertools.takewhile(lambda word: word != "--", own)
        flags = [found[0] for word in given if (found := re.match(r"--[A-Za-z][\w.-]*(?==|$)", word))]
        # Checked before parsing: the parser can miss an unknown flag below a known one, such as --data.x beside --data.
        if unknown := [flag for flag in flags if flag not in self._option_string_actions]:
            bare = [action.dest for action in self._actions if not action.option_strings]
            if unknown[0].removeprefix("--").split(".")[-1] in ("data", "dataset") and "data" in bare:
                self.error(f"the data are named without a flag: {self.prog} FILE")
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return self.parse_args(own)

    def _own_name(self, word: str) -> str:
        """Turn a flag into the spelling it was added with; any other word stays as it is."""
        if not word.startswith("--"):
            return word
        flag, equals, value = word.partition("=")
        if flag.startswith("--data.columns."):
            flag = flag.replace("--data.columns.", "--columns.")
            word = flag + equals + value
        own = "--" + flag[2:].replace("-", "_")
        without_group = re.sub(r"^--(data|model)\.", "--", own)  # as messages and `train` have it
        for name in (own, without_group):
            if name in self._option_string_actions:
                return name + equals + value
        return word

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


def reading_of(options: Namespace) -> ReadSettings:
    """How the data is read, from the flags of `Flags.add_reading`.

    Raises:
        InputError: a flag has a value that cannot be used.
    """
    from qa_lightning.data.columns import Columns, ReadSettings
    from qa_lightning.errors import InputError

    columns = Columns(**{name: options.columns[name] for name in COLUMN_NAMES})
    reading = ReadSettings(columns, options.encoding, options.answer_separator)
    if problems := reading.problems():
        raise InputError(problems)
    return reading


class _ValueError(argparse.ArgumentTypeError, ValueError):
    """A bad value. The command line shows the message of an ArgumentTypeError; a file of flags needs a ValueError."""


def _script(text: Any) -> str | None:
    """Parse the name of rules for other scripts; true is ``mlqa``, false is None."""
    name = str(text).lower()
    named = {"true": "mlqa", "false": None, "none": None}.get(name, name)
    if named not in (None, "mlqa", "kana", "korquad"):
        raise _ValueError(f"{text} is none of mlqa, kana, korquad")
    return named


def local_path(text: Any) -> Path:
    """Parse a path, with ``~`` expanded, for ``type=`` of a flag; nothing need be there."""
    try:
        return usable_path(str(text))
    except ValueError as error:
        raise _ValueError(f"{text} cannot be a path ({error})") from None


def positive(text: Any) -> int:
    """Parse a whole number from 1 to `MOST`, for ``type=`` of a flag."""
    try:
        number = int(str(text))  # a file can give a number that is not whole, which int() would cut
    except ValueError:
        raise _ValueError(f"{text} is not a whole number") from None
    if number < 1:
        raise _ValueError(f"{number} is less than 1")
    if is_too_large(number):
        raise _ValueError(f"{shown(number)} is more than {MOST}")
    return number


def shard(text: Any) -> Shard:
    """Parse which of several parts of a file to answer, such as ``3/8``, for ``type=`` of a flag."""
    from qa_lightning.inference.bulk.shards import Shard

    try:
        return Shard.parse(str(text))
    except ValueError as error:
        raise _ValueError(str(error)) from None


def port(text: Any) -> int:
    """Parse the number of a port, 0 to 65,535, for ``type=`` of a flag."""
    try:
        number = int(str(text))
    except ValueError:
        raise _ValueError(f"{text} is not a whole number") from None
    if not 0 <= number <= 65_535:
        raise _ValueError(f"{number} is no port; pass 1 to 65535, or 0 for one that is free")
    return number


def web_address(text: Any) -> str:
    """Parse the address of a page, for ``type=`` of a flag."""
    parts = urlsplit(str(text))
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise _ValueError(f"{text} is no address; pass one such as https://example.org/ask")
    return str(text).rstrip("/")


def decimal(text: Any) -> float:
    """Parse any number, for ``type=`` of a flag."""
    try:
        return float(text)
    except ValueError:
        raise _ValueError(f"{text} is not a number") from None
