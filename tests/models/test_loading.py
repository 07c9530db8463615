from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import pytest
import torch
from tokenizers.processors import TemplateProcessing
from transformers import (
    AutoTokenizer,
    BertConfig,
    BertForQuestionAnswering,
    LongformerConfig,
    LongformerForQuestionAnswering,
    PreTrainedTokenizerFast,
    RobertaConfig,
    RobertaForQuestionAnswering,
)

from qa_lightning import Reader, pipeline
from qa_lightning.data.sources import EMBEDDED_SIZES
from qa_lightning.data.synthetic import generate_examples
from qa_lightning.errors import InputError
from qa_lightning.inference.bulk.workers import PredictSettings
from qa_lightning.models import loading
from qa_lightning.models.loading import (
    lasting_name,
    lasting_names,
    load_answering_model,
    load_model,
    load_tokenizer,
    max_positions,
    resolve,
)
from qa_lightning.models.tiny import create_tiny_model
from qa_lightning.runs.record import newest_run
from tests.helpers import commands
from tests.helpers.data import make_rows, write_json
from tests.helpers.families import FAMILIES, save
from tests.helpers.models import small_config, small_tokenizer
from tests.helpers.processes import finished
from tests.helpers.training import train_flags

CREATES = """import sys
from pathlib import Path
from qa_lightning.models.tiny import create_tiny_model
create_tiny_model(Path(sys.argv[1]))
print(hash("a text"))
"""


def test_the_tiny_model_is_the_same_in_every_process(tmp_path) -> None:
    """Also where the hashes of texts, and with them the order of sets, are others."""
    here, there = tmp_path / "here", tmp_path / "there"
    here.mkdir()
    there.mkdir()
    create_tiny_model(here)
    (tmp_path / "creates.py").write_text(CREATES)
    ended = finished([tmp_path / "creates.py", there])
    assert ended.returncode == 0, ended.stderr
    assert int(ended.stdout) != hash("a text")
    first, second = ({path.name: path.read_bytes() for path in folder.iterdir()} for folder in (here, there))
    assert first == second
    assert {"config.json", "model.safetensors", "tokenizer.json"} <= set(first)


def test_the_tiny_model_knows_every_word_of_the_embedded_dataset() -> None:
    tokenizer = load_tokenizer("tiny")
    rows = generate_examples("validation", EMBEDDED_SIZES["validation"])
    texts = [text for row in rows for text in (row["question"], row["context"])]
    ids = [number for encoded in tokenizer(texts)["input_ids"] for number in encoded]
    assert tokenizer.unk_token_id not in ids
    assert set(tokenizer("a", "b")["token_type_ids"]) == {0, 1}
    assert max(ids) < load_model("tiny").config.vocab_size == len(tokenizer)


def test_models_come_in_training_mode(model_folder) -> None:
    assert load_model(model_folder).training


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        (lambda: BertForQuestionAnswering(small_config(50)), 128),
        (
            lambda: RobertaForQuestionAnswering(
                RobertaConfig(**{**small_config(50).to_dict(), "model_type": "roberta", "pad_token_id": 1})
            ),
            126,
        ),
        (lambda: type("NoLimit", (), {"config": BertConfig(max_position_embeddings=-1)})(), None),
    ],
    ids=["bert", "roberta counts from its padding id on", "no limit"],
)
def test_positions_that_a_model_has(model, expected) -> None:
    assert max_positions(model()) == expected


def test_a_model_without_a_question_answering_head_is_refused(tmp_path) -> None:
    (tmp_path / "config.json").write_text('{"model_type": "vit"}')
    with pytest.raises(InputError, match="no question answering head"):
        load_model(str(tmp_path))


def test_a_slow_tokenizer_is_refused(monkeypatch, model_folder) -> None:
    class Slow:
        is_fast = False

    monkeypatch.setattr("qa_lightning.models.loading.AutoTokenizer.from_pretrained", lambda *_, **__: Slow())
    with pytest.raises(InputError, match=r"slow one and gives no character offsets; choose"):
        load_tokenizer(model_folder)


@pytest.mark.parametrize("attention", ["flash_attention_2", "nonsense"])
def test_an_attention_that_is_not_there_is_named_with_its_flag(model_folder, attention: str) -> None:
    with pytest.raises(InputError, match=rf"^--model.attn_implementation {attention}: .*choose sdpa or eager"):
        load_model(model_folder, attention)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_the_attention_is_the_one_asked_for(model_folder, attention: str) -> None:
    assert load_model(model_folder, attention).config._attn_implementation == attention


def test_the_dropout_of_attention_is_the_one_asked_for(model_folder) -> None:
    assert load_model(model_folder, attention_dropout=0.3).config.attention_probs_dropout_prob == 0.3
    assert load_model(model_folder).config.attention_probs_dropout_prob == 0.1


def test_a_model_without_dropout_of_attention_alone_is_named(tmp_path) -> None:
    folder = save(FAMILIES["xlnet"], tmp_path)
    with pytest.raises(InputError, match=r"^--model.attention_dropout 0.0: XLNetConfig .* leave the flag out"):
        load_model(folder, attention_dropout=0.0)


def _longformer(folder: Path) -> str:
    """An untrained Longformer with a tokenizer of BERT's layout: two separators, where the model counts three."""
    tokenizer = small_tokenizer()
    sizes = small_config(len(tokenizer)).to_dict()
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size", "vocab_size")
    config = LongformerConfig(
        **{name: sizes[name] for name in names},
        attention_window=16,
        max_position_embeddings=130,
        sep_token_id=tokenizer.sep_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    LongformerForQuestionAnswering(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def test_a_tokenizer_with_other_separators_than_its_model_counts_is_refused_in_one_line(tmp_path) -> None:
    model, data = _longformer(tmp_path / "model"), write_json(tmp_path / "rows.json", make_rows(8))
    for call in (
        lambda: commands.train(train_flags(tmp_path, model, data, data)),
        lambda: commands.evaluate(["--model", model, "--data", data]),
        lambda: Reader.load(model),
        lambda: pipeline(model),
    ):
        with pytest.raises(InputError) as caught:
            call()
        (problem,) = caught.value.problems
        assert "finds the question by 3 separators" in problem
        assert "BertTokenizer writes 2" in problem


def test_a_longformer_with_its_own_layout_is_taken(tmp_path) -> None:
    folder = _longformer(tmp_path / "model")
    tokenizer = load_tokenizer(folder)
    ids = [("[CLS]", tokenizer.cls_token_id), ("[SEP]", tokenizer.sep_token_id)]
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] [SEP] $B [SEP]", special_tokens=ids
    )
    special = {name: f"[{name[:3].upper()}]" for name in ("cls_token", "sep_token", "pad_token", "unk_token")}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer.backend_tokenizer, **special).save_pretrained(folder)
    assert Reader.load(folder).answer(["Who lives in Rome ?"], ["Anna lives in Rome ."])[0].text
    context = "Anna lives [SEP] [SEP] in Rome ."  # a text, which the model must not take for its separators
    (answer,) = Reader.load(folder).answer(["Who lives in [SEP] Rome ?"], [context])
    assert answer.text == context[answer.start : answer.end]
    loaded = LongformerForQuestionAnswering.from_pretrained(folder).eval(), AutoTokenizer.from_pretrained(folder)
    for ask in (pipeline(folder), pipeline(model=loaded[0], tokenizer=loaded[1])):
        assert ask(question="Who lives in [SEP] Rome ?", context=context)["answer"] in context
    assert Reader(*loaded).answer(["Who lives in [SEP] Rome ?"], [context]) == [answer]


@pytest.fixture
def runs(tmp_path, monkeypatch, model_folder) -> Path:
    """A folder to be in, with two runs of which the first has a model, and the second checkpoints alone."""
    monkeypatch.chdir(tmp_path)
    logs = tmp_path / "lightning_logs"
    shutil.copytree(model_folder, logs / "version_0" / "model")
    for number in (0, 1):
        (logs / f"version_{number}" / "checkpoints").mkdir(parents=True)
        (logs / f"version_{number}" / "checkpoints" / "best.ckpt").write_bytes(b"")
    return Path("lightning_logs")


QUESTION = ("Who lives in Rome ?", "Anna lives in Rome .")


@pytest.mark.parametrize("name", ["version_0", "version_0/model", "version_0/checkpoints", "last"])
def test_a_model_is_found_by_its_run(runs, name) -> None:
    given = name if name == "last" else runs / name
    model = str(runs / "version_0" / "model")
    assert lasting_name(given) == resolve(str(given)) == model
    expected = Reader.from_pretrained(model).answer([QUESTION[0]], [QUESTION[1]])
    assert Reader.from_pretrained(given).answer([QUESTION[0]], [QUESTION[1]]) == expected
    assert pipeline(given)(question=QUESTION[0], context=QUESTION[1])["answer"]
    assert commands.predict(["--model", str(given), "--question", QUESTION[0], "--context", QUESTION[1]]) == 0


def test_the_last_model_without_records_is_that_of_the_highest_number(runs) -> None:
    for number in (9, 10):
        shutil.copytree(runs / "version_0", runs / f"version_{number}")
    (runs / "version_11" / "model").mkdir(parents=True)  # killed while it was written
    os.utime(runs / "version_0" / "model" / "config.json", ns=(2**62, 2**62))
    assert lasting_name("last") == str(runs / "version_10" / "model")


def test_a_newer_run_without_a_model_is_told(runs, capsys) -> None:
    loading._warn_once.cache_clear()
    for number in (0, 1):
        started = {"started": f"2026-01-0{1 + number}T08:00:00+00:00"}
        (runs / f"version_{number}" / "run.json").write_text(json.dumps([started]))
    assert commands.predict(["--model", "last", "--question", QUESTION[0], "--context", QUESTION[1]]) == 0
    said = "".join(capsys.readouterr())
    (line,) = (line for line in said.splitlines() if line.startswith("--model last"))
    where = "lightning_logs/version_1 has no model yet, lightning_logs/version_0 is the newest run that has one"
    assert line == f"--model last: {where}"


def test_in_copies_the_last_model_is_the_one_of_the_newest_run(runs) -> None:
    """By the records, as for --ckpt_path last: copies have times of their own."""
    for number in (0, 3):
        run = runs / f"version_{number}"
        if number:
            shutil.copytree(runs / "version_0", run)
        (run / "run.json").write_text(json.dumps([{"started": f"2026-01-0{1 + number}T08:00:00+00:00"}]))
        os.utime(run / "model" / "config.json", ns=(10**18 - number, 10**18 - number))
    assert lasting_name("last") == str(runs / "version_3" / "model")
    for damaged in ("[{", "", '{"command": []}', "[7]"):
        (runs / "version_3" / "run.json").write_text(damaged)
        assert lasting_name("last") == str(runs / "version_3" / "model")
        assert newest_run(runs).folder == runs / "version_3"  # as --ckpt_path last has it


def test_a_folder_or_a_name_is_itself_whatever_it_is_called(tmp_path, monkeypatch, model_folder) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("last", "model", "version_0"):
        shutil.copytree(model_folder, name)
        assert lasting_name(name) == name
    for name in ("tiny", "user/name"):
        assert lasting_name(name) == name
    monkeypatch.setenv("HOME", str(tmp_path))
    assert resolve("~/model") == str(tmp_path / "model")


def test_a_run_notes_the_folder_that_last_was_when_it_began(runs) -> None:
    data = write_json(Path("data.json"), make_rows(8))
    begun = str(runs / "version_0" / "model")
    flags = ["--data.dataset", data, "--data.validation", data, "--trainer.max_steps", "1"]
    flags += ["--data.max_length", "64", "--data.doc_stride", "8", "--data.max_question_length", "16"]
    assert commands.train([*flags, "--model.model_name", "last"]) == 0
    run = runs / "version_2"
    assert lasting_name("last") == str(run / "model")  # from now on
    assert json.loads((run / "run.json").read_text())[-1]["base_model"] == {"name": begun, "hub": False}
    assert f"model_name: {begun}\n" in (run / "config.yaml").read_text()
    held = torch.load(run / "checkpoints" / "last.ckpt", weights_only=True)
    assert held["hyper_parameters"]["model_name"] == held["datamodule_hyper_parameters"]["model_name"] == begun


def test_a_run_that_is_to_begin_with_no_model_names_its_own_flag(runs) -> None:
    checkpoint = str(runs / "version_1" / "checkpoints" / "best.ckpt")
    with pytest.raises(InputError) as caught:
        commands.train(["--data.dataset", "synthetic", "--data.batch_size", "0", "--model.model_name", checkpoint])
    assert [problem.partition(" is ")[0] for problem in caught.value.problems] == [
        f"--model.model_name {checkpoint}",
        "--data.batch_size",
    ]


EXPORT = "make a model of it with `qa-lightning export --model {} --format transformers --output FOLDER`"


@pytest.mark.parametrize(
    ("name", "words"),
    [
        (
            "lightning_logs/version_0/checkpoints/best.ckpt",
            "is a checkpoint, not a model: pass lightning_logs/version_0/model, which its run has written from the "
            "best one, or " + EXPORT.format("lightning_logs/version_0/checkpoints/best.ckpt"),
        ),
        (
            "lightning_logs/version_1/checkpoints/best.ckpt",
            "is a checkpoint, not a model: " + EXPORT.format("lightning_logs/version_1/checkpoints/best.ckpt"),
        ),
        (
            "lightning_logs/version_1",
            "is the folder of a run that has checkpoints and no model, which a run writes at its end: "
            + EXPORT.format("lightning_logs/version_1/checkpoints/best.ckpt"),
        ),
        ("lightning_logs/version_0/model/config.json", "is a file; pass the folder that holds config.json"),
        ("lightning_logs", "is a folder of runs; name one of them, such as lightning_logs/version_0"),
        ("lightning_logs/version_3", "did you mean lightning_logs/version_0? Check the name"),
        ("lightning_logs/versoin_1", "did you mean lightning_logs/version_0? Check the name"),
        ("lightning_log/version_0", "did you mean lightning_logs/version_0? Check the name"),
        ("lightning_logs/version_0/modek", "did you mean lightning_logs/version_0/model? Check the name"),
        ("nothing/like/it", "not in the Hub's cache. Check the name"),
    ],
)
def test_what_is_no_model_is_told_with_what_to_pass(runs, name, words) -> None:
    for load in (Reader.from_pretrained, pipeline, load_tokenizer, load_model):
        with pytest.raises(InputError) as caught:
            load(name)
        (problem,) = caught.value.problems
        assert words in problem
        assert name in problem


def test_the_last_model_where_there_is_none_is_told(tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=r"--model last is the newest model in .*lightning_logs, and there is none"):
        Reader.from_pretrained("last")


@pytest.mark.parametrize("name", ["~nobody-of-this-name/m", "x" * 300])
def test_a_name_that_cannot_be_a_path_is_one_line(name) -> None:
    with pytest.raises(InputError, match=r"^--model .* cannot be read \("):
        lasting_names(name)


OUT_OF_MEMORY = (
    MemoryError(),
    RuntimeError("[enforce fail at alloc_cpu.cpp:132] DefaultCPUAllocator: can't allocate memory: you tried to ..."),
    OSError(12, "Cannot allocate memory"),
    torch.OutOfMemoryError("CUDA out of memory"),
)


@pytest.mark.parametrize("when", ["from_pretrained", "to"])
@pytest.mark.parametrize("error", OUT_OF_MEMORY, ids=lambda error: type(error).__name__)
def test_a_model_that_does_not_fit_into_memory_is_one_line_that_says_so(monkeypatch, model_folder, error, when) -> None:
    def full(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(BertForQuestionAnswering, when, full)
    loads = [Reader.load, lambda name: PredictSettings(name, "float32", 8).load(None)]
    if when == "from_pretrained":  # a pipeline on a CPU moves nothing
        loads += [load_model, load_answering_model, lambda name: pipeline(model=name)]
    for load in loads:
        with pytest.raises(InputError) as caught:
            load(model_folder)
        words = str(caught.value)
        assert f"{model_folder!r} does not fit into the memory; free some" in words or words.startswith(
            f"--model {model_folder} does not fit into the memory; what helps: --dtype bfloat16"
        )
        assert "\n" not in words


def test_a_model_of_the_hub_with_pickled_weights_alone_is_told_as_one_here(tmp_path, model_folder) -> None:
    """From the Hub's cache."""
    repository = tmp_path / "models--someone--pickled"
    inside = Path(shutil.copytree(model_folder, repository / "snapshots" / ("a" * 40)))
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text("a" * 40)
    (inside / "model.safetensors").unlink()
    torch.save(BertForQuestionAnswering.from_pretrained(model_folder).state_dict(), inside / "pytorch_model.bin")
    cached = {"cache_dir": str(tmp_path)}
    for name, hub in (("someone/pickled", cached), (str(inside), {})):
        with pytest.raises(
            InputError, match=rf"^model '{name}' has pickled weights only \(.*pass use_safetensors=False"
        ):
            load_answering_model(name, hub=hub)
        load_answering_model(name, hub=hub, use_safetensors=False)
    (inside / "pytorch_model.bin").unlink()  # as after a download that was interrupted
    with pytest.raises(InputError, match=r"not in the Hub's cache\. Check the name and the network"):
        load_answering_model("someone/pickled", hub=cached)
