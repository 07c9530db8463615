"""The model card: what a run measured, what its scores do not tell, and code that gives the answer of `Reader`."""

from __future__ import annotations

import json
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml
from huggingface_hub import ModelCard

from qa_lightning import Reader
from qa_lightning.export.card import model_card
from qa_lightning.export.hub import push_to_hub
from qa_lightning.models.folder import save_model, weights_digest
from qa_lightning.models.loading import load_model, load_tokenizer
from qa_lightning.models.settings import AnswerSettings
from tests.helpers.families import FAMILIES, save
from tests.helpers.heads import save_base
from tests.helpers.hub import CONTEXT, QUESTION, REPO, blocks, card_of, run_json

# The Hub's client uploads large files with a parameter that its HTTP library has deprecated.
pytestmark = [
    pytest.mark.filterwarnings("ignore:Use 'content=:DeprecationWarning"),
    pytest.mark.usefixtures("printed_lines"),
]
SETTINGS = AnswerSettings(max_length=48, doc_stride=12, max_question_length=12, max_answer_length=7)


def test_the_card_tells_what_the_run_measured(hub, trained, tmp_path) -> None:
    push_to_hub(str(trained), REPO)
    card = card_of(hub.repos[REPO].files, tmp_path)
    scores = run_json(trained)["scores"]
    results = {one.metric_type: one for one in card.data.eval_results}
    assert {name: one.metric_value for name, one in results.items()} == {
        name: pytest.approx(scores[f"best/{name}"], abs=1e-4) for name in ("exact_match", "f1")
    }
    assert {(one.task_type, one.dataset_name, one.dataset_type) for one in results.values()} == {
        ("question-answering", "validation.json", "json")
    }
    assert results["f1"].dataset_args == {"questions": 12}
    assert card.data.model_name == "reads-cities"
    assert (card.data.library_name, card.data.pipeline_tag) == ("transformers", "question-answering")
    assert {"question-answering", "extractive-qa", "qa-lightning"} == set(card.data.tags)
    assert card.data.widget[0].keys() == {"text", "context"}
    assert card.data.get("license") is card.data.get("base_model") is card.data.get("datasets") is None
    row = f"| `validation.json` | 12 | {scores['best/exact_match']:.2f} | {scores['best/f1']:.2f} |"
    for line in (
        row,
        "| training data | `train.json`: 40 questions |",
        "| windows per step | 16 |",
        "| learning rate | 2e-05, AdamW, linear decay after a warm-up of 10% |",
        "| learning rate of a layer, relative to the layer above | 0.8 |",
        "| attention dropout | 0.0 |",
        "| weights | running mean, decay 0.5 per step |",
        "| windows | 48 tokens, 12 of them shared with the next; questions up to 12 |",
        "| devices | 1 x CPU |",
        "| seed | 42 |",
        f"torch {torch.__version__}",
    ):
        assert line in card.text
    assert str(trained.parents[2]) not in card.content  # a card contains no paths of this machine
    assert "/tmp" not in card.content


def changed_run(trained: Path, folder: Path, record: dict, **flags: dict) -> ModelCard:
    """The card of a run, after changing entries of its record and its flags."""
    version = Path(shutil.copytree(trained.parent, folder / "version_0"))
    (version / "run.json").write_text(json.dumps([run_json(trained) | record]))
    config = yaml.safe_load((version / "config.yaml").read_text())
    (version / "config.yaml").write_text(yaml.safe_dump(config | {k: config[k] | v for k, v in flags.items()}))
    return model_card(version / "model", REPO)


def test_names_of_the_hub_are_linked(trained, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    source = {"source": "rajpurkar/squad", "kind": "hub"}
    data = {name: split | source for name, split in run_json(trained)["data"].items()}
    record = {"data": data, "base_model": {"name": "bert-base-cased", "hub": True}}
    card = changed_run(trained, tmp_path, record, model={"model_name": "bert-base-cased"})
    assert card.data.base_model == "bert-base-cased"
    assert card.data.datasets == ["rajpurkar/squad"]
    assert {one.dataset_type for one in card.data.eval_results} == {"rajpurkar/squad"}
    assert "[rajpurkar/squad](https://huggingface.co/datasets/rajpurkar/squad)" in card.text
    recorded = {"base_model": {"name": "bert-base-cased", "hub": False}}  # a folder of that name
    recorded["data"] = {name: split | {"kind": "folder"} for name, split in data.items()}
    shutil.rmtree(tmp_path / "version_0")
    card = changed_run(trained, tmp_path, recorded, model={"model_name": "bert-base-cased"})
    assert card.data.get("base_model") is card.data.get("datasets") is None
    assert "a model from a local folder (`bert-base-cased`)" in card.text


@pytest.mark.parametrize(
    ("rules", "bad_rows", "words"),
    [
        ("mlqa", "repair", ("F1 counts ideographs, as MLQA does", "offsets were repaired.")),
        ("kana", "repair_or_skip", ("F1 counts ideographs and kana, by", "offsets were repaired or left out.")),
        ("korquad", "error", ("F1 counts characters, as KorQuAD does; this differs from SQuAD's F1.",)),
    ],
)
def test_the_rules_of_the_scores_are_named(trained, tmp_path, rules, bad_rows, words) -> None:
    card = changed_run(trained, tmp_path, {}, data={"on_bad_rows": bad_rows}, model={"mixed_script": rules})
    assert [one for one in words if one not in card.text] == []
    assert ("wrong answer offsets" in card.text) == (bad_rows != "error")


def test_the_step_is_told_where_memory_decided_the_batch_size(trained, tmp_path) -> None:
    found = {"batch_size": 4, "accumulate_grad_batches": 6}
    auto = {"batch_size": "auto"}
    assert "| windows per step | 24 |" in changed_run(trained, tmp_path / "found", found, data=auto).text
    asked = auto | {"windows_per_step": 32}  # the record of what was found could not be written
    assert "| windows per step | 32 |" in changed_run(trained, tmp_path / "asked", {}, data=asked).text
    card = changed_run(trained, tmp_path / "neither", {}, data=auto)
    assert "windows per step" not in card.text
    assert "| learning rate |" in card.text


def test_windows_without_an_answer_that_were_left_out_are_told(trained, tmp_path) -> None:
    for share, words in ((0.02, "2% of them in each epoch, drawn anew"), (0.0, "left out")):
        card = changed_run(trained, tmp_path / str(share), {}, data={"keep_no_answer": share})
        assert f"| windows without an answer | {words} |" in card.text


def test_what_makes_scores_others_than_they_look_is_said(trained, tmp_path) -> None:
    flags = {"validation": None, "validation_fraction": 0.25, "max_validation_examples": 12, "on_bad_rows": "skip"}
    splits = run_json(trained)["data"]
    record = {"data": splits | {"validation": splits["validation"] | {"held_out": 0.25}}}
    card = changed_run(
        trained, tmp_path, record, data=flags, trainer={"limit_val_batches": 0.5}, model={"mixed_script": True}
    )
    for words in (
        "(25%) of the data that was held out",
        "first 12 questions",
        "`limit_val_batches` 0.5",
        "left out",
        "counts ideographs",
    ):
        assert words in card.text


@pytest.mark.parametrize(
    ("threshold", "words"),
    [
        (-3.5, "is saved with the threshold -3.5, tuned on these questions, where its F1 is 57.06."),
        (0.0, "is saved with the threshold 0, too."),
    ],
)
def test_scores_of_questions_without_an_answer_name_their_threshold(trained, tmp_path, threshold, words) -> None:
    run = Path(shutil.copytree(trained.parent, tmp_path / "run"))
    config = json.loads((run / "model" / "config.json").read_text())
    config["qa_lightning"] |= {"version_2": True, "null_score_diff_threshold": threshold}
    (run / "model" / "config.json").write_text(json.dumps(config))
    scores = {"best/exact_match": 50.6, "best/f1": 54.37, "best/best_f1": 57.06}
    card = changed_run(run / "model", tmp_path, {"scores": scores})
    assert "| 50.60 | 54.37 |" in card.text
    assert 'EM and F1 are measured at the threshold 0 for "no answer".' in card.text
    assert words in card.text
    assert {one.metric_type for one in card.data.eval_results} == {"exact_match", "f1"}


@pytest.mark.parametrize(
    ("break_it", "reason"),
    [
        (lambda run: (run / "run.json").unlink(), "there is no training run beside it"),
        (lambda run: (run / "run.json").write_text("[{"), "cannot be read"),
        (lambda run: (run / "run.json").write_text("[]"), "cannot be read"),
        (lambda run: (run / "config.yaml").write_text("model: ["), "cannot be read"),
        (lambda run: rewrite(run / "run.json", {"scores": {"best/f1": 1.0}}), "cannot be read"),
        (lambda run: rewrite(run / "run.json", {"finished": None}), "did not come to its end"),
        (lambda run: rewrite(run / "run.json", {"weights": "0" * 64}), "not those that the training run"),
    ],
)
def test_a_model_without_a_run_that_measured_it_gets_a_card_without_results(
    trained, tmp_path, break_it, reason
) -> None:
    version = Path(shutil.copytree(trained.parent, tmp_path / "version_0"))
    rewrite(version / "run.json", {"weights": weights_digest(version / "model")})
    assert model_card(version / "model", REPO).data.eval_results
    break_it(version)
    card = model_card(version / "model", REPO)
    assert card.data.eval_results is card.data.get("metrics") is None
    assert "model-index" not in card.content
    assert reason in card.text
    assert "| EM |" not in card.text
    assert "## Training" not in card.text


def test_the_card_of_an_export_is_about_the_weights_that_it_was_made_from(trained, tmp_path) -> None:
    """Beside the run's own model there may be one of another of its checkpoints."""
    version = Path(shutil.copytree(trained.parent, tmp_path / "version_0"))
    rewrite(version / "run.json", {"weights": weights_digest(version / "model")})
    for name in ("model-onnx", "model-last-onnx", "model-old-onnx"):
        export = Path(shutil.copytree(version / "model", version / name))
        (export / "model.safetensors").unlink()
        made_of = {"model-onnx": weights_digest(version / "model"), "model-last-onnx": "0" * 64}.get(name)
        rewrite_one(export / "config.json", {"exported_weights": made_of})
        card = model_card(export, REPO)
        if name == "model-last-onnx":
            assert "not those that the training run" in card.text
        else:  # older exports do not say it
            assert "These are the scores of the PyTorch model" in card.text


def test_weights_that_no_checkpoint_was_best_of_are_called_so(trained, tmp_path) -> None:
    assert "the checkpoint of the run with the best F1" in model_card(trained, REPO).text
    told = changed_run(trained, tmp_path, {"best_checkpoint": False}).text
    assert "The weights are those that the run ended with: it kept no best checkpoint." in told
    assert "the checkpoint of the run with the best F1" not in told
    assert run_json(trained)["best_checkpoint"] is True


def rewrite_one(path: Path, changes: dict) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_a_model_that_was_trained_on_all_questions_tells_how_and_what_its_cross_validation_found(
    trained, tmp_path
) -> None:
    version = Path(shutil.copytree(trained.parent, tmp_path / "final" / "lightning_logs" / "version_0"))
    data = {"train": run_json(trained)["data"]["train"]}
    rewrite(version / "run.json", {"weights": weights_digest(version / "model"), "scores": {}, "data": data})
    card = model_card(version / "model", REPO)
    assert "There are no scores: the training run had no validation." in card.text
    found = {
        "folds": [{"questions": 700}, {"questions": 800}],
        "all_questions": {
            "exact_match": {"score": 70.126, "low": 65.14, "high": 75.06},
            "f1": {"score": 80.0, "low": None, "high": None},
        },
        "interval": {"level": 0.95},
        "final": {"model": "final/lightning_logs/version_0/model"},
    }
    (tmp_path / "crossval.json").write_text(json.dumps(found))
    after = model_card(version / "model", REPO)
    for line in (
        "answered by one of 2 models",
        "| out-of-fold answers to 1,500 questions | score | 95% interval |",
        "| EM | 70.13 | 65.1 to 75.1 |",
        "| F1 | 80.00 |  |",
    ):
        assert line in after.text
    for one in (card, after):
        assert "| training data | `train.json`: 40 questions |" in one.text
        assert one.data.eval_results is None
    (tmp_path / "crossval.json").write_text(json.dumps(found | {"final": {"model": "elsewhere"}}))
    assert "out-of-fold" not in model_card(version / "model", REPO).text


def rewrite(path: Path, changes: dict) -> None:
    record = json.loads(path.read_text())[-1] | changes
    path.write_text(json.dumps([{name: value for name, value in record.items() if value is not None}]))


@pytest.mark.parametrize("name", ["bert uncased", "roberta", "xlnet", "gpt2, no CLS"])
def test_the_code_on_the_card_gives_the_readers_answer(tmp_path, name) -> None:
    plain = save(FAMILIES[name], tmp_path / "plain")
    model, tokenizer = load_model(plain), load_tokenizer(plain)
    folder = tmp_path / "model"
    answers = set()
    for threshold in (None, 1000.0, -1000.0):
        settings = replace(SETTINGS, version_2=threshold is not None, null_score_diff_threshold=threshold or 0.0)
        save_model(model, tokenizer, settings, folder, model.state_dict())
        expected = Reader.load(str(folder)).answer([QUESTION], [CONTEXT])[0].text
        code = blocks(model_card(folder, REPO), folder, QUESTION, CONTEXT)[-1]
        names: dict = {}
        exec(compile(code, "card", "exec"), names)
        assert len(names["offsets"]) > 3  # windows
        assert names["answer"] == expected
        answers.add(expected)
    assert "" in answers
    assert len(answers) > 1


def test_the_code_on_the_card_loads_our_own_head(tmp_path, monkeypatch) -> None:
    base = save_base("gemma3_text", tmp_path / "base")
    model, tokenizer, folder = load_model(base), load_tokenizer(base), tmp_path / "model"
    monkeypatch.setattr("huggingface_hub.snapshot_download", str)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.delitem(sys.modules, "load_model", raising=False)
    answers = []
    for threshold in (1000.0, -1000.0):
        settings = replace(SETTINGS, version_2=True, null_score_diff_threshold=threshold)
        save_model(model, tokenizer, settings, folder, model.state_dict())
        code = blocks(model_card(folder, REPO), folder, QUESTION, CONTEXT)[-1]
        names: dict = {}
        exec(compile(code, "card", "exec"), names)
        assert sys.modules["load_model"].__file__ == str(folder / "load_model.py")
        answers.append(names["answer"])
        assert answers[-1] == Reader.load(str(folder)).answer([QUESTION], [CONTEXT])[0].text
    assert answers[0]
    assert not answers[1]


def test_the_first_code_on_the_card_is_this_packages(trained) -> None:
    code = blocks(model_card(trained, REPO), trained, QUESTION, CONTEXT)[0]
    names: dict = {}
    exec(compile(code, "card", "exec"), names)
    answer = names["answer"]
    assert answer["answer"]
    assert CONTEXT[answer["start"] : answer["end"]] == answer["answer"]


def test_settings_that_a_model_was_not_saved_with_follow_its_positions(folder) -> None:
    text = model_card(folder, REPO).text
    settings = AnswerSettings.of_model(load_model(str(folder)))
    assert f"max_length={settings.max_length}," in text
    assert f"stride={settings.doc_stride}" in text
