"""Writes and reads ``threshold.json``, which applies a fitted threshold and temperature to the same model."""

from __future__ import annotations

import json
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

from huggingface_hub import snapshot_download

from qa_lightning.decoding.calibrator import Calibrator
from qa_lightning.decoding.spans import Scaling
from qa_lightning.errors import InputError
from qa_lightning.models.folder import holds_weights, weights_digest
from qa_lightning.models.load_errors import loading
from qa_lightning.models.loading import model_names, resolve
from qa_lightning.models.settings import Fitted, setting_problems
from qa_lightning.wording import command

THRESHOLD_FILE = "threshold.json"
_CURVE, _CALIBRATOR = "scores_at_precision", "calibrator"
_WHERE = ("revision", "cache_dir", "token", "local_files_only")  # of a model on the Hub


def threshold_file(fitted: Fitted, model: str, data: str) -> dict[str, Any]:
    """The contents of a threshold file, for `read_threshold_file`.

    Args:
        fitted: what was fitted.
        model: name or folder of the model, or of several that answer together; a digest of the weights is stored.
        data: the data of the fit.
    """
    return {
        "model": model,
        "weights": _weights_of(model),
        "fitted_to": data,
        "fingerprint": fitted.fingerprint,
        **fitted.as_json(),
        _CURVE: dict(fitted.scores_at_precision),
    }


def read_threshold_file(path: Path, model: str, hub: Mapping[str, Any] | None = None) -> Fitted:
    """Read threshold and temperature, if they were fitted for ``model``.

    Args:
        path: of the file.
        model: name or folder of the model, or of several that answer together.
        hub: where a model on the Hub comes from; see `loading.load_answering_model`.

    Raises:
        InputError: the file is missing, is not a threshold file, or belongs to another model.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        fitted = {name: content[name] for name in ("version_2", "null_score_diff_threshold", "temperature")}
        fitted |= {name: content.get(name, {}) for name in (_CURVE, _CALIBRATOR)}  # files of older versions have none
        made_for, weights, fingerprint = (str(content[name]) for name in ("model", "weights", "fingerprint"))
    except (OSError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise InputError(
            f"--threshold_file {path} cannot be read ({type(error).__name__}: {error}); pass the {THRESHOLD_FILE} that "
            f"`{command('evaluate')} --output_dir DIR` writes"
        ) from None
    if problems := setting_problems(fitted):
        again = f"write the file again with `{command('evaluate')}`"
        raise InputError([f"--threshold_file {path}: {problem}; {again}" for problem in problems])
    without = [one for one in model_names(model) if not holds_weights(weights_folder(one, hub))]
    if without:
        several = "pass the folders of the models that were exported"
        alone = "an ONNX export keeps the threshold of the model that it was made from, so leave the flag out"
        raise InputError(
            f"--threshold_file {path}: --model {without[0]} has no model.safetensors to compare with; "
            f"{alone if len(model_names(model)) == 1 else several}"
        )
    if _weights_of(model, hub) != weights:
        raise InputError(
            f"--threshold_file {path} was made for {made_for}, whose weights are not those of --model {model}; "
            f"make one with `{command('evaluate')} --model {model} --data FILE --output_dir DIR`"
        )
    calibrator = Calibrator.of_json(fitted[_CALIBRATOR])
    threshold = float(fitted["null_score_diff_threshold"])
    scaling = Scaling(float(fitted["temperature"]), threshold, calibrator=calibrator)
    return Fitted(scaling, fitted["version_2"], fingerprint, fitted[_CURVE])


def _weights_of(model: str, hub: Mapping[str, Any] | None = None) -> str:
    """A digest of the weights of a model, or of several in any order."""
    digests = sorted(weights_digest(weights_folder(one, hub)) for one in model_names(model))
    return digests[0] if len(digests) == 1 else sha256(" ".join(digests).encode()).hexdigest()


def weights_folder(model: str, hub: Mapping[str, Any] | None = None) -> Path:
    """The folder with the files of a model: its own, or the one in the Hub's cache.

    Raises:
        InputError: the Hub has no such model, or cannot be reached.
    """
    folder = Path(resolve(model)).expanduser()
    if folder.is_dir():
        return folder
    where = {name: value for name, value in (hub or {}).items() if name in _WHERE}
    with loading(model):
        return Path(snapshot_download(model, allow_patterns=["config.json", "*.safetensors"], **where))
