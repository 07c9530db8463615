"""A model folder, and the run that wrote it -> a model card: metadata that the Hub shows, and text for people.

Nothing on a card is guessed: data, hyper-parameters, EM and F1 are those that the run recorded (``run.json`` and
``config.yaml``, beside the folder), and a model without such a run gets a card that says so. A card is public: of local
files and folders it tells the name, never the path. The licence is left to whoever publishes the model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from string import Template
from typing import Any

import yaml  # type: ignore[import-untyped]
from huggingface_hub import EvalResult, ModelCard, ModelCardData
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from qa_lightning.data.formats import file_format
from qa_lightning.data.sources import source_kind
from qa_lightning.errors import InputError
from qa_lightning.models.folder import CONFIG, holds_weights, weights_digest
from qa_lightning.models.loading import load_tokenizer
from qa_lightning.models.settings import CONFIG_KEY, AnswerSettings
from qa_lightning.models.tiny import TINY

TAGS = ["question-answering", "extractive-qa", "qa-lightning"]
METRICS = {"exact_match": "EM", "f1": "F1"}


@dataclass(frozen=True)
class Run:
    """What a training run recorded of the model that it wrote.

    Attributes:
        record: the last entry of ``run.json``; see `record.describe_run`.
        train, validation: its data; see `SquadDataModule.describe`.
        scores: by the names of `METRICS`, 0 to 100; and ``best_f1`` where some question has no answer.
        model, data, trainer: flags, from ``config.yaml``.
        ema_decay: that flag; None without a mean of the weights.
    """

    record: Mapping[str, Any]
    train: Mapping[str, Any]
    validation: Mapping[str, Any]
    scores: Mapping[str, float]
    model: Mapping[str, Any]
    data: Mapping[str, Any]
    trainer: Mapping[str, Any]
    ema_decay: float | None


def read_run(folder: Path) -> Run | str:
    """The finished run that wrote the model in ``folder``, or why there is none to tell of.

    Training writes into ``model`` in the run's own folder; an ONNX model stands beside that as ``model-onnx``.
    """
    run = folder.resolve().parent
    if not folder.resolve().name.startswith("model") or not (run / "run.json").is_file():
        return "no training run lies beside it"
    try:
        record = json.loads((run / "run.json").read_text(encoding="utf-8"))[-1]
        config = yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8"))
        if "finished" not in record:
            return "the training run beside it did not come to its end"
        if record.get("weights") not in (None, weights_digest(folder if holds_weights(folder) else run / "model")):
            return "its weights are not those that the training run beside it wrote"
        recorded = {name.removeprefix("best/"): float(score) for name, score in record["scores"].items()}
        scores = {name: recorded[name] for name in METRICS} | recorded
        splits = record["data"]
        model, data, trainer = (config[name] for name in ("model", "data", "trainer"))
        decay = config.get("ema_decay")
        return Run(record, splits["train"], splits["validation"], scores, model, data, trainer, decay)
    except (OSError, ValueError, LookupError, TypeError, yaml.YAMLError) as error:
        return f"the record of the training run beside it cannot be read ({type(error).__name__})"


def model_card(folder: Path, repo: str) -> ModelCard:
    """The card of the model in ``folder``, to be published as ``repo``.

    Raises:
        InputError: its config or its tokenizer cannot be read.
    """
    run, onnx = read_run(folder), not holds_weights(folder)
    measured = run if isinstance(run, Run) and not onnx else None  # what a run scores is its PyTorch model
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        settings = _answer_settings(config)
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InputError(f"{folder / CONFIG} cannot be read ({error}); write the model again") from None
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
    parts = [_introduction(repo, run, settings), _results(run, onnx, settings), usage(folder, repo, settings, onnx)]
    if isinstance(run, Run):
        parts.append(_training(run))
    parts.append(_limits(settings))
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n" + "\n".join(parts))


def _answer_settings(config: Mapping[str, Any]) -> AnswerSettings:
    """As `AnswerSettings.of_model`, without a model."""
    if saved := config.get(CONFIG_KEY):
        return AnswerSettings(**saved)
    limit = min(config.get("max_position_embeddings") or AnswerSettings.max_length, AnswerSettings.max_length)
    return AnswerSettings(max_length=limit, doc_stride=min(AnswerSettings.doc_stride, limit // 3))


def _hub_base(run: Run) -> str | None:
    """The model that training began with, if it is one of the Hub."""
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


def _shown_base(run: Run) -> str:
    """What training began with, for people."""
    name = str(run.model["model_name"])
    if name == TINY:
        return "a small model with untrained weights"
    hub = _hub_base(run)
    return f"[{hub}](https://huggingface.co/{hub})" if hub else f"a model from a local folder (`{_last_part(name)}`)"


def _kind(split: Mapping[str, Any]) -> str:
    try:
        return str(split.get("kind") or source_kind(split["source"]))
    except InputError:  # files that have been there once
        return "files"


def _plain_source(split: Mapping[str, Any]) -> str:
    """A name for data that tells nothing of the machine it lies on."""
    kind, source = _kind(split), str(split["source"])
    if kind == "hub":
        return source
    if kind == "embedded":
        return "questions generated by qa_lightning"
    return ", ".join(_last_part(part) for part in source.split(","))


def _shown_source(split: Mapping[str, Any]) -> str:
    name = _plain_source(split)
    kinds = {"hub": f"[{name}](https://huggingface.co/datasets/{name})", "embedded": name}
    return kinds.get(_kind(split), f"`{name}`")


def _last_part(path: str) -> str:
    """The name at the end of a path of any system, fit for Markdown."""
    name = path.strip().replace("\\", "/").rstrip("/").rpartition("/")[2]
    return " ".join(name.replace("`", "'").replace("|", "/").split())


def _hub_datasets(run: Run) -> list[str] | None:
    names = [split["source"] for split in (run.train, run.validation) if _kind(split) == "hub"]
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


def _introduction(repo: str, run: Run | str, settings: AnswerSettings) -> str:
    what = "points at the span of a text that answers a question"
    if settings.version_2:
        what += ", or says that there is none"
    made = "."
    if isinstance(run, Run):
        made = f": {_shown_base(run)}, fine-tuned on {_shown_source(run.train)}."
    return f"# {repo.partition('/')[2]}\n\nExtractive question answering: it {what}. Made with qa_lightning{made}\n"


def _results(run: Run | str, onnx: bool, settings: AnswerSettings) -> str:
    if isinstance(run, str):
        return f"## Results\n\nNone are stated: {run}.\n"
    cells = [_shown_source(run.validation), _count(run.validation)]
    cells += [f"{run.scores[name]:.2f}" for name in METRICS]
    lines = ["## Results", ""]
    if onnx:
        lines += ["Of the PyTorch model that this one was exported from; the ONNX model was not measured again.", ""]
    lines += ["| scored on | questions | EM | F1 |", "|---|---|---|---|", f"| {' | '.join(cells)} |", ""]
    notes = [
        "EM and F1 are counted as the official SQuAD scorer does, at the end of the training run.",
        *_notes(run, settings),
    ]
    return "\n".join([*lines, " ".join(notes), ""])


def _notes(run: Run, settings: AnswerSettings) -> list[str]:
    """What a reader must know to compare the scores."""
    data, limit_batches = run.data, run.trainer.get("limit_val_batches")
    notes = ["Of the run's checkpoints this is the one with the best F1 on these same questions."]
    if "best_f1" in run.scores:
        threshold, own = run.model.get("null_score_diff_threshold", 0.0), settings.null_score_diff_threshold
        notes = [
            "Of the run's checkpoints this is the one with the best F1 here, each under its own best threshold.",
            f'EM and F1 are those of the threshold {threshold:g} for "no answer".',
            f"The model carries the threshold {own:g}"
            + (f", found on these questions: there F1 {run.scores['best_f1']:.2f}." if own != threshold else ", too."),
        ]
    divided = data.get("validation") is None and _kind(run.validation) == "files"
    if held_out := run.validation.get("held_out", data.get("validation_fraction") if divided else None):
        notes.append(f"They are a part ({held_out:.0%}) held out of the training data; no context is on both sides.")
    if limit := data.get("max_validation_examples"):
        notes.append(f"Only the first {limit:,} questions were asked.")
    if limit_batches not in (None, 1.0):
        notes.append(f"Only some of them were asked (`limit_val_batches` {limit_batches}).")
    if data.get("on_bad_rows") in ("skip", "repair"):
        done = {"skip": "left out", "repair": "repaired or left out"}[data["on_bad_rows"]]
        notes.append(f"Rows whose answers were not where they should be had been {done}.")
    if run.model.get("mixed_script"):
        notes.append("F1 is by ideographs for Chinese, as MLQA counts, which differs from SQuAD's.")
    return notes


def _count(split: Mapping[str, Any]) -> str:
    without = split.get("unanswerable")
    return f"{split['questions']:,}" + (f", {without:,} of them without an answer" if without else "")


def _training(run: Run) -> str:
    """Data and hyper-parameters, as far as the run recorded them."""
    model, data, trainer, record = run.model, run.data, run.trainer, run.record
    devices = record["devices"]
    accumulated, world = trainer.get("accumulate_grad_batches") or 1, int(devices.partition(" ")[0])
    warmup = f"after a warm-up of {model['warmup_ratio']:.0%}" if model.get("warmup_ratio") else "without warm-up"
    decayed = model.get("layer_decay") not in (None, 1.0)  # older runs do not say
    windows = f"{data['max_length']} tokens, {data['doc_stride']} of them shared with the next"
    steps = trainer.get("max_steps")
    rows = {
        "training data": f"{_shown_source(run.train)}: {_count(run.train)} questions",
        "base model": _shown_base(run),
        "epochs, at most": trainer.get("max_epochs"),
        "steps, at most": steps if steps and steps > 0 else None,
        "windows a step": f"{world * accumulated * data['batch_size']:,}",
        "learning rate": f"{model['learning_rate']:g}, AdamW, linear decay {warmup}",
        "learning rate of a layer, by the one above": model.get("layer_decay") if decayed else None,
        "weight decay": model.get("weight_decay"),
        "dropout of attention": model.get("attention_dropout"),
        "weights": f"running mean, of which a step keeps {run.ema_decay:g}" if run.ema_decay else None,
        "gradient norm, clipped at": trainer.get("gradient_clip_val"),
        "windows": f"{windows}; questions up to {data['max_question_length']}",
        "precision": record.get("precision"),
        "devices": devices,
        "seed": record.get("seed"),
        "versions": ", ".join(f"{name} {number}" for name, number in (record.get("versions") or {}).items()),
    }
    lines = [f"| {name} | {value} |" for name, value in rows.items() if value not in (None, "")]
    return "\n".join(["## Training", "", "| | |", "|---|---|", *lines, ""])


def _limits(settings: AnswerSettings) -> str:
    null = (
        "It can say that a text does not answer a question, and is sometimes wrong in that, too."
        if settings.version_2
        else "It was not trained to say that there is no answer: it always points at something."
    )
    return f"""\
## Limits

- An answer is a span of the text, {settings.max_answer_length} tokens at most; nothing is put together or worked out.
- {null}
- A wrong answer can come with a high score. Texts, languages and questions unlike those it was trained on were not
  measured; what the base model and the data are biased to, it may be biased to.

## Licence

None is stated. It depends on those of the base model and of the data, and is for whoever publishes the model to add.
"""


EXAMPLE = {"question": "What does Kofi play?", "context": "Kofi plays the cello. Elena plays the oboe."}


_LOAD = {
    "transformers": """\
import torch
from transformers import AutoModelForQuestionAnswering, AutoTokenizer

tokenizer = AutoTokenizer.from_pretrained("$repo")
model = AutoModelForQuestionAnswering.from_pretrained("$repo").eval()
""",
    "onnx": """\
import onnxruntime
import torch
from huggingface_hub import snapshot_download
from transformers import AutoTokenizer
from types import SimpleNamespace

folder = snapshot_download("$repo")
tokenizer = AutoTokenizer.from_pretrained(folder)
session = onnxruntime.InferenceSession(f"{folder}/model.onnx")


def model(**inputs):
    taken = {value.name: inputs[value.name].numpy() for value in session.get_inputs()}
    logits = map(torch.from_numpy, session.run(["start_logits", "end_logits"], taken))
    return SimpleNamespace(**dict(zip(("start_logits", "end_logits"), logits)))

""",
}


_DECODE = """\

question, context = "$question", "$context"
inputs = tokenizer(
    $pair,
    truncation="$truncation",
    max_length=$max_length,
    stride=$doc_stride,
    return_overflowing_tokens=True,
    return_offsets_mapping=True,
    padding=True,
    return_tensors="pt",
)
offsets = inputs.pop("offset_mapping")  # windows x tokens x 2
inputs.pop("overflow_to_sample_mapping")
texts = [inputs.sequence_ids(window) for window in range(len(offsets))]
in_context = torch.tensor([[text == $context_text for text in window] for window in texts])
in_context &= offsets[..., 0] < offsets[..., 1]
with torch.inference_mode():
    output = model(**inputs)

# The best span over all windows: inside the context, end not before start, $max_answer_length tokens at most.
start = output.start_logits.masked_fill(~in_context, -torch.inf)
end = output.end_logits.masked_fill(~in_context, -torch.inf)
allowed = torch.ones(start.shape[1], start.shape[1], dtype=torch.bool).triu().tril($max_answer_length - 1)
scores = (start[:, :, None] + end[:, None, :]).masked_fill(~allowed, -torch.inf)
window, first, last = torch.unravel_index(scores.argmax(), scores.shape)
answer = context[offsets[window, first, 0] : offsets[window, last, 1]].strip()
"""


_DECODE_NULL = """\

# "No answer" is read at the $null_token, and only where no window has one.
no_answer = $null_index
null = (output.start_logits.gather(1, no_answer) + output.end_logits.gather(1, no_answer)).min()
if null - scores.max() > $threshold:
    answer = ""
"""


def usage(folder: Path, repo: str, settings: AnswerSettings, onnx: bool) -> str:
    """The section of a card that shows how to ask the model, with this package and without.

    Args:
        folder: of the model; its tokenizer decides on which side the context stands.
        repo: its name on the Hub.
        settings: how it was trained to be asked.
        onnx: whether its weights are ``model.onnx``.

    Raises:
        InputError: the tokenizer cannot be loaded.
    """
    tokenizer = load_tokenizer(str(folder))
    context_first = tokenizer.padding_side == "left"
    null = next((name for name in ("cls", "bos") if getattr(tokenizer, f"{name}_token_id") is not None), None)
    index = f'(inputs["input_ids"] == tokenizer.{null}_token_id).int().argmax(dim=1, keepdim=True)'
    values = {
        "repo": repo,
        **EXAMPLE,
        **asdict(settings),
        "pair": "context, question" if context_first else "question, context",
        "truncation": "only_first" if context_first else "only_second",
        "context_text": 0 if context_first else 1,
        "null_token": f"{null.upper()} token" if null else "first token",
        "null_index": index if null else "torch.zeros(len(offsets), 1, dtype=torch.long)",
        "threshold": settings.null_score_diff_threshold,
    }
    pad = "" if tokenizer.pad_token_id is not None else "tokenizer.pad_token = tokenizer.eos_token\n"
    template = _LOAD["onnx" if onnx else "transformers"] + pad + _DECODE + (_DECODE_NULL if settings.version_2 else "")
    impossible = ", handle_impossible_answer=True" if settings.version_2 else ""
    named = f'snapshot_download("{repo}")' if onnx else f'"{repo}"'
    lines = [
        "## Use",
        "",
        "With qa_lightning, which reads texts of any length in overlapping windows and gives probabilities:",
        "",
        "```python",
        *(["from huggingface_hub import snapshot_download"] if onnx else []),
        "import qa_lightning",
        "",
        f"ask = qa_lightning.pipeline({named})",
        f'answer = ask(question="{EXAMPLE["question"]}", context="{EXAMPLE["context"]}"{impossible})',
        "```",
        "",
        "Without it:",
        "",
        "```python",
        Template(template).substitute(values).rstrip(),
        "```",
        "",
    ]
    return "\n".join(lines)
