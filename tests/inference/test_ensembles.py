"""Several models that answer together: in the reader, the pipeline, predict, evaluate, ask; and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import BertForQuestionAnswering

from qa_lightning import AnswerRows, Reader, pipeline
from qa_lightning.errors import InputError
from qa_lightning.evaluation.model import score_model
from qa_lightning.evaluation.result import write_result
from qa_lightning.inference.asking import AskSettings
from qa_lightning.models.folder import save_model
from qa_lightning.models.loading import lasting_names, model_names, resolve
from qa_lightning.models.settings import AnswerSettings
from qa_lightning.models.threshold_file import THRESHOLD_FILE
from qa_lightning.pages.demo.page import shown_name
from tests.helpers import commands
from tests.helpers.bulk import bare, lines_of
from tests.helpers.data import mixed_rows, write_json
from tests.helpers.forms import as_lines
from tests.helpers.models import small_config

SETTINGS = AnswerSettings(max_length=64, doc_stride=16, max_question_length=16, max_answer_length=8, version_2=True)
OF_EACH = {"a": (1.3, -15.3), "b": (0.8, -6.9), "c": (2.0, -1.0)}  # temperature, threshold
ROWS = mixed_rows(30, unanswerable=8, long=4)
QUESTIONS, CONTEXTS = [row["question"] for row in ROWS], [row["context"] for row in ROWS]


def saved(folder: Path, tokenizer, settings: AnswerSettings, seed: int) -> str:
    """An untrained model whose scores are far apart, as a folder."""
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = BertForQuestionAnswering(small_config(len(tokenizer)))
    with torch.no_grad():
        model.qa_outputs.weight.mul_(40)
    save_model(model, tokenizer, settings, folder, model.state_dict())
    return str(folder)


@pytest.fixture(scope="module")
def models(tmp_path_factory, tokenizer) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("models")
    return {
        name: saved(
            folder / name, tokenizer, replace(SETTINGS, temperature=heat, null_score_diff_threshold=threshold), seed
        )
        for seed, (name, (heat, threshold)) in enumerate(OF_EACH.items())
    }


@pytest.fixture(scope="module")
def joined(models) -> str:
    return ",".join(models.values())


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> str:
    return write_json(tmp_path_factory.mktemp("data") / "data.json", ROWS)


def assert_alike(found, wanted) -> None:
    """The same answers, and the same scores and odds to 1e-9."""
    assert [(one.text, one.start, one.end) for one in found] == [(one.text, one.start, one.end) for one in wanted]
    for name in ("score", "null_odds"):
        values = ([getattr(one, name) for one in answers] for answers in (found, wanted))
        np.testing.assert_allclose(*values, rtol=0, atol=1e-9)


# --- what an ensemble answers ---


def test_the_same_model_twice_answers_as_it_does_alone(models) -> None:
    for name in models.values():
        alone = Reader.from_pretrained(name, device="cpu").answer(QUESTIONS, CONTEXTS)
        twice = Reader.from_pretrained(f"{name},{name}", device="cpu").answer(QUESTIONS, CONTEXTS)
        assert_alike(twice, alone)
        assert {one.text == "" for one in alone} == {True, False} or name == models["c"]


def test_probabilities_are_the_means_of_those_of_the_models(tmp_path, models, tokenizer) -> None:
    """Of every span of a context of one window, and of "no answer"; the models' thresholds are 0."""
    folders = [
        saved(tmp_path / name, tokenizer, replace(SETTINGS, temperature=heat), seed)
        for seed, (name, (heat, _)) in enumerate(OF_EACH.items())
    ]
    question, context = "Where lives Anna ?", "Anna lives in Paris . Ben lives in Oslo ."
    asked = {"top_k": 10_000, "handle_impossible_answer": True, "align_to_words": False}

    def scores(model) -> dict[tuple[int, int], float]:
        found = pipeline(model=model, device="cpu")(question=question, context=context, **asked)
        return {(one["start"], one["end"]): one["score"] for one in found}

    each, together = [scores(folder) for folder in folders], scores(folders)
    assert len(together) > 50
    assert sum(together.values()) == pytest.approx(1, abs=1e-9)
    for span, score in together.items():
        assert score == pytest.approx(np.mean([one[span] for one in each]), abs=1e-9)
    assert next(iter(together)) == max(together, key=lambda span: together[span])


def test_the_order_of_models_changes_no_answer(models) -> None:
    order = [models[name] for name in ("c", "a", "b")]
    first = Reader.from_pretrained(list(models.values()), device="cpu").answer(QUESTIONS, CONTEXTS)
    assert Reader.from_pretrained(order, device="cpu").answer(QUESTIONS, CONTEXTS) == first
    alone = [Reader.from_pretrained(name, device="cpu").answer(QUESTIONS, CONTEXTS) for name in order]
    assert all([one.text for one in answers] != [one.text for one in first] for answers in alone)


def test_answers_do_not_depend_on_the_batch_size(joined) -> None:
    reader = Reader.from_pretrained(joined, device="cpu")
    one, many = (reader.answer(QUESTIONS, CONTEXTS, batch_size=size) for size in (1, 32))
    assert [answer.text for answer in one] == [answer.text for answer in many]
    np.testing.assert_allclose([answer.score for answer in one], [answer.score for answer in many], rtol=1e-3)


def test_threshold_and_temperature_are_the_means(joined, models) -> None:
    settings = Reader.from_pretrained(joined, device="cpu").settings
    assert settings.null_score_diff_threshold == pytest.approx((-15.3 - 6.9 - 1.0) / 3)
    assert settings.temperature == pytest.approx((1.3 + 0.8 + 2.0) / 3)
    assert settings.scaling.of_models == (1.3, 0.8, 2.0)
    ask = pipeline(model=joined, device="cpu")
    assert ask.scaling == settings.scaling
    assert "Ensemble" in repr(ask)


def test_documents_are_asked_as_by_one_model(models) -> None:
    """With priors of passages, which multiply the probabilities of each model."""
    texts = [
        f"{words} in {city} . " * 40 for words in ("Ben lives", "Ben works", "Carl is") for city in ("Rome", "Oslo")
    ]
    asked = {"top_k": 5, "candidates": 4}
    alone = Reader.from_pretrained(models["a"], device="cpu").ask("Where lives Ben ?", texts, **asked)
    both = Reader.from_pretrained([models["a"]] * 2, device="cpu")
    twice = both.ask("Where lives Ben ?", texts, **asked)
    assert [(one.text, one.start) for one in twice] == [(one.text, one.start) for one in alone]
    np.testing.assert_allclose([one.score for one in twice], [one.score for one in alone], rtol=0, atol=1e-9)
    found = pipeline(model=[models["a"]] * 2, device="cpu")(question="Where lives Ben ?", documents=texts, **asked)
    np.testing.assert_allclose([one["score"] for one in found], [one.score for one in alone], rtol=0, atol=1e-9)
    reading = both.asked.read("Where lives Ben ?", texts, AskSettings(top_k=50))  # as the page to ask in does
    assert sum(one.score for one in reading.answers) + reading.null_probability <= 1 + 1e-9
    without = both.ask("Where lives Ben ?", texts, **asked, prior=0)
    assert [one.score for one in without] != pytest.approx([one.score for one in twice], abs=1e-3)
    with pytest.raises(InputError, match="saved without any"):
        both.ask("Where lives Ben ?", texts, precision=0.9)


def without_types(folder: Path, tokenizer) -> str:
    """A model whose tokenizer gives no token types."""
    inputs = ["input_ids", "attention_mask"]
    own = type(tokenizer)(
        vocab=tokenizer.get_vocab(), do_lower_case=True, model_max_length=512, model_input_names=inputs
    )
    return saved(folder, own, SETTINGS, 7)


def test_a_model_without_token_types_answers_together_with_one_that_has_them(tmp_path, tokenizer, models) -> None:
    small = without_types(tmp_path / "small", tokenizer)
    names = sorted([small, models["c"]])
    alone = [Reader.from_pretrained(name, device="cpu") for name in names]
    takes = [("token_type_ids" in one.tokenizer.model_input_names) for one in alone]
    assert takes == [name != small for name in names]
    both = Reader.from_pretrained(names, device="cpu")
    batch = {name: torch.tensor([[2, 9, 3, 12, 13, 3]]) for name in ("input_ids",)}
    batch |= {
        "attention_mask": torch.ones(1, 6, dtype=torch.long),
        "token_type_ids": torch.tensor([[0, 0, 0, 1, 1, 1]]),
    }
    start, _ = both._forward(batch)
    wanted = [one._forward({k: v for k, v in batch.items() if k in one.tokenizer.model_input_names}) for one in alone]
    torch.testing.assert_close(start, torch.stack([logits[0] for logits in wanted], -1))


# --- the commands ---


def test_predict_writes_the_answers_of_the_reader_in_any_shards(joined, tmp_path, capsys) -> None:
    source, output = tmp_path / "questions.jsonl", tmp_path / "answers.jsonl"
    source.write_bytes(as_lines([bare(row) for row in ROWS]))
    flags = ["--model", joined, "--input", str(source), "--batch_size", "1"]
    assert commands.predict([*flags, "--output", str(output)]) == 0
    reader = Reader.from_pretrained(joined, device="cpu")
    wanted = reader.answer(QUESTIONS, CONTEXTS)
    assert [row["answer"] for row in lines_of(output)] == [one.text for one in wanted]
    parts = [tmp_path / f"part-{number}.jsonl" for number in (1, 2)]
    for number, part in enumerate(parts, 1):
        assert commands.predict([*flags, "--output", str(part), "--shard", f"{number}/2"]) == 0
    assert b"".join(part.read_bytes() for part in parts) == output.read_bytes()
    rows = AnswerRows(joined.split(","), batch_size=1)([bare(row) for row in ROWS])
    assert [row["answer"] for row in rows] == [one.text for one in wanted]
    capsys.readouterr()
    assert commands.predict(["--model", joined, "--question", QUESTIONS[0], "--context", CONTEXTS[0], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["answer"] == wanted[0].text
    record = json.loads((tmp_path / "answers.jsonl.run.json").read_text())
    assert record["model"] == joined
    assert len(record["model_fingerprint"].split()) == 3


def test_evaluate_scores_the_same_model_twice_as_it_does_alone(models, data) -> None:
    alone, twice = (score_model(name, data) for name in (models["a"], ",".join([models["a"]] * 2)))
    assert twice.metrics == pytest.approx(alone.metrics, abs=1e-9)
    assert twice.predictions == alone.predictions
    assert twice.null_odds == pytest.approx(alone.null_odds, abs=1e-9)
    assert twice.confidence.scaling.threshold == pytest.approx(alone.confidence.scaling.threshold, abs=1e-9)
    np.testing.assert_allclose(twice.scored.judged.confidence, alone.scored.judged.confidence, rtol=0, atol=1e-9)
    assert twice.scored.outcomes.log_spans.shape == alone.scored.outcomes.log_spans.shape


def test_evaluate_gives_token_types_to_models_that_take_them_in_any_order(tmp_path, tokenizer, models, data) -> None:
    small = without_types(tmp_path / "small", tokenizer)
    one, other = (score_model(",".join(names), data) for names in ([small, models["c"]], [models["c"], small]))
    assert one.metrics == other.metrics
    assert one.null_odds == other.null_odds


def test_evaluate_fits_a_threshold_that_predict_takes(joined, models, data, tmp_path, capsys) -> None:
    assert commands.evaluate(["--model", joined, "--data", data, "--output_dir", str(tmp_path)]) == 0
    printed = dict(line.split() for line in capsys.readouterr().out.splitlines() if len(line.split()) == 2)
    wanted = Reader.from_pretrained(joined, device="cpu").answer(QUESTIONS, CONTEXTS)
    right = [one.text in (row["answers"]["text"] or [""]) for one, row in zip(wanted, ROWS, strict=True)]
    assert float(printed["exact"]) == pytest.approx(100 * np.mean(right), abs=1e-4)
    file = tmp_path / THRESHOLD_FILE
    content = json.loads(file.read_text())
    changed = content | {"null_score_diff_threshold": -6.5, "temperature": 2.5}
    file.write_text(json.dumps(changed))
    turned = ",".join(reversed(joined.split(",")))
    reader = Reader.from_pretrained(turned, device="cpu", threshold_file=file)
    assert (reader.settings.scaling.threshold, reader.settings.scaling.temperature) == (-6.5, 2.5)
    ask = pipeline(model=joined, threshold_file=file, device="cpu")
    assert ask.scaling == replace(reader.settings.scaling, of_models=(1.3, 0.8, 2.0))
    answers = reader.answer(QUESTIONS, CONTEXTS)
    assert {one.text == "" for one in answers} == {True, False}
    for one, before in zip(answers, wanted, strict=True):
        assert one.null_odds == pytest.approx(before.null_odds, abs=1e-9)
        assert (one.text == "") == (one.null_odds > -6.5)
    with pytest.raises(InputError, match="whose weights are not those of"):
        Reader.from_pretrained(models["a"], threshold_file=file)
    assert score_model(joined, data, thresholds=file).threshold == -6.5


def test_evaluate_takes_lengths_in_place_of_those_in_which_models_differ(tmp_path, models, tokenizer, data) -> None:
    other = saved(tmp_path / "other", tokenizer, replace(SETTINGS, max_answer_length=5), 3)
    with pytest.raises(InputError, match=r"max_answer_length \(8 and 5\)"):
        score_model(f"{models['a']},{other}", data)
    result = score_model(f"{models['a']},{other}", data, lengths={"max_answer_length": 6})
    write_result(result, tmp_path / "result")
    assert (tmp_path / "result" / "nbest_predictions.json").is_file()


# --- what is refused ---


def test_models_that_read_other_windows_are_refused_with_all_problems(tmp_path, models, tokenizer) -> None:
    words = tokenizer.get_vocab()
    words["anna"], words["ben"] = words["ben"], words["anna"]
    swapped = type(tokenizer)(vocab=words, do_lower_case=True, model_max_length=512)
    left = type(tokenizer)(vocab=tokenizer.get_vocab(), do_lower_case=True, padding_side="left")
    cased = type(tokenizer)(vocab=tokenizer.get_vocab(), do_lower_case=False)
    folders = [
        models["a"],
        saved(tmp_path / "swapped", swapped, SETTINGS, 1),
        saved(tmp_path / "left", left, replace(SETTINGS, doc_stride=20), 1),
        saved(tmp_path / "cased", cased, replace(SETTINGS, version_2=False), 1),
    ]
    with pytest.raises(InputError) as error:
        Reader.from_pretrained(folders)
    lines = str(error.value).splitlines()
    assert len(lines) == 6  # each two
    assert f"{folders[0]} and {folders[1]} differ in their tokenizers' vocabulary:" in lines[0]
    assert (
        f"{folders[0]} and {folders[2]} differ in their tokenizers' padding side, doc_stride (16 and 20):" in lines[1]
    )
    rules = "their tokenizers' rules for cutting texts into tokens, version_2 (True and False):"
    assert f"{folders[0]} and {folders[3]} differ in {rules}" in lines[2]


def test_all_models_that_cannot_be_loaded_are_listed(models, tmp_path) -> None:
    with pytest.raises(InputError) as error:
        Reader.from_pretrained(f"{tmp_path / 'one'},{models['a']},{tmp_path / 'two'}")
    assert all(str(tmp_path / name) in line for name, line in zip(("one", "two"), error.value.problems, strict=True))
    with pytest.raises(InputError) as error:
        Reader.from_pretrained([models["a"] + "/config.json", models["b"] + "/config.json"])
    assert len(error.value.problems) == 2


def test_what_takes_one_model_refuses_several(joined, models, data) -> None:
    several = "names 3 models, and this takes one"
    with pytest.raises(InputError, match=several):
        commands.export(["--model", joined, "--format", "onnx"])
    with pytest.raises(InputError, match=several):
        commands.export(["--model", joined, "--push_to_hub", "me/it", "--dry_run"])
    with pytest.raises(InputError, match=f"--model.model_name {joined} {several}"):
        commands.train(["--model.model_name", joined, "--data.dataset", data])
    with pytest.raises(InputError, match="compat 'v4' gives the scores of one model"):
        pipeline(model=joined, compat="v4")
    with pytest.raises(InputError, match="config can be given for one model"):
        pipeline(model=joined, config=models["a"])
    with pytest.raises(InputError, match="holds an object of type Reader"):
        pipeline(model=[Reader.from_pretrained(models["a"]), models["a"]])
    with pytest.raises(InputError, match="list of models is empty"):
        Reader.from_pretrained([])


# --- names ---


def test_a_folder_with_a_comma_in_its_name_is_one_model(models, tmp_path, monkeypatch) -> None:
    odd = tmp_path / "a,b"
    shutil.copytree(models["a"], odd)
    monkeypatch.chdir(tmp_path)
    assert model_names("a,b") == ["a,b"]
    assert resolve("a,b") == "a,b"
    wanted = Reader.from_pretrained(models["a"], device="cpu").answer(QUESTIONS, CONTEXTS)
    assert Reader.from_pretrained("a,b", device="cpu").answer(QUESTIONS, CONTEXTS) == wanted
    assert pipeline(model=str(odd), device="cpu").model.name_or_path == str(odd)
    assert model_names(f"{models['b']},a,b,c") == [models["b"], "a,b", "c"]
    assert lasting_names([odd, models["b"]]) == f"{odd},{models['b']}"
    assert model_names(lasting_names([odd, models["b"]])) == [str(odd), models["b"]]
    (tmp_path / "a").symlink_to(models["a"])
    (tmp_path / "b").symlink_to(models["b"])
    with pytest.raises(InputError, match="rename their folders"):
        lasting_names(["a", "b"])


@pytest.mark.parametrize(
    ("name", "expected"),
    [("a", ["a"]), ("a,b", ["a", "b"]), ("a, b ,c", ["a", "b", "c"]), ("me/a,me/b", ["me/a", "me/b"]), ("", [""])],
)
def test_names_between_commas_are_models(name, expected) -> None:
    assert model_names(name) == expected


@pytest.mark.parametrize("name", ["a,", ",a", "a,,b", ",", "a, "])
def test_a_comma_without_a_name_is_refused(name) -> None:
    with pytest.raises(InputError, match="comma without a name beside it"):
        model_names(name)


def test_an_empty_name_in_a_list_is_refused(models) -> None:
    with pytest.raises(InputError, match="the list of models has an empty name; leave it out"):
        lasting_names([models["a"], ""])


def test_runs_and_last_are_resolved_each(models, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    for number in (0, 1):
        shutil.copytree(models["a"], Path("lightning_logs") / f"version_{number}" / "model")
    first = str(Path("lightning_logs") / "version_0")
    assert lasting_names(f"{first},{models['b']}") == f"{first}/model,{models['b']}"
    assert lasting_names([Path(first), "last"]).startswith(f"{first}/model,lightning_logs/version_")
    assert shown_name(lasting_names([first, models["b"]])) == "version_0, b"
