"""Turns failures to load a model into one-line errors with a fix, and silences transformers while it loads."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from transformers.utils import has_file
from transformers.utils import logging as transformers_logging

from qa_lightning.errors import InputError, one_line
from qa_lightning.layout import MODEL_FOLDER
from qa_lightning.models.computing.memory import is_out_of_memory
from qa_lightning.wording import command, did_you_mean

_CONFIGS = ("config.json", f"{MODEL_FOLDER}/config.json")  # in the folder of a model, and of a run


class NoMemoryError(InputError):
    """A model does not fit into the memory."""


@contextmanager
def fitting(name: str) -> Iterator[None]:
    """Turn an error that says that memory ran out, while a model is loaded or moved, into a `NoMemoryError`."""
    try:
        yield
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise NoMemoryError(
            f"model {name!r} does not fit into the memory; free some, or choose a smaller model or another device "
            f"({type(error).__name__}: {one_line(error, first=True)})"
        ) from None


@contextmanager
def naming_pickled(name: str, hub: Mapping[str, Any]) -> Iterator[None]:
    """Turn an error about weights of a model on the Hub, or in its cache, which are pickled, into one that says so.

    Args:
        name: of the model.
        hub: where it comes from; see `loading.load_answering_model`.
    """
    try:
        yield
    except OSError as error:
        where = {key: hub[key] for key in ("revision", "cache_dir", "token") if key in hub}
        if "cannot be loaded with `safetensors`" not in str(error):
            raise
        for file in ("pytorch_model.bin", "pytorch_model.bin.index.json"):
            if has_file(name, file, **where):
                raise pickled_only(name, file) from None
        raise


def pickled_only(name: str, files: str) -> InputError:
    """The error for a model whose weights are in other files than safetensors; ``files`` says which."""
    return InputError(
        f"model {name!r} has pickled weights only ({files}); save it again with model.save_pretrained, which writes "
        "model.safetensors, or pass use_safetensors=False to qa_lightning.pipeline"
    )


@contextmanager
def loading(name: str, attn_implementation: str | None = None) -> Iterator[None]:
    """Turn any exception while a model or tokenizer is loaded into one `InputError` with a fix."""
    try:
        with fitting(name):
            yield
    except InputError:
        raise
    except Exception as error:  # the Hub client, the config and the weights raise many different classes
        reason = one_line(error, 300, first=True)
        if attn_implementation and any(word in reason.lower() for word in ("attn_implementation", "flash", "sdpa")):
            raise InputError(
                f"--model.attn_implementation {attn_implementation}: not available for model {name!r} here; choose "
                f"sdpa or eager, or leave the flag out ({type(error).__name__}: {reason})"
            ) from None
        if "Unrecognized configuration class" in reason:
            fix = "this kind of model has no question answering head; choose an encoder such as bert-base-cased"
        elif Path(name).expanduser().is_dir():
            fix = "the folder needs config.json, model.safetensors and tokenizer.json"
        else:
            fix = (
                f"it is not a folder here and not in the Hub's cache{near_folder(name) or '.'} Check the name and the "
                "network; without a network "
                f"pass the folder of a model, or run `{command('train')} --config quickstart`, which needs no network"
            )
        raise InputError(f"model {name!r} cannot be loaded: {fix} ({type(error).__name__}: {reason})") from None


def near_folder(name: str) -> str:
    """``; did you mean X?`` with the folder X whose path differs from ``name`` in one part that is near; or empty."""
    parts = Path(name).expanduser().parts
    for number in range(len(parts)):
        there = Path(*parts[:number])
        if (there / parts[number]).is_dir():
            continue
        try:
            folders = [path.name for path in there.iterdir() if path.is_dir() and not path.name.startswith(".")]
        except OSError:
            return ""
        rest = Path(*parts[number + 1 :])
        near = [folder for folder in folders if (there / folder / rest).is_dir()]
        models = [name for name in near if any((there / name / rest / found).is_file() for found in _CONFIGS)]
        for known in (models, near):
            if found := did_you_mean(parts[number], known):
                word = found.removeprefix("; did you mean ").removesuffix("?")
                return f"; did you mean {there / word / rest}?"
        return ""
    return ""


@contextmanager
def quiet_transformers() -> Iterator[None]:
    """Stop transformers from reporting the weights that a new head lacks, and from drawing progress bars."""
    level = transformers_logging.get_verbosity()
    bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        transformers_logging.set_verbosity(level)
        if bars:
            transformers_logging.enable_progress_bar()
