"""Saves a model folder, and lists its model files: the files that loading the model reads, and no others.

Weights are safetensors, as transformers loads them, or an ONNX graph. Formats that can run code when they are loaded,
such as pickles, are never listed. `heads.LOADER` is for people who import it: nothing runs it by itself.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from qa_lightning.errors import DivergedError, InputError
from qa_lightning.files import digest, new_folder, write_file
from qa_lightning.layout import ADAPTER_FOLDER
from qa_lightning.models.adapters import has_adapters, merged, save_adapters, with_weights
from qa_lightning.models.heads import LOADER, has_own_head, write_loader
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import CONFIG
from qa_lightning.models.onnx import MODEL_FILE
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings
from qa_lightning.wording import counted

EXPORTED = "exported_weights"  # in the config of an ONNX export: the digest of those that it was made from
WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
ONNX = (MODEL_FILE, f"{MODEL_FILE}.data", f"{MODEL_FILE}_data")  # the graph, and its weights if they are separate
VOCABULARIES = (
    "tokenizer.json",
    "vocab.txt",
    "vocab.json",
    "spiece.model",
    "spm.model",
    "sentencepiece.bpe.model",
    "tokenizer.model",
)
TOKENIZER = (*VOCABULARIES, "merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json")
CHAT_TEMPLATES = ("chat_template.jinja", "additional_chat_templates")  # saved with a tokenizer; no answer needs them

_PICKLED = "pytorch_model.bin"
# What is in a model's folder, besides shards of weights and the adapters, if this package or transformers wrote it.
_BESIDE = {
    CONFIG,
    INDEX,
    *ONNX,
    *TOKENIZER,
    *CHAT_TEMPLATES,
    LOADER,
    _PICKLED,
    "README.md",
    "generation_config.json",
}


def model_files(folder: Path) -> tuple[list[str], list[str]]:
    """The model files of a folder, without the model card, and their problems.

    Returns:
        Names of the files, in the order of loading: config, weights, ONNX graph, tokenizer, loader.
        Problems of the files, one line each.
    """
    if not folder.is_dir():
        what = "is a file" if folder.exists() else "is not a folder here"
        return [], [f"--model {folder} {what}; --push_to_hub takes the folder of a model, such as a run's model/"]
    there = {path.name for path in folder.iterdir() if path.is_file()}
    weights, problems = _weights(folder, there)
    graph = [name for name in ONNX if name in there] if ONNX[0] in there else []
    if not weights and not graph and not problems:
        problems.append(
            f"{folder} holds no {WEIGHTS} and no {ONNX[0]}; only these are published, as other formats can run code "
            "when they are loaded. Load the model with transformers and save it with model.save_pretrained(FOLDER)"
        )
    if problem := _config_problem(folder / CONFIG):
        problems.append(problem)
    if not there & set(VOCABULARIES):
        problems.append(
            f"{folder} holds no tokenizer (tokenizer.json); add it with tokenizer.save_pretrained({folder})"
        )
    loader = [LOADER] if LOADER in there else []
    return [CONFIG, *weights, *graph, *(name for name in TOKENIZER if name in there), *loader], problems


def _weights(folder: Path, there: set[str]) -> tuple[list[str], list[str]]:
    """Names of the weight files that transformers loads, and their problems, one line each."""
    names, problems = [WEIGHTS] if WEIGHTS in there else [], []
    if not names and INDEX in there:
        try:
            shards = sorted(
                {str(name) for name in json.loads((folder / INDEX).read_text("utf-8"))["weight_map"].values()}
            )
        except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
            return [], [f"{folder / INDEX} cannot be read ({type(error).__name__}: {error}); save the model again"]
        names = [INDEX, *shards]
    for name in names:
        if name not in there:
            problems.append(f"{folder / name} is missing, though {INDEX} names it; save the model again")
        elif name != INDEX:
            try:
                with safe_open(folder / name, "pt"):  # reads the header, and checks it against the size of the file
                    pass
            except (OSError, SafetensorError) as error:
                problems.append(f"{folder / name} is damaged ({error}); save the model again")
    return names, problems


def _config_problem(path: Path) -> str | None:
    try:
        kinds = json.loads(path.read_text("utf-8")).get("architectures") or []
    except FileNotFoundError:
        return f"{path} is missing; add it with model.config.save_pretrained({path.parent})"
    except (OSError, ValueError, AttributeError) as error:
        return f"{path} cannot be read ({error}); save the model again"
    if kinds and not any("QuestionAnswering" in str(kind) for kind in kinds):
        return f"{path}: {', '.join(map(str, kinds))} has no question answering head; train the model first"
    return None


def check_replaced(folder: Path, kept: Path, what: str) -> list[str]:
    """The names of the files in a folder that is to be replaced by a model or an export; empty if it is not there.

    Args:
        folder: that is to be written.
        kept: a file or folder that must not be in it; another name, such as one on the Hub, is in none.
        what: what that is called.

    Raises:
        InputError: it is or contains ``kept`` or the current folder, or it holds something else than a model and what
            is saved with one.
    """
    resolved = folder.resolve()
    for path, name in ((kept.expanduser().resolve(), what), (Path.cwd(), "the current folder")):
        if path.exists() and path.is_relative_to(resolved):
            raise InputError(f"--output {folder} is or contains {name}; name another folder")
    if os.path.lexists(folder) and not folder.is_dir():
        raise InputError(f"--output {folder} is {'a file' if folder.exists() else 'a link to nothing'}; name a folder")
    found = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    if found and not _is_model(folder):
        raise InputError(f"--output {folder} has no model but {', '.join(found[:5])}; name another folder")
    if others := [name for name in found if not _goes_with_a_model(folder / name)]:
        raise InputError(
            f"--output {folder} has {', '.join(others[:5])}, which is no part of a model; name another folder"
        )
    return found


def _is_model(folder: Path) -> bool:
    """Whether a folder holds a model's config, and weights or a graph."""
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    has_weights = holds_weights(folder) or any((folder / name).is_file() for name in (ONNX[0], _PICKLED))
    return has_weights and isinstance(config, dict) and "model_type" in config


def _goes_with_a_model(path: Path) -> bool:
    if path.is_dir():
        return path.name in (ADAPTER_FOLDER, *CHAT_TEMPLATES)
    return path.name.startswith(".") or path.suffix == ".safetensors" or path.name in _BESIDE


def holds_weights(folder: Path) -> bool:
    """Whether the folder holds safetensors, and not only an ONNX graph."""
    return any(folder.glob("*.safetensors"))


def weights_digest(folder: Path) -> str:
    """SHA-256 of the safetensors in a model folder; shows whether they are still the weights that a run scored."""
    return digest(sorted(folder.glob("*.safetensors")))


def save_model(
    model: Any,
    tokenizer: Any,
    settings: AnswerSettings,
    folder: Path,
    weights: Mapping[str, Tensor],
    prefix: str = "",
) -> None:
    """Write config, safetensors and tokenizer; ``config.json`` keeps ``settings`` under ``qa_lightning``.

    ``AutoModelForQuestionAnswering.from_pretrained(folder)`` loads it, with or without this package. Adapters are
    merged into the weights, and written by themselves, with the head, as ``adapter/`` in the folder. If
    the head is this package's, the folder has `LOADER` instead, which needs transformers alone.

    Args:
        model: the model whose configuration is written.
        tokenizer, settings: how the model is asked.
        folder: the folder to write; an existing one is replaced.
        weights: all weights, because the model itself may hold only a shard of them; of a model with adapters, those
            that were trained are enough.
        prefix: the names in ``weights`` that begin with it belong to the model; it is removed.

    Raises:
        DivergedError: some weights are not numbers; nothing is written.
        InputError: the model has adapters that cannot be merged.
    """
    own: Mapping[str, Tensor]
    own = {name.removeprefix(prefix): value for name, value in weights.items() if name.startswith(prefix)}
    broken = [name for name, value in own.items() if value.is_floating_point() and not value.isfinite().all()]
    if broken:
        raise DivergedError(
            f"the model's weights are not numbers ({counted(len(broken), 'tensor')}, the first: {broken[0]}); no model "
            "is written"
        )
    setattr(model.config, CONFIG_KEY, asdict(settings))
    with new_folder(folder) as part:
        if has_adapters(model):
            adapted = with_weights(model, own)
            save_adapters(adapted, part / ADAPTER_FOLDER)
            model = merged(adapted)
            own = model.state_dict()
        with quiet_transformers():
            model.save_pretrained(part, state_dict=own)
        if has_own_head(model):
            write_loader(part)
        tokenizer.save_pretrained(part)


def save_settings(settings: AnswerSettings, folder: Path) -> None:
    """Write settings into the ``config.json`` of a folder that `save_model` wrote; other entries do not change.

    Raises:
        OSError: the file cannot be written, and has not changed.
    """
    config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
    config[CONFIG_KEY] = asdict(settings)
    write_file(folder / CONFIG, json.dumps(config, indent=2, sort_keys=True) + "\n")
