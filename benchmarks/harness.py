"""Run variants of a benchmark in turn, each in its own process, and print medians and ratios.

A benchmark is a script that calls `main` with its variants. Each round starts one process per variant, in turn, so
that all of them meet the same drift of the machine's speed. A variant times itself, so start-up and preparation do not
count; the harness adds the peak memory of its process.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from datetime import date
from importlib.metadata import version
from pathlib import Path

from qa_lightning.errors import InputError

Figures = dict[str, float]
Variant = Callable[[argparse.Namespace], Figures]


def main(
    description: str,
    variants: Mapping[str, Variant],
    figure: str,
    add_arguments: Callable[[argparse.ArgumentParser], None],
    rounds: int = 3,
    more_is_better: bool = False,
    baseline: str | None = None,
) -> None:
    """Run a benchmark from its command line.

    Args:
        description: what is compared.
        variants: name -> function that measures once.
        figure: the figure, of those a variant returns, that is compared.
        add_arguments: adds the flags of the benchmark.
        rounds: runs of each variant, unless ``--rounds`` is given.
        more_is_better: True for a rate: ratios are variant / baseline. False: baseline / variant. So a ratio above 1
            always means "better than the baseline".
        baseline: the variant that the others are compared with; None: the first one.
    """
    parser = argparse.ArgumentParser(description=description, formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    add_arguments(parser)
    parser.add_argument("--rounds", type=int, default=rounds, help="runs of each variant")
    parser.add_argument("--only", nargs="+", choices=list(variants), help="run only these variants")
    parser.add_argument("--variant", choices=list(variants), help=argparse.SUPPRESS)
    parser.add_argument("--scratch", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.variant:
        try:
            figures = variants[options.variant](options)
        except InputError as error:
            sys.exit(f"error: {error}")
        figures["peak_rss_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(json.dumps(figures))
        return
    chosen = [name for name in variants if not options.only or name in options.only]
    print(f"{description}\n{machine()}")
    found: dict[str, list[Figures]] = {name: [] for name in chosen}
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(1, options.rounds + 1):
            for name in chosen:
                figures = _run(name, Path(scratch))
                found[name].append(figures)
                shown = ", ".join(f"{key} {value:,.4g}" for key, value in figures.items())
                print(f"round {number}  {name}: {shown}", flush=True)
    print(table(found, figure, more_is_better, baseline if baseline in found else chosen[0]))


def _run(variant: str, scratch: Path) -> Figures:
    command = [sys.executable, *sys.argv, "--variant", variant, "--scratch", str(scratch)]
    environment = os.environ | {"QA_LIGHTNING_CACHE": str(scratch / "cache")}
    ended = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=False, env=environment)
    if ended.returncode:
        sys.exit(f"{variant}: exited with status {ended.returncode}")
    figures: Figures = json.loads(ended.stdout.strip().splitlines()[-1])
    return figures


def table(found: Mapping[str, list[Figures]], figure: str, more_is_better: bool, baseline: str) -> str:
    """A Markdown table: medians, the range of the compared figure, and the median over rounds of the ratio."""
    others = list(dict.fromkeys(key for runs in found.values() for key in runs[0] if key != figure))
    lines = [
        f"| variant | {figure} (min to max) | {' | '.join(others)} | ratio to {baseline} |",
        "|---" * (3 + len(others)) + "|",
    ]
    for name, runs in found.items():
        values = [run[figure] for run in runs]
        pairs = zip(values, (run[figure] for run in found[baseline]), strict=True)
        ratio = statistics.median(own / base if more_is_better else base / own for own, base in pairs)
        cells = [f"{statistics.median(values):,.4g} ({min(values):,.4g} to {max(values):,.4g})"]
        cells += [f"{statistics.median(run[key] for run in runs):,.4g}" if key in runs[0] else "" for key in others]
        lines.append(f"| {name} | {' | '.join(cells)} | {ratio:.2f} |")
    return "\n".join(lines)


def machine() -> str:
    """One line with processor, cores, versions and date."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line.split(":", 1)[1].strip() for line in cpuinfo.read_text().splitlines() if "model name" in line]
        processor = names[0] if names else processor
    versions = ", ".join(
        f"{name} {version(name)}" for name in ("torch", "transformers", "tokenizers", "lightning", "numpy")
    )
    return f"{processor}, {os.cpu_count()} cores; Python {platform.python_version()}, {versions}; {date.today()}"
