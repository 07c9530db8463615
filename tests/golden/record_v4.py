"""Records what the question answering pipeline of transformers 4.57.6 returns; run by the interpreter that has it.

    python -m venv v4 && v4/bin/pip install transformers==4.57.6 torch==2.13.0
    v4/bin/python tests/golden/record_v4.py                # the cases of tests/v4_cases.py -> v4_pipeline.json.gz
    v4/bin/python tests/golden/record_v4.py --model FOLDER --data squad.json --output FILE.json.gz

The first is what ``tests/test_pipeline_parity.py`` reads; the second asks real questions, each call in settings drawn
at random, for ``tests/golden/compare_v4.py``.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections.abc import Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
os.environ["RUST_BACKTRACE"] = "0"  # panics are recorded, not explained
sys.path.insert(0, str(Path(__file__).parents[2]))

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, QuestionAnsweringPipeline
from transformers.utils import logging

from tests.helpers import v4_calls, v4_cases, v4_models

GOLDEN = Path(__file__).with_name("v4_pipeline.json.gz")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--model", type=Path, help="folder of a model for real questions; left out: the golden cases")
    parser.add_argument("--data", type=Path, help="SQuAD JSON file of real questions")
    parser.add_argument("--output", type=Path, default=GOLDEN, help="gzipped JSON file to write")
    parser.add_argument("--questions", type=int, help="how many of the file's questions; left out: all")
    parser.add_argument("--seed", type=int, default=0, help="of the settings")
    options = parser.parse_args()
    if (options.model is None) != (options.data is None):
        parser.error("real questions need both --model and --data; the golden cases need neither")
    if options.model is not None and options.output == GOLDEN:
        parser.error("real questions need an --output of their own")
    logging.set_verbosity_error()
    if options.model is None:
        recorded = record(v4_cases.golden_calls(), {name: golden_pipeline(name) for name in v4_models.NAMES})
    else:
        rows = squad_rows(options.data)[: options.questions]
        recorded = record(v4_cases.real_calls(rows, options.seed), {"": real_pipeline(options.model)}, windows=True)
    versions = {name: version(name) for name in ("transformers", "tokenizers", "torch", "numpy")}
    text = json.dumps({"versions": versions, "calls": recorded}, ensure_ascii=False)
    options.output.write_bytes(gzip.compress(text.encode("utf-8", "surrogatepass"), mtime=0))
    print(f"{len(recorded)} calls -> {options.output}, {options.output.stat().st_size / 1024:.0f} KB")


def golden_pipeline(name: str) -> QuestionAnsweringPipeline:
    """The old pipeline around one of the small models of the golden cases."""
    model, tokenizer = v4_models.load(name)
    return QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, device="cpu")


def real_pipeline(folder: Path) -> QuestionAnsweringPipeline:
    """The old pipeline around a model folder, in float32 on the CPU."""
    model = AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return QuestionAnsweringPipeline(model=model.eval(), tokenizer=tokenizer, device="cpu")


def squad_rows(path: Path) -> list[dict[str, Any]]:
    """The questions of a SQuAD file, nested as published, or flat with ``answers`` of ``text``."""
    data = json.loads(path.read_text(encoding="utf-8"))["data"]
    return [
        {
            "id": asked["id"],
            "question": asked["question"],
            "context": paragraph["context"],
            "answers": [answer["text"] for answer in asked["answers"]],
        }
        for article in data
        for paragraph in article["paragraphs"]
        for asked in paragraph["qas"]
    ]


def record(calls: Iterable[v4_calls.Call], pipes: dict[str, Any], windows: bool = False) -> list[dict[str, Any]]:
    """Make each call and keep its outcome beside it; ``windows`` also counts those of each question."""
    recorded = []
    for number, call in enumerate(calls):
        pipe = pipes[call.get("model", "")]
        counted = {"windows": window_counts(pipe, call)} if windows else {}
        recorded.append(call | counted | {"outcome": v4_calls.outcome(pipe, call)})
        if number % 100 == 0:
            print(f"{number} calls", file=sys.stderr, flush=True)
    return recorded


def window_counts(pipe: Any, call: v4_calls.Call) -> list[int]:
    """How many windows each question has; 0 where they cannot be cut."""
    names = ("padding", "doc_stride", "max_question_len", "max_seq_len")
    settings = {name: value for name, value in call["settings"].items() if name in names}
    question, context = call["arguments"]["question"], call["arguments"]["context"]
    pairs = [(question, context)] if isinstance(question, str) else zip(question, context, strict=True)
    counts = []
    for asked, text in pairs:
        try:
            counts.append(len(list(pipe.preprocess({"question": asked, "context": text}, **settings))))
        except KeyboardInterrupt:
            raise
        except BaseException:
            counts.append(0)
    return counts


if __name__ == "__main__":
    main()
