"""Loads an ONNX export as a model that answers like the transformers model that was exported.

The graph takes ``input_ids``, ``attention_mask`` and, if the model reads them, ``token_type_ids``, int64 [B, T],
and gives ``start_logits`` and ``end_logits``, float32 [B, T], for any B and T. ONNX Runtime computes; inputs and
outputs are torch tensors. The model can only answer: its weights are not accessible, and it cannot be trained.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig
from transformers.modeling_outputs import QuestionAnsweringModelOutput

from qa_lightning.errors import InputError, import_extra, one_line
from qa_lightning.models.computing.loss import MODEL_INPUTS
from qa_lightning.models.load_errors import NoMemoryError, fitting, loading, quiet_transformers
from qa_lightning.paths import usable_path
from qa_lightning.wording import command

MODEL_FILE = "model.onnx"
OUTPUTS = ("start_logits", "end_logits")
_WEIGHTS = ("*.safetensors", "*.bin")


def is_onnx_folder(folder: str | Path) -> bool:
    """Whether a folder holds an ONNX model and no PyTorch weights; PyTorch weights take precedence."""
    try:
        path = usable_path(folder)
    except ValueError:
        return False
    return (path / MODEL_FILE).is_file() and not any(any(path.glob(pattern)) for pattern in _WEIGHTS)


def runtime() -> Any:
    """Import ``onnxruntime``.

    Raises:
        InputError: it is not installed.
    """
    return import_extra("onnxruntime", "an ONNX model", "onnx")


class OnnxModel:
    """An ONNX question answering model with what `Reader` and a transformers pipeline need of a model.

    Args:
        session: ONNX Runtime session of a graph with the module's inputs and outputs.
        config: the transformers configuration of the exported model.
        name_or_path: the folder it was loaded from.

    Attributes:
        device: device of its tensors, always the CPU; `load` chooses the device on which the session computes.
        dtype: dtype of its logits, whatever the dtype of the weights.
    """

    device = torch.device("cpu")
    dtype = torch.float32
    input_modalities = "text"
    training = False

    def __init__(self, session: Any, config: Any, name_or_path: str) -> None:
        self.config = config
        self.name_or_path = name_or_path
        self._session = session
        self._inputs = [one.name for one in session.get_inputs()]

    @classmethod
    def load(cls, folder: str | Path, device: int | str | torch.device | None = None) -> OnnxModel:
        """Load ``model.onnx`` and ``config.json`` from a folder.

        Args:
            folder: a folder that `onnx.export_onnx` wrote.
            device: what computes; a number is that of a GPU, or -1 for the CPU. None takes the first GPU. Without
                CUDA in ONNX Runtime (onnxruntime-gpu) it is the CPU in every case.

        Raises:
            InputError: the folder is missing, the model is not for question answering, a file is damaged, or ONNX
                Runtime is not installed.
        """
        path = Path(folder).expanduser()
        file = path / MODEL_FILE
        if not file.is_file():
            raise InputError(
                f"{path}: no {MODEL_FILE} in it; create one with `{command('export')} --model M --format onnx`"
            )
        ort = runtime()
        with loading(str(path)), quiet_transformers():
            config = AutoConfig.from_pretrained(path, trust_remote_code=False)
        providers = _providers(ort, device)
        try:
            with fitting(str(path)):
                session = ort.InferenceSession(file, _options(ort), providers=providers)
        except NoMemoryError:
            raise
        except Exception as error:  # each kind of damage raises its own class
            raise InputError(f"{file}: cannot be loaded; export the model again ({_first_line(error)})") from None
        inputs, outputs = ([one.name for one in some] for some in (session.get_inputs(), session.get_outputs()))
        if not (set(MODEL_INPUTS[:2]) <= set(inputs) <= set(MODEL_INPUTS) and set(OUTPUTS) <= set(outputs)):
            raise InputError(
                f"{file} takes {', '.join(inputs)} and gives {', '.join(outputs)}, where a question answering model "
                f"takes {', '.join(MODEL_INPUTS[:2])} and gives {', '.join(OUTPUTS)}; export a question answering model"
            )
        return cls(session, config, str(folder))

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor | None = None, token_type_ids: Tensor | None = None
    ) -> QuestionAnsweringModelOutput:
        """Compute the logits of a batch.

        Args:
            input_ids: [B, T].
            attention_mask: [B, T], 0 at padding; None for no padding.
            token_type_ids: [B, T]; None for zeros; ignored if the model has no token types.

        Returns:
            ``start_logits`` and ``end_logits``, [B, T] float32 each, on the device of ``input_ids``.

        Raises:
            InputError: the model cannot compute the batch.
        """
        given = {
            "input_ids": input_ids,
            "attention_mask": torch.ones_like(input_ids) if attention_mask is None else attention_mask,
            "token_type_ids": torch.zeros_like(input_ids) if token_type_ids is None else token_type_ids,
        }
        feed = {name: given[name].to("cpu", torch.int64).contiguous().numpy() for name in self._inputs}
        try:
            logits = self._session.run(OUTPUTS, feed)
        except Exception as error:  # ONNX Runtime raises a class for each status
            size = " x ".join(map(str, input_ids.shape))
            raise InputError(
                f"model {self.name_or_path!r} cannot compute a batch of {size} tokens: "
                f"too long for its positions, ids beyond its vocabulary, or too little memory ({_first_line(error)})"
            ) from None
        start, end = (torch.from_numpy(array).to(input_ids.device) for array in logits)
        return QuestionAnsweringModelOutput(start_logits=start, end_logits=end)

    def eval(self) -> OnnxModel:
        """Do nothing: the model is always in eval mode."""
        return self

    def to(self, device: str | int | torch.device | torch.dtype | None = None, dtype: Any = None) -> OnnxModel:
        """Do nothing but check the dtype: the model takes tensors from any device and returns logits on the same one.

        Raises:
            InputError: the dtype is not float32.
        """
        wanted = device if isinstance(device, torch.dtype) else dtype
        if wanted not in (None, torch.float32):
            raise InputError(
                f"an ONNX model cannot be asked to compute in {wanted}: {self.name_or_path} computes in the "
                "precision of its export; leave the dtype out, or load the model that was exported"
            )
        return self

    def can_generate(self) -> bool:
        """False: it gives logits, not texts."""
        return False

    def named_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """None: the weights are inside the graph."""
        return iter(())

    def named_modules(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """None: the graph has no modules."""
        return iter(())


def _providers(ort: Any, device: int | str | torch.device | None) -> list[Any]:
    """What computes a graph, by ONNX Runtime's names: each operation, the first of these that can."""
    if isinstance(device, int):
        device = "cpu" if device < 0 else f"cuda:{device}"
    asked, cuda = torch.device("cuda" if device is None else device), "CUDAExecutionProvider"
    on_gpu = asked.type == "cuda" and cuda in ort.get_available_providers()
    return [*([(cuda, {"device_id": asked.index or 0})] if on_gpu else []), "CPUExecutionProvider"]


def _options(ort: Any) -> Any:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_ALL
    options.intra_op_num_threads = torch.get_num_threads()  # like torch, which respects OMP_NUM_THREADS
    options.inter_op_num_threads = 1  # the graph is a chain: no nodes can run in parallel
    options.log_severity_level = 3  # errors
    return options


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {one_line(error, 300, first=True)}"
