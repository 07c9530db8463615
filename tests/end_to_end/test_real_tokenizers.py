"""Decoders with their makers' tokenizers, whole: trained, validated, asked, exported, loaded without this package.

Their tokenizers are in packages of npm; without these, which CONTRIBUTING.md names, the tests are skipped.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

from qa_lightning import Reader
from qa_lightning.models.heads import LOADER
from qa_lightning.models.load_errors import quiet_transformers
from qa_lightning.models.loading import load_tokenizer
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.heads import LOADS
from tests.helpers.paths import ROOT
from tests.helpers.processes import finished
from tests.helpers.training import train_flags

FOLDER = Path(os.environ.get("QA_LIGHTNING_TEST_TOKENIZERS", ROOT.parent / "shared" / "tokenizers"))
# Name of the package -> kind of model, and size of its makers' embeddings.
KINDS = {
    "gemma3": ("gemma3_text", 262_144),
    "llama3_1": ("llama", 128_256),
    "llama2": ("llama", 32_000),
    "qwen3": ("qwen3", 151_936),
}
# Its last word is Gemma 3's token for images, which its text models have no embedding for.
TEXT = "Anna's café costs £20,980 in 1999 😀, and 東京 is the capital of Japan. Ben  lives in <image_soft_token>."
pytestmark = pytest.mark.slow


def save_base(name: str, folder: Path) -> str:
    """Write a tiny untrained model of a kind, with its makers' tokenizer and number of embeddings."""
    source, (kind, vocabulary) = FOLDER / f"tokenizer-{name}" / "models", KINDS[name]
    if not (source / "tokenizer.json").is_file():
        pytest.skip(f"no tokenizer in {source}")
    folder.mkdir()
    for file in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(source / file, folder)
    with torch.random.fork_rng(), quiet_transformers():
        torch.manual_seed(0)
        eos = AutoTokenizer.from_pretrained(folder).eos_token_id
        heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 4, "num_hidden_layers": 2}
        sizes = heads | {"hidden_size": 8, "intermediate_size": 16, "max_position_embeddings": 128}
        config = AutoConfig.for_model(kind, vocab_size=vocabulary, eos_token_id=eos, **sizes)
        AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    return str(folder)


@pytest.mark.parametrize("name", KINDS)
def test_a_decoder_trains_validates_is_asked_exported_and_loaded_elsewhere(name, tmp_path, capsys) -> None:
    base = save_base(name, tmp_path / "base")
    rows = make_rows(12, unanswerable=4, long=2)
    data = write_json(tmp_path / "rows.json", rows)
    assert commands.train([*train_flags(tmp_path, base, data, data), "--trainer.max_epochs", "1"]) == 0
    assert "attention: in both directions" in capsys.readouterr().out
    (folder,) = tmp_path.glob("lightning_logs/*/model")
    export = tmp_path / "onnx"
    assert commands.export(["--model", str(folder), "--format", "onnx", "--output", str(export)]) == 0
    questions, contexts = [row["question"] for row in rows] + ["Who?"], [row["context"] for row in rows] + [TEXT]
    reader = Reader.load(str(folder))
    answers, exported = (one.answer(questions, contexts) for one in (reader, Reader.load(str(export))))
    for answer, other, context in zip(answers, exported, contexts, strict=True):
        assert answer.text == context[answer.start : answer.end]
        assert (answer.start, answer.end) == (other.start, other.end)
    if name == "gemma3":
        assert (folder / LOADER).is_file()
        (tmp_path / "loads.py").write_text(LOADS)
        ended = finished([tmp_path / "loads.py", folder, tmp_path / "logits.pt"])
        assert ended.returncode == 0, ended.stderr
        pair = load_tokenizer(str(folder))("Who lives in Oslo?", "Anna lives in Oslo.", return_tensors="pt")
        with torch.inference_mode():
            output = reader.model(**pair)
        torch.testing.assert_close(torch.load(tmp_path / "logits.pt"), (output.start_logits, output.end_logits))
