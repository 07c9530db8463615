"""A model's name or folder -> the model and tokenizer that answer: a trained head, safe files, any export."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForQuestionAnswering

from qa_lightning.errors import InputError
from qa_lightning.models.loading import load_tokenizer, loading, quiet_transformers, resolve, vocabulary_problem
from qa_lightning.models.onnx import OnnxModel, is_onnx_folder


def load_answering_model(
    name: str, dtype: torch.dtype | None = None, trust_remote_code: bool = False, use_safetensors: bool = True
) -> tuple[Any, Any]:
    """Load a model to be asked, and its fast tokenizer.

    Args:
        name: a folder, also of an ONNX export, a name on the Hub, or ``tiny``.
        dtype: what it computes in; None takes float32.
        trust_remote_code: run code that comes with the model.
        use_safetensors: refuse pickled weights.

    Raises:
        InputError: not to be had, no question answering head, one that was never trained, pickled weights, or a
            tokenizer that does not fit.
    """
    if Path(name).is_file():
        raise InputError(f"--model {name} is a file; name the folder that holds config.json and model.safetensors")
    tokenizer = load_tokenizer(name, trust_remote_code)
    model: Any
    if is_onnx_folder(resolve(name)):
        model = OnnxModel.load(resolve(name)).to(dtype=dtype)
    else:
        model = _load_weights(name, dtype or torch.float32, trust_remote_code, use_safetensors)
    if problem := vocabulary_problem(model, tokenizer):
        raise InputError(problem)
    return model.eval(), tokenizer


def _load_weights(name: str, dtype: torch.dtype, trust_remote_code: bool, use_safetensors: bool) -> Any:
    folder = Path(resolve(name)).expanduser()
    if use_safetensors and folder.is_dir() and not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        pickled = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
        raise InputError(
            f"model {name!r} has pickled weights only ({pickled}); "
            "save it again by model.save_pretrained, which writes model.safetensors, or pass use_safetensors=False to "
            "qa_lightning.pipeline"
        )
    with loading(name), quiet_transformers():
        model, found = AutoModelForQuestionAnswering.from_pretrained(
            resolve(name),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=use_safetensors or None,
            output_loading_info=True,
        )
    missing = sorted(key for key in found["missing_keys"] if not key.startswith(f"{model.base_model_prefix}."))
    if missing:
        raise InputError(
            f"model {name!r} has no trained question answering head ({', '.join(missing)} are missing): its answers "
            "would be random. Fine-tune it by scripts/train.py, or name a model that was"
        )
    return model
