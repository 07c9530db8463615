"""A trained model -> a folder with an ONNX model that was held against it, for `onnx.OnnxModel` and ONNX Runtime.

The folder holds ``model.onnx`` (with ``model.onnx.data`` where the weights are larger than a protobuf may be),
``config.json`` with how to ask the model under ``qa_lightning``, and the tokenizer. Nothing is written whose logits
differ from PyTorch's, or, quantized, whose answers are worse than allowed.

int8 is ONNX Runtime's dynamic quantization: weights of matrix products and embeddings are kept in 8 bits, activations
are quantized as they come. It is made for CPUs.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qa_lightning.data.columns import Columns, with_usual_columns
from qa_lightning.data.examples import Example, read_examples
from qa_lightning.data.sources import EMBEDDED, read_rows
from qa_lightning.errors import InputError
from qa_lightning.export.onnx_checks import compare_answers, compare_logits, comparison_batches
from qa_lightning.files import new_folder
from qa_lightning.models.folder import CONFIG, ONNX, TOKENIZER
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import load_answering_model
from qa_lightning.models.loss import model_logits
from qa_lightning.models.onnx import INPUTS, MODEL_FILE, OUTPUTS, OnnxModel, is_onnx_folder, runtime
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings

log = logging.getLogger("qa_lightning")

MAX_F1_DROP = 1.0  # F1 points that int8 may lose
_CHECKED = 32  # questions whose logits are compared
_EXTERNAL_BYTES = 1_800_000_000  # weights beyond this go to a file of their own: a protobuf holds 2 GB
_WRITTEN = {CONFIG, *ONNX, *TOKENIZER}  # the names of what an export leaves


def export_onnx(
    name: str,
    output: Path | None = None,
    quantize: str | None = None,
    data: str | None = None,
    max_f1_drop: float = MAX_F1_DROP,
    overwrite: bool = False,
    max_examples: int | None = None,
    columns: Columns = Columns(),  # noqa: B008 - frozen
) -> Path:
    """Export a trained model, hold it against itself, and write it whole or not at all.

    Args:
        name: folder of a trained model, or its name on the Hub.
        output: the folder to write; None: ``<name>-onnx`` beside a model's folder, or here for a name on the Hub.
        quantize: ``int8``, or None for float32.
        data: questions to compare on, with answers for ``int8``; None: some of the embedded dataset.
        max_f1_drop: F1 points (0-100) on ``data`` that ``int8`` may lose.
        overwrite: replace a folder whatever it holds.
        max_examples: only the first so many questions of ``data``.
        columns: names of the data's columns, where they are not to be guessed.

    Returns:
        The folder.

    Raises:
        InputError: a model that is not to be had or cannot be exported, an export that does not answer as the model
            does, an ``output`` that cannot be written or would lose something, or ``int8`` without ``data``.
    """
    if is_onnx_folder(name):
        raise InputError(f"--model {name} is an ONNX export already; name the model that it was made from")
    if quantize and data is None:
        raise InputError(f"--quantize {quantize} needs --data FILE: questions with answers, to see what it costs in F1")
    runtime()
    if missing := [library for library in ("onnx", "onnxscript") if find_spec(library) is None]:
        raise InputError(f"--format onnx needs {' and '.join(missing)}; pip install qa-lightning[onnx]")
    folder = output.expanduser() if output else default_output(name, quantize)
    _check_output(folder, name, overwrite)
    rows = _read(data or EMBEDDED, columns, max_examples if quantize else min(max_examples or _CHECKED, _CHECKED))
    model, tokenizer = load_answering_model(name)
    settings = AnswerSettings.of_model(model)
    with _writing(folder), new_folder(folder) as part:
        write_onnx(model, tokenizer, settings, part)
        exported = OnnxModel.load(part, "cpu")
        compare_logits(name, model, exported, comparison_batches(tokenizer, settings, rows[:_CHECKED]))
        if quantize:
            original = ("float32", model, _size(part))
            quantize_int8(part)
            small = (quantize, OnnxModel.load(part, "cpu"), _size(part))
            compare_answers(name, (original, small), tokenizer, rows, max_f1_drop)
    log.info(f"written to {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    return folder


def default_output(name: str, quantize: str | None = None) -> Path:
    """Where an export goes that was not told: beside a model's folder, or here for a name on the Hub."""
    path = Path(name).expanduser()
    ending = f"-onnx-{quantize}" if quantize else "-onnx"
    whole = path.resolve()
    return whole.with_name(whole.name + ending) if path.is_dir() else Path(name.rstrip("/").split("/")[-1] + ending)


def write_onnx(model: Any, tokenizer: Any, settings: AnswerSettings, folder: Path) -> None:
    """Write the graph of a model, its configuration and its tokenizer into an existing folder.

    Args:
        model: in eval mode and float32, on the CPU.
        tokenizer: tells whether token types are among the inputs.
        settings: how the model is asked.
        folder: to write into.

    Raises:
        InputError: the exporter cannot do it.
    """
    names = [name for name in INPUTS if name != "token_type_ids" or name in tokenizer.model_input_names]
    # A tensor each, which it would else take for one input, and of sizes other than 1, which it would take for fixed.
    inputs = {name: torch.ones(2, 8, dtype=torch.int64) for name in names}
    try:
        with _quiet_exporter(), torch.no_grad():
            program = torch.onnx.export(
                _Graph(model),
                kwargs=inputs,
                dynamo=True,
                verbose=False,
                input_names=names,
                output_names=list(OUTPUTS),
                dynamic_shapes={name: dict.fromkeys((0, 1), torch.export.Dim.DYNAMIC) for name in names},
            )
    except Exception as error:  # of torch.export, of its decompositions, of the translation or of the optimizer
        cause = re.sub(r"\x1b\[\d*m", "", str(error.__cause__ or error)).strip().split("\n")[0][:300]
        raise InputError(
            f"model {model.name_or_path!r} ({type(model).__name__}) cannot be exported to ONNX: torch.onnx.export does "
            f"not know how ({type(error.__cause__ or error).__name__}: {cause}); ask it as it is, or try another torch"
        ) from None
    assert program is not None  # dynamo gives one
    _name_axes(program.model.graph)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    program.save(folder / MODEL_FILE, external_data=size > _EXTERNAL_BYTES)
    setattr(model.config, CONFIG_KEY, asdict(settings))
    with quiet_transformers():
        model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quantize_int8(folder: Path) -> None:
    """Replace the float32 model of a folder by one with weights of 8 bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = folder / "int8.onnx"
    graph = onnx.load(folder / MODEL_FILE)
    # Constants are folded and shapes inferred by the exporter: without this mark the quantizer advises to do so.
    onnx.helper.set_model_props(graph, {"onnx.quant.pre_process": "onnxruntime.quant"})
    # A scale for each channel halves the error. 7 of the 8 bits: sums of 8 overflow on x86 CPUs without VNNI, where the
    # model would answer worse than it was measured to.
    quantize_dynamic(graph, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    for file in folder.glob("*.data"):
        file.unlink()
    small.replace(folder / MODEL_FILE)


class _Graph(torch.nn.Module):
    """What is exported: logits as a tuple, and a mask of real numbers, by which XLNet's ``1 - mask`` goes, too."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        batch = {"input_ids": input_ids, "attention_mask": attention_mask.float()}
        return model_logits(self.model, batch if token_type_ids is None else batch | {"token_type_ids": token_type_ids})


def _name_axes(graph: Any) -> None:
    """Call the two dynamic axes by their names where others read them."""
    for value in (*graph.inputs, *graph.outputs):
        value.shape = type(value.shape)(["batch", "length"])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"{MODEL_FILE}*"))


def _read(data: str, columns: Columns, max_examples: int | None) -> list[Example]:
    source = with_usual_columns(read_rows(data, "validation"), columns, log.info)
    rows = list(read_examples(source, "error", [], max_examples=max_examples, fix="correct them"))
    if not rows:
        raise InputError(f"--data {data}: no questions in it; name a file that has some")
    return rows


def _check_output(folder: Path, name: str, overwrite: bool) -> None:
    """Raise `InputError` if writing ``folder`` would take something away that an export did not write."""
    whole, model = folder.resolve(), Path(name).expanduser().resolve()
    for kept, what in ((model, "the model itself"), (Path.cwd(), "the folder that you are in")):
        if kept.is_dir() and kept.is_relative_to(whole):
            raise InputError(f"--output {folder} is or holds {what}; name another folder")
    if folder.is_file():
        raise InputError(f"--output {folder} is a file; name a folder")
    found = sorted(file.name for file in folder.iterdir()) if folder.is_dir() else []
    if not found:
        return
    if CONFIG not in found:
        raise InputError(f"--output {folder} holds no model but {', '.join(found[:5])}; name another folder")
    others = [file for file in found if file not in _WRITTEN]
    if (others or not is_onnx_folder(folder)) and not overwrite:
        raise InputError(
            f"--output {folder} holds {', '.join(others[:5] or ['a model that is no ONNX export'])}, which would be "
            "lost; name another folder, or replace this one with all that is in it by --overwrite"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"--output {folder}: cannot be written ({error.strerror or error}); name another") from None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Keep the exporter from telling of its own workings."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "torch.export", "onnxscript", "onnx_ir")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
