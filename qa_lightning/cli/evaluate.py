"""``evaluate``: score a model, or a file of predictions, on data with answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import Flags, positive, reading_of
from qa_lightning.errors import naming_flags
from qa_lightning.wording import visible


@naming_flags(groups=False, names={"data.validation": "data", "data.dataset": "data"})
def evaluate(words: Sequence[str]) -> int:
    """Score a model, or a file of predictions; returns status 1 if the official scorer disagrees."""
    options = _evaluate_options(words)
    from qa_lightning.training import scoring

    quiet_libraries()

    asked = (options.max_examples, options.mixed_script, reading_of(options))
    if options.predictions:
        result = scoring.score_file(options.predictions, options.data, *asked, options.null_odds)
    else:
        result = scoring.score_model(options.model, options.data, options.batch_size, *asked, options.threshold_file)
    for name, value in result.metrics.items():
        print(f"{name:<14} {value:,}" if name.endswith("total") else f"{name:<14} {value:.4f}")
    for line in result.lines:
        print(visible(line))
    if options.output_dir:
        written = scoring.write(result, options.output_dir)
        print(visible(f"written to {options.output_dir}: {', '.join(written)}"))
    return scoring.compare_with_official(result) if options.official else 0


def _evaluate_options(words: Sequence[str]) -> Namespace:
    """Parse the flags of `evaluate`; those that do not go together end the process with status 2."""
    flags = Flags(
        "evaluate", "Print EM and F1 of a model, or of a predictions file, as the official SQuAD scorers count them."
    )
    flags.add_argument("--model", type=str, metavar="NAME", help="folder of a trained model, or its name on the Hub")
    flags.add_argument("--predictions", type=Path, metavar="FILE", help='JSON file {"id": "answer", ...}')
    flags.add_argument(
        "--data",
        type=str,
        required=True,
        metavar="DATA",
        help="file (SQuAD JSON, JSON lines, CSV, Excel, Parquet), files, or dataset on the Hub",
    )
    flags.add_argument(
        "--output_dir", type=Path, metavar="DIR", help="write metrics.json, predictions.json, nbest_predictions.json"
    )
    flags.add_argument("--official", action="store_true", help="compare with evaluate.load('squad' or 'squad_v2')")
    flags.add_argument(
        "--threshold_file", type=Path, metavar="FILE", help="threshold and temperature from another evaluation"
    )
    flags.add_argument(
        "--null_odds", type=Path, metavar="FILE", help='with --predictions: {"id": number}, to find the best thresholds'
    )
    flags.add_argument(
        "--mixed_script", action="store_true", help="score each ideograph as a word, as MLQA does for Chinese"
    )
    flags.add_argument("--batch_size", type=positive, default=32, metavar="N", help="windows per step")
    flags.add_argument("--max_examples", type=positive, metavar="N", help="score only the first N questions")
    flags.add_reading()
    options = flags.read(words)
    problems = []
    if (options.model is None) == (options.predictions is None):
        problems.append("give either --model or --predictions, to say what to score")
    if options.official and options.mixed_script:
        problems.append("--official compares with the SQuAD scorer, which knows no --mixed_script")
    if options.null_odds and not options.predictions:
        problems.append("--null_odds goes with --predictions; a model computes its own")
    if options.threshold_file and not options.model:
        problems.append("--threshold_file goes with --model, whose threshold it replaces")
    if problems:
        flags.error("\n".join(problems))
    return options
