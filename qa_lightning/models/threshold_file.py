"""What a fit of threshold and temperature found -> lines, figures, and a file that applies it to the same model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from transformers.utils import cached_file

from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.metrics.confidence import PRECISION, Confidence
from qa_lightning.models.folder import weights_digest
from qa_lightning.models.loading import resolve

if TYPE_CHECKING:
    from matplotlib.figure import Figure

THRESHOLD_FILE = "threshold.json"


def fitted_lines(found: Confidence) -> Iterator[str]:
    """What the fit found, in words."""
    how = "each half of the articles judged by the other's fit" if found.held_out else "on the fitted questions"
    if found.tuned:
        tuned, at_zero = found.tuned.held_out_f1, found.tuned.at_zero.f1
        if tuned > at_zero:
            yield (
                f"threshold {found.scaling.threshold:.2f} for no answer: F1 {tuned:.2f} where 0 gives {at_zero:.2f} "
                f"({how})"
            )
        else:
            yield f"threshold 0 for no answer: F1 {at_zero:.2f}; a tuned one gives {tuned:.2f} ({how})"
    before, after = found.reliability
    yield (
        f"temperature {found.scaling.temperature:.2f}: expected calibration error {100 * before.error:.1f}% before, "
        f"{100 * after.error:.1f}% after ({how})"
    )


def coverage_line(share: float) -> str:
    """How many questions are answered with a precision of `PRECISION`; ``share`` is 0-1."""
    return f"At {100 * PRECISION:.0f}% precision this model answers {100 * share:.1f}% of the questions"


def figures(found: Confidence) -> dict[str, Figure]:
    """Reliability before and after, precision and recall, risk and coverage."""
    from qa_lightning.metrics import plots  # matplotlib takes a second to import

    return {
        "reliability": plots.reliability_diagram(*found.reliability, found.scaling.temperature),
        "precision_recall": plots.precision_recall_curves(found.precision_recall),
        "risk_coverage": plots.risk_coverage_curves(
            {"before": found.risk_coverage_before, "after": found.risk_coverage}, PRECISION
        ),
    }


class Fitted(NamedTuple):
    """What a threshold file says.

    Attributes:
        scaling: threshold and temperature.
        version_2: whether it was fitted to questions of which some have no answer.
        fingerprint: of these questions.
    """

    scaling: Scaling
    version_2: bool
    fingerprint: str

    def as_json(self) -> dict[str, Any]:
        """What answers hang on, by the names that the saved model has."""
        return {
            "version_2": self.version_2,
            "null_score_diff_threshold": self.scaling.threshold,
            "temperature": self.scaling.temperature,
        }


def threshold_file(found: Confidence, model: str, data: str, fingerprint: str) -> dict[str, Any]:
    """What `read_threshold_file` reads.

    Args:
        found: by the fit.
        model: its name or folder; its weights are remembered.
        data: what it was fitted to.
        fingerprint: of its questions.
    """
    fitted = Fitted(found.scaling, found.tuned is not None, fingerprint)
    return {
        "model": model,
        "weights": weights_digest(weights_folder(model)),
        "fitted_to": data,
        "fingerprint": fingerprint,
        **fitted.as_json(),
    }


def read_threshold_file(path: Path, model: str) -> Fitted:
    """Read threshold and temperature, for the model that they were fitted for.

    Raises:
        InputError: no such file, another layout, or made for another model.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        scaling = Scaling(float(content["temperature"]), float(content["null_score_diff_threshold"]))
        made_for, weights, version_2 = str(content["model"]), str(content["weights"]), bool(content["version_2"])
        fingerprint = str(content["fingerprint"])
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"--threshold-file {path}: not a file that scripts/evaluate.py --output-dir wrote as {THRESHOLD_FILE} "
            f"({type(error).__name__}: {error})"
        ) from None
    if not (0 < scaling.temperature < float("inf") and abs(scaling.threshold) < float("inf")):
        raise InputError(
            f"--threshold-file {path}: temperature {scaling.temperature} must be above 0, and it and the threshold "
            f"{scaling.threshold} finite"
        )
    if weights_digest(weights_folder(model)) != weights:
        raise InputError(
            f"--threshold-file {path} was made for {made_for}, whose weights are not those of --model {model}; "
            f"make one by scripts/evaluate.py --model {model} --data FILE --output-dir DIR"
        )
    return Fitted(scaling, version_2, fingerprint)


def weights_folder(model: str) -> Path:
    """Where the files of a model lie: its folder, or that of the Hub's cache."""
    folder = Path(resolve(model)).expanduser()
    if folder.is_dir():
        return folder
    return Path(str(cached_file(model, "config.json"))).parent
