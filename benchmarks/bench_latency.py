"""CPU time of one short question through the pipeline, against the bare forward pass of its window.

    OMP_NUM_THREADS=1 python benchmarks/bench_latency.py --model MODEL

Both run in one process on one thread, a call of one after a call of the other, so that they meet the same machine;
medians of their CPU times are compared, ``--rounds`` times. The forward pass gets tensors that are ready, under
`torch.inference_mode`. ``--profile`` prints where the rest goes.
"""

from __future__ import annotations

import cProfile
import pstats
import statistics
import time
from collections.abc import Callable
from typing import Any

import harness

SENTENCE = "Anna Rossi moved to Rome in 1931 and taught mathematics there for nine years . "
QUESTION = "Where did Anna Rossi move to ?"


def main() -> None:
    """Print a line for each round of each length."""
    parser = harness.parser_of(__doc__.split("\n")[0])
    parser.add_argument("--model", required=True, help="folder of a question answering model")
    parser.add_argument("--tokens", type=int, nargs="+", default=[20, 166], help="lengths of the window")
    parser.add_argument("--calls", type=int, default=300, help="calls of each, in a round")
    parser.add_argument("--rounds", type=int, default=3, help="measurements of each length")
    parser.add_argument("--compat", choices=("v4",), help="scores of transformers 4.57")
    parser.add_argument("--profile", action="store_true", help="print functions by their own time, for each length")
    options = parser.parse_args()
    import torch

    from qa_lightning import pipeline

    torch.set_num_threads(1)
    pipe = pipeline(options.model, compat=options.compat)
    print(harness.machine())
    record, measured = harness.Record(options.output), []
    for tokens in options.tokens:
        words, context = (SENTENCE * (1 + tokens // 15)).split(), ""
        while words and _length(pipe, longer := f"{context} {words.pop(0)}".strip()) <= tokens:
            context = longer
        inputs = pipe.tokenizer(QUESTION, context, return_tensors="pt")

        def asked(text: str = context) -> Any:
            return pipe(question=QUESTION, context=text)

        def forward(inputs: Any = inputs) -> Any:
            with torch.inference_mode():
                return pipe.model(**inputs)

        measured.append((inputs["input_ids"].shape[1], asked, forward))
    for number in range(1, options.rounds + 1):
        for length, asked, forward in measured:
            whole, bare = _medians((asked, forward), options.calls)
            figures = {"pipeline_ms": whole, "forward_ms": bare, "beside_ms": whole - bare, "ratio": whole / bare}
            record.add(f"{length} tokens", figures, number)
            print(
                f"{length:>4} tokens: pipeline {whole:.2f} ms, forward pass {bare:.2f} ms of CPU, "
                f"{whole - bare:.2f} ms more, ratio {whole / bare:.3f}",
                flush=True,
            )
    if options.profile:
        for _, asked, _ in measured:
            _profile(asked, options.calls)


def _length(pipe: Any, context: str) -> int:
    return len(pipe.tokenizer(QUESTION, context)["input_ids"])


def _medians(functions: tuple[Callable[[], Any], ...], calls: int) -> list[float]:
    """Median CPU time of each function in milliseconds; their calls alternate."""
    taken: list[list[float]] = [[] for _ in functions]
    for number in range(calls + 10):
        for function, own in zip(functions, taken, strict=True):
            started = time.process_time()
            function()
            if number >= 10:  # those before warm up
                own.append(1000 * (time.process_time() - started))
    return [statistics.median(own) for own in taken]


def _profile(function: Callable[[], Any], calls: int) -> None:
    with cProfile.Profile() as profile:
        for _ in range(calls):
            function()
    pstats.Stats(profile).sort_stats("tottime").print_stats(45)
    pstats.Stats(profile).sort_stats("cumtime").print_stats(60)


if __name__ == "__main__":
    main()
