"""Holds the pipeline against what `record_v4.py` recorded on real questions.

    python tests/golden/compare_v4.py --recorded FILE.json.gz --model FOLDER --compat v4
    python tests/golden/compare_v4.py --recorded FILE.json.gz --model FOLDER

With ``--compat v4``: answers, offsets, scores (to 1e-5, above 1 in proportion) and exceptions must be equal. Without:
where the context fits one window, the best answer must be the same but for differences whose reason is known (each is
listed); where it does not, EM and F1 of both are shown. ``max_question_len``, which the old pipeline did not heed, is
left out there. Exits with status 1 when that does not hold.
"""

from __future__ import annotations

import argparse
import gzip
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["RUST_BACKTRACE"] = "0"
sys.path.insert(0, str(Path(__file__).parents[2]))

from qa_lightning import QuestionAnsweringPipeline, pipeline
from qa_lightning.metrics.squad import answer_scores
from tests.helpers import v4_calls
from tests.helpers.v4_calls import Call

DEFAULTS = {"max_answer_len": 15}  # the old pipeline's, for every model
CANDIDATES = 60  # spans that are looked at for the reason of a difference
Answer = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--recorded", type=Path, required=True, help="what record_v4.py wrote")
    parser.add_argument("--model", type=Path, required=True, help="folder of the model that was recorded")
    parser.add_argument("--compat", choices=["v4"], help="left out: the default mode")
    parser.add_argument("--calls", type=int, help="only so many, from the start")
    options = parser.parse_args()
    recorded = json.loads(gzip.decompress(options.recorded.read_bytes()))
    calls = recorded["calls"][: options.calls]
    questions = sum(len(call["ids"]) for call in calls)
    print(f"{len(calls):,} calls, {questions:,} questions; recorded with {recorded['versions']}")
    pipe = pipeline(str(options.model), device="cpu", compat=options.compat)
    held = compare_v4(pipe, calls) if options.compat else compare_default(pipe, calls)
    sys.exit(0 if held else 1)


def compare_v4(pipe: QuestionAnsweringPipeline, calls: Sequence[Call]) -> bool:
    """Print how many outcomes are equal, and each that is not."""
    kinds: Counter[str] = Counter()
    gap = 0.0
    for call in calls:
        verdict = v4_calls.compare(call, call["outcome"], v4_calls.outcome(pipe, call))
        raised = "raised" in call["outcome"]
        kinds[f"{'exceptions' if raised else 'answers'}: {verdict.kind}"] += 1
        if verdict.kind == "differs":
            print(f"{call['name']} {call['settings']}: {verdict.reason}", flush=True)
        else:
            gap = max(gap, verdict.gap)
    print_table(("calls", "count"), sorted(kinds.items()))
    print(f"largest difference of a score: {gap:.1e}")
    return not any("differs" in kind for kind in kinds)


def compare_default(pipe: QuestionAnsweringPipeline, calls: Sequence[Call]) -> bool:
    """Print the share of equal best answers in one window with all others, and EM and F1 in several windows."""
    fitting: Counter[str] = Counter()
    scores: dict[tuple[str, str], list[tuple[int, float]]] = {}
    refused: Counter[str] = Counter()
    for call, number, question in single_questions(calls):
        if "raised" in question["outcome"]:
            own = v4_calls.outcome(pipe, question)
            kind = own["raised"][0] if "raised" in own else "an answer"
            refused[f"{question['outcome']['raised'][0]} -> {kind}"] += 1
            continue
        old, own = best(question["outcome"]["returned"]), best(v4_calls.ask(pipe, question))
        where = "one window" if call["windows"][number] == 1 else "several windows"
        for name, found in (("4.57", old), ("ours", own)):
            scores.setdefault((where, name), []).append(answer_scores(found["answer"], call["answers"][number]))
        if where == "one window":
            why = "equal" if place(old) == place(own) else reason(pipe, question, old, own)
            fitting[why] += 1
            if why != "equal":
                print(f"{call['ids'][number]} {question['settings']}: {old} -> {own}: {why}", flush=True)
    count = max(1, fitting.total())
    rows = [(why, number, f"{100 * number / count:.2f}%") for why, number in fitting.most_common()]
    print_table(("best answer, contexts of one window", "questions", "share"), rows)
    print_table(("of those that raised", "questions"), refused.items())
    means = [
        (*key, len(of), *(f"{100 * sum(part) / len(of):.2f}" for part in zip(*of, strict=True)))
        for key, of in sorted(scores.items())
    ]
    print_table(("contexts", "pipeline", "questions", "EM", "F1"), means)
    return "unexplained" not in fitting


def single_questions(calls: Sequence[Call]) -> Iterator[tuple[Call, int, Call]]:
    """Each question as a call of its own, with the recorded outcome for it alone: call, place in it, question."""
    for call in calls:
        settings = {name: value for name, value in call["settings"].items() if name != "max_question_len"}
        if len(call["ids"]) == 1:
            yield call, 0, call | {"settings": settings}
            continue
        for number in range(len(call["ids"])):
            arguments = {name: texts[number] for name, texts in call["arguments"].items()}
            outcome = call["outcome"]
            own = {"returned": outcome["returned"][number]} if "returned" in outcome else outcome
            yield call, number, call | {"arguments": arguments, "settings": settings, "outcome": own}


def best(returned: Any) -> Answer:
    """The first answer; an empty one where there is none."""
    first = returned if isinstance(returned, dict) else next(iter(returned), None)
    return first or {"score": 0.0, "start": 0, "end": 0, "answer": ""}


def place(answer: Answer) -> tuple[int, int]:
    return answer["start"], answer["end"]


def reason(pipe: QuestionAnsweringPipeline, call: Call, old: Answer, own: Answer) -> str:
    """Why the best answer of a context in one window is another one; ``unexplained`` where nothing known is."""
    pieces = len(pipe.tokenizer(call["arguments"]["question"], add_special_tokens=False)["input_ids"])
    if pieces > 64:
        return "the question is longer than 64 tokens, to which it is now cut"
    if place(best(pipe(**call["arguments"], **(DEFAULTS | call["settings"])))) == place(old):
        return "the model was saved with a longest answer of its own, which is the default now"
    spans = pipe(**call["arguments"], **(DEFAULTS | call["settings"] | {"top_k": CANDIDATES, "align_to_words": False}))
    every = [spans] if isinstance(spans, dict) else spans
    aligned = call["settings"].get("align_to_words", True)

    def share(answer: Answer) -> float:
        """What the scores of spans of this text, which were added up, come to."""
        inside = (one for one in every if (one["start"], one["end"]) == place(answer))
        if not answer["answer"]:
            return sum(one["score"] for one in inside)
        text = answer["answer"].lower()
        same = (one for one in every if one["answer"] and _widened(call, one, aligned).lower() == text)
        return sum(one["score"] for one in same)

    if share(old) > share(own):
        return "scores of equal texts were added up"
    if abs(share(old) - share(own)) <= 1e-4 * share(own):
        return "equal scores"
    return "unexplained"


def _widened(call: Call, span: Answer, aligned: bool) -> str:
    """The text of a span after it was widened to whole words."""
    context, begin, end = call["arguments"]["context"], span["start"], span["end"]
    if aligned:
        while begin and context[begin].isalnum() and context[begin - 1].isalnum():
            begin -= 1
        while end < len(context) and context[end - 1].isalnum() and context[end].isalnum():
            end += 1
    return context[begin:end]


def print_table(heads: Sequence[str], rows: Any) -> None:
    print(f"\n| {' | '.join(heads)} |\n" + "|---" * len(heads) + "|")
    for row in rows:
        print(f"| {' | '.join(map(str, row))} |")


if __name__ == "__main__":
    main()
