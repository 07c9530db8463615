"""The commands that write pages to look at, and what they share."""

from __future__ import annotations

from contextlib import AbstractContextManager
from pathlib import Path

from qa_lightning.cli.flags import Flags
from qa_lightning.files import explained_writes
from qa_lightning.paths import write_problem


def check_output(flags: Flags, output: Path | None) -> None:
    """End the process with status 2 if a page would not get the name of a page, or cannot be written there."""
    if output is None:
        return
    if output.suffix not in (".html", ".htm"):
        flags.error(f"--output {output}: the page is HTML; name a file that ends in .html")
    if output.is_dir():
        flags.error(f"--output {output}: is a folder; name a file in it")
    if problem := write_problem(output.parent):
        flags.error(f"--output {output}: is in a folder {problem}; name another file")


def writing(output: Path) -> AbstractContextManager[None]:
    """Within, a page is written; see `explained_writes`."""
    return explained_writes(f"--output {output}:", "free some space, or name another file")
