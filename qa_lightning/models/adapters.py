"""LoRA adapters in a model: added by the package peft, kept in checkpoints without the model, merged into its weights.

LoRA (Hu et al., 2021, "LoRA: Low-Rank Adaptation of Large Language Models") adds to a linear layer W, which is frozen,
a product of two small matrices that is trained: W + alpha / rank * B A. B begins at 0, so training begins at W.

The adapters are within the model's own layers, so all that reads a model's structure (layers, attention, dropout) works
as before. What a user wrapped with ``peft.get_peft_model`` is understood, too.
"""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from qa_lightning.errors import InputError, import_extra, one_line
from qa_lightning.models.computing.layers import layer_depths, layers_of, unknown_encoder

_CONFIGS, _BASE = "configs", "base"  # keys in a checkpoint
_PREFIX = "base_model.model."  # before each name in the file of an adapter, as peft writes it
_WEIGHTS = "adapter_model.safetensors"
_ADAPTER = "default"  # peft's name for the only one
ALPHA, DROPOUT = 16, 0.0  # used unless others are given


@dataclass(frozen=True)
class Lora:
    """The adapters to add.

    Attributes:
        rank: of the product of the two matrices.
        alpha: the product is scaled by alpha / rank.
        dropout: of what an adapter takes in, 0-1.
    """

    rank: int
    alpha: int
    dropout: float


def add_lora(model: Any, lora: Lora, name: str, frozen_layers: int = 0) -> None:
    """Add adapters to a model, in place; then these and the head train, and nothing else does.

    They are added to the layers that peft knows for the kind of model (BERT: query and value, as Hu et al. have it),
    otherwise to each linear layer of its attention.

    Args:
        model: a head on an encoder.
        lora: which adapters.
        name: of the model, for messages.
        frozen_layers: so many of the lowest layers get none.

    Raises:
        InputError: peft is missing, or the model has no such layers.
    """
    flag = f"--model.lora_rank {lora.rank}"
    peft = import_extra("peft", flag, "lora")
    head = {path: weight for path, weight in _head(model, flag, name).items() if weight.requires_grad}
    targets = _targets(model, frozen_layers)
    if not targets:
        where = f" above the {frozen_layers} that --model.freeze_layers freezes" if frozen_layers else ""
        raise InputError(
            f"{flag}: adapters are added to linear layers of attention, and {name} ({type(model).__name__}) has none"
            f"{where}; leave it out"
        )
    widest = min(min(model.get_submodule(path).weight.shape) for path in targets)
    if lora.rank > widest:
        raise InputError(
            f"{flag}: layers of {name} that get adapters have {widest} inputs or outputs; pass at most that, 8 is usual"
        )
    config = peft.LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=targets,
        fan_in_fan_out=not isinstance(model.get_submodule(targets[0]), nn.Linear),  # GPT-2's Conv1D holds W transposed
    )
    peft.inject_adapter_in_model(config, model, _ADAPTER)
    for weight in head.values():
        weight.requires_grad_(True)


def _head(model: Any, flag: str, name: str) -> dict[str, nn.Parameter]:
    """The parameters outside of the encoder."""
    depths = layer_depths(model)
    top = len(layers_of(model)) + 1
    head = {path: weight for path, weight in model.named_parameters() if depths[path] == top}
    if not head or len(head) == len(depths):
        raise InputError(unknown_encoder(flag, model, name))
    return head


def _targets(model: Any, frozen_layers: int) -> list[str]:
    """The names of the modules that get adapters: those that peft knows, else the linear ones of attention."""
    from peft.utils import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING
    from transformers.pytorch_utils import Conv1D

    known = TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING.get(model.config.model_type)
    ends = tuple(f".{end}" for end in known) if isinstance(known, list) else ()
    found = []
    for layer in (name for names in layers_of(model)[frozen_layers:] for name in names):
        attention = ""  # the outermost module of attention that the walk is in
        for path, module in model.get_submodule(layer).named_modules(prefix=layer):
            if "Attention" in type(module).__name__ and not (attention and path.startswith(attention)):
                attention = f"{path}."
            if isinstance(module, nn.Linear | Conv1D):
                is_target = path.endswith(ends) if ends else bool(attention) and path.startswith(attention)
                found += [path] if is_target else []
    return found


def has_adapters(model: Any) -> bool:
    """Whether peft has added something to a model, or wrapped it."""
    return bool(getattr(model, "peft_config", None))


def is_wrapped(model: Any) -> bool:
    """Whether it is a model of ``peft.get_peft_model``, and not a model with adapters within."""
    return has_adapters(model) and hasattr(model, "get_base_model")


def pass_token_types(model: Any) -> None:
    """Let a model that peft has wrapped for the task of question answering read token types, in place.

    peft's class for that task (0.21) leaves out what marks question and context: adapters would be trained without, and
    the merged model is asked with it. peft's class for any task passes all on.
    """
    if not is_wrapped(model):
        return
    from peft import PeftModel, PeftModelForQuestionAnswering

    if type(model) is PeftModelForQuestionAnswering and not model.active_peft_config.is_prompt_learning:
        model.__class__ = PeftModel
        for config in model.peft_config.values():
            config.task_type = None


def leave_out_base(module: nn.Module, model: nn.Module, prefix: str) -> None:
    """Let the state of ``module`` leave out what ``model`` within it does not train; loading keeps that as it is.

    Args:
        module: what is saved and loaded.
        model: with adapters.
        prefix: of the model's names in the module's state, such as ``model.``.
    """
    trained = {path for path, weight in model.named_parameters() if weight.requires_grad}
    names = frozenset(f"{prefix}{path}" for path in model.state_dict() if path not in trained)
    # Public since torch 2.5, as register_state_dict_post_hook and register_load_state_dict_pre_hook.
    module._register_state_dict_hook(partial(_without, names))  # type: ignore[no-untyped-call]
    module._register_load_state_dict_pre_hook(  # type: ignore[no-untyped-call]
        partial(_with_own, names), with_module=True
    )


def _without(names: Collection[str], module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    for name in names:
        state.pop(f"{prefix}{name}", None)


def _with_own(names: Collection[str], module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
    own = dict(module.named_parameters(remove_duplicate=False)) | dict(module.named_buffers(remove_duplicate=False))
    for name in names:
        if name in own:
            state.setdefault(f"{prefix}{name}", own[name])


def base_digest(model: nn.Module) -> str:
    """SHA-256 of the weights that do not train: adapters fit no others."""
    found = hashlib.sha256()
    for path, weight in sorted(model.named_parameters()):
        if not weight.requires_grad:
            found.update(f"{path} {weight.dtype} {list(weight.shape)}".encode())
            found.update(weight.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()


def describe_adapters(model: Any, base: str | None) -> dict[str, Any]:
    """What a checkpoint must say of a model with adapters, as plain values, so that they can be loaded from it.

    Args:
        model: with adapters.
        base: see `base_digest`; None where the checkpoint holds the whole model.

    Returns:
        The digest; or, of a model that peft has wrapped, name -> configuration of each adapter.
    """
    if base is not None:
        return {_BASE: base}
    return {
        _CONFIGS: {
            name: json.loads(json.dumps(config.to_dict(), default=sorted))  # of sets
            for name, config in model.peft_config.items()
        }
    }


def with_adapters_of(model: Any, saved: Mapping[str, Any], base: str | None, name: str) -> Any:
    """A model that a checkpoint's weights can be loaded into: wrapped by peft, if that of the checkpoint was.

    Args:
        model: as it is now.
        saved: what the checkpoint says; see `describe_adapters`.
        base: see `base_digest`; None for a model without such adapters.
        name: of the model, for messages.

    Raises:
        InputError: the checkpoint's adapters are for other weights, or peft is missing or cannot make them.
    """
    if _CONFIGS in saved:
        return model if is_wrapped(model) else _wrapped(model, saved[_CONFIGS])
    if base is None:
        raise InputError("the checkpoint holds LoRA adapters; pass the --model.lora_rank that it was trained with")
    if saved[_BASE] != base:
        raise InputError(
            f"the checkpoint holds adapters for other weights than {name} has here: they have changed since; put the "
            "model back that it was trained with"
        )
    return model


def _wrapped(model: Any, configs: Mapping[str, Mapping[str, Any]]) -> Any:
    peft = import_extra("peft", "the checkpoint holds a model that peft has wrapped, and loading it", "lora")
    wrapped = None
    try:
        for name, values in configs.items():
            # What the adapters begin with is loaded afterwards; some ways to begin need data, or change the model.
            own = {**values, "init_lora_weights": True} if "init_lora_weights" in values else dict(values)
            config = peft.PeftConfig.from_peft_type(**own)
            if wrapped is None:
                wrapped = peft.get_peft_model(model, config, adapter_name=name)
            else:
                wrapped.add_adapter(name, config)
    except Exception as error:  # another version of peft may not know a setting, and says so in many ways
        raise InputError(
            f"the checkpoint holds a model that peft has wrapped, and peft {peft.__version__} cannot do it again "
            f"({type(error).__name__}: {one_line(error)}); make the module with QALightningModule(...), wrap its model "
            "as it was, and load the checkpoint's state_dict into it"
        ) from None
    return wrapped


def with_weights(model: nn.Module, weights: Mapping[str, Tensor]) -> Any:
    """A copy of a model on the CPU, in float32, with other weights: those that are not given stay its own.

    In float32, because adapters that are merged into weights of 16 bits are mostly rounded away.
    """
    twin = copy.deepcopy(model).cpu().float()
    twin.load_state_dict({**twin.state_dict(), **weights})
    return twin


def merged(model: Any) -> Any:
    """The model without adapters, which are merged into its weights; the model given is used up.

    Raises:
        InputError: adapters of this kind cannot be merged.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer

    try:
        if is_wrapped(model):
            return model.merge_and_unload()
        for path, layer in list(model.named_modules()):
            if isinstance(layer, BaseTunerLayer):
                layer.merge()
                parent, _, name = path.rpartition(".")
                setattr(model.get_submodule(parent), name, layer.get_base_layer())
        del model.peft_config
    except (AttributeError, NotImplementedError, ValueError) as error:
        kinds = ", ".join(str(config.peft_type.value) for config in model.peft_config.values())
        raise InputError(
            f"adapters of the kind {kinds} cannot be merged into the model ({error}); write them alone with "
            "module.model.save_pretrained(FOLDER)"
        ) from None
    return model


def save_adapters(model: Any, folder: Path) -> None:
    """Write the adapters and the head, for ``PeftModel.from_pretrained(base_model, folder)``.

    Args:
        model: with adapters.
        folder: is made.
    """
    if is_wrapped(model):
        model.save_pretrained(folder, save_embedding_layers=False)  # which "auto" would ask the Hub about
        return
    from peft import get_peft_model_state_dict

    depths, top = layer_depths(model), len(layers_of(model)) + 1
    head = {path: weight.detach() for path, weight in model.named_parameters() if depths[path] == top}
    weights = {**get_peft_model_state_dict(model, save_embedding_layers=False), **head}
    folder.mkdir()
    save_file(
        {f"{_PREFIX}{path}": weight.contiguous() for path, weight in weights.items()},
        folder / _WEIGHTS,
        metadata={"format": "pt"},
    )
    config = copy.copy(model.peft_config[_ADAPTER])
    config.modules_to_save = sorted({path.partition(".")[0] for path in head})
    config.base_model_name_or_path, config.inference_mode = model.name_or_path, True
    # No task: peft's class for question answering leaves token types out; see `pass_token_types`.
    kind = {"base_model_class": type(model).__name__, "parent_library": type(model).__module__}
    config.save_pretrained(folder, auto_mapping_dict=kind)
