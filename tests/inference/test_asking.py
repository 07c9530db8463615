"""Documents are asked with one ranking: against plain sums over all spans, through the reader and the pipeline."""

from __future__ import annotations

import json
import logging
import math
import re
import shutil
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from qa_lightning import Collection, Reader, pipeline
from qa_lightning.errors import InputError
from qa_lightning.inference import asking
from tests.helpers.documents import pdf
from tests.helpers.paths import ROOT

QUESTION = "Who lives in Rome ?"
TEXTS = [
    "Anna lives in Rome . Ben is a baker in Oslo .",
    "the city of Paris",
    "Carl works in Rome. " * 30,  # several windows
    {"text": "Dora lives in Oslo .\f Anna works in the city of Rome .", "id": "pages", "meta": {"year": 1900}},
]


@pytest.fixture(scope="module")
def version_2(model_folder, tmp_path_factory) -> str:
    """The small model with saved settings: it knows "no answer", and how right its scores are."""
    folder = tmp_path_factory.mktemp("version_2") / "model"
    shutil.copytree(model_folder, folder)
    config = json.loads((folder / "config.json").read_text())
    settings = {"max_length": 48, "doc_stride": 12, "max_question_length": 12, "max_answer_length": 6}
    settings |= {"version_2": True, "null_score_diff_threshold": -0.2, "temperature": 0.7}
    settings |= {"scores_at_precision": {"0.5": 0.0, "0.9": 0.0034}}
    (folder / "config.json").write_text(json.dumps(config | {"qa_lightning": settings}))
    return str(folder)


@pytest.fixture(scope="module")
def reader(version_2) -> Reader:
    return Reader.load(version_2, device="cpu")


def every_span(
    reader: Reader, texts: list[str], log_prior=lambda number, start: 0.0
) -> tuple[dict[tuple[int, int, int], float], float]:
    """Probability of each span (text, start, end), and of "no answer"; window by window, span by span."""
    from qa_lightning.features.batching import PaddingCollator, window_batches
    from qa_lightning.features.store import FeatureStore

    settings = reader.settings
    terms, null, scores = [], math.inf, {}
    for number, text in enumerate(texts):
        store = FeatureStore.of_batch(reader._windower([QUESTION], [text], [None]))
        for batch in window_batches(store, PaddingCollator(reader.tokenizer), 1):
            start, end = (logits[0].double().numpy() for logits in reader._forward(batch))
            window = int(batch["feature"][0])
            begin, length = int(batch["context_begin"][0]), int(batch["context_length"][0])
            cls = int(batch["cls"][0])
            null = min(null, start[cls] + end[cls])
            first = store.context_offset[window]
            for one in range(length):
                for other in range(one, min(one + settings.max_answer_length, length)):
                    score = (start[begin + one] + end[begin + other]) / settings.temperature
                    key = number, int(store.char_start[first + one]), int(store.char_end[first + other])
                    score += log_prior(number, key[1])
                    terms.append(score)
                    scores[key] = max(scores.get(key, -math.inf), score)
    terms.append((null - settings.null_score_diff_threshold) / settings.temperature)
    total = np.logaddexp.reduce(terms)
    return {key: math.exp(score - total) for key, score in scores.items()}, math.exp(terms[-1] - total)


def test_all_documents_share_one_ranking_and_one_no_answer(reader) -> None:
    texts = [text if isinstance(text, str) else text["text"] for text in TEXTS]
    spans, null = every_span(reader, texts)
    answers = reader.ask(QUESTION, TEXTS, top_k=10**6, overlap=True)
    found = {
        (texts.index(answer.document.text), answer.start, answer.end): answer.score
        for answer in answers
        if answer.document
    }
    assert found.keys() == spans.keys()
    for key, score in found.items():
        assert score == pytest.approx(spans[key], abs=1e-9)
    assert [answer.score for answer in answers if not answer.document] == [pytest.approx(null, abs=1e-9)]
    scores = [answer.score for answer in answers]
    assert scores == sorted(scores, reverse=True)


def test_an_answer_says_where_it_is(reader) -> None:
    for answer in reader.ask(QUESTION, TEXTS, top_k=60):
        if answer.document is None:
            assert (answer.text, answer.start, answer.end, answer.sentence, answer.page) == ("", 0, 0, "", None)
            continue
        text = answer.document.text
        assert answer.text == text[answer.start : answer.end]
        for part, begin in ((answer.sentence, answer.sentence_start), (answer.context, answer.context_start)):
            assert text[begin : begin + len(part)] == part
            assert begin <= answer.start < answer.end <= begin + len(part)
        assert answer.page == (text.count("\f", 0, answer.start) + 1 if "\f" in text else None)
        assert answer.line is None


def test_answers_do_not_overlap_unless_they_may(reader) -> None:
    def pairs(overlap) -> list[tuple[int, int]]:
        return [
            (one.start, one.end) for one in reader.ask(QUESTION, TEXTS[0], top_k=9, overlap=overlap) if one.document
        ]

    apart = sorted(pairs(False))
    assert len(apart) > 2
    assert all(end <= start for (_, end), (start, _) in pairwise(apart))
    together = sorted(pairs(True))
    assert any(start < end for (_, end), (start, _) in pairwise(together))
    assert pairs(0.5) not in (pairs(False), pairs(True))


def test_a_file_gives_its_line(reader, tmp_path) -> None:
    file = tmp_path / "a.md"
    file.write_text("# Head\n\nAnna lives in Rome .\n")
    answers = [one for one in reader.ask(QUESTION, file, top_k=20) if one.document]
    lines = {(one.line, one.document.id) for one in answers}
    assert lines == {(1, str(file)), (3, str(file))}
    assert all(file.read_text().splitlines()[one.line - 1].find(one.text.split("\n")[0]) >= 0 for one in answers)


def test_few_candidates_are_a_part_of_the_documents_and_enough_are_all(reader) -> None:
    def asked(candidates: int) -> list:
        return reader.ask("Who works ?", collection, top_k=50, candidates=candidates, prior=0)

    collection = Collection.read(TEXTS)
    exact = asked(collection.passage_count)
    assert asked(10**6) == exact
    few = asked(2)
    assert {one.document.id for one in few if one.document} == {"2", "pages"}  # the two documents with "works"
    assert {one.document.id for one in exact if one.document} > {"2", "pages"}


def test_scores_have_a_prior_for_each_passage_that_was_searched(reader) -> None:
    """Two passages of one document are read as one text, and each keeps its own prior."""
    facts = ["Anna lives in Rome .", "Who is Ben , who works in Rome ?", "the baker", "Carl lives in Oslo ."]
    collection = Collection.read(["\n\n".join(f"{fact} {'the city ' * 90}" for fact in facts)])
    extracts = collection.extracts(QUESTION, 3)
    assert [len(one.passages) for one in extracts] == [2, 1]
    best = max(score for one in extracts for _, score in one.passages)

    def log_prior(number: int, start: int) -> float:
        one = extracts[number]
        return 0.7 * (max((at, score) for at, score in one.passages if at <= one.start + start)[1] - best)

    text = collection.documents[0].text
    spans, nothing = every_span(reader, [text[one.start : one.end] for one in extracts], log_prior)
    answers = reader.ask(QUESTION, collection, candidates=3, prior=0.7, top_k=10**6, overlap=True)
    wanted = {
        (extracts[number].start + start, extracts[number].start + end): p for (number, start, end), p in spans.items()
    }
    assert {(one.start, one.end): one.score for one in answers if one.document} == pytest.approx(wanted)
    assert [one.score for one in answers if one.document is None] == [pytest.approx(nothing)]
    assert [one.score for one in answers] == sorted((one.score for one in answers), reverse=True)
    alike, _ = every_span(reader, [text[one.start : one.end] for one in extracts])
    without = reader.ask(QUESTION, collection, candidates=3, prior=0, top_k=1)[0]
    assert without.score == pytest.approx(max(alike.values()))
    assert without.score != pytest.approx(answers[0].score, rel=0.1)


def test_offsets_of_a_passage_within_a_document_are_those_of_the_document(reader) -> None:
    text = "".join(f"Paragraph {number} is about {name}. {'the city ' * 105}\n\n" for number, name in enumerate("abcd"))
    collection = Collection.read(text)
    start, end = collection.passages_of(0)[2]
    found = reader.ask("Is it about c ?", collection, top_k=30, candidates=1)
    alone = reader.ask("Is it about c ?", text[start:end], top_k=30)
    assert 0 < start < end < len(text)
    assert [(one.text, one.start - start, one.score) for one in found if one.document] == [
        (one.text, one.start, one.score) for one in alone if one.document
    ]


def test_a_dict_for_a_page_has_offsets_within_its_parts(reader) -> None:
    answers = reader.ask(QUESTION, TEXTS[3], top_k=60)
    for answer in answers:
        found = json.loads(json.dumps(answer.as_dict()))
        assert (found["query"], found["score"]) == (QUESTION, answer.score)
        if answer.document is None:
            assert (found["data"], found["document"], found["context"]) == (None, None, None)
            continue
        assert found["document"] == {"id": "pages", "meta": {"year": 1900}}
        assert found["meta"] == {"page_number": answer.page}
        for name in ("context", "sentence"):
            offset = found[f"{name}_offset"]
            assert found[name][offset["start"] : offset["end"]] == found["data"] == answer.text
        assert found["document_offset"] == {"start": answer.start, "end": answer.end}
    assert {answer.page for answer in answers if answer.document} == {1, 2}


def test_answers_below_a_score_are_left_out(reader) -> None:
    every = reader.ask(QUESTION, TEXTS, top_k=20)
    middle = every[7].score
    assert (
        reader.ask(QUESTION, TEXTS, top_k=20, min_score=middle) == [one for one in every if one.score >= middle] != []
    )
    assert reader.ask(QUESTION, TEXTS, min_score=1.0) == []


def test_a_precision_is_looked_up_in_what_the_model_was_saved_with(reader) -> None:
    every = reader.ask(QUESTION, TEXTS, top_k=20)
    low, high = every[12].score, every[4].score
    curve = {"0.5": 0.0, "0.8": low, "0.9": high}
    asked = Reader(reader.model, reader.tokenizer, replace(reader.settings, scores_at_precision=curve))
    for precision, count in ((0.3, 20), (0.5, 20), (0.51, 13), (0.8, 13), (0.85, 5), (0.9, 5)):
        assert asked.ask(QUESTION, TEXTS, top_k=20, precision=precision) == every[:count]
    with pytest.raises(InputError, match=r"--precision 0.95: on its validation data .* right at most 90% of the time"):
        asked.ask(QUESTION, TEXTS, precision=0.95)


def test_a_model_without_that_says_so_and_one_without_no_answer_says_so_once(model_folder, said) -> None:
    asking._say_once.cache_clear()
    reader = Reader.load(model_folder, device="cpu")
    with pytest.raises(InputError, match=r"--precision 0.9 needs scores that were measured .*: pass --min_score"):
        reader.ask(QUESTION, TEXTS, precision=0.9)
    reader.ask(QUESTION, TEXTS)
    for _ in range(3):
        reader.ask(QUESTION, TEXTS, min_score=0.1)
    lines = [record.getMessage() for record in said.records if record.levelno == logging.WARNING]
    assert [line.startswith("this model was trained on questions that all have an answer") for line in lines] == [True]
    assert all(one.document for one in reader.ask(QUESTION, TEXTS, top_k=99))


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"top_k": 0}, "--top_k is 0; pass a whole number of at least 1"),
        ({"prior": -0.1}, "--prior is -0.1; pass a number of at least 0"),
        ({"prior": math.inf}, "--prior is inf; pass a number of at least 0"),
        ({"prior": True}, "--prior is True; pass a number of at least 0"),
        ({"candidates": True}, "--candidates is True; pass a whole number of at least 1"),
        ({"overlap": -0.1}, "--overlap is -0.1; pass a number from 0 to 1"),
        ({"min_score": 1.5}, "--min_score is 1.5; pass a number from 0 to 1"),
        ({"min_score": float("nan")}, "--min_score is nan; pass a number from 0 to 1"),
        ({"precision": "0.9"}, "--precision is '0.9'; pass a number from 0 to 1"),
        ({"precision": 0.9, "min_score": 0.5}, "--min_score and --precision both say which answers are left out"),
        ({"on_bad": "leave"}, "on_bad is 'leave'; pass 'error' or 'skip'"),
    ],
)
def test_settings_out_of_range_are_refused(reader, version_2, settings, words) -> None:
    for asked in (reader.ask, pipeline(version_2, device="cpu")):
        with pytest.raises(InputError) as caught:
            asked(QUESTION, documents=TEXTS, **settings)
        assert words in caught.value.problems[0]


@pytest.mark.parametrize(("question", "words"), [(" ", "is empty"), ("\ud800", "surrogate"), (3, "is of type int")])
def test_a_question_that_is_none_is_refused(reader, question, words) -> None:
    with pytest.raises(InputError, match=f"the question .*{words}"):
        reader.ask(question, TEXTS)


def test_a_pipeline_answers_from_documents_as_the_reader_does(reader, version_2) -> None:
    asked = pipeline(version_2, device="cpu")
    several = asked(question=QUESTION, documents=TEXTS, top_k=5)
    of_reader = reader.ask(QUESTION, TEXTS, top_k=5)
    assert [one["answer"] for one in several] == [one.text for one in of_reader]
    for one, other in zip(several, of_reader, strict=True):
        expected = other.as_dict()
        assert one == {"start": other.start, "end": other.end, "answer": other.text} | {
            name: expected[name] for name in expected if name not in ("query", "data")
        }
    assert asked(QUESTION, documents=TEXTS) == several[0]
    assert asked(question=[QUESTION, "Who ?"], documents=Collection.read(TEXTS), top_k=2)[0] == several[:2]
    assert pipeline(version_2, device="cpu", top_k=2)(QUESTION, documents=TEXTS) == several[:2]
    assert asked(QUESTION, documents=TEXTS, min_score=1.0)["answer"] == ""
    assert asked(QUESTION, documents=TEXTS, top_k=99, precision=0.9) == asked(
        QUESTION, documents=TEXTS, top_k=99, min_score=0.0034
    )
    assert asked(QUESTION, documents=TEXTS, min_score=1.0, top_k=2) == []
    assert not [
        one for one in asked(QUESTION, documents=TEXTS, top_k=99, handle_impossible_answer=False) if not one["answer"]
    ]
    assert max(len(one["answer"].split()) for one in asked(QUESTION, documents=TEXTS, top_k=99, max_answer_len=1)) == 1
    with pytest.raises(TypeError, match="unknown argument 'align_to_words'"):
        asked(QUESTION, documents=TEXTS, align_to_words=True)
    with pytest.raises(InputError, match="compat 'v4' do not compare"):
        pipeline(version_2, device="cpu", compat="v4")(QUESTION, documents=TEXTS)


def test_the_threads_of_one_collection_get_what_serial_calls_get(reader) -> None:
    from concurrent.futures import ThreadPoolExecutor

    collection = Collection.read(TEXTS)
    questions = [f"Who {word} ?" for word in ("works", "lives", "is", "rome", "oslo", "paris", "anna", "dora")]
    serial = [Reader.ask(reader, one, Collection.read(TEXTS), candidates=2) for one in questions]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(lambda one: reader.ask(one, collection, candidates=2), questions)) == serial


def test_the_page_about_documents_runs_as_it_is_written(version_2, tmp_path, monkeypatch, capsys) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "documents.md").read_text("utf-8"), flags=re.S)
    monkeypatch.chdir(tmp_path)
    for name in ("reports/a.md", "papers/b.pdf"):
        (tmp_path / name).parent.mkdir()
    (tmp_path / "reports" / "a.md").write_text("Anna lives in Rome.")
    (tmp_path / "papers" / "b.pdf").write_bytes(pdf("Ben lives in Oslo."))
    assert len(blocks) == 1
    exec(blocks[0].replace("lightning_logs/version_0/model", version_2), {})
    assert "reports/a.md" in capsys.readouterr().out
