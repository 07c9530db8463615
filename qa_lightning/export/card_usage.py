"""The code on a model card: how to ask the model with this package, and with transformers or onnxruntime alone.

What stands there gives the best span as `spans.decode_spans` does, for one question: windows, context tokens only,
length, and "no answer" where the model may say so.
"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from string import Template

from qa_lightning.inference.reader import AnswerSettings
from qa_lightning.models.loading import load_tokenizer

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
