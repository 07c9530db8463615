"""Questions per second of the question answering pipeline: ours against that of transformers 4.57.

    python benchmarks/bench_pipeline.py --data dev-v1.1.json --model MODEL --v4-python v4/bin/python --batch-size 32

``v4/bin/python`` is an interpreter with the old version (``pip install transformers==4.57.6 torch==2.13.0``); it runs
``pipeline_v4.py``. Both answer the same questions in one call with the same settings; loading is not timed.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path
from typing import Literal

import harness
import material

SETTINGS = {"max_answer_len": 30, "max_seq_len": 384, "doc_stride": 128}
WARM_UP = 8  # questions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=material.existing_file, required=True, help="SQuAD v1.1 JSON file")
    parser.add_argument("--model", required=True, help="folder of a question answering model")
    parser.add_argument("--questions", type=int, default=400, help="size of the random sample")
    parser.add_argument("--batch-size", type=int, default=32, help="windows per forward pass")
    parser.add_argument(
        "--v4-python",
        type=material.existing_file,
        default=os.environ.get("QA_LIGHTNING_V4_PYTHON"),
        help="interpreter with transformers 4.57.6; its default is $QA_LIGHTNING_V4_PYTHON",
    )


def _asked(options: argparse.Namespace, compat: Literal["v4"] | None, dtype: str = "float32") -> harness.Figures:
    import torch

    from qa_lightning import pipeline

    pipe = pipeline(options.model, batch_size=options.batch_size, compat=compat, dtype=getattr(torch, dtype))
    rows = material.questions(options)
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    pipe(question=questions[:WARM_UP], context=contexts[:WARM_UP], **SETTINGS)
    started, computed = time.perf_counter(), time.process_time()
    answers = pipe(question=questions, context=contexts, **SETTINGS)
    seconds, computed = time.perf_counter() - started, time.process_time() - computed
    return {"questions_per_second": len(answers) / seconds, "cpu_seconds": computed}


def ours(options: argparse.Namespace) -> harness.Figures:
    """Ours: exact decoding, probabilities over all windows."""
    return _asked(options, None)


def ours_bf16(options: argparse.Namespace) -> harness.Figures:
    """Ours in bfloat16."""
    return _asked(options, None, "bfloat16")


def ours_v4(options: argparse.Namespace) -> harness.Figures:
    """Ours with ``compat="v4"``: the windows and scores of 4.57."""
    return _asked(options, "v4")


def v4(options: argparse.Namespace) -> harness.Figures:
    """The peer: this process is replaced with the old interpreter, so that the peak memory is its own."""
    if options.v4_python is None:
        sys.exit("4.57: pass --v4-python with an interpreter that has transformers 4.57.6, or use --only")
    script = Path(__file__).with_name("pipeline_v4.py")
    arguments = (options.model, material.question_file(options), options.batch_size, WARM_UP)
    os.execv(options.v4_python, [str(options.v4_python), str(script), *map(str, arguments)])


VARIANTS: dict[str, harness.Variant] = {"4.57": v4, "ours": ours, "ours-bf16": ours_bf16, "ours-v4-scores": ours_v4}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "questions_per_second", add_arguments, rounds=3, more_is_better=True)
