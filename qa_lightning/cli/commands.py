"""The commands besides ``train``: check data, evaluate, predict, export; each with its parser.

What a command needs is imported once its flags are read, so that ``--help`` and a wrong flag answer at once.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from qa_lightning.cli.console import quiet_libraries, run_command

if TYPE_CHECKING:
    from qa_lightning.data.columns import Columns

COLUMN_NAMES = ("id", "question", "context", "answers", "answer_text", "answer_start", "is_impossible")


def check_data_main() -> None:
    """``scripts/check_data.py``."""
    run_command(check_data)


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
    parser.add_argument("--rows", type=_positive, default=5, help="rows to list of each finding")
    parser.add_argument("--max-length", type=_positive, default=384, help="tokens a window, question included")
    parser.add_argument("--doc-stride", type=_positive, default=128, help="tokens that two windows share")
    parser.add_argument("--max-question-length", type=_positive, default=64, help="longer questions are cut, in tokens")
    parser.add_argument("--max-answer-length", type=_positive, default=30, help="longest answer given, in tokens")
    _add_columns(parser)
    options = parser.parse_args(args)
    from rich.console import Console

    from qa_lightning.checks import report as reports
    from qa_lightning.features.windows import WindowSettings

    quiet_libraries()
    report = reports.check_source(
        options.data,
        options.validation,
        _columns(options),
        options.model,
        WindowSettings(options.max_length, options.doc_stride, options.max_question_length),
        options.max_answer_length,
        options.rows,
    )
    reports.show(report, Console())
    if options.json:
        options.json.write_text(json.dumps(report.as_json(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        print(f"written to {options.json}")
    return 1 if report.errors else 0


def _add_columns(parser: argparse.ArgumentParser) -> None:
    for name in COLUMN_NAMES:
        flags = (f"--columns.{name}", f"--data.columns.{name}")  # the second as train.py has it
        parser.add_argument(*flags, dest=name, metavar="NAME", help=f"the column that is the {name}")


def _columns(options: argparse.Namespace) -> Columns:
    from qa_lightning.data.columns import Columns

    return Columns(**{name: getattr(options, name) for name in COLUMN_NAMES})


def evaluate_main() -> None:
    """``scripts/evaluate.py``."""
    run_command(evaluate)


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
    parser.add_argument("--batch-size", type=_positive, default=32, help="windows a step")
    parser.add_argument("--max-examples", type=_positive, help="only the first so many questions")
    _add_columns(parser)
    options = parser.parse_args(args)
    if options.official and options.mixed_script:
        parser.error("--official compares with the SQuAD scorer, which knows no --mixed-script")
    if options.null_odds and not options.predictions:
        parser.error("--null-odds goes with --predictions; a model brings its own")
    if options.threshold_file and not options.model:
        parser.error("--threshold-file goes with --model, whose threshold it replaces")
    from qa_lightning.training import evaluate as scoring

    quiet_libraries()

    asked = (options.max_examples, options.mixed_script, _columns(options))
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


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{number} is less than 1")
    return number


def predict_main() -> None:
    """``scripts/predict.py``."""
    run_command(predict)


def _predict_options(args: Sequence[str] | None) -> argparse.Namespace:
    """The flags of `predict`, those of one of its two forms alone."""
    parser = argparse.ArgumentParser(
        prog="predict.py", description="Ask a trained model one question about a text, or all questions of a file."
    )
    parser.add_argument("--model", required=True, help="folder of a trained model, or its name on the Hub")
    parser.add_argument("--threshold-file", type=Path, metavar="FILE", help="of evaluate.py: when there is no answer")
    one = parser.add_argument_group("one question")
    one.add_argument("--question", dest="asked", metavar="TEXT")
    one.add_argument("--context", dest="about", metavar="TEXT", help="the text that holds the answer")
    one.add_argument("--json", action="store_true", default=None, help="print one JSON object")
    file = parser.add_argument_group("a file of questions")
    file.add_argument("--input", metavar="FILE", help="SQuAD JSON, JSON lines, CSV, TSV or Parquet, packed or not")
    file.add_argument("--output", type=Path, metavar="FILE", help="where answers go, as JSON lines; goes on with them")
    file.add_argument("--batch-size", type=_positive, metavar="N", help="windows a step  [32]")
    file.add_argument("--devices", type=_positive, metavar="N", help="GPUs, or processes on a CPU  [1]")
    file.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="computed in  [float32]")
    file.add_argument("--overwrite", action="store_true", default=None, help="begin anew, whatever the output holds")
    _add_columns(parser)
    options = parser.parse_args(args)
    single = [options.asked, options.about, options.json]
    several = [options.input, options.output, options.batch_size, options.devices, options.dtype, options.overwrite]
    several += [getattr(options, name) for name in COLUMN_NAMES]
    if any(value is not None for value in single) == any(value is not None for value in several):
        parser.error("give either --question and --context, for one question, or --input and --output, for a file")
    if (options.asked is None) != (options.about is None) or (options.input is None) != (options.output is None):
        parser.error("--question goes with --context, and --input with --output")
    if options.asked is None and options.input is None:
        parser.error("give --question and --context, or --input and --output, too")
    return options


def predict(args: Sequence[str] | None = None) -> int:
    """Answer one question, or all of a file."""
    options = _predict_options(args)
    quiet_libraries()
    if options.input is not None:
        from qa_lightning.inference.bulk.run import answer_file
        from qa_lightning.inference.bulk.workers import Asked

        asked = Asked(options.model, options.dtype or "float32", options.batch_size or 32, options.threshold_file)
        devices, overwrite = options.devices or 1, bool(options.overwrite)
        return answer_file(asked, options.input, options.output, _columns(options), devices, overwrite)
    from qa_lightning.inference.reader import Reader

    reader = Reader.load(options.model, threshold_file=options.threshold_file)
    answer = reader.answer([options.asked], [options.about])[0]
    if options.json:
        print(json.dumps({"answer": answer.text, "start": answer.start, "end": answer.end, "score": answer.score}))
    else:
        place = f"characters {answer.start}-{answer.end}" if answer.text else "the text does not answer it"
        print(f"answer  {answer.text or '(no answer)'}\nplace   {place}\nscore   {answer.score:.4f}")
    return 0


def export_main() -> None:
    """``scripts/export.py``."""
    run_command(export)


def export(args: Sequence[str] | None = None) -> int:
    """Write a trained model as ONNX, or publish it on the Hub, or both."""
    parser = argparse.ArgumentParser(
        prog="export.py", description="Write a trained model as an ONNX folder, or publish a model's folder on the Hub."
    )
    parser.add_argument("--model", required=True, help="folder of a trained model, or its name on the Hub")
    onnx = parser.add_argument_group("an ONNX folder")
    onnx.add_argument("--format", choices=["onnx"], help="what to write; it is compared with PyTorch first")
    onnx.add_argument("--output", type=Path, metavar="DIR", help="where to  [the model's name and -onnx, beside it]")
    onnx.add_argument("--overwrite", action="store_true", help="replace the model in --output with all that is in it")
    onnx.add_argument("--quantize", choices=["int8"], help="weights in 8 bits, for CPUs; needs --data")
    onnx.add_argument("--data", metavar="FILE", help="questions to compare on  [some of the embedded dataset]")
    onnx.add_argument("--max-examples", type=_positive, metavar="N", help="only the first so many of them")
    onnx.add_argument("--max-f1-drop", type=float, metavar="X", help="F1 points that int8 may cost on --data  [1.0]")
    _add_columns(parser)
    hub = parser.add_argument_group("the Hub")
    hub.add_argument("--push-to-hub", metavar="USER/NAME", help="publish the model, or with --format what it wrote")
    hub.add_argument("--private", action="store_true", help="make the repository a private one")
    hub.add_argument("--dry-run", action="store_true", help="only show what would be sent")
    options = parser.parse_args(args)
    from qa_lightning.errors import InputError

    if problems := _export_problems(options):
        raise InputError(problems)
    quiet_libraries()
    model = _export_onnx(options) if options.format else options.model
    if not options.push_to_hub:
        return 0
    from qa_lightning.export import hub as publishing

    return publishing.push_to_hub(model, options.push_to_hub, options.private, options.dry_run)


def _export_problems(options: argparse.Namespace) -> list[str]:
    """Flags that say too little, or what no other flag asks for."""
    problems = []
    if not options.format and not options.push_to_hub:
        problems.append("nothing to do: choose --format onnx, to write a folder, or --push-to-hub USER/NAME, or both")
    for needed, flags in (
        ("format", ("output", "overwrite", "quantize", "data")),
        ("quantize", ("max_f1_drop",)),
        ("data", ("max_examples", *COLUMN_NAMES)),
        ("push_to_hub", ("private", "dry_run")),
    ):
        for flag in flags if not getattr(options, needed) else ():
            if getattr(options, flag) is None or getattr(options, flag) is False:
                continue
            name = f"columns.{flag}" if flag in COLUMN_NAMES else flag.replace("_", "-")
            problems.append(f"--{name} is of no use without --{needed.replace('_', '-')}; add that, or leave it out")
    if options.max_f1_drop is not None and not 0 <= options.max_f1_drop <= 100:
        problems.append(f"--max-f1-drop is {options.max_f1_drop:g}; it must be from 0 to 100, in F1 points")
    return problems


def _export_onnx(options: argparse.Namespace) -> str:
    """Write the ONNX folder; returns where it is."""
    from qa_lightning.export.onnx import MAX_F1_DROP, export_onnx

    folder = export_onnx(
        options.model,
        options.output,
        options.quantize,
        options.data,
        MAX_F1_DROP if options.max_f1_drop is None else options.max_f1_drop,
        options.overwrite,
        options.max_examples,
        _columns(options),
    )
    return str(folder)
