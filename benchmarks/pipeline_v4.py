"""The peer of ``bench_pipeline.py``: times the pipeline of transformers 4.57, run by an interpreter that has it.

python pipeline_v4.py MODEL QUESTIONS.jsonl BATCH_SIZE WARM_UP
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"

import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer, QuestionAnsweringPipeline
from transformers.utils import logging

SETTINGS = {"max_answer_len": 30, "max_seq_len": 384, "doc_stride": 128}  # as in bench_pipeline.py


def main() -> None:
    folder, file, batch_size, warm_up = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    logging.set_verbosity_error()
    pipe = QuestionAnsweringPipeline(
        model=AutoModelForQuestionAnswering.from_pretrained(folder, dtype=torch.float32).eval(),
        tokenizer=AutoTokenizer.from_pretrained(folder),
        batch_size=batch_size,
    )
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    pipe(question=questions[:warm_up], context=contexts[:warm_up], **SETTINGS)
    started, computed = time.perf_counter(), time.process_time()
    answers = pipe(question=questions, context=contexts, **SETTINGS)
    seconds, computed = time.perf_counter() - started, time.process_time() - computed
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    figures = {"questions_per_second": len(answers) / seconds, "cpu_seconds": computed, "peak_rss_mb": peak}
    print(json.dumps(figures))


if __name__ == "__main__":
    main()
