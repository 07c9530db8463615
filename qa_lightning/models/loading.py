"""A model's name or folder -> its tokenizer and its weights, refused early where they cannot do the task."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from transformers import (
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoTokenizer,
)

from qa_lightning.data import sources
from qa_lightning.errors import InputError
from qa_lightning.files import build_once, default_cache_dir
from qa_lightning.models.load_errors import loading, quiet_transformers
from qa_lightning.models.onnx import OnnxModel, is_onnx_folder
from qa_lightning.models.tiny import _TINY_VERSION, TINY, TINY_CONFIG, create_tiny_model
from qa_lightning.wording import command


def load_tokenizer(name: str, trust_remote_code: bool = False) -> Any:
    """Load the fast tokenizer of a model.

    transformers 5 forgot of some tokenizers (ALBERT's, XLNet's, RoFormer's) that their models read token types, which
    tell question and context apart (huggingface/transformers#48128). Where a model has weights for them and the
    tokenizer's own template tells the texts apart, its ``model_input_names`` name them, also once it is saved.

    Args:
        name: a name on the Hub, a folder, or ``tiny``.
        trust_remote_code: run code that comes with it.

    Raises:
        InputError: not to be had, or a slow tokenizer.
    """
    with loading(name), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code)
    if not tokenizer.is_fast:
        raise InputError(
            f"the tokenizer of {name!r} ({type(tokenizer).__name__}) is a slow one and gives no character offsets; "
            "choose a model that has a fast tokenizer (a tokenizer.json)"
        )
    if _lacks_token_types(tokenizer) and (model := _planned_model(name)) is not None:
        name_token_types(tokenizer, model)
    return tokenizer


def name_token_types(tokenizer: Any, model: Any) -> None:
    """Have the tokenizer name token types among its model's inputs, where the model has weights for them; see above."""
    if _lacks_token_types(tokenizer) and _reads_token_types(model):
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names


def _lacks_token_types(tokenizer: Any) -> bool:
    """Whether a tokenizer gives question and context types of their own, but not to its model, and nobody said so."""
    if "token_type_ids" in tokenizer.model_input_names or "model_input_names" in tokenizer.init_kwargs:
        return False
    return len(set(tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"])) > 1


def _planned_model(name: str) -> Any:
    """A model without its weights; None where there is none to be had."""
    try:
        with quiet_transformers(), torch.device("meta"):
            config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
            return AutoModelForQuestionAnswering.from_config(config, trust_remote_code=False)
    except Exception:  # a folder without a model, or a model that `load_model` refuses and says why
        return None


def _reads_token_types(model: Any) -> bool:
    """Whether a model has weights for more than one token type."""
    return any(
        len(weight) > 1 and any(word in path for word in ("token_type_embeddings", "seg_embed"))
        for path, weight in model.named_parameters()
    )


def load_model(name: str, attn_implementation: str | None = None, attention_dropout: float | None = None) -> Any:
    """Load a model with a question answering head, in float32 and in training mode.

    Checkpoints keep their own dtype and come in eval mode otherwise: half-precision training, and no dropout.

    Args:
        name: a name on the Hub, a folder, or ``tiny``.
        attn_implementation: ``sdpa``, ``flash_attention_2``, ``eager``; None leaves the choice to transformers.
        attention_dropout: 0-1, of attention's weights; None leaves the model's own.

    Raises:
        InputError: not to be had, no such head, or an attention or dropout that it does not have here.
    """
    with loading(name, attn_implementation), quiet_transformers():
        # trust_remote_code: and no question on the terminal whether to
        config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
        if attention_dropout is not None:
            _set_attention_dropout(config, attention_dropout, name)
        model = AutoModelForQuestionAnswering.from_pretrained(
            resolve(name),
            config=config,
            trust_remote_code=False,
            dtype=torch.float32,
            attn_implementation=attn_implementation,
        )
    for module in model.modules():
        if "Sinusoidal" in type(module).__name__:  # a table of constants, which from_pretrained marks as trained
            module.requires_grad_(False)
    for path, weight in model.named_parameters():
        if path.endswith("mask_emb") or ".pooler." in path:  # of pre-training (XLNet, FNet): DDP wants all used
            weight.requires_grad_(False)
    return model.train()


def _set_attention_dropout(config: Any, value: float, name: str) -> None:
    for known in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        if hasattr(config, known):
            setattr(config, known, value)
            return
    raise InputError(
        f"--model.attention_dropout {value}: {type(config).__name__} of {name!r} has no dropout of attention alone; "
        "leave the flag out"
    )


def max_positions(model: Any) -> int | None:
    """The longest input, in tokens, that a loaded model has positions for; None where it has no such limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    # RoBERTa's family starts to count positions after the padding id: its table has that many rows less to give.
    skipped = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return limit - max(skipped, default=0)


def model_summary(model: Any) -> str:
    """Class, name, size, dtype and device of a model, for people."""
    name = f"{type(model).__name__} {str(model.name_or_path)!r}"
    count = sum(weight.numel() for weight in model.parameters()) if hasattr(model, "parameters") else None
    size = "" if count is None else f", {count / 1e6:.1f} M parameters"
    return f"{name}{size}, {str(model.dtype).removeprefix('torch.')} on {model.device}"


def vocabulary_problem(model: Any, tokenizer: Any) -> str | None:
    """Why a loaded model cannot read what a tokenizer writes: ids that it has no embedding for; None where it can."""
    known = getattr(model.config.get_text_config(), "vocab_size", None)
    needed = max(tokenizer.get_vocab().values(), default=-1) + 1
    if not isinstance(known, int) or needed <= known:
        return None
    return (
        f"model {model.name_or_path!r} has a vocabulary of {known:,} tokens, its {type(tokenizer).__name__} one of "
        f"{needed:,}: they do not belong together. Put the tokenizer that the model was trained with beside it; "
        "if tokens were added, save the model again after model.resize_token_embeddings(len(tokenizer))"
    )


def resolve(name: str) -> str:
    """The folder or Hub name to load; makes the folder of ``tiny`` when it is first asked for."""
    if name != TINY:
        return str(Path(name).expanduser()) if name.startswith("~") else name
    parts = [_TINY_VERSION, TINY_CONFIG, sources.EMBEDDED_VERSION, sources.EMBEDDED_SIZES]
    key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
    folder = default_cache_dir() / "models" / f"{TINY}-{key}"
    build_once(folder, create_tiny_model)
    return str(folder)


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
            f"would be random. Fine-tune it by `{command('train')}`, or name a model that was"
        )
    return model
