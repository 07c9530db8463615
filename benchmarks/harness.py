"""Run variants of a benchmark in turn, each in its own process; print medians and ratios, and record every figure.

A benchmark is a script that calls `main` with its variants. Each round starts one process per variant, in turn, so
that all of them meet the same drift of the machine's speed. A variant times itself, so start-up and preparation do not
count; the harness adds the peak memory of its process.

Every benchmark, also one with a `main` of its own, takes its flags with `parser_of` and keeps its figures in a
`Record`, which writes them to ``--output``; `tables.py` makes the tables of the pages from these files.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from datetime import date
from importlib.metadata import version
from pathlib import Path
from typing import Any

from figures import median_ratio

from qa_lightning.errors import InputError
from qa_lightning.files import write_json
from qa_lightning.paths import write_problem
from qa_lightning.runs.record import processor

Figures = dict[str, float]
Variant = Callable[[argparse.Namespace], Figures]
THREADS = "OMP_NUM_THREADS"


class Record:
    """What a command measures, printed line by line and, with ``--output``, written to a JSON file as it comes.

    The file has the command, machine, GPU, versions, date, the load average of the minute before, and ``runs``: the
    figures of every run, to six digits, each with its ``variant`` and ``round``.

    Args:
        output: the file; None writes none.
    """

    def __init__(self, output: Path | None) -> None:
        self.output = output
        self.runs: list[dict[str, Any]] = []
        self._head = {"command": command_line(sys.argv), **environment(), "load": round(os.getloadavg()[0], 1)}

    def add(self, variant: str, figures: Mapping[str, Any], number: int = 1) -> None:
        """Keep the figures of a run.

        Args:
            variant: what was measured.
            figures: name -> value; a text, such as why it failed, is kept as it is.
            number: which run of the variant it is, from 1.
        """
        self.runs.append({"variant": variant, "round": number, **figures})
        if self.output is not None:
            runs = [{name: _six_digits(value) for name, value in run.items()} for run in self.runs]
            write_json(self.output, {**self._head, "runs": runs})


def _six_digits(value: Any) -> Any:
    return float(f"{value:.6g}") if isinstance(value, float) else value


def shown(figures: Mapping[str, Any]) -> str:
    """Figures in one line."""
    return ", ".join(
        f"{name} {value}" if isinstance(value, str) else f"{name} {value:,.4g}" for name, value in figures.items()
    )


def parser_of(description: str) -> argparse.ArgumentParser:
    """The parser of a benchmark, with ``--output``; flags must be written out, so that commands are recorded whole."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter, allow_abbrev=False
    )
    parser.add_argument("--output", type=_writable, help="JSON file for the figures of every run, written as they come")
    return parser


def _writable(text: str) -> Path:
    path = Path(text)
    if path.is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder; name a file in it")
    if problem := write_problem(path.parent):
        raise argparse.ArgumentTypeError(f"{text} is {problem}; choose another folder")
    return path


def command_line(words: Sequence[str]) -> str:
    """A command as one types it in the project's folder: without ``--output``, and files by their names alone."""
    kept: list[str] = []
    arguments = iter(words[1:])
    for word in arguments:
        if word == "--output":
            next(arguments, None)
        elif not word.startswith("--output="):
            flag, equals, value = word.partition("=") if word.startswith("--") else ("", "", word)
            kept.append(flag + equals + _file_name(value))
    threads = [f"{THREADS}={os.environ[THREADS]}"] if os.environ.get(THREADS) else []
    return shlex.join([*threads, "python", f"benchmarks/{Path(words[0]).name}", *kept])


def _file_name(value: str) -> str:
    path = Path(value)
    return path.name if path.name and (path.is_absolute() or path.exists()) else value


def main(
    description: str,
    variants: Mapping[str, Variant] | Callable[[argparse.Namespace], Mapping[str, Variant]],
    figure: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    rounds: int = 3,
    more_is_better: bool = False,
    baseline: str | Callable[[str], str] | None = None,
) -> None:
    """Run a benchmark from its command line.

    Args:
        description: what is compared.
        variants: name -> function that measures once; or a function of the flags that returns them.
        figure: the figure, of those a variant returns, that is compared.
        add_arguments: adds the flags of the benchmark.
        rounds: runs of each variant, unless ``--rounds`` is given.
        more_is_better: True for a rate: ratios are variant / baseline. False: baseline / variant. So a ratio above 1
            always means "better than the baseline".
        baseline: the variant that the others are compared with, or a function from a variant's name to its baseline's;
            None, or a variant that is not run: the first one.
    """
    parser = parser_of(description)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=rounds, help="runs of each variant")
    parser.add_argument("--only", nargs="+", help="run only these variants")
    parser.add_argument("--variant", help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    known = variants(options) if callable(variants) else variants
    if unknown := [name for name in options.only or () if name not in known]:
        parser.error(f"argument --only: no variant {', '.join(unknown)} (choose from {', '.join(known)})")
    if options.variant:
        try:
            figures = known[options.variant](options)
        except InputError as error:
            sys.exit(f"error: {error}")
        figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    chosen = [name for name in known if not options.only or name in options.only]
    print(f"{description}\n{machine()}")
    record = Record(options.output)
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, options.rounds + 1):
            for name in chosen:
                figures = _run(name, Path(scratch))
                record.add(name, figures, number)
                print(f"round {number}  {name}: {shown(figures)}", flush=True)
    found = {name: {run["round"]: run for run in record.runs if run["variant"] == name} for name in chosen}
    bases = {name: baseline(name) if callable(baseline) else baseline for name in chosen}
    print(table(found, figure, more_is_better, {n: b if b in found else chosen[0] for n, b in bases.items()}))


def _run(variant: str, scratch: Path) -> Figures:
    command = [sys.executable, *sys.argv, "--variant", variant, "--scratch", str(scratch)]
    environment = os.environ | {"QA_LIGHTNING_CACHE": str(scratch / "cache")}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if ended.returncode:
        sys.exit(f"{variant}: exited with status {ended.returncode}")
    figures: Figures = json.loads(ended.stdout.strip().splitlines()[-1])
    return figures


def table(
    found: Mapping[str, Mapping[int, Mapping[str, Any]]],
    figure: str,
    more_is_better: bool,
    baselines: Mapping[str, str],
) -> str:
    """A Markdown table: medians, the range of the compared figure, and the median over rounds of the ratio.

    Args:
        found: variant -> round -> figures.
        figure: the compared one.
        more_is_better: as of `main`.
        baselines: variant -> the variant that it is compared with.
    """
    each = {name: list(runs.values()) for name, runs in found.items()}
    others = list(dict.fromkeys(key for runs in each.values() for key in runs[0] if key not in (*_KEYS, figure)))
    bases = {*baselines.values()}
    one = len(bases) == 1
    ratio = f"ratio to {bases.pop()}" if one else "ratio"
    lines = [
        f"| variant | {figure} (min to max) | {' | '.join(others)} | {ratio} |",
        "|---" * (3 + len(others)) + "|",
    ]
    for name, runs in each.items():
        values, base = [run[figure] for run in runs], baselines[name]
        own, other = ({number: run[figure] for number, run in found[n].items()} for n in (name, base))
        cells = [f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"]
        cells += [f"{statistics.median(run[key] for run in runs):,.4g}" if key in runs[0] else "" for key in others]
        ratio = f"{median_ratio(own, other, more_is_better):.2f}"
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio if one else f'{ratio} to {base}'} |")
    return "\n".join(lines)


_KEYS = ("variant", "round")
_PACKAGES = ("torch", "transformers", "tokenizers", "lightning", "numpy")


def environment() -> dict[str, Any]:
    """Where a command runs: ``machine`` (processor and cores), ``device`` (GPU and driver, or None), versions, date."""
    return {
        "machine": f"{processor()}, {os.cpu_count()} cores",
        "device": _gpu(),
        "versions": {"Python": platform.python_version()} | {name: version(name) for name in _PACKAGES},
        "date": str(date.today()),
    }


def _gpu() -> str | None:
    """Name and driver of the first GPU; asked of its tool, so that this process does not hold the device."""
    if not (tool := shutil.which("nvidia-smi")):
        return None
    asked = [tool, "--query-gpu=name,driver_version", "--format=csv,noheader"]
    lines = subprocess.run(asked, capture_output=True, text=True, check=False).stdout.splitlines()
    return lines[0].replace(", ", ", driver ") if lines else None


def machine() -> str:
    """One line with processor, cores, GPU, versions and date."""
    here = environment()
    versions = ", ".join(f"{name} {number}" for name, number in here["versions"].items())
    return "; ".join(part for part in (here["machine"], here["device"], versions, here["date"]) if part)
