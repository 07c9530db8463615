"""Find out from the arguments of ``pipeline`` what to build, and load it.

The arguments are those of ``transformers.pipeline`` of 4.57. An argument that can have no effect here is an error
or a warning.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from os import PathLike
from pathlib import Path
from typing import Any

import torch
from transformers.pipelines import PIPELINE_REGISTRY, REMOVED_TASKS
from transformers.utils import is_accelerate_available

from qa_lightning.errors import InputError
from qa_lightning.models.ensemble import load_asked
from qa_lightning.models.loading import lasting_names, load_tokenizer, model_names, tokenizer_problem

log = logging.getLogger("qa_lightning")

TASK, OLD_TASK = "extractive-qa", "question-answering"
DEFAULT_MODEL = ("distilbert/distilbert-base-cased-distilled-squad", "564e9b5")  # 4.57's: name on the Hub, commit

_UNUSED = ("feature_extractor", "image_processor", "processor", "modelcard", "args_parser", "binary_output")
_OF_ONE = ("config", "device_map")  # what several models cannot share
# The keys of ``model_kwargs`` that say where files come from, so they hold for the tokenizer too.
_HUB = ("revision", "token", "cache_dir", "local_files_only", "force_download", "proxies", "subfolder", "code_revision")


def chosen_model(task: Any, model: Any) -> tuple[Any, str | None]:
    """The model that the first two arguments ask for: a name or an object; and its commit, if it is the default.

    Args:
        task: the task, or the model; None for neither.
        model: a name, a folder, several of them, or an object; None if it was passed in the task's place, or not at
            all.

    Raises:
        InputError: the task is another one.
    """
    if task is not None and task not in (TASK, OLD_TASK):
        other = isinstance(task, str) and task in {*PIPELINE_REGISTRY.get_supported_tasks(), *REMOVED_TASKS}
        if model is not None or (other and not Path(task).is_dir()):
            raise InputError(f"task {task!r} is not {OLD_TASK!r}, the one task here; use transformers.pipeline for it")
        model = task
    if model is None:
        log.warning("no model was given: taking %s, as transformers 4.57 did; pass model= to choose", DEFAULT_MODEL[0])
        return DEFAULT_MODEL
    return (lasting_names(model) if isinstance(model, (str, PathLike, list, tuple)) else model), None


def chosen_dtype(**given: Any) -> torch.dtype | str | None:
    """The dtype that arguments ask for: a dtype, ``auto``, or None if all are None.

    Args:
        **given: name of the argument -> a dtype, its name (``bfloat16``, ``torch.bfloat16``), ``auto`` or None.

    Raises:
        InputError: there is no such dtype, or two arguments ask for different ones.
    """
    found: dict[str, Any] = {}
    for name, value in given.items():
        known = getattr(torch, value.removeprefix("torch."), None) if isinstance(value, str) else value
        if value is None or value == "auto":
            known = value
        elif not isinstance(known, torch.dtype) or not known.is_floating_point:
            raise InputError(f"{name} {value!r} is unknown; pass 'auto', 'float32', 'bfloat16' or 'float16'")
        found[name] = known
    asked = {name: value for name, value in found.items() if value is not None}
    if len(set(asked.values())) > 1:
        raise InputError(f"{' and '.join(f'{name} {value}' for name, value in asked.items())} differ; pass one of them")
    return next(iter(asked.values()), None)


def refuse_unused(settings: Mapping[str, Any], framework: str | None, use_fast: bool = True) -> dict[str, Any]:
    """The settings without those arguments of a pipeline that answering questions from texts has no use for.

    Raises:
        InputError: one of these was given a value.
    """
    rest = dict(settings)
    given = [name for name in _UNUSED if rest.pop(name, None)]
    problems = [f"{name} has no use in question answering; leave it out" for name in given]
    if framework not in (None, "pt"):
        problems.append(f"framework {framework!r} is gone from transformers 5; pass 'pt', or leave it out")
    if not use_fast:
        problems.append("use_fast False asks for a slow tokenizer, which gives no character offsets; leave it out")
    if problems:
        raise InputError(problems)
    return rest


@dataclass(frozen=True)
class Loading:
    """How a model and its tokenizer are loaded.

    Attributes:
        dtype: a dtype, ``auto`` for that of the weights, or None for float32.
        trust_remote_code: run code that comes with the model.
        use_safetensors: reject pickled weights.
        hub: arguments of ``from_pretrained`` that say where files come from.
        model_options: other arguments of the model's ``from_pretrained``.
        device: on which an ONNX model computes.
    """

    dtype: torch.dtype | str | None
    trust_remote_code: bool
    use_safetensors: bool
    hub: dict[str, Any]
    model_options: dict[str, Any]
    device: int | str | torch.device | None

    @classmethod
    def of(
        cls,
        model_kwargs: Mapping[str, Any],
        hub: Mapping[str, Any],
        dtype: torch.dtype | str | None,
        trust_remote_code: bool,
        use_safetensors: bool,
        device: int | str | torch.device | None,
        **options: Any,
    ) -> Loading:
        """Join the arguments of ``pipeline`` with its ``model_kwargs``; None stands for "not given".

        Raises:
            InputError: an argument is given in both ways, or what it needs is not installed.
        """
        named = {name: value for name, value in {**hub, **options}.items() if value is not None}
        inner = {name: value for name, value in model_kwargs.items() if value is not None}
        dtypes = {name: inner.pop(name) for name in ("dtype", "torch_dtype") if name in inner}
        twice = [name for name in ("trust_remote_code", "use_safetensors", *named) if name in inner]
        if twice:
            raise InputError(f"model_kwargs and the pipeline's own arguments both give {', '.join(twice)}; pass one")
        every = {**inner, **named}
        if "device_map" in every and not is_accelerate_available():
            raise InputError("device_map needs the package accelerate; pip install accelerate, or pass device= instead")
        return cls(
            chosen_dtype(dtype=dtype, **{f"model_kwargs[{name!r}]": value for name, value in dtypes.items()}),
            trust_remote_code,
            use_safetensors,
            {name: value for name, value in every.items() if name in _HUB},
            {name: value for name, value in every.items() if name not in _HUB},
            device,
        )


def load_parts(model: Any, tokenizer: Any, how: Loading) -> tuple[Any, Any]:
    """The model and the tokenizer of a pipeline.

    Args:
        model: a name, several with commas between them, or an object.
        tokenizer: a name or an object; None for the one that belongs to the named model.
        how: how to load what is named.

    Raises:
        InputError: something cannot be loaded, the two do not fit, or there is no tokenizer.
    """
    if isinstance(model, str):
        if len(model_names(model)) > 1 and (given := [name for name in _OF_ONE if name in how.model_options]):
            raise InputError(
                f"{' and '.join(given)} can be given for one model, and not for several that answer together"
            )
        try:
            return load_asked(
                model,
                how.dtype,
                how.trust_remote_code,
                how.use_safetensors,
                tokenizer=tokenizer,
                hub=how.hub,
                model_options=how.model_options,
                device=how.device,
            )
        except InputError as error:
            if model != DEFAULT_MODEL[0]:
                raise
            raise InputError(f"pass model=: without it 4.57's default is taken, and {error}") from None
    if tokenizer is None:
        raise InputError(f"model {type(model).__name__} is loaded already, without a tokenizer; pass tokenizer= too")
    if how.model_options:
        log.warning("the model is loaded already, so these have no effect: %s", ", ".join(how.model_options))
    if isinstance(tokenizer, (str, PathLike)):
        tokenizer = load_tokenizer(str(tokenizer), how.trust_remote_code, **how.hub)
    if problem := tokenizer_problem(model, tokenizer):
        raise InputError(problem)
    return model, tokenizer
