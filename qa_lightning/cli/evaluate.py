"""``evaluate``: score a model, or a file of predictions, on data with answers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from jsonargparse import Namespace

from qa_lightning.cli.console import quiet_libraries
from qa_lightning.cli.flags import DATA_HELP, MODELS_HELP, Flags, local_path, positive, reading_of
from qa_lightning.errors import naming_flags
from qa_lightning.files import explained_writes
from qa_lightning.paths import folder_problem
from qa_lightning.wording import visible

_LENGTHS = {
    "max_length": "tokens per window, question included",
    "doc_stride": "tokens of context that two neighbouring windows share",
    "max_question_length": "longest question; longer ones are cut",
    "max_answer_length": "longest predicted answer",
}


@naming_flags(groups=False, names={"data.validation": "data", "data.dataset": "data"})
def evaluate(words: Sequence[str]) -> int:
    """Score a model, or a file of predictions; returns status 1 if the official scorer disagrees or cannot be asked."""
    options = _evaluate_options(words)
    from qa_lightning.evaluation.file import score_file
    from qa_lightning.evaluation.model import score_model
    from qa_lightning.evaluation.official import compare_with_official
    from qa_lightning.evaluation.result import write_result

    quiet_libraries()

    asked = (options.max_examples, options.mixed_script or False, reading_of(options), options.on_bad_rows)
    if options.predictions:
        result = score_file(options.predictions, options.data, *asked, options.null_odds)
    else:
        lengths = {name: options[name] for name in _LENGTHS if options[name] is not None}
        how = (options.threshold_file, lengths, options.dtype)
        result = score_model(options.model, options.data, options.batch_size, *asked, *how)
    for name, value in result.metrics.items():
        print(f"{name:<14} {value:,}" if name.endswith("total") else f"{name:<14} {value:.4f}")
    for line in result.lines:
        print(visible(line))
    if options.output_dir:
        with explained_writes(f"--output_dir {options.output_dir}:", "free some space, or name another folder"):
            written = write_result(result, options.output_dir)
        print(visible(f"written to {options.output_dir}: {', '.join(written)}"))
    return compare_with_official(result) if options.official else 0


def _evaluate_options(words: Sequence[str]) -> Namespace:
    """Parse the flags of `evaluate`; those that do not go together end the process with status 2."""
    flags = Flags(
        "evaluate", "Print EM and F1 of a model, or of a predictions file, as the official SQuAD scorers count them."
    )
    flags.add_argument("--model", type=str, metavar="NAME", help=MODELS_HELP)
    flags.add_argument(
        "--predictions", type=local_path, metavar="FILE", help='JSON file {"id": "answer", ...}, or what predict wrote'
    )
    flags.add_argument("--data", type=str, required=True, metavar="DATA", help=DATA_HELP)
    flags.add_argument(
        "--output_dir", type=local_path, metavar="DIR", help="folder for scores, predictions, threshold and figures"
    )
    flags.add_argument("--official", action="store_true", help="compare with evaluate.load('squad' or 'squad_v2')")
    flags.add_argument(
        "--threshold_file", type=local_path, metavar="FILE", help="threshold and temperature from another evaluation"
    )
    flags.add_argument(
        "--null_odds",
        type=local_path,
        metavar="FILE",
        help='with --predictions: {"id": number}, to find the best thresholds',
    )
    flags.add_evaluation()
    group = flags.add_argument_group("lengths in tokens, in place of the model's own")
    for name, help in _LENGTHS.items():
        group.add_argument(f"--{name}", type=positive, metavar="N", help=help)
    flags.add_reading()
    options = flags.read(words)
    if problems := _evaluate_problems(options):
        flags.error("\n".join(problems))
    return options


def _evaluate_problems(options: Namespace) -> list[str]:
    """A line for each pair of flags that do not go together."""
    from qa_lightning.features.defaults import DTYPES, EVAL_BATCH_SIZE

    problems = []
    if (options.model is None) == (options.predictions is None):
        problems.append("give either --model or --predictions, to say what to score")
    if options.official and options.mixed_script:
        problems.append("--official compares with the SQuAD scorer, which knows no --mixed_script")
    if options.null_odds and not options.predictions:
        problems.append("--null_odds goes with --predictions; a model computes its own")
    usual = {"batch_size": EVAL_BATCH_SIZE, "dtype": DTYPES[0], **dict.fromkeys(_LENGTHS)}
    if options.predictions and (given := [f"--{name}" for name, value in usual.items() if options[name] != value]):
        problems.append(f"{', '.join(given)}: only for --model; --predictions runs no model")
    if options.threshold_file and not options.model:
        problems.append("--threshold_file goes with --model, whose threshold it replaces")
    return problems + (_output_problems(options) if options.output_dir else [])


def _output_problems(options: Namespace) -> list[str]:
    """A line for each reason why nothing can be written into ``--output_dir``, or why it would replace what is read."""
    from qa_lightning.data.sources import also_read
    from qa_lightning.evaluation.result import FILES
    from qa_lightning.models.loading import is_in_model

    folder: Path = options.output_dir
    if problem := folder_problem(folder, FILES):
        return [f"--output_dir {folder}: {problem}; name another folder"]
    written = [folder / name for name in FILES]
    if options.model and is_in_model(written[0], options.model):
        return [f"--output_dir {folder}: is the folder of --model; name another folder"]
    names = ("predictions", "data", "null_odds", "threshold_file")
    found = also_read(written, {f"--{name}": str(options[name]) for name in names if options[name]})
    found.sort(key=lambda one: not one[0].exists())  # a pattern reads others once they are there
    return [
        f"--output_dir {folder}: {path.name} in it is what {flag} reads, and would be replaced; name another folder"
        for path, flag in found[:1]
    ]
