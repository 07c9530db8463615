"""Score a model, maybe against another one, and report its errors."""

from __future__ import annotations

import logging
from os import PathLike, fspath

from qa_lightning.data.columns import ReadSettings
from qa_lightning.data.examples import OnBadRows
from qa_lightning.errors import renaming
from qa_lightning.evaluation.model import check_model, score_model
from qa_lightning.features.defaults import DTYPES, EVAL_BATCH_SIZE
from qa_lightning.metrics.squad import MixedScript
from qa_lightning.pages.questions import Scored
from qa_lightning.pages.report import ErrorReport

log = logging.getLogger("qa_lightning")


def report_on(
    model: str | PathLike[str],
    data: str | PathLike[str],
    against: str | PathLike[str] | None = None,
    batch_size: int = EVAL_BATCH_SIZE,
    max_examples: int | None = None,
    mixed_script: bool | MixedScript = False,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
    on_bad_rows: OnBadRows = "error",
    dtype: str = DTYPES[0],
) -> ErrorReport:
    """Answer the questions of ``data``, score the answers as ``evaluate`` does, and report the errors.

    The report shows itself in a notebook; ``report.write("report.html")`` writes it.

    Args:
        model: folder of a trained model, or its name on the Hub.
        data: file or dataset with answers.
        against: another model, which answers the same questions.
        batch_size, max_examples, mixed_script, reading, on_bad_rows, dtype: see `model.score_model`.

    Raises:
        InputError: a model or the data cannot be read, or a model is an ONNX export.
    """

    def scored(name: str) -> Scored:
        given = (batch_size, max_examples, mixed_script, reading, on_bad_rows)
        found = score_model(name, str(fspath(data)), *given, dtype=dtype).scored
        assert found is not None
        return found

    name = str(fspath(model))
    if against is None:
        return ErrorReport(scored(name))
    other = str(fspath(against))
    with renaming(model="against"):
        check_model(other, str(fspath(data)))
    first = scored(name)
    with renaming(model="against"):
        return ErrorReport(first, scored(other))
