"""Every source gives the same rows, and bad input one error that names the place, the value and the cure."""

import json
import os
import random
from itertools import count
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from datasets import Dataset, DatasetDict

from qa_lightning.errors import InputError
from qa_lightning.examples import in_validation, read_examples, write_examples
from qa_lightning.sources import EMBEDDED_SIZES, has_split, read_rows, source_fingerprint, source_kind

SHARED = Path(os.environ.get("QA_LIGHTNING_TEST_DATA", Path(__file__).parents[2] / "shared" / "data"))
needs_data = pytest.mark.skipif(not SHARED.is_dir(), reason="the real data is not beside this checkout")

CONTEXT = "Ada Lovelace wrote the first program in 1843, for a machine of Charles Babbage."
ASTRAL = "𝔸da 🚀 flew. Ⅳ — naïve «Ada» e\u0301te\u0301."
ROWS = [
    {
        "id": "several golds",
        "question": "When was the first program written?",
        "context": CONTEXT,
        "answers": {"text": ["1843", "in 1843", "1843"], "answer_start": [40, 37, 40]},
    },
    {
        "id": "one gold",
        "question": "Who wrote it?",
        "context": CONTEXT,
        "answers": {"text": ["Ada Lovelace"], "answer_start": [0]},
    },
    {
        "id": "code points, not UTF-16 units or bytes",
        "question": "Qu’est-ce que «Ada» ?",
        "context": ASTRAL,
        "answers": {"text": ["«Ada»", "e\u0301te\u0301"], "answer_start": [22, 28]},
    },
    {
        "id": "no answer",
        "question": "Who landed? ",
        "context": ASTRAL,
        "answers": {"text": [], "answer_start": []},
    },
]


def read(path, on_bad_rows="error", **options):
    skipped = []
    examples = list(read_examples(read_rows(str(path), "train"), on_bad_rows, skipped, **options))
    return (examples, skipped) if on_bad_rows == "skip" else examples


def row(**changes):
    return {**ROWS[1], "id": "q1", **changes}


def cases(table):
    """Name -> arguments, or `pytest.param` of them: the same under these names as ids."""
    parts = {name: (case.values, case.marks) if hasattr(case, "marks") else (case, ()) for name, case in table.items()}
    return [pytest.param(*values, marks=marks, id=name) for name, (values, marks) in parts.items()]


# --- the same rows from every form ---


def nested(rows, version=None):
    """Rows -> the official nested layout, with v2.0's extra keys where ``version`` asks for them."""
    paragraphs = {}
    for item in rows:
        answers = [
            {"text": text, "answer_start": start}
            for text, start in zip(item["answers"]["text"], item["answers"]["answer_start"], strict=True)
        ]
        qa = {"id": item["id"], "question": item["question"], "answers": answers}
        if version == "v2.0":
            qa["is_impossible"] = not answers
            qa |= {} if answers else {"plausible_answers": [{"text": "flew", "answer_start": 7}]}
        paragraphs.setdefault(item["context"], []).append(qa)
    articles = [
        {"title": f"article {context[:3]}", "paragraphs": [{"context": context, "qas": qas}]}
        for context, qas in paragraphs.items()
    ]
    return {"version": version, "data": articles}


def listed_answers(rows):
    return [item | {"answers": nested([item])["data"][0]["paragraphs"][0]["qas"][0]["answers"]} for item in rows]


def as_json(data):
    return json.dumps(data, ensure_ascii=False).encode()


def as_lines(rows, between=b"\n"):
    return between.join(as_json(item) for item in rows)


def as_parquet(rows):
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(rows), sink, row_group_size=3)
    return sink.getvalue().to_pybytes()


FORMS = {
    "SQuAD v1.1": (".json", as_json(nested(ROWS, "1.1"))),
    "SQuAD v2.0": (".json", as_json(nested(ROWS, "v2.0"))),
    "SQuAD with escapes": (".json", json.dumps(nested(ROWS, "v2.0")).encode("ascii")),
    "list of articles": (".json", as_json(nested(ROWS)["data"])),
    "list of rows": (".json", as_json(ROWS)),
    "list of rows with listed answers": (".json", as_json(listed_answers(ROWS))),
    "rows under data": (".json", as_json({"data": ROWS})),
    "extra columns": (".json", as_json([{"title": "t", **item, "is_impossible": None} for item in ROWS])),
    "no answers column, but is_impossible": (
        ".json",
        as_json([*ROWS[:3], {key: ROWS[3][key] for key in ("id", "question", "context")} | {"is_impossible": True}]),
    ),
    "JSON lines": (".jsonl", as_lines(ROWS) + b"\n"),
    "JSON lines without the last line end": (".ndjson", as_lines(ROWS)),
    "JSON lines with CRLF and blank lines": (".jsonl", as_lines(ROWS, b"\r\n\r\n  \r\n")),
    "JSON lines with listed answers": (".jsonl", as_lines(listed_answers(ROWS))),
    "JSON with a byte order mark": (".json", b"\xef\xbb\xbf" + as_json(nested(ROWS, "v2.0"))),
    "JSON lines with a byte order mark": (".jsonl", b"\xef\xbb\xbf" + as_lines(ROWS)),
    "Parquet": (".parquet", as_parquet(ROWS)),
    "Parquet with listed answers": (".parquet", as_parquet(listed_answers(ROWS))),
}


@pytest.mark.parametrize("form", FORMS)
def test_every_form_of_a_source_reads_the_same_rows(tmp_path, form):
    suffix, content = FORMS[form]
    path = tmp_path / f"questions{suffix}"
    path.write_bytes(content)
    assert source_kind(str(path)) == "file"
    assert read(path) == ROWS


def test_a_dataset_of_the_hub_reads_the_same_rows_and_knows_its_splits(monkeypatch):
    splits = DatasetDict({"validation": Dataset.from_list(ROWS)})
    monkeypatch.setattr("datasets.load_dataset", lambda name: splits if name == "somebody/questions" else None)
    source = "somebody/questions"
    assert source_kind(source) == "hub"
    assert list(read_examples(read_rows(source, "validation"), "error", [])) == ROWS
    assert (has_split(source, "validation"), has_split(source, "train")) == (True, False)
    assert splits["validation"]._fingerprint in source_fingerprint(source, "validation")
    with pytest.raises(InputError, match=r"'somebody/questions' has no split 'train'; it has 'validation'"):
        read_rows(source, "train")


def test_the_embedded_dataset_is_valid_and_has_both_splits_without_a_shared_text():
    contexts = {}
    for split in ("train", "validation"):
        assert has_split("synthetic", split)
        examples = list(read_examples(read_rows("synthetic", split), "error", [], most=500))
        assert len(examples) == 500 <= EMBEDDED_SIZES[split]
        contexts[split] = {item["context"] for item in examples}
    assert not contexts["train"] & contexts["validation"]


def test_a_path_may_start_at_the_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "questions.json").write_bytes(as_json(ROWS))
    assert read("~/questions.json") == ROWS
    assert source_fingerprint("~/questions.json", "train").startswith("file-.json-")


def test_number_ids_become_texts(tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(as_json([row(id=7)]))
    assert read(path) == [row(id="7")]


def test_reading_stops_at_the_wanted_number_and_leaves_out_what_is_not_wanted():
    seen = []

    def rows():
        for number in count():
            seen.append(number)
            yield f"row {number}", row(id=number)

    examples = list(read_examples(rows(), "error", [], keep=lambda item: int(item["id"]) % 2 == 1, most=3))
    assert [item["id"] for item in examples] == ["1", "3", "5"]
    assert len(seen) <= 7


# --- the table on disk ---


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
def test_written_rows_come_back_from_the_arrow_file(tmp_path, batch_rows):
    path = tmp_path / "examples.arrow"
    assert write_examples(iter(ROWS), path, batch_rows) == len(ROWS)
    dataset = Dataset.from_file(str(path))
    assert list(dataset) == ROWS
    assert dataset[2:]["answers"] == [ROWS[2]["answers"], ROWS[3]["answers"]]


def test_an_answer_far_into_a_long_context_keeps_its_place(tmp_path):
    far = row(context="x" * 100_000 + "Ada", answers={"text": ["Ada"], "answer_start": [100_000]})
    write_examples([far], tmp_path / "examples.arrow")
    assert Dataset.from_file(str(tmp_path / "examples.arrow"))[0] == far


# --- the split by context ---


def test_the_split_puts_no_context_on_both_sides_and_loses_no_row(tmp_path):
    rows = [row(id=number, context=f"{CONTEXT} {number % 60}") for number in range(300)]
    random.Random(0).shuffle(rows)
    path = tmp_path / "questions.jsonl"
    path.write_bytes(as_lines(rows))
    validation = read(path, keep=lambda item: in_validation(item["context"], 0.2, 42))
    training = read(path, keep=lambda item: not in_validation(item["context"], 0.2, 42))
    assert len(training) + len(validation) == 300
    sides = [{item["context"] for item in side} for side in (training, validation)]
    assert all(sides)
    assert not sides[0] & sides[1]
    assert len(sides[0]) + len(sides[1]) == 60


def test_the_split_is_stable_between_runs_machines_and_versions():
    held_out = [number for number in range(40) if in_validation(f"context {number}", 0.1, 42)]
    assert held_out == [2, 13, 14, 39]


@pytest.mark.parametrize(
    ("fraction", "least", "most"), [(0.0, 0, 0), (0.1, 240, 360), (0.5, 1380, 1620), (1.0, 3000, 3000)]
)
def test_the_split_holds_out_the_wanted_share_by_the_seed(fraction, least, most):
    chosen = [[in_validation(f"text {number}", fraction, seed) for number in range(3000)] for seed in (0, 1)]
    assert all(least <= sum(part) <= most for part in chosen)
    assert (chosen[0] != chosen[1]) == (0 < fraction < 1)


# --- fingerprints ---


def test_the_fingerprint_follows_the_content_and_not_the_place(tmp_path):
    names = ("a.json", "b.json", "changed.json", "a.jsonl")
    for name in names:
        (tmp_path / name).write_bytes(
            as_json(ROWS).replace(b"1843", b"1844") if name == "changed.json" else as_json(ROWS)
        )
    first, same, changed, other_form = (source_fingerprint(str(tmp_path / name), "train") for name in names)
    assert first == same
    assert len({first, changed, other_form}) == 3
    (tmp_path / "a.json").write_bytes(as_json(ROWS[:2]))
    assert source_fingerprint(str(tmp_path / "a.json"), "train") != first


def test_the_embedded_dataset_has_a_fingerprint_a_split():
    assert source_fingerprint("synthetic", "train") != source_fingerprint("synthetic", "validation")


# --- sources that cannot be read ---


def damaged_parquet():
    content = bytearray(as_parquet([row(id=number) for number in range(50)]))
    content[4:40] = b"\xff" * 36  # the first page; the footer stays
    return bytes(content)


UNREADABLE = {
    "missing file": ("absent.json", None, ["absent.json: no such file", "looked in", "JSON lines or Parquet"]),
    "missing file, other form": ("absent.parquet", None, ["absent.parquet: no such file"]),
    "unknown ending": ("q.csv", b"id,question", ["q.csv", "ending '.csv'", ".json, .jsonl, .ndjson, .parquet"]),
    "no ending": ("squad", b"{}", ["squad", "ending ''"]),
    "invalid JSON": ("q.json", b'[\n {"id": }]', ["q.json: not valid JSON", "line 2, column 9", "Expecting value"]),
    "empty file": ("q.json", b"", ["q.json: not valid JSON", "line 1, column 1"]),
    "cut file": ("q.json", as_json(nested(ROWS))[:-20], ["q.json: not valid JSON"]),
    "JSON lines named .json": ("q.json", as_lines(ROWS), ["not valid JSON", "line 2", "is named .jsonl"]),
    "absurdly deep JSON": pytest.param("q.json", b"[" * 200_000, ["q.json: not valid JSON"]),
    "absurdly long number": pytest.param("q.json", b"[" + b"9" * 5000 + b"]", ["q.json: not valid"]),
    "not UTF-8": ("q.json", "[é".encode("latin-1"), ["q.json: not UTF-8", "byte 1", "save it as UTF-8"]),
    "not SQuAD's layout": (
        "q.json",
        b'{"questions": []}',
        ["not a SQuAD file", '"data"', "paragraphs", "id, question"],
    ),
    "a number": ("q.json", b"3", ["q.json: not a SQuAD file"]),
    "a list of texts": ("q.json", b'["a"]', ["q.json: not a SQuAD file"]),
    "paragraph without qas": (
        "q.json",
        as_json({"data": [{"paragraphs": []}, {"paragraphs": [{"context": "x"}]}]}),
        ["q.json article 2: not SQuAD's layout", "KeyError: 'qas'", "'context' and 'qas'"],
    ),
    "paragraphs of no list": ("q.json", b'{"data": [{"paragraphs": null}]}', ["q.json article 1: not SQuAD's layout"]),
    "question of no object": (
        "q.json",
        as_json({"data": [{"paragraphs": [{"context": "x", "qas": ["Who?"]}]}]}),
        ["q.json article 1: not SQuAD's layout", "'id', 'question' and 'answers'"],
    ),
    "broken line": ("q.jsonl", as_lines(ROWS[:2]) + b'\n{"id": 1', ["q.jsonl line 3: not one JSON object"]),
    "line not in UTF-8": ("q.jsonl", b'\n{"id": "\xe9"}', ["q.jsonl line 2: not one JSON object in UTF-8"]),
    "line of no object": ("q.jsonl", b"[1]", ["q.jsonl line 1: [1] is not a JSON object", "id, question"]),
    "absurdly long number in a line": pytest.param("q.jsonl", b"9" * 5000, ["q.jsonl line 1"]),
    "not Parquet": ("q.parquet", as_json(ROWS), ["q.parquet: not a readable Parquet file"]),
    "empty Parquet file": ("q.parquet", b"", ["q.parquet: not a readable Parquet file"]),
    "damaged Parquet": pytest.param("q.parquet", damaged_parquet(), ["q.parquet: not a readable"]),
    "no articles": ("q.json", b'{"data": []}', ["no questions"]),
    "no lines": ("q.jsonl", b"\n\n", ["no questions"]),
    "paragraphs without questions": ("q.json", as_json(nested([])), ["no questions"]),
}


@pytest.mark.parametrize(("name", "content", "words"), cases(UNREADABLE))
@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_a_source_that_cannot_be_read_is_one_clear_error(tmp_path, name, content, words, on_bad_rows):
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path, on_bad_rows)
    assert len(caught.value.problems) == 1
    assert [word for word in words if word not in str(caught.value)] == []


def test_a_folder_is_told_from_a_file(tmp_path):
    (tmp_path / "data.json").mkdir()
    with pytest.raises(InputError, match=r"data\.json: is a folder; name a file \(\.json, \.jsonl"):
        read_rows(str(tmp_path / "data.json"), "train")


@pytest.mark.parametrize(
    "source",
    ["./squad", "/squad", "~/squad", "folder/folder/squad", "squad.json", "folder/squad.jsonl", "squad.csv"],
)
def test_what_looks_like_a_path_is_never_looked_for_on_the_hub(source, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("datasets.load_dataset", lambda *_: pytest.fail("the Hub was asked"))
    with pytest.raises(InputError, match="no such file"):
        list(read_rows(source, "train"))


@pytest.mark.parametrize("name", ["nobody/no-such-questions", "no-such-questions"])
@pytest.mark.parametrize("use", [read_rows, source_fingerprint, has_split])
def test_a_hub_name_without_a_network_is_one_error_with_the_way_out(name, use, monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # what HF_HUB_OFFLINE=1 sets at start
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        use(name, "train")
    assert len(caught.value.problems) == 1
    for words in (f"dataset '{name}'", "OfflineModeIsEnabled", "--data.dataset FILE", "`make quickstart`"):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- bad rows ---

BAD_ROWS = {
    "no question": (
        {"id": 1, "context": "x", "answers": []},
        ["no column 'question'; it has 'id', 'context', 'answers'"],
    ),
    "several columns": ({"question": "q"}, ["no column 'id', 'context', 'answers'; it has 'question'"]),
    "no answers": ({"id": 1, "question": "q", "context": "x"}, ["no column 'answers'"]),
    "no answers, not impossible": (
        {"id": 1, "question": "q", "context": "x", "is_impossible": False},
        ["no column 'answers'"],
    ),
    "answer elsewhere": (
        row(answers={"text": ["1843"], "answer_start": [41]}),
        ["(id q1): answer '1843' is not at answer_start 41 (there: '843,')", "it stands at 40"],
    ),
    "answer at several places": (
        row(context="aa x aa y aa z aa", answers={"text": ["aa"], "answer_start": [1]}),
        ["answer 'aa' is not at answer_start 1 (there: 'a ')", "it stands at 0, 5, 10"],
    ),
    "answer nowhere": (
        row(answers={"text": ["ada lovelace"], "answer_start": [0]}),
        ["answer 'ada lovelace' is not at answer_start 0 (there: 'Ada Lovelace')", "the context does not hold it"],
    ),
    "answer past the end": (
        row(answers={"text": ["Babbage."], "answer_start": [len(CONTEXT) - 3]}),
        ["is not at answer_start", "(there: 'ge.')", f"it stands at {len(CONTEXT) - 8}"],
    ),
    "start in UTF-16 units": (
        row(context=ASTRAL, answers={"text": ["«Ada»"], "answer_start": [24]}),
        ["is not at answer_start 24", "it stands at 22"],
    ),
    "one of two answers": (
        row(answers={"text": ["1843", "Ada"], "answer_start": [40, 5]}),
        ["answer 'Ada' is not at answer_start 5"],
    ),
    "negative start": (row(answers={"text": ["."], "answer_start": [-1]}), ["answer_start is -1", "from 0"]),
    "fractional start": (row(answers={"text": ["Ada"], "answer_start": [0.0]}), ["answer_start is 0.0", "from 0"]),
    "bool start": (row(answers={"text": ["Ada"], "answer_start": [False]}), ["answer_start is False", "from 0"]),
    "text start": (row(answers=[{"text": "Ada", "answer_start": "0"}]), ["answer_start is '0'", "from 0"]),
    "no start": (row(answers=[{"text": "Ada"}]), ["answer_start is None", "from 0"]),
    "huge start": (row(answers={"text": ["Ada"], "answer_start": [10**30]}), [f"not at answer_start {10**30}"]),
    "answer of no text": (row(answers=[{"text": 1843, "answer_start": 40}]), ["answer text is 1843"]),
    "empty answer": (
        row(answers={"text": [""], "answer_start": [0]}),
        ["answer text is ''", "an unanswerable question has no answers at all"],
    ),
    "blank answer": (row(answers={"text": [" "], "answer_start": [3]}), ["answer text is ' '"]),
    "uneven lists": (
        row(answers={"text": ["Ada"], "answer_start": [0, 40]}),
        ["1 answer texts but 2 answer_start values", "in pairs"],
    ),
    "answers of no list": (row(answers="1843"), ["answers is '1843', not a list of answers"]),
    "answers as texts": (row(answers=["1843"]), ["answers is ['1843'], not a list of answers"]),
    "one text": (row(answers={"text": "Ada", "answer_start": 0}), ["the lists 'text' and 'answer_start'"]),
    "answers without starts": (row(answers={"text": ["Ada"]}), ["the lists 'text' and 'answer_start'"]),
    "empty context": (row(context=""), ["context is empty; fill it in or leave the row out"]),
    "blank context": (row(context=" \n\u00a0"), ["context is empty"]),
    "empty question": (row(question=""), ["question is empty; fill it in or leave the row out"]),
    "context of no text": (row(context=None), ["context is None, not a text"]),
    "question of no text": (row(question=["Who?"]), ["question is ['Who?'], not a text"]),
    "long value": (row(question=["x" * 500]), ["question is ['" + "x" * 55 + "..., not a text"]),
    "surrogate in the context": (row(context="a \ud83d b"), ["context holds half of a surrogate pair", "UTF-8"]),
    "surrogate in the question": (row(question="\udc00?"), ["question holds half of a surrogate pair", "UTF-8"]),
    "surrogate in an answer": (row(answers=[{"text": "\ud83d", "answer_start": 0}]), ["the context does not hold it"]),
    "surrogate in the id": pytest.param(row(id="\ud83d"), ["id", "half of a surrogate pair"]),
    "id of no text": (row(id=None), ["id is None; give every question a text or number of its own"]),
    "empty id": (row(id=""), ["id is ''"]),
    "bool id": (row(id=True), ["id is True"]),
    "fractional id": (row(id=1.5), ["id is 1.5"]),
    "impossible with answers": (row(is_impossible=True), ["(id q1): is_impossible is true, yet there are answers"]),
    "possible without": (row(is_impossible=False, answers=[]), ["is_impossible is false, yet there is no answer"]),
    "is_impossible as a text": pytest.param(row(is_impossible="true"), ["is_impossible is 'true'"]),
}


@pytest.mark.parametrize(("bad", "words"), cases(BAD_ROWS))
def test_a_bad_row_is_one_problem_with_its_place_and_is_left_out_when_asked(tmp_path, bad, words):
    path = tmp_path / "questions.jsonl"
    path.write_text("\n".join(map(json.dumps, [ROWS[0], bad, ROWS[3]])))
    with pytest.raises(InputError) as caught:
        read(path)
    summary, problem = caught.value.problems
    assert "1 problem in the data" in summary
    assert "--data.on_bad_rows skip" in summary
    assert problem.startswith(f"{path} line 2")
    assert [word for word in words if word not in problem] == []
    assert read(path, "skip") == ([ROWS[0], ROWS[3]], [problem])


@pytest.mark.parametrize(
    ("suffix", "content", "place"),
    [
        (".json", as_json([*ROWS, row(id="")]), "row 5"),
        (".json", as_json(nested([*ROWS, row(id="")])), "article 1 paragraph 1 question 3"),
        (".jsonl", as_lines(ROWS, b"\n\n") + b"\n" + as_lines([row(id="")]), "line 8"),
        (".parquet", as_parquet([*(row(id=str(number)) for number in range(2345)), row(id="")]), "row 2346"),
    ],
    ids=["rows", "nested", "lines", "Parquet"],
)
def test_a_problem_names_its_place_in_the_file(tmp_path, suffix, content, place):
    path = tmp_path / f"questions{suffix}"
    path.write_bytes(content)
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.problems[1].startswith(f"{path} {place}: id is ''")


def test_a_repeated_id_names_both_places_and_only_the_first_row_is_kept(tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(as_json([row(id=7), ROWS[0], row(id="7", question="Again?"), row(id=7)]))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.problems[1:] == [
        f"{path} row {number}: id '7' stands already at {path} row 1; ids must be unique" for number in (3, 4)
    ]
    assert read(path, "skip")[0] == [row(id="7"), ROWS[0]]


def test_all_problems_of_a_file_are_collected_in_one_error(tmp_path):
    path = tmp_path / "questions.json"
    several = row(answers={"text": ["1843", "", "Ada"], "answer_start": [1, 0, -2]})
    path.write_bytes(
        as_json([row(id=1, question="", context=""), ROWS[0], several, row(id=None), row(id=ROWS[0]["id"])])
    )
    with pytest.raises(InputError) as caught:
        read(path)
    places = [problem.removeprefix(f"{path} ").split(":")[0] for problem in caught.value.problems[1:]]
    assert places == ["row 1", "row 1", "row 3 (id q1)", "row 3 (id q1)", "row 3 (id q1)", "row 4", "row 5"]
    assert caught.value.problems[0].startswith("7 problems in the data")
    assert all(problem in str(caught.value) for problem in caught.value.problems)


def test_a_long_list_of_problems_is_cut_and_the_rest_counted(tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(as_json([row(id=number, question="") for number in range(1500)]))
    with pytest.raises(InputError) as caught:
        read(path)
    lines = str(caught.value).splitlines()
    assert lines[0].startswith("1,500 problems")
    assert lines[-1] == "... and 1,481 more"
    assert len(lines) == 21


def test_skipping_bad_rows_is_still_an_error_when_no_row_is_left(tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(as_json([row(question=""), row(context="")]))
    with pytest.raises(InputError, match=r"(?s)question is empty.*context is empty"):
        read(path, "skip")


def test_bad_rows_left_out_are_no_error_of_a_part_that_no_valid_row_belongs_to():
    rows = [("row 1", row(question="")), ("row 2", row())]
    with pytest.raises(InputError, match=r"^the data has no questions$"):
        list(read_examples(rows, "skip", [], keep=lambda _: False))


# --- the real data ---


@needs_data
@pytest.mark.parametrize(
    ("name", "rows", "unanswerable"),
    [
        ("dev-v1.1.json", 10_570, 0),
        ("dev-v2.0.json", 11_873, 5_945),
        ("train-40-articles.json", 7_436, 0),
        ("validation-8-articles.json", 2_360, 0),
        ("train-v2-articles.json", 9_910, None),
        ("validation-v2-articles.json", 1_428, None),
    ],
)
def test_real_files_are_read_whole_and_without_a_problem(name, rows, unanswerable):
    examples = read(SHARED / "squad" / name)
    assert len(examples) == len({item["id"] for item in examples}) == rows
    if unanswerable is not None:
        assert sum(not item["answers"]["text"] for item in examples) == unanswerable
    for item in examples:
        for text, start in zip(item["answers"]["text"], item["answers"]["answer_start"], strict=True):
            assert item["context"][start : start + len(text)] == text
