"""``evaluate``: score a model, or a file of predictions, on data with answers."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from qa_lightning.cli.console import add_columns, columns_of, positive, quiet_libraries, run_command
from qa_lightning.errors import naming_flags


def evaluate_main() -> None:
    """``scripts/evaluate.py``."""
    run_command(evaluate)


@naming_flags()
def evaluate(args: Sequence[str] | None = None) -> int:
    """Score a model, or a file of predictions, on a dataset with answers."""
    parser = argparse.ArgumentParser(
        prog="evaluate.py",
        description="Print EM and F1 of a model, or of a predictions file, as the official SQuAD scorers count them.",
        formatter_class=argparse.ArgumentDefaultsHelpFormatter,
    )
    subject = parser.add_mutually_exclusive_group(required=True)
    subject.add_argument("--model", help="folder of a trained model, or its name on the Hub")
    subject.add_argument("--predictions", type=Path, help='JSON file {"id": "answer", ...}')
    parser.add_argument(
        "--data", required=True, help="file (SQuAD JSON, JSON lines, CSV, Parquet), files, or dataset on the Hub"
    )
    parser.add_argument("--output-dir", type=Path, help="write metrics.json, predictions.json, nbest_predictions.json")
    parser.add_argument("--official", action="store_true", help="compare with evaluate.load('squad' or 'squad_v2')")
    parser.add_argument("--threshold-file", type=Path, help="threshold and temperature of another evaluation")
    parser.add_argument("--null-odds", type=Path, help='with --predictions: {"id": number}, for best thresholds')
    parser.add_argument("--mixed-script", action="store_true", help="F1 by ideographs for Chinese, as MLQA counts")
    parser.add_argument("--batch-size", type=positive, default=32, help="windows a step")
    parser.add_argument("--max-examples", type=positive, help="only the first so many questions")
    add_columns(parser)
    options = parser.parse_args(args)
    if options.official and options.mixed_script:
        parser.error("--official compares with the SQuAD scorer, which knows no --mixed-script")
    if options.null_odds and not options.predictions:
        parser.error("--null-odds goes with --predictions; a model brings its own")
    if options.threshold_file and not options.model:
        parser.error("--threshold-file goes with --model, whose threshold it replaces")
    from qa_lightning.training import evaluate as scoring

    quiet_libraries()

    asked = (options.max_examples, options.mixed_script, columns_of(options))
    if options.predictions:
        result = scoring.score_file(options.predictions, options.data, *asked, options.null_odds)
    else:
        result = scoring.score_model(options.model, options.data, options.batch_size, *asked, options.threshold_file)
    for name, value in result.metrics.items():
        print(f"{name:<14} {value:,}" if name.endswith("total") else f"{name:<14} {value:.4f}")
    for line in result.lines:
        print(line)
    if options.output_dir:
        written = scoring.write(result, options.output_dir)
        print(f"written to {options.output_dir}: {', '.join(written)}")
    return scoring.compare_with_official(result) if options.official else 0
