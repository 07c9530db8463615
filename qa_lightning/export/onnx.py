"""Export a trained model to a folder with an ONNX model, after checking it against the original.

The folder holds ``model.onnx`` (and ``model.onnx.data`` if the weights exceed the size limit of a protobuf),
``config.json`` with the answer settings under ``qa_lightning``, and the tokenizer. `onnx.OnnxModel` and ONNX Runtime
load it. It is written only if its logits equal PyTorch's within a tolerance or, for a quantized model, if its F1 does
not drop by more than allowed.

int8 is ONNX Runtime's dynamic quantization, for CPUs: weights of matrix products and embeddings are stored in 8 bits,
and activations are quantized during the forward pass.
"""

from __future__ import annotations

import logging
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import asdict
from importlib.util import find_spec
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from qa_lightning.data.columns import ReadSettings, with_usual_columns
from qa_lightning.data.examples import NO_QUESTIONS, Example, RowChanges, changed_lines, read_examples
from qa_lightning.data.sources import EMBEDDED, read_rows
from qa_lightning.errors import InputError, install_extra, one_line
from qa_lightning.export.onnx_checks import compare_answers, compare_logits, comparison_batches
from qa_lightning.files import new_folder
from qa_lightning.inference.bulk.questions import BadRow, Question, read_questions
from qa_lightning.inference.bulk.several import DOCUMENT_IDS
from qa_lightning.models.computing.loss import MODEL_INPUTS, model_logits
from qa_lightning.models.folder import (
    CHAT_TEMPLATES,
    EXPORTED,
    ONNX,
    TOKENIZER,
    check_replaced,
    holds_weights,
    weights_digest,
)
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import CONFIG, lasting_name, load_answering_model, max_positions
from qa_lightning.models.onnx import MODEL_FILE, OUTPUTS, OnnxModel, is_onnx_folder, runtime
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings
from qa_lightning.paths import named_path
from qa_lightning.wording import command

log = logging.getLogger("qa_lightning")

MAX_F1_DROP = 1.0  # F1 points that int8 may lose
_CHECKED = 32  # questions whose logits are compared
_EXTERNAL_BYTES = 1_800_000_000  # larger weights go to a separate file: a protobuf holds at most 2 GB
_WRITTEN = {CONFIG, *ONNX, *TOKENIZER, *CHAT_TEMPLATES}  # names of the files that an export writes


def export_onnx(
    name: str,
    output: Path | None = None,
    quantize: str | None = None,
    data: str | None = None,
    max_f1_drop: float = MAX_F1_DROP,
    overwrite: bool = False,
    max_examples: int | None = None,
    reading: ReadSettings = ReadSettings(),  # noqa: B008 - frozen
) -> Path:
    """Export a trained model, compare the export with it, and write the whole folder or nothing.

    Args:
        name: folder of a trained model, or its name on the Hub.
        output: the folder to write; None: see `default_output`.
        quantize: ``int8``, or None for float32.
        data: questions to compare on, with answers for ``int8``; None: some of the embedded dataset.
        max_f1_drop: F1 points (0-100) on ``data`` that ``int8`` may lose.
        overwrite: replace the folder even if it holds other files.
        max_examples: use at most this many questions of ``data``, the first ones.
        reading: names of columns of ``data``, those that are None are guessed; encoding, separator of answers.

    Returns:
        The folder.

    Raises:
        InputError: the model cannot be loaded or exported, the export does not answer like the model, ``output``
            cannot be written or holds something that would be lost, or ``int8`` is asked for without ``data``.
    """
    name = lasting_name(name)
    if is_onnx_folder(name):
        raise InputError(f"--model {name} is an ONNX export already; name the model that it was made from")
    if quantize and data is None:
        raise InputError(f"--quantize {quantize} needs --data FILE: questions with answers, to measure the loss of F1")
    runtime()
    if missing := [library for library in ("onnx", "onnxscript") if find_spec(library) is None]:
        raise InputError(f"--format onnx needs {' and '.join(missing)}; run {install_extra('onnx')}")
    folder = named_path("--output", output) if output else default_output(name, quantize)
    _check_output(folder, name, overwrite)
    rows = _read(data or EMBEDDED, reading, max_examples) if quantize else []
    asked = rows or _read_asked(data or EMBEDDED, reading, min(max_examples or _CHECKED, _CHECKED))
    model, tokenizer = load_answering_model(name)
    settings = AnswerSettings.of_model(model, tokenizer)
    weights = weights_digest(Path(name)) if Path(name).is_dir() and holds_weights(Path(name)) else None
    with _writing(folder), new_folder(folder) as part:
        write_onnx(model, tokenizer, settings, part, weights)
        exported = OnnxModel.load(part, "cpu")
        compare_logits(name, model, exported, comparison_batches(tokenizer, settings, asked[:_CHECKED]))
        if quantize:
            original = ("float32", model, _size(part))
            quantize_int8(part)
            small = (quantize, OnnxModel.load(part, "cpu"), _size(part))
            compare_answers(name, (original, small), tokenizer, rows, max_f1_drop)
    log.info(f"written to {folder}: {', '.join(sorted(file.name for file in folder.iterdir()))}")
    return folder


def default_output(name: str, quantize: str | None = None) -> Path:
    """``NAME-onnx`` or ``NAME-onnx-int8``: beside a model's folder, or in the current folder for a name on the Hub."""
    path = Path(name).expanduser()
    ending = f"-onnx-{quantize}" if quantize else "-onnx"
    if not path.is_dir():
        return Path(name.rstrip("/").split("/")[-1] + ending)
    resolved = path.resolve()
    return resolved.with_name(resolved.name + ending)


def write_onnx(model: Any, tokenizer: Any, settings: AnswerSettings, folder: Path, weights: str | None = None) -> None:
    """Write the graph of a model, its configuration and its tokenizer into an existing folder.

    Args:
        model: in eval mode and float32, on the CPU.
        tokenizer: its ``model_input_names`` decide whether token types are an input.
        settings: the answer settings, saved in the configuration.
        folder: to write into.
        weights: the digest of the model's weights, for its card; None if it is not known.

    Raises:
        InputError: torch's exporter cannot export the model.
    """
    names = [name for name in MODEL_INPUTS if name != "token_type_ids" or name in tokenizer.model_input_names]
    # One tensor per input, because the exporter merges inputs that share one; no size of 1, because it fixes those.
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
    except Exception as error:  # from torch.export, its decompositions, the translation or the optimizer
        cause = one_line(re.sub(r"\x1b\[\d*m", "", str(error.__cause__ or error)), 300, first=True)
        raise InputError(
            f"model {model.name_or_path!r} ({type(model).__name__}) cannot be exported to ONNX: torch.onnx.export "
            f"failed ({type(error.__cause__ or error).__name__}: {cause}); use the PyTorch model, or try another torch "
            "version"
        ) from None
    assert program is not None  # always, with dynamo=True
    _name_axes(program.model.graph)
    size = sum(weight.numel() * weight.element_size() for weight in model.parameters())
    program.save(folder / MODEL_FILE, external_data=size > _EXTERNAL_BYTES)
    config = deepcopy(model.config)
    setattr(config, CONFIG_KEY, asdict(settings))
    setattr(config, EXPORTED, weights)
    if (positions := max_positions(model)) is not None:
        config.max_position_embeddings = positions  # the modules, which tell how many cannot be used, are not there
    with quiet_transformers():
        config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


def quantize_int8(folder: Path) -> None:
    """Replace the float32 ONNX model in a folder with one whose weights have 8 bits."""
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    small = folder / "int8.onnx"
    graph = onnx.load(folder / MODEL_FILE)
    # The exporter has folded constants and inferred shapes already; without this mark the quantizer advises to do so.
    onnx.helper.set_model_props(graph, {"onnx.quant.pre_process": "onnxruntime.quant"})
    # One scale per channel halves the error. Only 7 of the 8 bits are used: with 8, sums overflow on x86 CPUs without
    # VNNI, and the model would answer worse there than it was measured.
    quantize_dynamic(graph, small, weight_type=QuantType.QInt8, per_channel=True, reduce_range=True)
    for file in folder.glob("*.data"):
        file.unlink()
    small.replace(folder / MODEL_FILE)


class _Graph(torch.nn.Module):
    """The exported module: returns logits as a tuple, and passes a float mask, which XLNet's ``1 - mask`` requires."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        batch = {"input_ids": input_ids, "attention_mask": attention_mask.float()}
        return model_logits(self.model, batch if token_type_ids is None else batch | {"token_type_ids": token_type_ids})


def _name_axes(graph: Any) -> None:
    """Name the two dynamic axes of all inputs and outputs ``batch`` and ``length``, for users of the graph."""
    for value in (*graph.inputs, *graph.outputs):
        value.shape = type(value.shape)(["batch", "length"])


def _size(folder: Path) -> int:
    return sum(file.stat().st_size for file in folder.glob(f"{MODEL_FILE}*"))


def _read_asked(data: str, reading: ReadSettings, max_examples: int) -> list[Example]:
    """Questions to compare logits on, whatever their answers."""
    rows = list(islice(read_questions(data, reading, log.info), max_examples))
    if bad := [f"{row.place}: {row.problem}" for row in rows if isinstance(row, BadRow)]:
        if any(DOCUMENT_IDS in problem for problem in bad):
            bad.append(f"here each row needs a context, or contexts: {DOCUMENT_IDS} are for `{command('predict')}`")
        raise InputError(bad)
    if not rows:
        raise InputError(f"{data}: {NO_QUESTIONS}")
    found = [row for row in rows if isinstance(row, Question)]
    return [Example(id=str(row.id), question=row.question, context=row.context) for row in found]


def _read(data: str, reading: ReadSettings, max_examples: int | None) -> list[Example]:
    """Questions to compare EM and F1 on, which look at the texts of answers alone."""
    source = with_usual_columns(read_rows(data, "validation", reading), reading, log.info)
    changes, fix = RowChanges(), "correct them"
    rows = list(read_examples(source, "error", changes, max_examples=max_examples, fix=fix, texts_alone=True))
    for line in changed_lines(changes):
        log.info(line)
    return rows


def _check_output(folder: Path, name: str, overwrite: bool) -> None:
    """Raise `InputError` if writing ``folder`` would delete something that an export did not write."""
    found = check_replaced(folder, Path(name), "the model itself")
    if not found:
        return
    others = [file for file in found if file not in _WRITTEN]
    if (others or not is_onnx_folder(folder)) and not overwrite:
        raise InputError(
            f"--output {folder} has {', '.join(others[:5] or ['a model that is no ONNX export'])}, which would be "
            "lost; name another folder, or pass --overwrite to replace this one with everything in it"
        )


@contextmanager
def _writing(folder: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(
            f"--output {folder} cannot be written ({error.strerror or error}); name another folder"
        ) from None


@contextmanager
def _quiet_exporter() -> Iterator[None]:
    """Silence the exporter's own warnings and log lines below errors."""
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
