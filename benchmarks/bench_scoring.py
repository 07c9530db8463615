"""Time to score answers with EM and F1: our metric against torchmetrics' `SQuAD`.

python benchmarks/bench_scoring.py --data dev-v1.1.json --predictions predictions.json
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

import harness
import material


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--data", type=material.existing_file, required=True, help="SQuAD v1.1 JSON file")
    parser.add_argument(
        "--predictions", type=material.existing_file, required=True, help='JSON file {"id": "answer", ...}'
    )


def _score(metric: Any, options: argparse.Namespace) -> harness.Figures:
    from qa_lightning.data.examples import read_examples
    from qa_lightning.data.sources import read_rows

    answers = json.loads(options.predictions.read_text(encoding="utf-8"))
    rows = list(read_examples(read_rows(str(options.data), "validation"), "error"))
    predictions = [{"id": row["id"], "prediction_text": answers[row["id"]]} for row in rows]
    references = [{"id": row["id"], "answers": row["answers"]} for row in rows]
    started = time.perf_counter()
    metric.update(predictions, references)
    scores = {name: float(value) for name, value in metric.compute().items()}
    return {"seconds": time.perf_counter() - started, "questions": len(rows), **scores}


def ours(options: argparse.Namespace) -> harness.Figures:
    from qa_lightning import SquadMetric

    return _score(SquadMetric(), options)


def torchmetrics(options: argparse.Namespace) -> harness.Figures:
    from torchmetrics.text import SQuAD

    return _score(SQuAD(), options)


VARIANTS: dict[str, harness.Variant] = {"torchmetrics": torchmetrics, "ours": ours}

if __name__ == "__main__":
    harness.main(__doc__.split("\n")[0], VARIANTS, "seconds", add_arguments, rounds=5)
