"""Parses the flags of a training run: says what is wrong with one in a line, and with a file of flags where."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import yaml  # type: ignore[import-untyped]
from lightning.pytorch.cli import LightningArgumentParser

from qa_lightning.checks.refusals import refusal, union_problem
from qa_lightning.errors import InputError, one_line
from qa_lightning.wording import flag_problem, no_such_flag, visible

_CONFIG = ("-c", "--config")


class TrainParser(LightningArgumentParser):
    """A parser that reports a bad flag without a screen of usage before it."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Print what is wrong with the flags, and end the process with status 2."""
        if not self.exit_on_error:  # a parser within, of one of several classes that a value may be of
            super().error(message, ex)
        print(f"error: {visible(self.problem(message), lines=True)}", file=sys.stderr)
        sys.exit(2)

    def parse_args(self, args: Any = None, *others: Any, **named: Any) -> Any:
        """Parse; flags that a file of ``--config`` has and this parser has not are one error, with their lines.

        Raises:
            InputError: there are such flags.
        """
        words = sys.argv[1:] if args is None else list(args)
        pairs = pairwise([*words, ""]) if all(isinstance(word, str) for word in words) else ()
        given = [after if word in _CONFIG else word.partition("=")[2] for word, after in pairs if _names_config(word)]
        flags = [flag for flag in self._option_string_actions if flag[:2] == "--" and flag.rpartition(".")[2] != "help"]
        if problems := [problem for name in given for problem in _unknown_flags(name, flags)]:
            raise InputError(problems)
        return super().parse_args(args, *others, **named)

    def problem(self, message: str) -> str:
        """A message of the parser, as this package says it."""
        problem = union_problem(message) or flag_problem(message, self._option_string_actions)
        return refusal(problem) if problem.startswith("--trainer.") else problem


def _names_config(word: str) -> bool:
    return word.partition("=")[0] in _CONFIG


def _unknown_flags(name: str, known: Sequence[str]) -> Iterator[str]:
    """A line for each flag in a file of flags that there is not, or for what makes it no YAML.

    Args:
        name: of the file; what is none, or cannot be read, is left to the parser.
        known: the flags, with their dashes.
    """
    try:
        text = Path(name).expanduser().read_text(encoding="utf-8")
    except (OSError, ValueError, RuntimeError):
        return
    loader = yaml.SafeLoader(text)
    try:
        yaml.safe_load(text)
        node = loader.get_single_node()
    except (ValueError, yaml.YAMLError) as error:
        yield f"{name}: cannot be read as YAML ({one_line(error)})"
        return

    def pairs(mapping: yaml.MappingNode) -> list[tuple[yaml.Node, yaml.Node]]:
        loader.flatten_mapping(mapping)  # merges what `<<` names
        return [pair for pair in mapping.value if isinstance(pair[0], yaml.ScalarNode)]

    left = [("--", *pair) for pair in pairs(node)] if isinstance(node, yaml.MappingNode) else []
    while left:
        group, key, value = left.pop(0)
        flag, where = f"{group}{key.value}", f"{name}, line {key.start_mark.line + 1}"
        own = next((one for one in known if one.startswith(f"{flag}.")), None)
        if own is not None and isinstance(value, yaml.MappingNode):
            left[:0] = [(f"{flag}.", *pair) for pair in pairs(value)]
        elif own is not None and value.tag != "tag:yaml.org,2002:str" and (value.value or group == "--"):
            what = "a list" if isinstance(value, yaml.SequenceNode) else value.value or "empty"
            yield (
                f"{where}: {flag} is {what}; write flags and their values below it, such as {own[len(flag) + 1 :]}: "
                "..., or leave it out"
            )
        elif flag not in known and flag.removesuffix("+") not in known:
            yield f"{where}: {no_such_flag(flag, known)}"
