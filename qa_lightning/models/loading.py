"""Loads a model and its tokenizer by name or folder, and rejects those that cannot answer questions.

A model needs a question answering head and a fast tokenizer with no more tokens than the model has embeddings.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import cache
from os import PathLike, fspath
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, PreTrainedModel

from qa_lightning.errors import InputError
from qa_lightning.features.windows import slow_tokenizer
from qa_lightning.layout import CHECKPOINT_FOLDER, LOGS, MODEL_FOLDER, RECORD, by_last_start, read_starts
from qa_lightning.models.heads import (
    answering_class,
    base_weights,
    has_own_head,
    is_decoder,
    is_read,
    is_trained,
    load_pretrained,
    missing_weights,
    planned,
    prepare_tokenizer,
)
from qa_lightning.models.load_errors import loading, naming_pickled, pickled_only, quiet_transformers
from qa_lightning.models.onnx import OnnxModel, is_onnx_folder
from qa_lightning.models.tiny import TINY, tiny_folder
from qa_lightning.paths import usable_path
from qa_lightning.wording import command, counted

log = logging.getLogger("qa_lightning")

_SEPARATORS = 3  # by which Longformer finds the question
_LAST = "last"  # the name of the newest model that a run has written
CONFIG = "config.json"
_ADAPTER_CONFIG = "adapter_config.json"  # peft's


def load_tokenizer(name: str, trust_remote_code: bool = False, **hub: Any) -> Any:
    """Load the fast tokenizer of a model.

    Some tokenizers of transformers 5 (ALBERT, XLNet, RoFormer) no longer give their models token types, which mark
    question and context (huggingface/transformers#48128). If the model has weights for token types and the tokenizer's
    own template sets them, ``model_input_names`` gets ``token_type_ids``; saving the tokenizer keeps this.

    Longformer finds the question by its separators. So one that stands in a text, as ``</s>`` in HTML, is cut as text.

    The tokenizer of a decoder that has no question answering head yet is prepared for one: see `prepare_tokenizer`.

    Args:
        name: a name on the Hub, a folder, or ``tiny``.
        trust_remote_code: run code that comes with the tokenizer.
        **hub: further arguments of ``from_pretrained`` that say where files come from: ``revision``, ``token`` ...

    Raises:
        InputError: the tokenizer cannot be loaded, or is a slow one.
    """
    with loading(name), quiet_transformers():
        tokenizer = AutoTokenizer.from_pretrained(resolve(name), trust_remote_code=trust_remote_code, **hub)
    if not tokenizer.is_fast:
        raise slow_tokenizer(name, tokenizer)
    # The config is read only where the tokenizer has the layout of a Longformer's.
    if _separators(tokenizer, tokenizer.sep_token_id) == _SEPARATORS and _counts_separators(_config(name, hub)):
        tokenizer.split_special_tokens = True
    config = _config(name, hub) if tokenizer.cls_token_id is None else None
    if config is not None and not is_trained(config) and is_decoder(config):
        prepare_tokenizer(tokenizer)
    if _lacks_token_types(tokenizer) and (model := _planned_model(name, hub)) is not None:
        tokenizer = suited(tokenizer, model)
    return tokenizer


def suited(tokenizer: Any, model: Any) -> Any:
    """The tokenizer as the model needs it, a copy if it has to change; see `load_tokenizer`.

    It gets ``token_type_ids`` in ``model_input_names``; and for a Longformer, separators in a text are text. Whatever
    takes a tokenizer that it did not load calls this.
    """
    if _counts_separators(getattr(model, "config", None)) and not tokenizer.split_special_tokens:
        tokenizer = deepcopy(tokenizer)
        tokenizer.split_special_tokens = True
    if _lacks_token_types(tokenizer) and _reads_token_types(model):
        tokenizer = deepcopy(tokenizer)
        tokenizer.model_input_names = ["input_ids", "token_type_ids", "attention_mask"]
        tokenizer.init_kwargs["model_input_names"] = tokenizer.model_input_names
    return tokenizer


def _lacks_token_types(tokenizer: Any) -> bool:
    """Whether a tokenizer can mark question and context by token types, but does not give them to its model.

    False if the tokenizer was saved with ``model_input_names``: then leaving them out was a choice.
    """
    if "token_type_ids" in tokenizer.model_input_names or "model_input_names" in tokenizer.init_kwargs:
        return False
    return len(set(tokenizer("a", "a", return_token_type_ids=True)["token_type_ids"])) > 1


def _planned_model(name: str, hub: Mapping[str, Any]) -> Any:
    """The model on the meta device, without weights; None if it cannot be created."""
    try:
        config = _config(name, hub)
        return None if config is None else planned(config, name)
    except Exception:  # one that `load_model` rejects with a reason
        return None


def _config(name: str, hub: Mapping[str, Any]) -> Any:
    """The configuration of a model; None if there is none, or one that `load_model` rejects with a reason."""
    try:
        with quiet_transformers():
            return AutoConfig.from_pretrained(resolve(name), trust_remote_code=False, **hub)
    except Exception:
        return None


def _reads_token_types(model: Any) -> bool:
    """Whether a model has weights for more than one token type."""
    return any(
        len(weight) > 1 and any(word in path for word in ("token_type_embeddings", "seg_embed"))
        for path, weight in model.named_parameters()
    )


def load_model(
    name: str,
    attn_implementation: str | None = None,
    attention_dropout: float | None = None,
    bidirectional: bool | None = None,
) -> Any:
    """Load a model with a question answering head, in float32 and in training mode.

    By default transformers keeps the dtype of the checkpoint and sets eval mode: training would then be in half
    precision or without dropout.

    Args:
        name: a name on the Hub, a folder, or ``tiny``.
        attn_implementation: ``sdpa``, ``flash_attention_2``, ``eager``; None leaves the choice to transformers.
        attention_dropout: dropout of attention weights, 0-1; None keeps the model's own.
        bidirectional: for decoders; see `load_pretrained`.

    Raises:
        InputError: the model cannot be loaded, can have no question answering head, or does not support the attention
            or dropout here.
    """
    with loading(name, attn_implementation), quiet_transformers():
        # trust_remote_code=False: transformers would otherwise ask on the terminal
        config = AutoConfig.from_pretrained(resolve(name), trust_remote_code=False)
        if attention_dropout is not None:
            _set_attention_dropout(config, attention_dropout, name)
        model = load_pretrained(
            name, resolve(name), config, bidirectional, dtype=torch.float32, attn_implementation=attn_implementation
        )
    for module in model.modules():
        if "Sinusoidal" in type(module).__name__:  # a table of constants, which from_pretrained marks as trainable
            module.requires_grad_(False)
    for path, weight in model.named_parameters():
        if not is_read(path):  # DDP needs all used
            weight.requires_grad_(False)
    return model.train()


def _set_attention_dropout(config: Any, value: float, name: str) -> None:
    for known in ("attention_probs_dropout_prob", "attention_dropout", "attn_pdrop"):
        for part in (config, config.get_text_config()):  # a model of texts and images has it in its text part
            if hasattr(part, known):
                setattr(part, known, value)
                return
    raise InputError(
        f"--model.attention_dropout {value}: {type(config).__name__} of {name!r} has no separate dropout of attention; "
        "leave the flag out"
    )


def max_positions(model: Any) -> int | None:
    """The longest input, in tokens, that a loaded model has positions for; None if there is no limit."""
    limit = getattr(model.config, "max_position_embeddings", None)
    if not isinstance(limit, int) or limit <= 0:
        return None
    # RoBERTa-like models number positions from padding id + 1, so the first padding id + 1 rows are not usable.
    skipped = [
        module.padding_idx + 1
        for name, module in model.named_modules()
        if name.endswith("position_embeddings") and getattr(module, "padding_idx", None) is not None
    ]
    return limit - max(skipped, default=0)


def model_summary(model: Any) -> str:
    """One line with class, name, size, dtype and device of a model."""
    name = f"{type(model).__name__} {str(model.name_or_path)!r}"
    count = sum(weight.numel() for weight in model.parameters()) if hasattr(model, "parameters") else None
    size = "" if count is None else f", {count / 1e6:.1f} M parameters"
    return f"{name}{size}, {str(model.dtype).removeprefix('torch.')} on {model.device}"


def _counts_separators(config: Any) -> bool:
    """Whether a model finds the question by the separators: Longformer does."""
    return getattr(config, "model_type", None) == "longformer"


def _separators(tokenizer: Any, separator: int | None) -> int:
    """How many separators a tokenizer writes into a pair."""
    return int(tokenizer("a", "a")["input_ids"].count(separator))


def tokenizer_problem(model: Any, tokenizer: Any) -> str | None:
    """Why a loaded model cannot work with a tokenizer; None if it can."""
    return vocabulary_problem(model, tokenizer) or _separator_problem(model, tokenizer)


def _separator_problem(model: Any, tokenizer: Any) -> str | None:
    """A message if the model locates the question by separators that the tokenizer does not write; else None.

    Longformer expects three: question, two separators, context, one separator (RoBERTa's layout).
    """
    if not _counts_separators(model.config):
        return None
    separator = model.config.sep_token_id
    found = _separators(tokenizer, separator)
    if found == _SEPARATORS:
        return None
    return (
        f"model {model.name_or_path!r} finds the question by {_SEPARATORS} separators (token {separator}), of which "
        f"its {type(tokenizer).__name__} writes {found}: they do not belong together. Put the tokenizer that the model "
        "was trained with into its folder, or choose another model"
    )


def vocabulary_problem(model: Any, tokenizer: Any) -> str | None:
    """A message if the tokenizer has ids for which the loaded model has no embedding; else None."""
    known = getattr(model.config.get_text_config(), "vocab_size", None)
    vocabulary = tokenizer.get_vocab()
    if has_own_head(model):  # which reads special tokens beyond it, such as Gemma 3's for images, as padding
        special = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
        vocabulary = {token: number for token, number in vocabulary.items() if number not in special}
    needed = max(vocabulary.values(), default=-1) + 1
    if not isinstance(known, int) or needed <= known:
        return None
    return (
        f"model {model.name_or_path!r} has a vocabulary of {known:,} tokens, but its {type(tokenizer).__name__} has "
        f"{needed:,}: they do not belong together. Put the tokenizer that the model was trained with into its folder; "
        "if you added tokens, save the model again after model.resize_token_embeddings(len(tokenizer))"
    )


def lasting_name(name: str | PathLike[str]) -> str:
    """The name of a model as a text that means the same model later on: the folder itself for ``last`` and a run's.

    Raises:
        InputError: see `resolve`.
    """
    text = str(fspath(name)) if isinstance(name, PathLike) else name
    return text if text == TINY or not isinstance(text, str) else resolve(text)


def model_names(name: str) -> list[str]:
    """The models that a name means: one, or several with commas between them, ``A,B,C``.

    A path with a comma in it is one model if it is there: from left to right, the longest such path is taken.

    Raises:
        InputError: a comma has no name beside it.
    """
    parts = name.split(",")
    found: list[str] = []
    while parts:
        joined = (",".join(parts[:count]) for count in range(len(parts), 1, -1))
        one = next(filter(_is_there, joined), parts[0])
        del parts[: one.count(",") + 1]
        found.append(one.strip() or one)
    if len(found) > 1 and not all(one.strip() for one in found):
        raise InputError(f"--model {name!r} has a comma without a name beside it; pass models as A,B,C")
    return found


def _is_there(path: str) -> bool:
    try:
        return usable_path(path.strip()).exists()
    except ValueError:
        return False


def lasting_names(name: str | PathLike[str] | Sequence[str | PathLike[str]]) -> str:
    """As `lasting_name`, of one model or of several that answer together; those of several are joined by commas.

    Args:
        name: of a model; several, with commas between them or in a list.

    Raises:
        InputError: see `resolve` and `model_names`; or joined names would mean other models.
    """
    if isinstance(name, str):
        given: list[str | PathLike[str]] = [*model_names(name)]
    else:
        given = [name] if isinstance(name, PathLike) else list(name)
    if len(given) > 1 and "" in given:
        raise InputError("the list of models has an empty name; leave it out")
    wrong = [one for one in given if not isinstance(one, (str, PathLike))]
    if wrong or not given:
        what = f"holds an object of type {type(wrong[0]).__name__}" if wrong else "is empty"
        raise InputError(f"the list of models {what}; pass the models' folders, or their names on the Hub")
    found, problems = [], []
    for one in given:
        try:
            found.append(lasting_name(one))
        except InputError as error:
            problems += error.problems
    joined = ",".join(found)
    if not problems and model_names(joined) != found:
        problems.append(f"--model {joined}: joined by commas, these names mean other models; rename their folders")
    if problems:
        raise InputError(problems)
    return joined


def resolve(name: str) -> str:
    """The folder or Hub name to load from; the folder of ``tiny`` is created in the cache on first use.

    Args:
        name: a name on the Hub; a model's folder; the folder of a run, or that of its checkpoints, for the ``model`` in
            it; ``last``, for the newest such model in ``lightning_logs``; or ``tiny``.

    Raises:
        InputError: it is a file, a run's folder without a model, adapters alone, ``last`` where there is no run with
            a model, or it names several models.
    """
    if name == TINY:
        return str(tiny_folder())
    if "," in name and len(names := model_names(name)) > 1:
        raise InputError(
            f"--model {name} names {len(names)} models, and this takes one; several can answer together in predict, "
            "ask, demo, evaluate and report"
        )
    try:
        path = usable_path(name)
    except ValueError as error:
        raise InputError(f"--model {name}: cannot be read ({error})") from None
    is_folder = path.is_dir()
    if path.is_file():
        raise InputError(_file_problem(name, path))
    if name == _LAST and not is_folder:
        return _newest_model()
    if not is_folder or (path / CONFIG).is_file():
        return str(path) if name.startswith("~") else name
    if (path / _ADAPTER_CONFIG).is_file():
        above = f"; {path.parent} holds the model with them" if (path.parent / CONFIG).is_file() else ""
        raise InputError(
            f"--model {name} holds adapters alone{above}. To merge them into the model that they were trained on, load "
            "that and run peft.PeftModel.from_pretrained(model, folder).merge_and_unload().save_pretrained(FOLDER)"
        )
    run = path.parent if path.name == CHECKPOINT_FOLDER else path
    if (run / MODEL_FOLDER / CONFIG).is_file():
        return str(run / MODEL_FOLDER)
    if checkpoints := sorted((run / CHECKPOINT_FOLDER).glob("*.ckpt")):
        raise InputError(
            f"--model {name} is the folder of a run that has checkpoints and no model, which a run writes at its end: "
            f"{_export_fix(checkpoints[0])}"
        )
    of_runs = [*path.glob(f"version_*/{MODEL_FOLDER}"), *path.glob(f"{LOGS}/version_*/{MODEL_FOLDER}")]
    if runs := sorted(of_runs, key=lambda found: found.stat().st_mtime_ns):
        raise InputError(f"--model {name} is a folder of runs; name one of them, such as {runs[-1].parent}")
    return name


def is_in_model(path: Path, model: str) -> bool:
    """Whether a file is, or would be, among those of a model, or of one of several: what it is known by would change.

    Raises:
        InputError: see `resolve`.
    """
    folders = [Path(resolve(name)) for name in model_names(model)]
    return any(folder.is_dir() and path.resolve().parent == folder.resolve() for folder in folders)


_warn_once = cache(log.warning)  # a name is resolved several times


def _newest_model() -> str:
    written = [path for path in Path(LOGS).glob(f"version_*/{MODEL_FOLDER}/{CONFIG}") if path.is_file()]
    if not written:
        raise InputError(
            f"--model {_LAST} is the newest model in {Path(LOGS).resolve()}, and there is none; train one, or pass "
            "the folder of a model"
        )
    models = {path.parent.parent: path.parent for path in written}
    begun = (path.parent for name in (RECORD, CHECKPOINT_FOLDER) for path in Path(LOGS).glob(f"version_*/{name}"))
    runs = by_last_start({run: read_starts(run / RECORD)[0] for run in {*models, *begun}})
    run = next(run for run in reversed(runs) if run in models)
    if runs[-1] not in models and not (runs[-1] / MODEL_FOLDER).exists():
        _warn_once(f"--model {_LAST}: {runs[-1]} has no model yet, {run} is the newest run that has one")
    return str(models[run])


def _file_problem(name: str, path: Path) -> str:
    if path.suffix != ".ckpt":
        return f"--model {name} is a file; pass the folder that holds {CONFIG} and model.safetensors"
    beside = path.parent.parent / MODEL_FOLDER
    written = f"pass {beside}, which its run has written from the best one, or " if (beside / CONFIG).is_file() else ""
    return f"--model {name} is a checkpoint, not a model: {written}{_export_fix(path)}"


def _export_fix(checkpoint: Path) -> str:
    return f"make a model of it with `{command('export')} --model {checkpoint} --format transformers --output FOLDER`"


def load_answering_model(
    name: str,
    dtype: torch.dtype | str | None = None,
    trust_remote_code: bool = False,
    use_safetensors: bool = True,
    tokenizer: Any = None,
    hub: Mapping[str, Any] | None = None,
    model_options: Mapping[str, Any] | None = None,
    device: int | str | torch.device | None = None,
) -> tuple[Any, Any]:
    """Load a model in eval mode for answering, and its fast tokenizer.

    Args:
        name: a folder (also of an ONNX export), a name on the Hub, or ``tiny``.
        dtype: the dtype of the weights; None for float32, ``auto`` for that in the file. An ONNX model takes only
            None, ``auto`` and float32.
        trust_remote_code: run code that comes with the model.
        use_safetensors: reject pickled weights.
        tokenizer: another tokenizer than the model's own: a name or an object.
        hub: arguments of ``from_pretrained`` that say where files come from: ``revision``, ``token`` ...
        model_options: further arguments of the model's ``from_pretrained``.
        device: on which an ONNX model computes, see `OnnxModel.load`; other models are on the CPU until they are moved.

    Raises:
        InputError: the model cannot be loaded, its question answering head is missing or untrained, weights that its
            config asks for are missing or pickled, or the tokenizer does not fit.
    """
    if tokenizer is None or isinstance(tokenizer, (str, Path)):
        tokenizer = load_tokenizer(str(tokenizer or name), trust_remote_code, **(hub or {}))
    model: Any
    if is_onnx_folder(resolve(name)):
        if model_options:
            raise InputError(f"model {name!r} is an ONNX export, which takes no {', '.join(model_options)}")
        model = OnnxModel.load(resolve(name), device).to(dtype=None if dtype == "auto" else dtype)
    else:
        model = _load_weights(
            name, dtype or torch.float32, trust_remote_code, use_safetensors, hub or {}, model_options or {}
        )
    if problem := tokenizer_problem(model, tokenizer):
        raise InputError(problem)
    return model.eval(), tokenizer


def _load_weights(
    name: str,
    dtype: torch.dtype | str,
    trust_remote_code: bool,
    use_safetensors: bool,
    hub: Mapping[str, Any],
    options: Mapping[str, Any],
) -> Any:
    folder = Path(resolve(name)).expanduser()
    if use_safetensors and folder.is_dir() and not any(folder.glob("*.safetensors")) and any(folder.glob("*.bin")):
        pickled = ", ".join(sorted(file.name for file in folder.glob("*.bin")))
        raise pickled_only(name, pickled)
    with loading(name), naming_pickled(resolve(name), hub), quiet_transformers():
        config = options.get("config")
        if config is None or isinstance(config, (str, PathLike)):  # a name or a folder, of another model's
            source = resolve(name) if config is None else config
            config = AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code, **hub)
        cls = answering_class(config, name)
        model, found = cls.from_pretrained(
            resolve(name),
            dtype=dtype,
            trust_remote_code=trust_remote_code,
            use_safetensors=use_safetensors or None,
            output_loading_info=True,
            **hub,
            **({"config": config, **options} if issubclass(cls, PreTrainedModel) else options),
        )
    missing = missing_weights(model, found["missing_keys"])
    base = base_weights(model, missing)
    if base and (is_trained(config) or len(base) == len(missing)):
        raise InputError(
            f"model {name!r} lacks {counted(len(missing), 'tensor')} that its {CONFIG} asks for (the first: "
            f"{missing[0]}): its answers would be random. {CONFIG} and weights do not belong together, or a part of "
            "the weights is lost: copy or save the model again"
        )
    if missing:
        head = [path for path in missing if path not in base]
        raise InputError(
            f"model {name!r} has no trained question answering head ({', '.join(head)} missing): its answers "
            f"would be random. Fine-tune it with `{command('train')}`, or choose a fine-tuned model"
        )
    return model
