"""``compare``: show runs side by side."""

from __future__ import annotations

from collections.abc import Sequence

from jsonargparse import Namespace

from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import Flags, local_path
from qa_lightning.cli.pages import check_output, writing
from qa_lightning.errors import naming_flags
from qa_lightning.runs import SORTS
from qa_lightning.wording import visible


@naming_flags(groups=False)
def compare(words: Sequence[str]) -> int:
    """Show runs side by side; returns status 1 if no folder holds a run that came to its end."""
    options = _options(words)
    from rich.console import Console

    from qa_lightning.pages.runs import RunTable
    from qa_lightning.runs.listing import read_runs, runs_of, sorted_runs

    quiet_libraries()
    runs, problems = read_runs(run for folder in options.runs for run in runs_of(folder))
    table = RunTable(sorted_runs(runs, options.sort), problems)
    if runs:
        console = Console()
        console.print(*table.rich_tables(console.width))
    for line in problems:
        print(visible(line))
    if options.output:
        with writing(options.output):
            table.write(options.output)
        print(visible(f"written to {options.output}"))
    return 0 if runs else 1


def _options(words: Sequence[str]) -> Namespace:
    flags = Flags("compare", "Show runs side by side: scores, speed, memory, and the settings that differ.")
    flags.add_argument(
        "runs",
        type=local_path,
        nargs="+",
        metavar="RUN",
        help="folders of runs, lightning_logs/version_*, or of cross-validations; `last` is the newest run",
    )
    flags.add_argument(
        "--sort",
        choices=list(SORTS),
        default="run",
        help="best score, shortest, fastest or smallest first; run: as given",
    )
    flags.add_argument("--output", type=local_path, metavar="FILE", help="write the table as a page, ending in .html")
    options = flags.read(words)
    check_output(flags, options.output)
    return options
