"""``qa-lightning COMMAND``: the table of commands, and the call of one."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from importlib import import_module
from typing import NamedTuple

from qa_lightning.cli.console import run_command, use_cache_without_network
from qa_lightning.errors import InputError
from qa_lightning.wording import PROGRAM, did_you_mean, package_version


class Command(NamedTuple):
    """A row of the table of commands.

    Args:
        function: ``module:function``, imported when it is called; it takes the flags and returns the exit status.
        help: what the command does, in one line.
    """

    function: str
    help: str


COMMANDS = {
    "train": Command("qa_lightning.cli.train:train", "fine-tune a model and score it every epoch"),
    "crossval": Command(
        "qa_lightning.cli.studies.crossval:crossval",
        "train and score on each fold of one file, then train on all of it",
    ),
    "sweep": Command("qa_lightning.cli.studies.sweep:sweep", "search for good values of flags of train"),
    "check-data": Command("qa_lightning.cli.check_data:check_data", "say what is wrong with data before training"),
    "evaluate": Command("qa_lightning.cli.evaluate:evaluate", "score a model, or a file of predictions"),
    "report": Command("qa_lightning.cli.pages.report:report", "write a page about a model's errors"),
    "compare": Command("qa_lightning.cli.pages.compare:compare", "show runs side by side"),
    "predict": Command("qa_lightning.cli.predict:predict", "answer one question, or all questions of a file"),
    "ask": Command("qa_lightning.cli.ask:ask", "answer a question from files of text, HTML and PDF"),
    "demo": Command(
        "qa_lightning.cli.pages.demo:demo", "ask a model in the browser, with the answer marked in its text"
    ),
    "export": Command("qa_lightning.cli.export:export", "write a model as ONNX, or publish it on the Hub"),
}


def main() -> None:
    """Entry point of ``qa-lightning``: call the command that the first word names, and exit."""
    run_command(lambda: dispatch(sys.argv[1:]))


def run(name: str) -> None:
    """Entry point of a checkout's scripts: call one command with the flags of this process, and exit."""
    run_command(lambda: call(name, sys.argv[1:]))


def dispatch(words: Sequence[str]) -> int:
    """Call the command that the first word names, or list the commands; returns the exit status."""
    first = words[0] if words else "--help"
    if first in ("-h", "--help"):
        print(overview())
        return 0
    if first == "--version":
        print(f"{PROGRAM} {package_version()}")
        return 0
    if first in COMMANDS:
        return call(first, words[1:])
    if first.startswith("-"):
        raise InputError(f"{first}: a command comes before its flags; the commands are {', '.join(COMMANDS)}")
    raise InputError(
        f"there is no command {first!r}{did_you_mean(first, COMMANDS) or '; there are ' + ', '.join(COMMANDS)}"
    )


def call(name: str, flags: Sequence[str]) -> int:
    """Call a command by its name; returns the exit status."""
    if not {"-h", "--help", "--help_all", "--help-all"} & set(flags):  # help needs no network and does not wait for it
        use_cache_without_network()
    module, _, function = COMMANDS[name].function.partition(":")
    command: Callable[[Sequence[str]], int] = getattr(import_module(module), function)
    return command(flags)


def overview() -> str:
    """The text of ``qa-lightning --help``: one line per command."""
    width = max(map(len, COMMANDS))
    lines = [f"  {name:<{width}}  {command.help}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "Fine-tune, measure and ask extractive question answering models.",
            "",
            *lines,
            "",
            f"{PROGRAM} COMMAND --help lists the flags of a command; {PROGRAM} --version prints the version.",
        ]
    )
