"""Answers from a collection of documents: recall of the first stage, and EM and F1 of what the model answers.

    python benchmarks/bench_documents.py --data dev-v1.1.json --model lightning_logs/version_0/model --asked FILE

The collection is every paragraph of the file, each a document of its own; questions are asked without their paragraph.
Without a model, recall is measured: the share of all questions whose own paragraph, or a paragraph with the text of a
gold answer, is among the first N passages. With one, EM and F1 of the best answer that `Reader.ask` finds in N
passages, for a random sample of the questions and each weight of the prior, beside those of `Reader.answer`, which is
told the paragraph.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import time
from collections.abc import Sequence

import harness
import material

from qa_lightning.data.examples import Example
from qa_lightning.documents.collection import Collection
from qa_lightning.inference.asking import PRIOR


def main() -> None:
    """Print one line for each number of candidates."""
    parser = harness.parser_of(__doc__.split("\n")[0])
    parser.add_argument("--data", type=material.existing_file, required=True, help="SQuAD JSON file")
    parser.add_argument("--model", help="folder of a trained model; None measures recall")
    parser.add_argument(
        "--asked",
        type=material.existing_file,
        help="file with the questions for EM and F1; None: --data",
    )
    parser.add_argument("--articles", nargs="+", help="ask the questions of these articles alone, by their titles")
    parser.add_argument("--questions", type=int, default=200, help="size of the random sample for EM and F1")
    parser.add_argument("--candidates", type=int, nargs="+", default=[1, 5, 20, 100], help="passages to read")
    parser.add_argument(
        "--prior", type=float, nargs="+", default=[0.0, PRIOR], help="weights of the first stage's score"
    )
    parser.add_argument("--dtype", default="float32", help="number type to compute in")
    options = parser.parse_args()
    sample = asked_questions(options)
    rows = material.questions(argparse.Namespace(data=options.data, questions=None))
    paragraphs = list(dict.fromkeys(row["context"] for row in rows))
    collection = Collection.read([{"text": paragraph} for paragraph in paragraphs])
    print(f"{harness.machine()}\n{collection}, {len(rows):,} questions")
    record = harness.Record(options.output)
    if not options.model:
        recall(rows, paragraphs, collection, options.candidates, record)
    else:
        scores(sample, collection, options, record)


def asked_questions(options: argparse.Namespace) -> list[Example]:
    """A seeded sample of the questions of ``--asked`` and ``--articles``."""
    path = options.asked or options.data
    rows = material.questions(argparse.Namespace(data=path, questions=None))
    if options.articles:
        if unknown := sorted({*options.articles} - {row["title"] for row in rows}):
            sys.exit(f"{path} has no article {', '.join(unknown)}")
        rows = [row for row in rows if row["title"] in options.articles]
    return random.Random(0).sample(rows, min(options.questions, len(rows)))


def recall(
    rows: Sequence[Example],
    paragraphs: list[str],
    collection: Collection,
    candidates: Sequence[int],
    record: harness.Record,
) -> None:
    """Print and record recall at each number of candidates."""
    number = {paragraph: index for index, paragraph in enumerate(paragraphs)}
    collection.extracts(rows[0]["question"], 1)  # makes the index
    for count in candidates:
        started = time.perf_counter()
        found = [{one.document for one in collection.extracts(row["question"], count)} for row in rows]
        seconds = time.perf_counter() - started
        own = sum(number[row["context"]] in there for row, there in zip(rows, found, strict=True))
        held = sum(
            any(text in paragraphs[one] for one in there for text in row["answers"]["text"])
            for row, there in zip(rows, found, strict=True)
        )
        figures = {
            "questions": len(rows),
            "passages": collection.passage_count,
            "own_paragraph_share": own / len(rows),
            "answer_text_share": held / len(rows),
            "questions_per_second": len(rows) / seconds,
        }
        record.add(f"candidates {count}", figures)
        print(
            f"candidates {count:>4}: own paragraph {100 * own / len(rows):.1f}%, answer's text "
            f"{100 * held / len(rows):.1f}%, {len(rows) / seconds:,.0f} questions/s"
        )


def scores(
    rows: Sequence[Example], collection: Collection, options: argparse.Namespace, record: harness.Record
) -> None:
    """Print and record EM and F1 at each number of candidates, and with the right paragraph given."""
    import torch

    from qa_lightning.inference.reader import Reader

    reader = Reader.load(options.model, dtype=getattr(torch, options.dtype))
    started = time.perf_counter()
    told = reader.answer([row["question"] for row in rows], [row["context"] for row in rows])
    seconds = time.perf_counter() - started
    figures = _figures(rows, [answer.text for answer in told], seconds)
    record.add("paragraph given", figures)
    _print("paragraph given", figures)
    for count, prior in itertools.product(options.candidates, options.prior):
        started = time.perf_counter()
        found = [reader.ask(row["question"], collection, top_k=1, candidates=count, prior=prior) for row in rows]
        texts = [answers[0].text if answers else "" for answers in found]
        figures = _figures(rows, texts, time.perf_counter() - started)
        record.add(f"candidates {count}, prior {prior:g}", figures)
        _print(f"candidates {count:>4}, prior {prior:g}", figures)


def _figures(rows: Sequence[Example], texts: Sequence[str], seconds: float) -> harness.Figures:
    from qa_lightning.metrics.squad import SquadMetric

    metric = SquadMetric(version_2=any(not row["answers"]["text"] for row in rows))
    metric.update(
        [{"id": row["id"], "prediction_text": text} for row, text in zip(rows, texts, strict=True)],
        [{"id": row["id"], "answers": row["answers"]} for row in rows],
    )
    found = metric.compute()
    exact = found["exact" if "exact" in found else "exact_match"]
    return {"questions": len(rows), "em": exact, "f1": found["f1"], "questions_per_second": len(rows) / seconds}


def _print(what: str, figures: harness.Figures) -> None:
    scores = f"EM {figures['em']:.2f}, F1 {figures['f1']:.2f}"
    print(f"{what}: {scores}, {figures['questions_per_second']:.2f} questions/s", flush=True)


if __name__ == "__main__":
    main()
