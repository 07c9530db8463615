"""``predict``: answer one question, or all questions of a file."""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from qa_lightning.cli.console import COLUMN_NAMES, add_columns, columns_of, positive, quiet_libraries, run_command
from qa_lightning.errors import naming_flags


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
    file.add_argument("--batch-size", type=positive, metavar="N", help="windows a step  [32]")
    file.add_argument("--devices", type=positive, metavar="N", help="GPUs, or processes on a CPU  [1]")
    file.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="computed in  [float32]")
    file.add_argument("--overwrite", action="store_true", default=None, help="begin anew, whatever the output holds")
    add_columns(parser)
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


@naming_flags()
def predict(args: Sequence[str] | None = None) -> int:
    """Answer one question, or all of a file."""
    options = _predict_options(args)
    quiet_libraries()
    if options.input is not None:
        from qa_lightning.inference.bulk.run import answer_file
        from qa_lightning.inference.bulk.workers import PredictSettings

        asked = PredictSettings(
            options.model, options.dtype or "float32", options.batch_size or 32, options.threshold_file
        )
        devices, overwrite = options.devices or 1, bool(options.overwrite)
        return answer_file(asked, options.input, options.output, columns_of(options), devices, overwrite)
    from qa_lightning.inference.reader import Reader

    reader = Reader.load(options.model, threshold_file=options.threshold_file)
    answer = reader.answer([options.asked], [options.about])[0]
    if options.json:
        print(json.dumps({"answer": answer.text, "start": answer.start, "end": answer.end, "score": answer.score}))
    else:
        place = f"characters {answer.start}-{answer.end}" if answer.text else "the text does not answer it"
        print(f"answer  {answer.text or '(no answer)'}\nplace   {place}\nscore   {answer.score:.4f}")
    return 0
