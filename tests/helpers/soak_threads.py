"""One pipeline, asked by many threads at once with mixed settings; every answer must be what it is when asked alone.

    python tests/helpers/soak_threads.py --seconds 60

Prints how many calls were made and how many differed; exits with status 1 if any did.
"""

from __future__ import annotations

import argparse
import itertools
import random
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parents[2]))

from qa_lightning import QuestionAnsweringPipeline
from qa_lightning.inference.cutting import MAX_WINDOWERS
from tests.helpers import v4_models

TOLERANCE = 1e-5
TEXT = "Ada lives in Oslo. Leo lives in Cape Town and plays the harp. Omar keeps a spotted dog. "
Call = tuple[dict[str, Any], dict[str, Any]]  # question and context, settings


@dataclass
class Tally:
    """What was seen: the calls made, those that differed from the serial ones, and the most windowers at any time."""

    calls: int = 0
    wrong: list[str] = field(default_factory=list)
    windowers: int = 0


def calls() -> list[Call]:
    """Calls that need many different windows: more settings than the pipeline caches windowers."""
    lengths = itertools.cycle(
        ((None, None), (40, 8), (40, 12), (48, 8), (48, 0), (56, 16), (64, 20), (72, 9), (90, 30))
    )
    asked = []
    for number, question in enumerate(("Where does Ada live?", "What does Leo play?", "Who keeps a dog?") * 5):
        length, stride = next(lengths)
        settings = {"max_seq_len": length, "doc_stride": stride, "top_k": 1 + number % 3, "batch_size": 1 + number % 4}
        settings = {name: value for name, value in settings.items() if value is not None}
        asked.append(({"question": question, "context": TEXT * (1 + number % 4)}, settings))
    return asked


def soak(ask: QuestionAnsweringPipeline, seconds: float, threads: int = 8) -> Tally:
    """Ask from many threads for some seconds."""
    work = calls()
    serial = [ask(**texts, **settings) for texts, settings in work]
    tally, lock, end = Tally(), threading.Lock(), time.monotonic() + seconds

    def run(seed: int) -> None:
        rng = random.Random(seed)
        while time.monotonic() < end:
            number = rng.randrange(len(work))
            texts, settings = work[number]
            try:
                problem = "" if alike(ask(**texts, **settings), serial[number]) else "another answer"
            except Exception as error:
                problem = f"{type(error).__name__}: {error}"
            with lock:
                tally.calls += 1
                tally.windowers = max(tally.windowers, len(ask._windowers))
                if problem:
                    tally.wrong.append(f"{settings}: {problem}")

    runners = [threading.Thread(target=run, args=(seed,)) for seed in range(threads)]
    for runner in runners:
        runner.start()
    for runner in runners:
        runner.join()
    return tally


def alike(found: Any, wanted: Any) -> bool:
    """Whether two results have the same answers, with scores that differ only by rounding."""
    if isinstance(found, dict) and isinstance(wanted, dict):
        return {**found, "score": 0} == {**wanted, "score": 0} and abs(found["score"] - wanted["score"]) <= TOLERANCE
    return len(found) == len(wanted) and all(alike(*pair) for pair in zip(found, wanted, strict=True))


def pipelines() -> list[QuestionAnsweringPipeline]:
    """A pipeline of a small model in each of the two modes."""
    model, tokenizer = v4_models.load("bert")
    return [QuestionAnsweringPipeline(model=model, tokenizer=tokenizer, compat=compat) for compat in (None, "v4")]


def main(words: Sequence[str] | None = None) -> int:
    """Ask in both modes, each for half of the time."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--threads", type=int, default=8)
    options = parser.parse_args(words)
    failed = False
    for ask in pipelines():
        tally = soak(ask, options.seconds / 2, options.threads)
        mode = ask.compat or "default"
        print(
            f"{mode}: {tally.calls} calls, {len(tally.wrong)} wrong, at most {tally.windowers} windowers",
            *tally.wrong[:3],
        )
        failed |= bool(tally.wrong) or tally.windowers > MAX_WINDOWERS
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
