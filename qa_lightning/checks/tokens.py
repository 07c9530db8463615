"""What a tokenizer and its windows do to data: lengths, what is cut, lost or unknown, and the best score that is left.

All of it is counted from prepared features, so that what is told is what a run would train on.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import numpy as np
from numpy.typing import NDArray

from qa_lightning.checks.rows import Findings, Severity
from qa_lightning.data.formats import shown
from qa_lightning.features.store import FeatureStore
from qa_lightning.features.windows import WindowSettings
from qa_lightning.metrics.squad import Scoring, answer_scores

_ROWS = 1000  # examples read at a time

TOKEN_FINDINGS: dict[str, tuple[Severity, str, str]] = {
    "unheld": (
        "warning",
        "answers that no window holds whole",
        "a larger --data.doc_stride, or --data.max_length if the model has positions for it",
    ),
    "long_answer": (
        "warning",
        "answers longer than max_answer_length, which are never given",
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
        "answers that come back from the tokens with another text",
        "tokens do not end where the answer does: let it end at the end of a word",
    ),
}


class TokenCheck:
    """Looks at features.

    Args:
        store: with offsets, as for validation.
        examples: that they are windows of.
        tokenizer: that cut them.
        settings: by which.
        max_answer_length: in tokens.
        scoring: how answers are counted.
        max_rows: rows to keep of each finding.
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
        self._sums = np.zeros(3)  # EM, F1, questions
        self._lengths: dict[str, list[int]] = {"question": [], "context": [], "answer": []}

    def run(self) -> dict[str, Any]:
        """Look at every example; returns facts."""
        first = self._first_windows()
        for begin in range(0, len(self._examples), _ROWS):
            rows = self._examples[begin : begin + _ROWS]
            encoded = self._tokenizer(rows["question"], add_special_tokens=False, verbose=False)["input_ids"]
            for offset, question in enumerate(encoded):
                row = {name: values[offset] for name, values in rows.items()}
                self._look(row, len(question), range(first[begin + offset], first[begin + offset + 1]))
        for kind, length, flag in (
            ("long_answer", "answer", "--model.max_answer_length"),
            ("cut_question", "question", "--data.max_question_length"),
        ):
            longest = max(self._lengths[length], default=0)
            self.findings.set_fix(kind, f"raise {flag}; the longest has {longest} tokens")
        windows = np.diff(first)
        exact, f1, count = self._sums.tolist()
        return {
            "windows": len(self._store),
            "windows_per_question": _spread(windows),
            "tokens": {name: _spread(np.array(values)) for name, values in self._lengths.items() if values},
            "unknown": dict(self._unknown.most_common(20)),
            "ceiling": {"exact_match": 100 * exact / max(count, 1), "f1": 100 * f1 / max(count, 1)},
        }

    def _first_windows(self) -> NDArray[np.int64]:
        """[N + 1] the first window of each example, and where the last one's end."""
        return np.searchsorted(self._store.example, np.arange(len(self._examples) + 1))

    def _look(self, row: dict[str, Any], question: int, windows: range) -> None:
        self._lengths["question"].append(question)
        if question > self._settings.max_question_length:
            what = f"{question} tokens: {shown(row['question'])}"
            self.findings.add("cut_question", "", row["id"], what)
        self._lengths["context"].append(self._context_length(windows))
        self._look_for_unknown(row, windows)
        texts = row["answers"]["text"]
        best = self._best_answer(row, windows) if texts else ""
        exact, f1 = answer_scores(best, texts, self._scoring)
        self._sums += (exact, f1, 1)

    def _context_length(self, windows: range) -> int:
        """Context tokens of an example: those of its windows, without what two of them share."""
        lengths = self._store.windows["context_length"][windows.start : windows.stop]
        return int(lengths.sum()) - self._settings.doc_stride * (len(windows) - 1)

    def _best_answer(self, row: dict[str, Any], windows: range) -> str:
        """The first gold answer, through tokens and back; empty if it cannot be given."""
        gold = row["answers"]["text"][0]
        for window in windows:
            record = self._store.windows[window]
            if record["start"] == record["cls"]:
                continue
            begin = int(self._store.context_offset[window]) - int(record["context_begin"])
            length = int(record["end"] - record["start"]) + 1
            self._lengths["answer"].append(length)
            if length > self._max_answer_length:
                self.findings.add("long_answer", "", row["id"], f"{length} tokens: {shown(gold)}")
                return ""
            start = int(self._store.char_start[begin + record["start"]])
            end = int(self._store.char_end[begin + record["end"]])
            back = str(row["context"][start:end])
            if back != gold.strip():
                self.findings.add("altered", "", row["id"], f"{shown(gold)} comes back as {shown(back)}")
            return back
        self.findings.add("unheld", "", row["id"], shown(gold))
        return ""

    def _look_for_unknown(self, row: dict[str, Any], windows: range) -> None:
        unknown = self._tokenizer.unk_token_id
        if unknown is None:
            return
        places = set()
        for window in windows:
            record = self._store.windows[window]
            begin = int(self._store.token_offset[window]) + int(record["context_begin"])
            ids = self._store.input_ids[begin : begin + int(record["context_length"])]
            for token in np.flatnonzero(ids == unknown).tolist():
                place = int(self._store.context_offset[window]) + token
                places.add((int(self._store.char_start[place]), int(self._store.char_end[place])))
        if places:
            texts = [row["context"][start:end] for start, end in sorted(places)]
            self._unknown.update(texts)
            self.findings.add("unknown", "", row["id"], ", ".join(map(repr, dict.fromkeys(texts[:10]))))


def _spread(values: NDArray[Any]) -> dict[str, float]:
    """Smallest, median, mean, 95th percentile and largest."""
    if not len(values):
        return {}
    return {
        "min": int(values.min()),
        "median": float(np.median(values)),
        "mean": round(float(values.mean()), 1),
        "p95": float(np.percentile(values, 95)),
        "max": int(values.max()),
    }
