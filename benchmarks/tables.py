"""Writes the tables of the pages from the JSON files of `benchmarks/results`.

    python benchmarks/tables.py            # writes them
    python benchmarks/tables.py --check    # changes nothing; exits with 1 if a page differs

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``, in benchmarks/README.md, README.md or a page of
docs/; `contents.py` has the names, in `TABLES`, and what each table holds. Below each table stand machine, versions,
date and command of its figures. A benchmark writes its file with ``--output benchmarks/results/FILE``.
"""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from contents import TABLES
from figures import Results

from qa_lightning.errors import InputError, naming_flags
from qa_lightning.files import write_file

ROOT = Path(__file__).resolve().parents[1]
MARKED = re.compile(r"<!-- table: ([\w-]+) -->\n(.*?)<!-- end -->", re.DOTALL)


def pages(root: Path) -> list[Path]:
    """The pages that may have tables."""
    return [root / "README.md", root / "benchmarks" / "README.md", *sorted((root / "docs").glob("*.md"))]


def written(page: str, folder: Path) -> str:
    """A page with its tables as the results of a folder have them.

    Raises:
        InputError: a table has no end or an unknown name, or a result is absent.
    """
    found = MARKED.findall(page)
    problems = [
        f"no table is named {name}; the names are {', '.join(TABLES)}" for name, _ in found if name not in TABLES
    ]
    if page.count("<!-- table:") != len(found) or any("<!-- table:" in content for _, content in found):
        problems.append("a table has no `<!-- end -->`; write it in a line of its own below the table")
    if problems:
        raise InputError(problems)

    def table(match: re.Match[str]) -> str:
        results = Results(folder)
        parts = [TABLES[match[1]](results), results.sources()]
        return "\n\n".join([f"<!-- table: {match[1]} -->", *filter(None, parts), "<!-- end -->"])

    return MARKED.sub(table, page)


def stale(root: Path) -> dict[Path, str]:
    """The pages that differ from the results, with what they should hold.

    Raises:
        InputError: of all pages, what `written` raises; or a table that stands in no page.
    """
    differing, problems, shown = {}, [], set()
    for path in pages(root):
        page = path.read_text(encoding="utf-8")
        shown |= {name for name, _ in MARKED.findall(page)}
        try:
            new = written(page, root / "benchmarks" / "results")
        except InputError as error:
            problems += [f"{path.relative_to(root)}: {problem}" for problem in error.problems]
            continue
        if new != page:
            differing[path] = new
    problems += [f"no page has the table {name}" for name in TABLES if name not in shown]
    if problems:
        raise InputError(problems)
    return differing


@naming_flags()
def main(arguments: list[str] | None = None, root: Path = ROOT) -> int:
    """Write the tables, or check them; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a page differs")
    options = parser.parse_args(arguments)
    try:
        differing = stale(root)
    except InputError as error:
        print(*(f"error: {problem}" for problem in error.problems), sep="\n", file=sys.stderr)
        return 1
    for path, page in differing.items():
        name = path.relative_to(root)
        if options.check:
            print(f"{name} differs from benchmarks/results; run `python benchmarks/tables.py`", file=sys.stderr)
        else:
            write_file(path, page)
            print(f"{name}: tables written")
    if not differing:
        print(f"{len(TABLES)} tables are as benchmarks/results has them")
    return int(options.check and bool(differing))


if __name__ == "__main__":
    sys.exit(main())
