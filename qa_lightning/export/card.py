"""Makes the model card of a model folder: metadata for the Hub, and text for people.

The text is in ``card_template.md``, a Jinja template; this module computes the values that it shows.

Nothing on a card is guessed. Data, hyper-parameters, EM and F1 are those that the run recorded (``run.json`` and
``config.yaml``, beside the folder); the card of a model without such a run says so. A card is public: it shows the
names of local files and folders, never their paths. The person who publishes the model adds the licence.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from qa_lightning.data.formats import file_format
from qa_lightning.data.sources import source_kind
from qa_lightning.errors import InputError
from qa_lightning.features.windows import PairLayout, plain_tokenizer
from qa_lightning.layout import FLAGS, MODEL_FOLDER, RECORD, STUDY_RESULT
from qa_lightning.metrics.squad import script_rules
from qa_lightning.models.folder import EXPORTED, holds_weights, weights_digest
from qa_lightning.models.heads import LOADER
from qa_lightning.models.loading import CONFIG, load_tokenizer
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings
from qa_lightning.models.tiny import TINY
from qa_lightning.wording import visible

TAGS = ["question-answering", "extractive-qa", "qa-lightning"]
METRICS = {"exact_match": "EM", "f1": "F1"}
EXAMPLE = {"question": "What does Kofi play?", "context": "Kofi plays the cello. Elena plays the oboe."}
TEMPLATE = Path(__file__).with_name("card_template.md")


@dataclass(frozen=True)
class Run:
    """The record of the training run that wrote a model.

    Attributes:
        record: the last entry of ``run.json``; see `record.describe_run`.
        train, validation: the data; see `SquadDataModule.describe`. ``validation`` is empty if all questions trained.
        scores: by the names of `METRICS`, 0-100; and ``best_f1``, if some question has no answer. Empty without a
            validation.
        out_of_fold: of the final model of a cross-validation, what that found; see `Joined.as_json`. Empty for others.
        model, data, trainer: flags, from ``config.yaml``.
        ema_decay: the flag ``--ema_decay``; None without a running mean of the weights.
    """

    record: Mapping[str, Any]
    train: Mapping[str, Any]
    validation: Mapping[str, Any]
    scores: Mapping[str, float]
    out_of_fold: Mapping[str, Any]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    ema_decay: float | None


def read_run(folder: Path) -> Run | str:
    """The finished run that wrote the model in ``folder``; a string says why there is none.

    Training writes the folder ``model`` in the run's folder; an ONNX export of it is beside it as ``model-onnx``.
    """
    run = folder.resolve().parent
    if not folder.resolve().name.startswith(MODEL_FOLDER) or not (run / RECORD).is_file():
        return "there is no training run beside it"
    try:
        record = json.loads((run / RECORD).read_text(encoding="utf-8"))[-1]
        config = yaml.safe_load((run / FLAGS).read_text(encoding="utf-8"))
        if "finished" not in record:
            return "the training run beside it did not come to its end"
        if record.get("weights") not in (None, _weights_of(folder) or weights_digest(run / MODEL_FOLDER)):
            return "its weights are not those that the training run beside it wrote"
        recorded = {name.removeprefix("best/"): float(score) for name, score in record["scores"].items()}
        scores = {name: recorded[name] for name in METRICS} | recorded if recorded else {}
        splits = record["data"]
        model, data, trainer = (config[name] for name in ("model", "data", "trainer"))
        decay = config.get("ema_decay")
        validation = splits["validation"] if scores else splits.get("validation", {})
        out_of_fold = {} if scores else _out_of_fold(folder)
        return Run(record, splits["train"], validation, scores, out_of_fold, model, data, trainer, decay)
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        return f"the record of the training run beside it cannot be read ({type(error).__name__})"


def _weights_of(folder: Path) -> str | None:
    """The digest of a model's weights, or of those that an ONNX export was made from; None for an older export."""
    if holds_weights(folder):
        return weights_digest(folder)
    found: str | None = json.loads((folder / CONFIG).read_text(encoding="utf-8")).get(EXPORTED)
    return found


def _out_of_fold(folder: Path) -> Mapping[str, Any]:
    """What the cross-validation found that ended with the model in ``folder``; empty if it is of none.

    Raises:
        OSError, ValueError, LookupError, TypeError: it cannot be read.
    """
    model = folder.resolve().with_name(MODEL_FOLDER)
    study = next(iter(model.parents[3:4]), None)  # above final/lightning_logs/version_N
    if study is None or not (study / STUDY_RESULT).is_file():
        return {}
    found: Mapping[str, Any] = json.loads((study / STUDY_RESULT).read_text(encoding="utf-8"))
    return found if study / found["final"]["model"] == model else {}


def model_card(folder: Path, repo: str) -> ModelCard:
    """The card of the model in ``folder``, for publication as ``repo``.

    Raises:
        InputError: the config or the tokenizer cannot be read.
    """
    run, onnx = read_run(folder), not holds_weights(folder)
    measured = run if isinstance(run, Run) and run.scores and not onnx else None  # those of the PyTorch model
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        saved, positions = config.get(CONFIG_KEY), config.get("max_position_embeddings")
    except (OSError, ValueError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read ({error}); write the model again") from None
    settings = AnswerSettings.of_config(saved, str(folder / CONFIG), positions)
    data = ModelCardData(
        library_name="onnx" if onnx else "transformers",
        pipeline_tag="question-answering",
        tags=[*TAGS, *(["onnx"] if onnx else [])],
        base_model=_hub_base(run) if isinstance(run, Run) else None,
        datasets=_hub_datasets(run) if isinstance(run, Run) else None,
        metrics=list(METRICS) if measured else None,
        model_name=repo.partition("/")[2] if measured else None,
        eval_results=_eval_results(measured) if measured else None,
        widget=[{"text": EXAMPLE["question"], "context": EXAMPLE["context"]}],
    )
    values: dict[str, Any] = _run_values(run) if isinstance(run, Run) else {"why_no_run": run}
    values |= {"repo": repo, "onnx": onnx, "settings": settings, "tokenizer": _tokenizer(folder), "example": EXAMPLE}
    values["loader"] = LOADER.removesuffix(".py") if (folder / LOADER).is_file() and not onnx else None
    card: ModelCard = ModelCard.from_template(data, str(TEMPLATE), **values)
    return card


def _hub_base(run: Run) -> str | None:
    """The name of the base model, if it is on the Hub."""
    name, recorded = str(run.model["model_name"]), run.record.get("base_model")
    if recorded:
        return name if recorded.get("hub") else None
    if name == TINY or name.startswith((".", "/", "~")) or Path(name).exists():
        return None
    try:
        validate_repo_id(name)
    except HFValidationError:  # a path
        return None
    return name


def _base(run: Run) -> dict[str, str]:
    name, hub = str(run.model["model_name"]), _hub_base(run)
    if name == TINY:
        return {"kind": "tiny"}
    return {"kind": "hub", "name": hub} if hub else {"kind": "folder", "name": _last_part(name)}


def _kind(split: Mapping[str, Any]) -> str:
    try:
        return str(split.get("kind") or source_kind(split["source"]))
    except InputError:  # the files no longer exist
        return "files"


def _plain_source(split: Mapping[str, Any]) -> str:
    """A name for data that shows nothing of the machine: no path."""
    kind, source = _kind(split), str(split["source"])
    if kind == "hub":
        return source
    if kind == "embedded":
        return "questions generated by qa_lightning"
    return ", ".join(_last_part(part) for part in source.split(","))


def _data(split: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "kind": _kind(split),
        "name": _plain_source(split),
        "questions": split["questions"],
        "unanswerable": split.get("unanswerable"),
    }


def _last_part(path: str) -> str:
    """The last part of a path (of any system), safe in Markdown."""
    name = path.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    return visible(" ".join(name.replace("`", "'").replace("|", "/").split()))


def _hub_datasets(run: Run) -> list[str] | None:
    names = [split["source"] for split in (run.train, run.validation) if split and _kind(split) == "hub"]
    return list(dict.fromkeys(names)) or None


def _eval_results(run: Run) -> list[EvalResult]:
    source = run.validation["source"]
    kinds = {"hub": source, "embedded": "synthetic", "folder": "arrow"}
    first = Path(_last_part(source.split(",")[0]))
    return [
        EvalResult(
            task_type="question-answering",
            task_name="Extractive question answering",
            dataset_type=kinds.get(_kind(run.validation)) or file_format(first).lstrip(".") or "files",
            dataset_name=_plain_source(run.validation),
            dataset_args={"questions": run.validation["questions"]},
            metric_type=name,
            metric_name=shown,
            metric_value=round(run.scores[name], 4),
        )
        for name, shown in METRICS.items()
    ]


def _run_values(run: Run) -> dict[str, Any]:
    return {
        "why_no_run": None,
        "base_model": _base(run),
        "train": _data(run.train),
        "validation": _data(run.validation) if run.scores else None,
        "scores": run.scores,
        "scored": _scored(run) if run.scores else None,
        "out_of_fold": run.out_of_fold,
        "training": _training(run),
        "average": _averaged_steps(run),
        "best_checkpoint": run.record.get("best_checkpoint", True),
    }


def _averaged_steps(run: Run) -> list[int]:
    """The steps of the checkpoints whose mean the model is; none if it is one checkpoint."""
    average = run.record.get("average_best") or {}
    return [int(step) for step in average["steps"]] if average.get("taken") else []


def _scored(run: Run) -> dict[str, Any]:
    """The settings that a reader must know to compare the scores."""
    divided = run.data.get("validation") is None and _kind(run.validation) == "files"
    return {
        "threshold": run.model.get("null_score_diff_threshold", 0.0),
        "held_out": run.validation.get("held_out", run.data.get("validation_fraction") if divided else None),
        "first": run.data.get("max_validation_examples"),
        "limit_batches": run.trainer.get("limit_val_batches"),
        "bad_rows": run.data.get("on_bad_rows"),
        "mixed_script": script_rules(run.model.get("mixed_script")),
    }


def _training(run: Run) -> dict[str, Any]:
    """The hyper-parameters that the run recorded; the card leaves out a row without a value."""
    model, data, trainer, record = run.model, run.data, run.trainer, run.record
    accumulated, world = trainer.get("accumulate_grad_batches") or 1, int(record["devices"].partition(" ")[0])
    tokens = data.get("tokens_per_batch")
    steps, layer_decay = trainer.get("max_steps"), model.get("layer_decay")  # older runs have no layer_decay
    return {
        "epochs": trainer.get("max_epochs"),
        "steps": steps if steps and steps > 0 else None,
        "windows": None if tokens else _windows_per_step(run, world),
        "tokens": f"at most {world * accumulated * tokens:,}" if tokens else None,
        "learning_rate": model["learning_rate"],
        "warmup": model.get("warmup_ratio"),
        "layer_decay": layer_decay if layer_decay != 1.0 else None,
        "weight_decay": model.get("weight_decay"),
        "adapters": _adapters(model),
        "frozen": model.get("freeze_layers"),
        "attention_dropout": model.get("attention_dropout"),
        "ema_decay": run.ema_decay,
        "teacher": _teacher(run),
        "gradient_clip": trainer.get("gradient_clip_val"),
        "max_length": data["max_length"],
        "doc_stride": data["doc_stride"],
        "max_question_length": data["max_question_length"],
        "no_answer": _kept_without_answer(data),
        "precision": record.get("precision"),
        "devices": record["devices"],
        "seed": record.get("seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in (record.get("versions") or {}).items()),
    }


def _kept_without_answer(data: Mapping[str, Any]) -> str:
    """Which windows without an answer were trained on; empty if all were."""
    share = data.get("keep_no_answer", 1.0)  # older runs have none
    if share == 1:
        return ""
    return f"{100 * share:g}% of them in each epoch, drawn anew" if share else "left out"


def _adapters(model: Mapping[str, Any]) -> str | None:
    """What was trained in place of the model; None if that was the model itself."""
    if model.get("lora_rank") is None:
        return None
    dropout = f", dropout {model['lora_dropout']:g}" if model.get("lora_dropout") else ""
    return f"LoRA, rank {model['lora_rank']}, alpha {model['lora_alpha']}{dropout}; merged into the weights"


def _teacher(run: Run) -> str:
    """The model that this one learned from, and how; empty without one. A folder is named without its path."""
    found = run.record.get("teacher")
    if not found:
        return ""
    name = str(found["name"])
    shown = f"[{name}](https://huggingface.co/{name})" if found["hub"] else f"a local model (`{_last_part(name)}`)"
    return f"{shown}, temperature {found['temperature']:g}, {found['weight']:.0%} of the loss"


def _windows_per_step(run: Run, devices: int) -> int | None:
    """Windows of an optimizer step, where they are counted; None if nothing says how many."""
    size, accumulated = run.data["batch_size"], run.trainer.get("accumulate_grad_batches") or 1
    if size == "auto":  # the record has what was found, unless it could not be written then
        size, accumulated = (run.record.get(name) for name in ("batch_size", "accumulate_grad_batches"))
    return devices * size * accumulated if size and accumulated else run.data.get("windows_per_step")


def _tokenizer(folder: Path) -> dict[str, Any]:
    """How to call the model's tokenizer: whether the context comes first, and the token of "no answer".

    Raises:
        InputError: the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(str(folder))
    context_first = tokenizer.padding_side == "left"
    last = not context_first and PairLayout.of(plain_tokenizer(tokenizer)).ends_with(tokenizer.cls_token_id)
    named = next((name for name in ("cls", "bos") if getattr(tokenizer, f"{name}_token_id") is not None), None)
    return {
        "context_first": context_first,
        "null": "last" if last else named,
        "pads": tokenizer.pad_token_id is not None,
    }
