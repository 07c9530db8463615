"""Questions per second, EM and F1 of ONNX Runtime, float32 and int8, against PyTorch.

    python benchmarks/bench_onnx_models.py --model lightning_logs/version_0/model --data dev-v1.1.json

All three answer the same questions through `Reader`: windows, batches and decoding are equal, only the forward pass
differs. Each runs with each number of ``--threads``, which torch and ONNX Runtime both use within an operation and on
which it depends which of the two is faster. Exports are made once, before timing, as ``scripts/export.py`` makes them.
A first batch is answered before the clock starts. EM and F1 are shown because int8 pays for its speed with them.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

import harness
import material


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", required=True, help="folder of a trained model")
    parser.add_argument("--data", type=material.existing_file, required=True, help="SQuAD JSON file")
    parser.add_argument("--questions", type=int, default=300, help="size of the random sample; None: all")
    parser.add_argument("--batch-size", type=int, default=32, help="windows per forward pass")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2], help="numbers of threads to compute with")


def _exported(options: argparse.Namespace, quantized: bool) -> Path:
    """The folder of an export; the first variant that needs it writes it."""
    from qa_lightning.export.onnx import quantize_int8, write_onnx
    from qa_lightning.models.loading import load_answering_model
    from qa_lightning.models.settings import AnswerSettings

    folder: Path = options.scratch / ("int8" if quantized else "float32")
    if not folder.exists():
        folder.mkdir()
        model, tokenizer = load_answering_model(options.model)
        write_onnx(model, tokenizer, AnswerSettings.of_model(model), folder)
        if quantized:
            quantize_int8(folder)
    return folder


def _measured(options: argparse.Namespace, model: Any, size: int) -> harness.Figures:
    import torch

    from qa_lightning.inference.reader import Reader
    from qa_lightning.metrics.squad import SquadMetric
    from qa_lightning.models.loading import load_tokenizer

    rows = material.questions(options)
    questions, contexts = [row["question"] for row in rows], [row["context"] for row in rows]
    reader = Reader(model, load_tokenizer(options.model))
    reader.answer(questions[:4], contexts[:4])
    started = time.perf_counter()
    answers = reader.answer(questions, contexts, options.batch_size)
    seconds = time.perf_counter() - started
    metric = SquadMetric(version_2=any(not row["answers"]["text"] for row in rows))
    metric.update(
        [{"id": row["id"], "prediction_text": answer.text} for row, answer in zip(rows, answers, strict=True)],
        [{"id": row["id"], "answers": row["answers"]} for row in rows],
    )
    scores = metric.compute()
    exact = scores["exact" if "exact" in scores else "exact_match"]
    return {
        "questions_per_second": len(rows) / seconds,
        "questions": len(rows),
        "threads": torch.get_num_threads(),
        "em": exact,
        "f1": scores["f1"],
        "size_mb": size / 1e6,
    }


def pytorch(options: argparse.Namespace) -> harness.Figures:
    """The peer: the trained model under PyTorch."""
    from qa_lightning.models.loading import load_answering_model

    size = sum(file.stat().st_size for file in Path(options.model).glob("*.safetensors"))
    return _measured(options, load_answering_model(options.model)[0], size)


def float32(options: argparse.Namespace) -> harness.Figures:
    """The export of ``--format onnx``."""
    return _onnx(options, quantized=False)


def int8(options: argparse.Namespace) -> harness.Figures:
    """The export of ``--format onnx --quantize int8``."""
    return _onnx(options, quantized=True)


def _onnx(options: argparse.Namespace, quantized: bool) -> harness.Figures:
    from qa_lightning.models.onnx import OnnxModel

    folder = _exported(options, quantized)
    size = sum(file.stat().st_size for file in folder.glob("model.onnx*"))
    return _measured(options, OnnxModel.load(folder, "cpu"), size)


MODELS: dict[str, harness.Variant] = {"pytorch": pytorch, "onnx": float32, "onnx-int8": int8}


def _with_threads(measure: harness.Variant, threads: int) -> harness.Variant:
    def variant(options: argparse.Namespace) -> harness.Figures:
        import torch

        torch.set_num_threads(threads)  # `OnnxModel` takes the number from torch
        return measure(options)

    return variant


def name_of(model: str, threads: int) -> str:
    """The name of a variant."""
    return f"{model}-{threads}-thread{'s' * (threads > 1)}"


def variants(options: argparse.Namespace) -> dict[str, harness.Variant]:
    """Each model with each number of threads."""
    return {
        name_of(model, threads): _with_threads(measure, threads)
        for threads in options.threads
        for model, measure in MODELS.items()
    }


def baseline(variant: str) -> str:
    """PyTorch with as many threads."""
    return variant.replace("onnx-int8", "pytorch").replace("onnx", "pytorch")


if __name__ == "__main__":
    harness.main(
        __doc__.split("\n")[0],
        variants,
        "questions_per_second",
        add_arguments,
        rounds=3,
        more_is_better=True,
        baseline=baseline,
    )
