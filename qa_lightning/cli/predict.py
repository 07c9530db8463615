"""``predict``: answer one question, or all questions of a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from contextlib import nullcontext, redirect_stdout
from pathlib import Path

from jsonargparse import Namespace

from qa_lightning.cli.console import print_json, quiet_libraries
from qa_lightning.cli.flags import MODELS_HELP, READING, Flags, local_path, positive, reading_of, shard
from qa_lightning.errors import naming_flags
from qa_lightning.features.defaults import DTYPES, EVAL_BATCH_SIZE
from qa_lightning.wording import visible


@naming_flags(groups=False)
def predict(words: Sequence[str]) -> int:
    """Answer one question, or all questions of a file; returns the exit status."""
    options = _predict_options(words)
    if options.input is not None:
        from qa_lightning.inference.bulk.run import answer_file
        from qa_lightning.inference.bulk.workers import PredictSettings
        from qa_lightning.models.loading import lasting_names

        quiet_libraries()
        asked = PredictSettings(
            lasting_names(options.model),
            options.dtype or DTYPES[0],
            options.batch_size or EVAL_BATCH_SIZE,
            options.threshold_file,
            raw_scores=options.raw_scores,
        )
        reading, documents = reading_of(options), options.documents
        overwrite = bool(options.overwrite)
        if options.engine == "ray":
            from qa_lightning.inference.bulk.run import AskedRows
            from qa_lightning.inference.cluster.machines import ClusterSettings
            from qa_lightning.inference.cluster.run import answer_on_ray

            cluster = ClusterSettings(options.ray_address, options.devices)
            rows = AskedRows(options.input, reading, documents)
            return answer_on_ray(asked, rows, options.output, cluster, overwrite)
        output, devices = Path(options.output), options.devices or 1
        return answer_file(asked, options.input, output, reading, devices, overwrite, documents, options.shard)
    from qa_lightning.inference.reader import Reader

    quiet_libraries()
    files, raw = options.threshold_file, options.raw_scores
    with redirect_stdout(sys.stderr) if options.json else nullcontext():  # what is logged is no JSON
        reader = Reader.from_pretrained(options.model, threshold_file=files, raw_scores=raw)
        answer = reader.answer([options.question], [options.context])[0]
    if options.json:
        print_json(answer.as_json(reader.settings.version_2))
    else:
        span = f"characters {answer.start}-{answer.end}" if answer.text else "the text does not answer it"
        print(f"answer  {visible(answer.text) or '(no answer)'}\nspan    {span}\nscore   {answer.score:.4f}")
    return 0


def _predict_options(words: Sequence[str]) -> Namespace:
    """Parse the flags of `predict`; flags of both its forms together end the process with status 2."""
    flags = Flags("predict", "Ask a trained model one question about a text, or all questions of a file.")
    flags.add_argument("--model", type=str, required=True, metavar="NAME", help=MODELS_HELP)
    flags.add_argument(
        "--threshold_file",
        type=local_path,
        metavar="FILE",
        help="threshold, temperature and calibrator from an evaluation",
    )
    flags.add_raw_scores()
    one = flags.add_argument_group("one question")
    one.add_argument("--question", type=str, metavar="TEXT", help="what to ask")
    one.add_argument("--context", type=str, metavar="TEXT", help="the text that holds the answer")
    one.add_argument("--json", action="store_true", default=None, help="print one JSON object")
    file = flags.add_argument_group("a file of questions")
    file.add_argument(
        "--input",
        type=str,
        metavar="FILE",
        help="JSON, JSON lines, CSV, TSV, Excel, Parquet or Arrow, also with .gz",
    )
    file.add_argument(
        "--output", type=str, metavar="FILE", help="file for the answers, as JSON lines; an unfinished one is resumed"
    )
    file.add_argument(
        "--documents", type=str, metavar="FILE", help="id and text of each document that rows name in document_ids"
    )
    file.add_argument("--batch_size", type=positive, metavar="N", help=f"windows per step  [{EVAL_BATCH_SIZE}]")
    file.add_argument("--devices", type=positive, metavar="N", help="GPUs, or processes on a CPU  [1]")
    file.add_argument("--dtype", choices=DTYPES, help="number type to compute in  [float32]")
    file.add_argument(
        "--shard",
        type=shard,
        metavar="I/N",
        help="answer only part I of N, counted from 1, such as 3/8; each needs its own --output",
    )
    file.add_argument(
        "--engine",
        choices=("local", "ray"),
        help="ray answers on a Ray cluster, Parquet or JSON lines, into a folder of Parquet files  [local]",
    )
    file.add_argument(
        "--ray_address", type=str, metavar="HOST:PORT", help="of the cluster; otherwise RAY_ADDRESS, or one is started"
    )
    file.add_argument(
        "--overwrite", action="store_true", default=None, help="start again, whatever the output file holds"
    )
    flags.add_reading()
    options = flags.read(words)
    if problems := _predict_problems(options):
        flags.error("\n".join(problems))
    return options


def _predict_problems(options: Namespace) -> list[str]:
    """A line for each flag that is missing, or that belongs to the other form of the command."""
    single = [options.question, options.context, options.json]
    several = [options.input, options.output, options.batch_size, options.devices, options.dtype, options.overwrite]
    several += [options.documents, options.shard, options.engine, options.ray_address]
    several += [options[name] for name in READING]
    problems = []
    if any(value is not None for value in single) == any(value is not None for value in several):
        problems.append("give either --question and --context, for one question, or --input and --output, for a file")
    if (options.question is None) != (options.context is None) or (options.input is None) != (options.output is None):
        problems.append("--question goes with --context, and --input with --output")
    if not problems and options.question is None and options.input is None:
        problems.append("give --question and --context, or --input and --output, too")
    if options.ray_address is not None and options.engine != "ray":
        problems.append("--ray_address goes with --engine ray")
    if options.shard is not None and options.engine == "ray":
        problems.append("--shard goes with --engine local: with --engine ray, Ray shares out the rows")
    return problems
