"""Computes exact match and F1 on 0-100, equal to the official SQuAD scorers (v1.1 and v2.0).

Sources: ``evaluate-v1.1.py`` and ``evaluate-v2.0.py`` of the SQuAD project (Rajpurkar et al., 2016 and 2018).
The two scorers differ for empty texts. If prediction and gold answer both normalise to nothing, v1.1 gives F1 0 and
v2.0 gives 1; and v2.0 ignores gold answers that normalise to nothing.

``mixed_script`` names the rules for scripts that SQuAD's scorers do not know, where an answer without spaces is one
token and F1 equals EM:

- ``mlqa``, or True: MLQA's scorer for Chinese (Lewis et al., 2020, ``mlqa_evaluation_v1.py``, language ``zh``). Each
  ideograph is a token, and punctuation of any script is dropped; articles stay.
- ``kana``: the same, and each hiragana and katakana is a token, too. MLQA has no Japanese; this extends its rule.
- ``korquad``: KorQuAD's scorer (Lim et al., 2019, ``evaluate-v1.0.py``). F1 is over characters without spaces; quotes
  and brackets separate words; articles stay.
"""

from __future__ import annotations

import re
import string
import unicodedata
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor
from torchmetrics import Metric

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(a|an|the)\b", re.UNICODE)
_IDEOGRAPHS = "\u4e00-\u9fa5"  # MLQA's range
_KANA = "\u3005-\u3007\u3041-\u309f\u30a0-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # with signs of repetition, halfwidth
_ALONE = {"mlqa": re.compile(f"[{_IDEOGRAPHS}]"), "kana": re.compile(f"[{_IDEOGRAPHS}{_KANA}]")}
_KORQUAD_MARKS = str.maketrans(dict.fromkeys("'\"\u300a\u300b<>\u3008\u3009()\u2018\u2019", " "))

MixedScript = Literal["mlqa", "kana", "korquad"]


@dataclass(frozen=True)
class Scoring:
    """How answers are scored; created once at the start of a run.

    Args:
        version_2: score like the v2.0 scorer.
        mixed_script: the rules for other scripts than Latin; True is ``mlqa``; see the module.
    """

    version_2: bool = False
    mixed_script: bool | MixedScript = False

    @property
    def script(self) -> MixedScript | None:
        """The name of the rules for other scripts; None for SQuAD's."""
        return script_rules(self.mixed_script)


def script_rules(mixed_script: bool | MixedScript | None) -> MixedScript | None:
    """The name of the rules that a setting chooses; None for SQuAD's."""
    return "mlqa" if mixed_script is True else mixed_script or None


def normalize_answer(text: str, mixed_script: bool | MixedScript = False) -> str:
    """Lower-case a text, drop ASCII punctuation and English articles, and join the words with single spaces.

    Args:
        text: the answer.
        mixed_script: other rules; see the module.
    """
    rules = script_rules(mixed_script)
    if rules == "korquad":
        text = text.translate(_KORQUAD_MARKS)
    text = text.lower().translate(_PUNCTUATION)
    if rules is None:
        text = _ARTICLES.sub(" ", text)
    elif rules in _ALONE:
        text = "".join(letter for letter in text if not unicodedata.category(letter).startswith("P"))
        text = _ALONE[rules].sub(r" \g<0> ", text)
    return " ".join(text.split())


def answer_tokens(normalized: str, mixed_script: bool | MixedScript = False) -> list[str]:
    """The tokens of a text from `normalize_answer` that F1 counts: its words or, in ``korquad``, its characters."""
    return list(normalized.replace(" ", "")) if script_rules(mixed_script) == "korquad" else normalized.split()


def squad_f1(prediction: str, gold: str, version_2: bool = False, mixed_script: bool | MixedScript = False) -> float:
    """F1 over the tokens of two normalised texts, 0-1."""
    predicted, wanted = answer_tokens(prediction, mixed_script), answer_tokens(gold, mixed_script)
    if version_2 and not (predicted and wanted):
        return float(predicted == wanted)
    same = sum((Counter(predicted) & Counter(wanted)).values())
    if same == 0:
        return 0.0
    precision, recall = same / len(predicted), same / len(wanted)
    return 2 * precision * recall / (precision + recall)


def answer_scores(
    prediction: str,
    gold_texts: Sequence[str],
    scoring: Scoring = Scoring(),
) -> tuple[int, float]:
    """Exact match (0 or 1) and F1 (0-1) of one prediction: the best over its gold answers.

    Args:
        prediction: the predicted text, empty for "no answer".
        gold_texts: all annotators' answers; in v2.0 an empty list means that the question has no answer.
        scoring: how answers are scored.

    Raises:
        ValueError: v1.1 without a gold answer; or ``gold_texts`` is a single text.
    """
    if isinstance(gold_texts, str):
        raise ValueError(f"gold answers are {gold_texts!r}; give a list of texts, one for each annotator")
    golds = [normalize_answer(text, scoring.mixed_script) for text in gold_texts]
    if scoring.version_2:
        golds = [gold for gold in golds if gold] or [""]
    if not golds:
        raise ValueError(
            "SQuAD v1.1 scores need at least one gold answer; pass version_2=True for questions without one"
        )
    predicted = normalize_answer(prediction, scoring.mixed_script)
    exact = predicted in golds
    if exact and (predicted or scoring.version_2):
        return 1, 1.0
    return int(exact), max(squad_f1(predicted, gold, scoring.version_2, scoring.mixed_script) for gold in golds)


class SquadMetric(Metric):
    """EM and F1 over batches and processes, equal to the official scorers' to 1e-9.

    Takes the same inputs as torchmetrics' ``SQuAD`` and the ``evaluate`` library. F1 is summed as integers, in steps
    of 2^-38, for at most 2^25 questions. So the sums do not depend on the order or the number of processes, and stay
    exact when the Trainer casts floating-point states to another precision.

    Args:
        version_2: score like SQuAD v2.0: a question without gold answers is right if the prediction is empty, and
            ``HasAns_*`` and ``NoAns_*`` are reported.
        mixed_script: the rules for other scripts than Latin; see `Scoring`.
    """

    is_differentiable = False
    higher_is_better = True
    full_state_update = False

    _unit = 2**38
    sums: Tensor

    def __init__(self, version_2: bool = False, mixed_script: bool | MixedScript = False, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.scoring = Scoring(version_2, mixed_script)
        # rows: questions with an answer, questions without; columns: exact matches, F1 in units, questions
        self.add_state("sums", torch.zeros(2, 3, dtype=torch.int64), dist_reduce_fx="sum")

    def set_dtype(self, dst_type: Any) -> SquadMetric:
        """Change nothing: the state is integers, so there is no floating-point state to convert."""
        return self

    def update(
        self,
        preds: Mapping[str, Any] | Sequence[Mapping[str, Any]],
        target: Mapping[str, Any] | Sequence[Mapping[str, Any]],
    ) -> None:
        """Score predictions against the gold answers of the same id.

        A question without a prediction counts as wrong, and a warning says so, as in the official scorer of v1.1.
        That of v2.0 leaves the question out and then ends with a KeyError. A prediction for another id counts for
        nothing, as in both.

        Args:
            preds: ``{"id", "prediction_text"}``, one or a list.
            target: ``{"id", "answers": {"text": [...]}}``, one or a list.

        Raises:
            ValueError: a prediction is not a text, or gold answers are not a list of texts; it names the ids. Or v1.1
                without a gold answer.
        """
        predictions = [preds] if isinstance(preds, Mapping) else preds
        targets = [target] if isinstance(target, Mapping) else target
        problems = [*map(_prediction_problem, predictions), *map(_target_problem, targets)]
        if found := list(filter(None, problems)):
            raise ValueError("\n".join(found[:20]))
        texts = {prediction["id"]: prediction["prediction_text"] for prediction in predictions}
        golds = [list(item["answers"]["text"]) for item in targets]
        missing = [item["id"] for item in targets if item["id"] not in texts]
        if missing:
            warnings.warn(
                f"no prediction for {len(missing):,} of {len(targets):,} ids, which count as wrong; the first: "
                f"{missing[0]!r}",
                stacklevel=2,
            )
        scores = [
            answer_scores(texts[item["id"]], gold, self.scoring) if item["id"] in texts else (0, 0.0)
            for item, gold in zip(targets, golds, strict=True)
        ]
        # Like the v2.0 scorer, count a question as answerable even if all its gold answers normalise to nothing.
        self._add([exact for exact, _ in scores], [f1 for _, f1 in scores], [bool(gold) for gold in golds])

    def update_scores(self, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike) -> None:
        """Add questions that are scored already.

        Args:
            exact, f1: [N] 0-1.
            has_answer: [N] whether the question has a gold answer.
        """
        self.update([], [])  # so that torchmetrics counts an update
        self._add(exact, f1, has_answer)

    def _add(self, exact: ArrayLike, f1: ArrayLike, has_answer: ArrayLike) -> None:
        answerable = np.asarray(has_answer, bool)
        columns = np.stack([np.rint(np.asarray(exact, float)), np.rint(np.asarray(f1, float) * self._unit)], 1)
        counted = np.append(columns.astype(np.int64), np.ones((len(columns), 1), np.int64), 1)
        sums = np.stack([counted[answerable].sum(0), counted[~answerable].sum(0)])
        # Not in place: a state created in inference mode may be updated outside of it later.
        self.sums = self.sums + torch.from_numpy(sums).to(self.sums.device)

    def compute(self) -> dict[str, float]:
        """Return scores, 0-100, by their official names; without questions they are 0.

        v1.1: ``exact_match, f1``. v2.0: ``exact, f1, total``, and ``HasAns_*`` and ``NoAns_*`` for the kinds of
        questions that occur.
        """
        has, no = self.sums.tolist()
        both = [a + b for a, b in zip(has, no, strict=True)]
        if not self.scoring.version_2:
            return {"exact_match": self._percent(both, 0), "f1": self._percent(both, 1)}
        result: dict[str, float] = {
            "exact": self._percent(both, 0),
            "f1": self._percent(both, 1),
            "total": both[2],
        }
        for name, sums in (("HasAns", has), ("NoAns", no)):
            if sums[2]:
                result |= {
                    f"{name}_exact": self._percent(sums, 0),
                    f"{name}_f1": self._percent(sums, 1),
                    f"{name}_total": sums[2],
                }
        return result

    def _percent(self, sums: Sequence[int], column: int) -> float:
        unit = self._unit if column == 1 else 1
        return 100.0 * (sums[column] / unit) / sums[2] if sums[2] else 0.0


def text_problem(name: Any, text: Any) -> str:
    """What is wrong with a prediction that is not a text, naming its id; empty if it is one."""
    if isinstance(text, str):
        return ""
    return f"the prediction for id {name!r} is {text!r:.60}; it must be a text, empty for no answer"


def _prediction_problem(prediction: Mapping[str, Any]) -> str:
    if "id" not in prediction or "prediction_text" not in prediction:
        return f"a prediction has {list(prediction)}; it needs 'id' and 'prediction_text'"
    return text_problem(prediction["id"], prediction["prediction_text"])


def _target_problem(item: Mapping[str, Any]) -> str:
    if "id" not in item or "answers" not in item:
        return f"a target has {list(item)}; it needs 'id' and 'answers'"
    answers = item["answers"]
    golds = answers.get("text") if isinstance(answers, Mapping) else None
    if isinstance(golds, (list, tuple, np.ndarray)) and all(isinstance(text, str) for text in golds):
        return ""
    return f"the answers of id {item['id']!r} are {answers!r:.60}; they must be {{'text': [...]}} with a list of texts"
