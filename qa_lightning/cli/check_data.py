"""``check-data``: say what is wrong with data before training on it."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qa_lightning.cli.console import add_columns, columns_of, positive, quiet_libraries, run_command
from qa_lightning.errors import naming_flags
from qa_lightning.files import write_json


def check_data_main() -> None:
    """``scripts/check_data.py``."""
    run_command(check_data)


@naming_flags()
def check_data(args: Sequence[str] | None = None) -> int:
    """Say what is wrong with data; status 1 if training would stop at it."""
    parser = argparse.ArgumentParser(
        prog="check_data.py",
        description="Look through questions before training on them: what is wrong, how often, where, and what helps.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("data", help="file, files or dataset, as --data.dataset of train.py takes them")
    parser.add_argument("--validation", help="what is validated on, to find contexts that stand on both sides")
    parser.add_argument("--model", help="name or folder; its tokenizer tells what is cut, lost or unknown")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the whole report as JSON")
    parser.add_argument("--rows", type=positive, default=5, help="rows to list of each finding")
    parser.add_argument("--max-length", type=positive, default=384, help="tokens a window, question included")
    parser.add_argument("--doc-stride", type=positive, default=128, help="tokens that two windows share")
    parser.add_argument("--max-question-length", type=positive, default=64, help="longer questions are cut, in tokens")
    parser.add_argument("--max-answer-length", type=positive, default=30, help="longest answer given, in tokens")
    add_columns(parser)
    options = parser.parse_args(args)
    from rich.console import Console

    from qa_lightning.checks import report as reports
    from qa_lightning.features.windows import WindowSettings
    from qa_lightning.models.loading import load_tokenizer

    quiet_libraries()
    report = reports.check_source(
        options.data,
        options.validation,
        columns_of(options),
        load_tokenizer(options.model) if options.model else None,
        WindowSettings(options.max_length, options.doc_stride, options.max_question_length),
        options.max_answer_length,
        options.rows,
    )
    reports.show(report, Console())
    if options.json:
        write_json(options.json, report.as_json())
        print(f"written to {options.json}")
    return 1 if report.errors else 0
