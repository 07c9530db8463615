"""A model with a calibrator: the same answers in the same order as without it, with one score wherever it is asked."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from huggingface_hub.errors import LocalEntryNotFoundError

from qa_lightning import Reader, pipeline
from qa_lightning.decoding.calibrator import FEATURES, Calibrator
from qa_lightning.decoding.spans import Scaling
from qa_lightning.documents.sources import Document
from qa_lightning.errors import InputError
from qa_lightning.models.folder import save_settings
from qa_lightning.models.settings import AnswerSettings, Fitted
from qa_lightning.models.threshold_file import read_threshold_file, threshold_file
from qa_lightning.pages.demo.answers import Asker, at_threshold
from qa_lightning.pages.demo.limits import Limits
from tests.helpers import commands

QUESTION = "Who lives in Rome ?"
TEXTS = ["Anna lives in Rome . Ben is a baker in Oslo .", "Carl works in Rome. " * 30, "the city of Paris", "Dora"]
MADE = Calibrator((-0.31, 0.71, 0.13, -0.23, 0.05, 0.2), (0.4, 1.1, 0.02, 0.1, 1 / 3, -0.4), 0.5)
SETTINGS = AnswerSettings(48, 12, 12, 6, temperature=0.7, scores_at_precision={"0.9": 0.4})


@pytest.fixture(scope="module", params=[False, True], ids=["v1.1", "v2.0"])
def folder(request, model_folder, tmp_path_factory) -> str:
    path = tmp_path_factory.mktemp("calibrated") / "model"
    shutil.copytree(model_folder, path)
    threshold = -0.2 if request.param else 0.0
    fitted = Fitted(Scaling(0.7, threshold, calibrator=MADE), request.param, "data", SETTINGS.scores_at_precision)
    save_settings(replace(SETTINGS, version_2=request.param).fitted(fitted), path)
    return str(path)


def without_scores(answers: list[dict]) -> list[dict]:
    return [{name: value for name, value in answer.items() if name != "score"} for answer in answers]


def test_weights_are_the_same_after_saving_and_loading(folder: str) -> None:
    found = Reader.load(folder, device="cpu").settings
    assert found.scaling.calibrator == MADE  # to the last digit
    assert pipeline(folder).scaling.calibrator == MADE
    saved = json.loads((Path(folder) / "config.json").read_text())["qa_lightning"]["calibrator"]
    assert set(saved) == {"span", "no_answer"}
    assert set(saved["span"]) == {"bias", *FEATURES}
    assert found.raw() == replace(found, calibrator={}, scores_at_precision={})


def test_a_threshold_file_is_compared_with_the_weights_that_were_loaded(folder, tmp_path, monkeypatch) -> None:
    """From where the model came: no second download, with the same token, or without a network."""
    path = tmp_path / "threshold.json"
    path.write_text(json.dumps(threshold_file(Fitted(Scaling(0.7, -0.2), True, "f"), folder, "data")))
    asked = []

    def download(name, **where):
        asked.append((name, where))
        if "local_files_only" not in where:
            raise LocalEntryNotFoundError("no network")
        return folder

    monkeypatch.setattr("qa_lightning.models.threshold_file.snapshot_download", download)
    hub = {"cache_dir": "/data/hf", "token": "secret", "revision": "v2", "local_files_only": True}
    assert read_threshold_file(path, "user/model", {**hub, "subfolder": "x"}).scaling.temperature == 0.7
    assert {name: value for name, value in asked[0][1].items() if name != "allow_patterns"} == hub
    with pytest.raises(InputError, match="user/model"):
        read_threshold_file(path, "user/model")


def test_weights_are_the_same_in_a_threshold_file(folder: str, tmp_path) -> None:
    path = tmp_path / "threshold.json"
    path.write_text(json.dumps(threshold_file(Fitted(Scaling(0.7, -0.2, calibrator=MADE), True, "f"), folder, "data")))
    assert read_threshold_file(path, folder).scaling.calibrator == MADE
    assert pipeline(folder, threshold_file=path).scaling.calibrator == MADE
    made = json.loads(path.read_text())
    path.write_text(json.dumps({name: value for name, value in made.items() if name != "calibrator"}))
    assert Reader.load(folder, threshold_file=path).settings.calibrator == {}  # the file says all
    path.write_text(json.dumps(made | {"calibrator": {"span": {"bias": 1.0}}}))
    with pytest.raises(InputError, match=r"calibrator is .* it must give all weights"):
        read_threshold_file(path, folder)


@pytest.mark.parametrize("top_k", [1, 3, 50])
@pytest.mark.parametrize("align_to_words", [True, False])
@pytest.mark.parametrize("handle_impossible_answer", [True, False])
def test_a_pipeline_gives_the_same_answers_in_the_same_order(
    folder: str, top_k: int, align_to_words: bool, handle_impossible_answer: bool
) -> None:
    asked = {"top_k": top_k, "align_to_words": align_to_words, "handle_impossible_answer": handle_impossible_answer}
    ask, raw = pipeline(folder), pipeline(folder, raw_scores=True)
    for text in TEXTS:
        found, plain = (one(question=QUESTION, context=text, **asked) for one in (ask, raw))
        found, plain = (one if isinstance(one, list) else [one] for one in (found, plain))
        assert without_scores(found) == without_scores(plain)
        scores = np.array([answer["score"] for answer in found])
        assert (np.diff(scores) <= 0).all()
        assert 0 < scores.sum() <= 1 + 1e-9
        assert scores[0] != plain[0]["score"]


def test_reader_pipeline_and_documents_give_one_score(folder: str) -> None:
    reader, ask = Reader.load(folder, device="cpu"), pipeline(folder, top_k=3, align_to_words=False)
    asked = {"handle_impossible_answer": reader.settings.version_2}
    for text in TEXTS:
        (answer,) = reader.answer([QUESTION], [text])
        first = ask(question=QUESTION, context=text, **asked)[0]
        assert (answer.text, answer.start) == (first["answer"], first["start"])
        assert answer.score == pytest.approx(first["score"], abs=1e-6)
        documents = reader.ask(QUESTION, text, overlap=True)
        assert documents[0].text == answer.text
        assert documents[0].score == pytest.approx(answer.score, abs=1e-6)
        through = pipeline(folder)(question=QUESTION, documents=text, overlap=True)
        assert through["score"] == pytest.approx(answer.score, abs=1e-6)
        (plain,) = Reader.load(folder, device="cpu", raw_scores=True).answer([QUESTION], [text])
        assert replace(plain, score=answer.score) == answer
        assert plain.score != answer.score


def test_documents_keep_their_order_and_a_precision_cuts_calibrated_scores(folder: str) -> None:
    reader, raw = (Reader.load(folder, device="cpu", raw_scores=each) for each in (False, True))
    found, plain = (one.ask(QUESTION, TEXTS, top_k=10) for one in (reader, raw))
    assert [(one.text, one.start) for one in found] == [(one.text, one.start) for one in plain]
    scores = [one.score for one in found]
    assert scores == sorted(scores, reverse=True)
    sure = Reader(reader.model, reader.tokenizer, replace(reader.settings, scores_at_precision={"0.9": scores[0]}))
    assert [one.score for one in sure.ask(QUESTION, TEXTS, precision=0.9)] == scores[:1]
    with pytest.raises(InputError, match="asked for raw scores"):
        raw.ask(QUESTION, TEXTS, precision=0.9)


def test_the_page_to_ask_in_shows_the_same_scores(folder: str) -> None:
    reader = Reader.load(folder, device="cpu")
    asker = Asker(reader.asked, Limits())
    asked = asker.ask(QUESTION, [Document("text", TEXTS[0])])
    own = reader.settings
    shown = at_threshold(asked, own, own.null_score_diff_threshold)
    answers = reader.ask(QUESTION, TEXTS[0], top_k=2)
    assert max(shown.probabilities[0], shown.null if own.version_2 else 0) == pytest.approx(answers[0].score, abs=1e-9)
    assert shown.probabilities == sorted(shown.probabilities, reverse=True)
    assert sum(shown.probabilities) + shown.rest <= 1 + 1e-9


def test_scores_of_v4_do_not_change(folder: str, model_folder: str) -> None:
    windows = {"max_seq_len": 48, "doc_stride": 12}
    for text in TEXTS:
        found, plain = (
            pipeline(one, compat="v4")(question=QUESTION, context=text, top_k=3, **windows)
            for one in (folder, model_folder)
        )
        assert found == plain


def test_predict_and_ask_take_the_flag(folder: str, tmp_path, capsys) -> None:
    (tmp_path / "a.txt").write_text(TEXTS[0])
    questions = tmp_path / "q.jsonl"
    questions.write_text(json.dumps({"question": QUESTION, "context": TEXTS[0]}) + "\n")
    scores: dict[str, set[float]] = {}
    for flags in ([], ["--raw_scores"]):
        one = ["--model", folder, "--question", QUESTION, "--context", TEXTS[0], "--json", *flags]
        assert commands.predict(one) == 0
        scores.setdefault("one", set()).add(round(json.loads(capsys.readouterr().out)["score"], 6))
        output = tmp_path / f"answers{len(flags)}.jsonl"
        assert commands.predict(["--model", folder, "--input", str(questions), "--output", str(output), *flags]) == 0
        scores.setdefault("file", set()).add(round(json.loads(output.read_text())["score"], 6))
        capsys.readouterr()
    assert len(scores["one"]) == 2
    assert scores["one"] == scores["file"]
    again = ["--model", folder, "--input", str(questions), "--output", str(tmp_path / "answers0.jsonl")]
    with pytest.raises(InputError, match=r"--raw_scores True, was None"):
        commands.predict([*again, "--raw_scores"])


def test_a_threshold_file_for_questions_without_an_answer_lets_documents_have_none(model_folder, tmp_path) -> None:
    path = tmp_path / "threshold.json"
    fitted = Fitted(Scaling(1.0, -60.0), True, "f")  # "no answer" always leads
    path.write_text(json.dumps(threshold_file(fitted, str(model_folder), "data")))
    ask = pipeline(str(model_folder), threshold_file=path)
    assert ask(question=QUESTION, documents=TEXTS)["answer"] == ""
    assert ask(question=QUESTION, documents=TEXTS, handle_impossible_answer=False)["answer"] != ""
