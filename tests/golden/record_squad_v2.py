"""Records ``squad_v2_metrics.json.gz``: what published code says about made and about real predictions.

Run it where transformers 4.57.6 is installed, which still had ``squad_metrics``, with the folder of real data:

    python tests/golden/record_squad_v2.py ../shared/data

Average precision is not part of ``squad_metrics``: it is stated here a second time from the official
``make_precision_recall_eval``, threshold by threshold. No text of SQuAD is recorded, only numbers.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import random
import sys
from pathlib import Path
from types import SimpleNamespace

OUT = Path(__file__).with_name("squad_v2_metrics.json.gz")
WORDS = ["the", "a", "Paris", "paris.", "red", "Red", "fox", "1066", "St.", "old", "mill", "-"]


def made_questions(rng: random.Random, count: int, answerable: float) -> tuple[list[list[str]], list[str]]:
    """Gold answers, and given texts that are often right, sometimes empty, sometimes empty once normalised."""
    golds, texts = [], []
    for _ in range(count):

        def text(most: int = 4) -> str:
            return " ".join(rng.choices(WORDS, k=rng.randint(1, most)))

        gold = [text() for _ in range(rng.randint(1, 3))] if rng.random() < answerable else []
        golds.append(gold)
        right = gold[0] + rng.choice(["", "", " mill"]) if gold else ""
        texts.append(rng.choice([right, right, right, text(), text(), "", "the"]))
    return golds, texts


def hashed_probability(key: str) -> float:
    """0-1 in steps of 1/512, the same from any program: many are equal."""
    return (int.from_bytes(hashlib.sha256(key.encode()).digest()[:2], "big") >> 7) / 512


def average_precision(scores: dict, probabilities: dict, has_answer: dict) -> float:
    total, before, area = sum(has_answer.values()), 0.0, 0.0
    for threshold in sorted(set(probabilities.values())):
        answered = [key for key in scores if probabilities[key] <= threshold]
        right = sum(scores[key] for key in answered if has_answer[key])
        area += right / len(answered) * (right / total - before)
        before = right / total
    return 100.0 * area


def official(golds: list, texts: list, probabilities: list, threshold: float, curves: bool = True) -> dict:
    from transformers.data.metrics import squad_metrics

    keys = [str(number) for number in range(len(golds))]
    examples = [
        SimpleNamespace(qas_id=key, answers=[{"text": text} for text in gold])
        for key, gold in zip(keys, golds, strict=True)
    ]
    predicted, chance = dict(zip(keys, texts, strict=True)), dict(zip(keys, probabilities, strict=True))
    result = dict(squad_metrics.squad_evaluate(examples, predicted, dict(chance), threshold))
    exact, f1 = squad_metrics.get_raw_scores(examples, predicted)
    has = {example.qas_id: bool(example.answers) for example in examples}
    if curves and any(has.values()):
        for name, scores in (("exact", exact), ("f1", f1), ("oracle", {key: float(has[key]) for key in keys})):
            result[f"pr_{name}_ap"] = average_precision(scores, chance, has)
    raw = {"exact": list(exact.values()), "f1": list(f1.values()), "has_answer": list(has.values())}
    return {"raw": raw, "metrics": result}


def made_cases() -> list[dict]:
    cases = []
    kinds = {
        "any": lambda rng: rng.random(),
        "many equal": lambda rng: rng.choice([0.0, 0.25, 0.5, 1.0]),
        "all equal": lambda rng: 0.0,
        "odds": lambda rng: rng.gauss(0.0, 4.0),
        "infinite": lambda rng: rng.choice([-math.inf, -1.0, 0.5, math.inf]),
    }
    for answerable in (0.5, 1.0, 0.0):
        for name, draw in kinds.items():
            for threshold in (1.0, 0.5, -1.0):
                rng = random.Random(f"{answerable} {name} {threshold}")
                golds, texts = made_questions(rng, rng.choice([1, 7, 60]), answerable)
                chances = [draw(rng) for _ in golds]
                case = {"golds": golds, "texts": texts, "probabilities": chances, "threshold": threshold}
                cases.append(case | official(golds, texts, chances, threshold))
    return cases


def real_cases(folder: Path) -> dict:
    """The published predictions with probabilities hashed from the ids: all of them, and 400 as bare numbers."""
    predictions = json.loads((folder / "predictions" / "v2.0-bert-single.json").read_text())
    articles = json.loads((folder / "squad" / "dev-v2.0.json").read_text())["data"]
    questions = [qa for article in articles for part in article["paragraphs"] for qa in part["qas"]]
    parts = {}
    for name, some in (("whole", questions), ("cut", questions[::30][:400])):
        golds = [[answer["text"] for answer in qa["answers"]] for qa in some]
        texts = [predictions[qa["id"]] for qa in some]
        chances = [hashed_probability(qa["id"]) for qa in some]
        part = official(golds, texts, chances, 0.75)
        parts[name] = {"threshold": 0.75, "metrics": part["metrics"]}
        if name == "cut":
            empty = [not text for text in texts]
            parts[name] |= {"raw": part["raw"], "probabilities": chances, "empty": empty}
    return parts


def main() -> None:
    golden = {"made": made_cases(), "real": real_cases(Path(sys.argv[1]))}
    with OUT.open("wb") as file, gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed:
        packed.write(json.dumps(golden).encode())
    print(f"{OUT}: {OUT.stat().st_size:,} bytes")


if __name__ == "__main__":
    main()
