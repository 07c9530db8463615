"""Compare a result with that of the published SQuAD scorers, which the ``evaluate`` library loads."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping

from qa_lightning.evaluation.result import MAX_ODDS, ScoreResult

log = logging.getLogger("qa_lightning")


def compare_with_official(result: ScoreResult, tolerance: float = 1e-6) -> int:
    """Run the published scorer through ``evaluate`` and compare; returns the exit status, 0 if the two agree.

    If the scorer cannot be reached, nothing is compared: a log line says so and the status is 1, too.
    """
    name = "squad_v2" if result.version_2 else "squad"
    try:
        import evaluate

        scorer = evaluate.load(name)  # type: ignore[attr-defined]
    except Exception as error:  # a failed download can raise anything
        log.info(f"official   evaluate.load('{name}') cannot be reached ({type(error).__name__}); nothing compared")
        return 1
    # Both scorers want a prediction for each question; this one is no answer of anybody.
    missing = {row["id"]: "\ue000" for row in result.references if row["id"] not in result.predictions}
    texts, settings = {**result.predictions, **missing}, {}
    if result.version_2 and result.null_odds:  # then it finds the best thresholds, too
        texts, settings = {**result.best_texts, **missing}, {"no_answer_threshold": result.threshold}
    official: Mapping[str, float] = scorer.compute(
        predictions=[
            {"id": key, "prediction_text": text}
            | (
                {"no_answer_probability": result.null_odds.get(key, -MAX_ODDS if key in missing else 0.0)}
                if result.version_2
                else {}
            )
            for key, text in texts.items()
        ],
        references=result.references,
        **settings,
    )
    # the official scorer has no pr_ scores
    compared = {name: value for name, value in result.metrics.items() if not name.startswith("pr_")}
    differing = [
        f"{key}: here {value}, there {official.get(key, 'nothing')}"
        for key, value in compared.items()
        if not abs(official.get(key, math.nan) - value) <= tolerance  # not >, so that NaN differs, too
    ]
    if differing:
        log.info(f"official   evaluate.load('{name}') DISAGREES: {'; '.join(differing)}")
        return 1
    log.info(f"official   evaluate.load('{name}') agrees on {', '.join(compared)}")
    return 0
