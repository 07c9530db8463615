"""The first stage: BM25 as written, words of all scripts, an index that is cached by content."""

from __future__ import annotations

import logging
import math
import random
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest

from qa_lightning.documents import search
from qa_lightning.documents.collection import Collection, Extract
from qa_lightning.documents.search import WordIndex, words
from qa_lightning.errors import InputError

WORDS = "anna ben carl lives works in rome paris oslo baker city the".split()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Anna's BAKERY, in Köln!", ["anna", "bakery", "in", "koln"]),
        ("l’eau 3.5 x_y ﬁve", ["l", "eau", "3", "5", "x", "y", "five"]),
        ("dell'Università, O'Neill’s", ["dell", "universita", "o", "neill"]),
        ("its 's houses", ["its", "s", "houses"]),
        ("भारत की राजधानी।", ["भारत", "की", "राजधानी"]),
        ("தமிழ் மொழி", ["தமிழ்", "மொழி"]),
        ("বাংলাদেশের রাজধানী", ["বাংলাদেশের", "রাজধানী"]),
        ("مَدِينَة Ελλάδα", ["مدينة", "ελλαδα"]),
        ("東京に", ["東", "京", "に", "東京", "京に"]),
        ("Tokyo東京", ["tokyo", "東", "京", "東京"]),
        ("Straße", ["strasse"]),
        ("안나는", ["안나는"]),
        ("ที่", ["ท", "ี", "่", "ที", "ี่"]),
        ("!? \n", []),
    ],
)
def test_the_words_of_a_text(text, found) -> None:
    assert words(text) == found


def bm25(passages: list[str], question: str) -> list[float]:
    """Robertson's formula with Lucene's idf: k1 1.5, b 0.75."""
    counts = [Counter(words(passage)) for passage in passages]
    mean = sum(map(Counter.total, counts)) / len(counts)
    scores = [0.0] * len(passages)
    for word in words(question):
        holding = sum(word in count for count in counts)
        idf = math.log(1 + (len(counts) - holding + 0.5) / (holding + 0.5))
        for number, count in enumerate(counts):
            tf = count[word]
            scores[number] += idf * tf / (tf + 1.5 * (0.25 + 0.75 * count.total() / mean))
    return scores


@pytest.mark.parametrize("seed", range(20))
def test_the_best_passages_are_those_of_the_formula_with_ties_in_reading_order(seed) -> None:
    draw = random.Random(seed)
    passages = [" ".join(draw.choices(WORDS, k=draw.randint(0, 12))) for _ in range(40)]
    question = " ".join(draw.choices([*WORDS, "unknown"], k=4))
    scores = [round(score, 4) for score in bm25(passages, question)]
    found, found_scores = (values.tolist() for values in WordIndex(passages).best(question, 10))
    assert [scores[number] for number in found] == sorted(scores, reverse=True)[:10]
    assert found_scores == pytest.approx([scores[number] for number in found], abs=1e-4)
    for one, other in pairwise(found):
        assert scores[one] > scores[other] or one < other


@pytest.mark.parametrize(
    ("passages", "question", "first"),
    [
        ([*(f"L'arbre {number}, l'herbe" for number in range(30)), "L'église du village"], "Où est l'église ?", 30),
        (["मीरा यहाँ है", "मोर वहाँ है"], "मोर", 1),
    ],
)
def test_what_a_word_means_is_in_all_of_it(passages, question, first) -> None:
    assert WordIndex(passages).best(question, 1)[0].tolist() == [first]


def test_a_question_without_known_words_gets_the_first_passages() -> None:
    index = WordIndex(["anna", "ben", "carl"])
    for question in ("unknown words", "?!"):
        assert [values.tolist() for values in index.best(question, 2)] == [[0, 1], [0.0, 0.0]]
    assert index.best("carl", 9)[0].tolist() == [2, 0, 1]


def test_a_large_index_is_cached_by_content(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(search, "_MIN_CACHED", 3)
    built, build = [], search._built
    monkeypatch.setattr(search, "_built", lambda passages: built.append(len(passages)) or build(passages))
    passages = ["anna in rome", "ben in oslo", "carl"]
    fresh = WordIndex(passages, tmp_path).best("oslo", 2)[0].tolist()
    assert WordIndex(passages, tmp_path).best("oslo", 2)[0].tolist() == fresh == [1, 0]
    assert built == [3]
    assert WordIndex(["anna in oslo", "ben in rome", "carl"], tmp_path).best("oslo", 1)[0].tolist() == [0]
    WordIndex(["anna in rome", "ben in oslocarl", ""], tmp_path)  # the same letters, cut elsewhere
    assert len(built) == 3
    assert len([path for path in (tmp_path / search.FOLDER).iterdir() if path.is_dir()]) == 3
    damaged = next((tmp_path / search.FOLDER).glob("*/data.csc.index.npy"))
    damaged.write_bytes(b"x")
    for _ in range(2):
        WordIndex(passages, tmp_path), WordIndex(["anna in oslo", "ben in rome", "carl"], tmp_path)
        WordIndex(["anna in rome", "ben in oslocarl", ""], tmp_path)
    assert len(built) == 4  # the damaged one, once


def test_bm25s_prints_nothing_to_whoever_logs(capsys, monkeypatch) -> None:
    logging.getLogger("bm25s").setLevel(logging.DEBUG)  # as it does on import
    handler = logging.StreamHandler()
    monkeypatch.setattr(logging.getLogger(), "handlers", [handler])
    WordIndex(["anna", "ben"]).best("ben", 1)
    assert capsys.readouterr() == ("", "")


def test_without_bm25s_it_is_said_what_to_install(monkeypatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "bm25s", None)
    collection = Collection.read(["anna", "ben"])
    assert len(collection.extracts("anna", 2)) == 2
    with pytest.raises(InputError, match="needs bm25s: `pip install bm25s`; or raise --candidates"):
        collection.extracts("anna", 1)


def test_extracts_are_runs_of_chosen_passages_and_whole_documents_if_all_are_chosen() -> None:
    first = "".join(f"Paragraph {number} is about {word}. {'x ' * 480}\n\n" for number, word in enumerate(WORDS[:6]))
    collection = Collection.read([first, "Dora is in Rome."])
    assert (len(collection), collection.passage_count) == (2, 7)
    assert repr(collection) == "Collection(2 documents, 7 passages)"
    assert collection.extracts("anna", 7) == [Extract(0, 0, len(first)), Extract(1, 0, 16)]
    parts = collection.passages_of(0)
    joined, alone = collection.extracts("dora ben carl anna", 4)
    assert (joined[:3], alone[:3]) == ((0, 0, parts[2][1]), (1, 0, 16))
    assert [start for start, _ in joined.passages] == [start for start, _ in parts[:3]]
    indices, scores = collection._searched().best("dora ben carl anna", 4)
    assert [score for one in (joined, alone) for _, score in one.passages] == scores[np.argsort(indices)].tolist()
    apart = collection.extracts("works carl", 2)
    assert [one[:3] for one in apart] == [(0, *parts[2]), (0, *parts[4])]
    assert [start for one in apart for start, _ in one.passages] == [parts[2][0], parts[4][0]]
    assert Collection.read(collection) is collection
