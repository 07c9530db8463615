"""The words of messages: commands as the user called them, values, counts, and names for misspelt ones.

Messages name a command ``qa-lightning train``. If the process runs a script of a checkout, such as
``python scripts/train.py``, messages name the script instead.
"""

from __future__ import annotations

import difflib
import os
import re
import shlex
import shutil
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

PROGRAM = "qa-lightning"
# Control characters, lone surrogates, and what breaks lines or turns the direction of the text around it. A tab stays.
_HIDDEN = re.compile("[\x00-\x08\n-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ufff9-\ufffb\ud800-\udfff]")
PACKAGE = Path(__file__).resolve().parent
CHECKOUT = PACKAGE.parent  # or site-packages, where the package is installed


def command(name: str) -> str:
    """A command for a message, as this process was called: ``qa-lightning NAME`` or ``python scripts/NAME.py``."""
    return f"{PROGRAM} {name}" if _scripts_as_called() is None else shlex.join(command_words(name))


def usage_name(name: str) -> str:
    """A command for a usage line: ``qa-lightning NAME`` or ``NAME.py``."""
    return f"{PROGRAM} {name}" if _scripts_as_called() is None else _script(name)


def command_words(name: str) -> list[str]:
    """The words of a command that runs in this Python if it is pasted into this shell, unquoted.

    A script, if this process runs one of a checkout; ``qa-lightning``, if that is on PATH and belongs to this Python;
    else ``python -m``.
    """
    folder = _scripts_as_called()
    if folder is not None:
        return [_python(), str(folder / _script(name))]
    return [*program_words(PROGRAM, PACKAGE.name), name]


def program_words(program: str, module: str) -> list[str]:
    """The words that start a program of this Python's packages in this shell, unquoted.

    Args:
        program: its name; used if PATH leads to the one that belongs to this Python.
        module: used with ``python -m`` otherwise.
    """
    found = shutil.which(program)
    is_own = found is not None and Path(found).absolute().parent == Path(sys.executable).parent
    return [program] if is_own else [_python(), "-m", module]


def _python() -> str:
    """The word that starts this Python: its name if PATH leads to it, else its path, relative if below this folder.

    The folders are compared without following links, as a virtual environment's Python links to another one.
    """
    executable, here = Path(sys.executable), Path.cwd()
    for name in ("python", executable.name):
        found = Path(shutil.which(name) or "").absolute()
        if found.parent == executable.parent and found.resolve() == executable.resolve():
            return name
    if not executable.is_relative_to(here):
        return str(executable)
    shown = executable.relative_to(here)
    return str(shown) if shown.parent.name else f".{os.sep}{shown}"  # a shell looks for a bare name in PATH alone


def program_name() -> str:
    """The name of the running file; ``qa-lightning`` for ``python -m qa_lightning``."""
    called = Path(sys.argv[0])
    return PROGRAM if called.resolve() == PACKAGE / "__main__.py" else called.name


def _scripts_as_called() -> Path | None:
    """The folder of this checkout's scripts, as the user typed it; None if another program runs."""
    called = Path(sys.argv[0])
    return called.parent if called.resolve().parent == CHECKOUT / "scripts" else None


def _script(name: str) -> str:
    return f"{name.replace('-', '_')}.py"


def package_version() -> str:
    """The installed version; without an installation, the version in pyproject.toml, or ``unknown``."""
    from importlib.metadata import PackageNotFoundError, version  # as slow to import as everything else

    try:
        return version(PROGRAM)
    except PackageNotFoundError:
        project = CHECKOUT / "pyproject.toml"
        found = re.search(r'^version = "(.+)"', project.read_text("utf-8"), re.MULTILINE) if project.is_file() else None
        return found[1] if found else "unknown"


def visible(text: str, lines: bool = False) -> str:
    """A text for a terminal, a log or a page: with escapes such as ``\\x1b`` for control characters.

    Ids, texts and names of files can hold anything. They are escaped where people read them; files of data hold them as
    they are.

    Args:
        text: to show.
        lines: whether line ends in it are ours, and stay.
    """
    return _HIDDEN.sub(lambda found: found[0] if lines and found[0] == "\n" else _escape(found[0]), text)


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def shown(value: Any, limit: int = 60) -> str:
    """The ``repr`` of a value for a message, cut to ``limit`` characters."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested too deeply, or an integer of thousands of digits
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= limit else text[: limit - 3] + "..."


def listed(names: Any, limit: int = 30) -> str:
    """Names for a message: the first ``limit`` of them, and how many more there are."""
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(map(shown, names[:limit])) + more


def relative(path: Path) -> Path:
    """``path`` relative to the current folder if it is below it, else absolute."""
    absolute = path.resolve()
    return absolute.relative_to(Path.cwd()) if absolute.is_relative_to(Path.cwd()) else absolute


def counted(count: int, noun: str) -> str:
    """A count for a message: ``1 row``, ``2,000 rows``."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """``; did you mean X?`` with the known word closest to ``word``; empty if none is close."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.65)
    return f"; did you mean {near[0]}?" if near else ""


def flag_problem(message: str, flags: Iterable[str]) -> str:
    """Rewrite a parser's error message: name the flags, and suggest the closest flag for a misspelt one.

    Args:
        message: the message of jsonargparse.
        flags: the existing flags, with their dashes.
    """
    every = [flag for flag in flags if flag.startswith("--")]
    known = [flag for flag in every if not any(other.startswith(f"{flag}.") for other in every)]  # without groups
    if unknown := re.fullmatch(r"unrecognized arguments: (.*)", message, re.DOTALL):
        wrong = [word.partition("=")[0] for word in unknown[1].split() if re.match(r"--?[A-Za-z]", word)]
        if not wrong:
            return f"{unknown[1]!r} belongs to no flag; a text with spaces goes in quotes"
        return "\n".join(no_such_flag(flag, known) for flag in wrong)
    if within := re.fullmatch(r"Group '(.+)' does not accept option '(.+)'", message):
        return no_such_flag(f"--{within[1]}.{within[2]}", known)
    if unknown := re.fullmatch(r"Option '(.+)' is not accepted", message):
        return no_such_flag(f"--{unknown[1]}", known)
    if missing := re.fullmatch(r"the following arguments are required: (.*)", message):
        names = missing[1].split(", ")
        return ", ".join(f"--{name}" if f"--{name}" in known else name for name in names) + ": required"
    message = re.sub(r'^Parser key "([^"]+)":\s*', r"--\1: ", message)
    message = re.sub(r"^argument (?=\S+: )", "", message)
    union = re.fullmatch(
        r"(--\S+: )Does not validate against any of the Union subtypes\s+Subtypes: \[([^\n]*)\]\n\s+Errors:\n"
        r"(?:\s+- Expected [^\n]*\n(?:(?!\s*- |\s*Given value type: )[^\n]*\n)*)*"  # a value may have several lines
        r"\s+Given value type: [^\n]*\n\s+Given value: (.*)",
        message,
        re.DOTALL,
    )
    if union:
        message = f"{union[1]}expected {union[2]}, got {union[3]}"
    message = re.sub(r"Expected a (.+?)\. Got value: ", r"expected \1, got ", message)
    message = re.sub(r"<class '(?:\w+\.)*(\w+)'>", r"\1", message).replace("typing.", "").replace("NoneType", "null")
    return _choice_problem(message) or message


_KINDS = {"int": ("a whole number",), "float": ("a number",), "bool": ("true", "false"), "str": ("a text",)}


def _choice_problem(message: str) -> str | None:
    """What is wrong with a value that is none of some words, numbers and so on; None for other messages."""
    kind = r"(?:Literal\[[^]]*\]|\w+)"
    if found := re.fullmatch(r"(--\S+): invalid choice: (.*) \(choose from (.*)\)", message, re.DOTALL):
        flag, value, listed = found.groups()
        names = [name.strip("'") for name in listed.split(", ")]
        choices = names
    elif found := re.fullmatch(rf"(--\S+): expected ({kind}(?:, {kind})*), got (.*)", message, re.DOTALL):
        flag, listed, value = found.groups()
        names, choices = [], []
        for literals, plain in re.findall(r"Literal\[([^]]*)\]|(\w+)", listed):
            words = [word.strip("'") for word in literals.split(", ")] if literals else []
            names += words
            choices += words or _KINDS.get(plain, (plain,))
    else:
        return None
    value = value.strip("'")
    shown = value if value == "None" or "a text" in choices else repr(value)
    return f"{flag} is {shown}; it must be {one_of(choices)}{did_you_mean(value, names)}"


def wrong_choice(flag: str, value: Any, choices: Sequence[str]) -> str:
    """The message for a value that is none of some words."""
    return f"{flag} is {shown(value)}; it must be {one_of(choices)}{did_you_mean(str(value), choices)}"


def one_of(choices: Iterable[str]) -> str:
    """What a value may be, for a message: ``first or all``, ``one of error, skip or repair``."""
    *others, last = dict.fromkeys(choices)
    joined = f"{', '.join(others)} or {last}" if others else last
    return f"one of {joined}" if len(others) > 1 else joined


def no_such_flag(flag: str, known: Iterable[str]) -> str:
    """The message for a flag that there is not."""
    return f"there is no flag {flag}{did_you_mean(flag, known)}"
