"""Check what a tokenizer and its windows do to data: lengths, cut questions, lost answers, and the best possible score.

Everything is counted from prepared features, so the report is about exactly what a run uses.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.checks.bad_rows import Findings, Severity
from qa_lightning.checks.ceiling import LIMITS, ContextTokens, best_scores
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import WindowSettings
from qa_lightning.metrics.squad import Scoring
from qa_lightning.progress import loop_progress
from qa_lightning.wording import counted, shown

_ROWS = 1000  # examples read at a time

TOKEN_FINDINGS: dict[str, tuple[Severity, str, str]] = {
    "unheld": (
        "warning",
        "questions none of whose answers is whole in a window",
        "raise --data.doc_stride, or --data.max_length if the model has positions for it",
    ),
    "long_answer": (
        "warning",
        "questions all of whose answers are longer than max_answer_length, which are never predicted",
        "raise --model.max_answer_length",
    ),
    "cut_question": (
        "warning",
        "questions that are cut",
        "raise --data.max_question_length",
    ),
    "unknown": (
        "warning",
        "questions about contexts with characters that the tokenizer does not know",
        "choose a model whose tokenizer knows them: a byte-level one, or one for these languages",
    ),
    "altered": (
        "note",
        "answers whose text changes when converted to tokens and back",
        "the answer begins or ends within a token: let it begin and end with a whole word",
    ),
}


class TokenCheck:
    """Checks the features of some examples.

    Args:
        store: the features, with character offsets.
        examples: the examples that the features are windows of.
        tokenizer: the tokenizer that made the features.
        settings: how the features were cut.
        max_answer_length: in tokens.
        scoring: how answers are scored.
        max_rows: rows to keep for each finding.
    """

    def __init__(
        self,
        store: FeatureStore,
        examples: Any,
        tokenizer: Any,
        settings: WindowSettings,
        max_answer_length: int,
        scoring: Scoring = Scoring(version_2=True),  # noqa: B008 - frozen
        max_rows: int = 5,
    ) -> None:
        self.findings = Findings(TOKEN_FINDINGS, max_rows)
        self._store = store
        self._examples = examples
        self._tokenizer = tokenizer
        self._settings = settings
        self._max_answer_length = max_answer_length
        self._scoring = scoring
        self._unknown: Counter[str] = Counter()
        self._sums = np.zeros((len(LIMITS), 2))  # EM and F1 under the first limits
        self._lengths: dict[str, list[int]] = {"question": [], "context": [], "answer": []}

    def run(self) -> dict[str, Any]:
        """Check every example.

        Returns:
            ``windows``; ``windows_per_question`` and ``tokens`` (of questions, contexts and answers) as a smallest,
            median, mean, 95th percentile and largest value; ``unknown``, the 20 most frequent unknown texts; and
            ``ceiling``, the best EM and F1 in percent that any model can reach with these tokens and windows, whatever
            the length of its answers; ``limits``, how much each of `ceiling.LIMITS` costs; ``max_answer_length``.
        """
        first = self._first_windows()
        with loop_progress(len(self._examples), what="checking tokens") as progress:
            for begin in range(0, len(self._examples), _ROWS):
                rows = self._examples[begin : begin + _ROWS]
                encoded = self._tokenizer(rows["question"], add_special_tokens=False, verbose=False)["input_ids"]
                for index, question in enumerate(encoded):
                    row = {name: values[index] for name, values in rows.items()}
                    self._check(row, len(question), range(first[begin + index], first[begin + index + 1]))
                    progress.update(1)
        for kind, length, flag in (
            ("long_answer", "answer", "--model.max_answer_length"),
            ("cut_question", "question", "--data.max_question_length"),
        ):
            longest = max(self._lengths[length], default=0)
            self.findings.set_fix(kind, f"raise {flag}; the longest has {counted(longest, 'token')}")
        windows = np.diff(first)
        best = 100 * self._sums / max(len(self._examples), 1)
        costs = -np.diff(np.vstack([np.full(2, 100.0 if len(self._examples) else 0.0), best]), axis=0)
        return {
            "windows": len(self._store),
            "windows_per_question": _spread(windows),
            "tokens": {name: _spread(np.array(values)) for name, values in self._lengths.items() if values},
            "unknown": dict(self._unknown.most_common(20)),
            "ceiling": _named(best[LIMITS.index("windows")]),
            "limits": {name: _named(cost) for name, cost in zip(LIMITS, costs, strict=True)},
            "max_answer_length": self._max_answer_length,
        }

    def _first_windows(self) -> NDArray[np.int64]:
        """[N + 1] index of the first window of each example, and at the end the number of windows."""
        return np.searchsorted(self._store.example, np.arange(len(self._examples) + 1))

    def _check(self, row: dict[str, Any], question_length: int, windows: range) -> None:
        self._lengths["question"].append(question_length)
        if question_length > self._settings.max_question_length:
            what = f"{counted(question_length, 'token')}: {shown(row['question'])}"
            self.findings.add("cut_question", "", row["id"], what)
        self._lengths["context"].append(self._context_length(windows))
        self._find_unknown(row, windows)
        golds = list(dict.fromkeys(zip(row["answers"]["text"], row["answers"]["answer_start"], strict=True)))
        if not golds:
            self._sums += 1.0
            return
        tokens = ContextTokens.of_windows(self._store, windows, self._settings.doc_stride)
        self._find_limits(row, golds, tokens)
        self._sums += best_scores(row["context"], golds, tokens, self._max_answer_length, self._scoring)

    def _context_length(self, windows: range) -> int:
        """Context tokens of an example: those of its windows, with the overlaps counted once."""
        lengths = self._store.windows["context_length"][windows.start : windows.stop]
        return int(lengths.sum()) - self._settings.doc_stride * (len(windows) - 1)

    def _find_limits(self, row: dict[str, Any], golds: list[tuple[str, int]], tokens: ContextTokens) -> None:
        """Add a finding for a question whose answers no prediction gives, by the limit that the best of them keeps."""
        held: list[tuple[int, int, str, str]] = []  # limits kept, tokens, gold answer, the text of its tokens
        for gold, start in golds:
            if span := tokens.of_answer(gold, start):
                length = int(tokens.index[span[1]] - tokens.index[span[0]]) + 1
                self._lengths["answer"].append(length)
                back = row["context"][int(tokens.start[span[0]]) : int(tokens.end[span[1]])]
                held.append((tokens.limits(*span, self._max_answer_length), length, gold, back))
        kept, length, gold, back = max(held, key=lambda one: one[0], default=(1, 0, golds[0][0], ""))
        if kept == 1:
            self.findings.add("unheld", "", row["id"], shown(gold))
        elif kept == 2:
            self.findings.add("long_answer", "", row["id"], f"{counted(length, 'token')}: {shown(gold)}")
        elif back != gold.strip():
            self.findings.add("altered", "", row["id"], f"{shown(gold)} becomes {shown(back)}")

    def _find_unknown(self, row: dict[str, Any], windows: range) -> None:
        """Count the texts of the context that became the unknown token."""
        if spans := unknown_spans(self._store, windows, self._tokenizer.unk_token_id):
            texts = [row["context"][start:end] for start, end in spans]
            self._unknown.update(texts)
            self.findings.add("unknown", "", row["id"], ", ".join(map(repr, dict.fromkeys(texts[:10]))))


def unknown_spans(store: FeatureStore, windows: range, unknown: int | None) -> list[tuple[int, int]]:
    """The spans of a context, in characters, that became the unknown token, in reading order.

    Args:
        store: the features.
        windows: those of the context.
        unknown: the id of that token; None if the tokenizer has none.
    """
    spans = set()  # windows overlap, so one can be found twice
    for window in windows if unknown is not None else ():
        record = store.windows[window]
        begin = int(store.token_offset[window]) + int(record["context_begin"])
        ids = store.input_ids[begin : begin + int(record["context_length"])]
        for token in np.flatnonzero(ids == unknown).tolist():
            index = int(store.context_offset[window]) + token
            spans.add((int(store.char_start[index]), int(store.char_end[index])))
    return sorted(spans)


def _named(scores: NDArray[Any]) -> dict[str, float]:
    return dict(zip(("exact_match", "f1"), scores.tolist(), strict=True))


def _spread(values: NDArray[Any]) -> dict[str, float]:
    """Smallest, median, mean, 95th percentile and largest value; empty for no values."""
    if not len(values):
        return {}
    return {
        "min": int(values.min()),
        "median": float(np.median(values)),
        "mean": round(float(values.mean()), 1),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }
