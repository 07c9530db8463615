"""Sources and their fingerprints, the checks of rows, the split by context and the table on disk."""

import json
import random
from itertools import count

import pyarrow as pa
import pytest
from datasets import Dataset, DatasetDict

from qa_lightning.data.division import in_validation
from qa_lightning.data.examples import read_examples, write_examples
from qa_lightning.data.sources import EMBEDDED_SIZES, has_split, read_rows, source_fingerprint, source_kind
from qa_lightning.errors import InputError, naming_flags
from tests.helpers.forms import CONTEXT, ROWS, as_json, as_lines, as_parquet, nested, read, row, write
from tests.helpers.paths import SHARED, needs_data

# --- sources ---


def test_a_dataset_of_the_hub_reads_the_same_rows_and_knows_its_splits(monkeypatch):
    splits = DatasetDict({"validation": Dataset.from_list(ROWS)})
    monkeypatch.setattr("datasets.load_dataset", lambda name: splits if name == "somebody/questions" else None)
    source = "somebody/questions"
    assert source_kind(source) == "hub"
    assert list(read_examples(read_rows(source, "validation"), "error")) == ROWS
    assert (has_split(source, "validation"), has_split(source, "train")) == (True, False)
    assert splits["validation"]._fingerprint in source_fingerprint(source, "validation")
    with pytest.raises(InputError, match=r"'somebody/questions' has no split 'train'; it has 'validation'"):
        read_rows(source, "train")


def test_the_embedded_dataset_is_valid_and_has_both_splits_without_a_shared_text():
    contexts = {}
    for split in ("train", "validation"):
        assert has_split("synthetic", split)
        examples = list(read_examples(read_rows("synthetic", split), "error", max_examples=500))
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
            yield f"row {number}", row(id=number, context=f"{CONTEXT} {number}")

    examples = list(read_examples(rows(), "error", keep=lambda context, _: int(context[-1]) % 2 == 1, max_examples=3))
    assert [item["id"] for item in examples] == ["1", "3", "5"]
    assert len(seen) == 6  # what comes after the last one may be broken


# --- the table on disk ---


@pytest.mark.parametrize("batch_rows", [1, 3, 1000])
def test_written_rows_come_back_from_the_arrow_file(tmp_path, batch_rows):
    path = tmp_path / "examples.arrow"
    assert write_examples(iter(ROWS), path, batch_rows) == len(ROWS)
    dataset = Dataset.from_file(str(path))
    assert list(dataset) == [{**one, "title": None} for one in ROWS]
    assert dataset[2:]["answers"] == [ROWS[2]["answers"], ROWS[3]["answers"]]


def test_an_answer_far_into_a_long_context_keeps_its_place(tmp_path):
    far = row(context="x" * 100_000 + "Ada", answers={"text": ["Ada"], "answer_start": [100_000]})
    write_examples([far], tmp_path / "examples.arrow")
    assert Dataset.from_file(str(tmp_path / "examples.arrow"))[0] == {**far, "title": None}


def test_long_contexts_are_written_in_smaller_batches(tmp_path, monkeypatch):
    monkeypatch.setattr("qa_lightning.data.examples._BATCH_CHARACTERS", 250)
    rows = [row(id=str(number), context="x" * 100, answers=ROWS[3]["answers"]) for number in range(7)]
    assert write_examples(iter(rows), tmp_path / "examples.arrow") == 7
    with pa.OSFile(str(tmp_path / "examples.arrow")) as file:
        assert [batch.num_rows for batch in pa.ipc.open_stream(file)] == [3, 3, 1]
    assert list(Dataset.from_file(str(tmp_path / "examples.arrow"))) == [{**one, "title": None} for one in rows]


def test_the_title_of_an_article_stays_with_its_questions(tmp_path):
    article = {
        "title": "Ada",
        "paragraphs": [{"context": CONTEXT, "qas": [{"id": "a", "question": "?", "answers": []}]}],
    }
    untitled = {"paragraphs": [{"context": CONTEXT, "qas": [{"id": "b", "question": "?", "answers": []}]}]}
    broken = {
        **article,
        "title": "\ud800",
        "paragraphs": [{**article["paragraphs"][0], "qas": [{"id": "c", "question": "?", "answers": []}]}],
    }
    path = tmp_path / "squad.json"
    path.write_text(json.dumps({"data": [article, untitled, broken]}))
    examples = read(path, titles=True)
    assert [example.get("title") for example in examples] == ["Ada", None, None]
    write_examples(examples, tmp_path / "examples.arrow")
    assert Dataset.from_file(str(tmp_path / "examples.arrow"))["title"][:] == ["Ada", None, None]
    table = tmp_path / "table.jsonl"
    table.write_text(json.dumps({"id": 1, "question": "?", "context": CONTEXT, "answers": [], "title": "Ada"}))
    assert read(table, titles=True)[0]["title"] == "Ada"


# --- the split by context ---


def test_the_split_puts_no_context_on_both_sides_and_loses_no_row(tmp_path):
    rows = [row(id=number, context=f"{CONTEXT} {number % 60}") for number in range(300)]
    random.Random(0).shuffle(rows)
    path = tmp_path / "questions.jsonl"
    path.write_bytes(as_lines(rows))
    validation = read(path, keep=lambda context, _: in_validation(context, 0.2, 42))
    training = read(path, keep=lambda context, _: not in_validation(context, 0.2, 42))
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
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)  # as HF_HUB_OFFLINE=1 sets at import
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as elsewhere, naming_flags(groups=False):  # than in train
        use(name, "train")
    assert str(elsewhere.value).endswith("without a network pass a FILE (SQuAD JSON, JSON lines, CSV, Excel, Parquet)")
    with pytest.raises(InputError) as caught:
        use(name, "train")
    assert len(caught.value.problems) == 1
    for words in (
        f"dataset '{name}'",
        "OfflineModeIsEnabled",
        "pass a FILE (",
        "`qa-lightning train --config quickstart`",
    ):
        assert words in str(caught.value)
    assert "\n" not in str(caught.value)


# --- bad rows ---


@pytest.mark.parametrize(
    ("suffix", "content", "place"),
    [
        (".json", as_json([*ROWS, row(id="")]), "row 5"),
        (".json", as_json(nested([*ROWS, row(id="")])), "article 1 paragraph 1 question 3"),
        (".jsonl", as_lines(ROWS, b"\n\n") + b"\n" + as_lines([row(id="")]), "line 8 (record 5)"),
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


UNIQUE = "ids must be unique: correct them, or pass --data.columns.id none to have them made"


def test_a_repeated_id_names_both_places_and_only_the_first_row_is_kept(tmp_path):
    path = tmp_path / "questions.json"
    path.write_bytes(as_json([row(id=7), ROWS[0], row(id="7", question="Again?"), row(id=7)]))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.problems[1:] == [
        f"{path} row {number}: id '7' is also the id of {path} row 1; {UNIQUE}" for number in (3, 4)
    ]
    assert read(path, "skip")[0] == [row(id="7"), ROWS[0]]


def test_all_problems_of_a_file_are_collected_in_one_error(tmp_path):
    path = tmp_path / "questions.json"
    several = row(answers={"text": ["1843", "", "Ada"], "answer_start": [1, 7, -2]})
    path.write_bytes(
        as_json([row(id=1, question="", context=""), ROWS[0], several, row(id=None), row(id=ROWS[0]["id"])])
    )
    with pytest.raises(InputError) as caught:
        read(path)
    places = [problem.removeprefix(f"{path} ").split(":")[0] for problem in caught.value.problems[1:]]
    assert places == ["row 1", "row 1", "row 3 (id q1)", "row 3 (id q1)", "row 3 (id q1)", "row 4", "row 5"]
    assert caught.value.problems[0].startswith("7 problems in the data")
    assert all(problem in str(caught.value) for problem in caught.value.problems)


@pytest.mark.parametrize(("on_bad_rows", "count"), [("error", 3), ("repair", 3), ("skip", 1)])
def test_problems_before_the_place_where_a_file_breaks_off_are_said_too(on_bad_rows, count):
    def rows():
        yield from enumerate([row(question=""), ROWS[0], row(id=None)])
        raise InputError("q.json: it breaks off")

    placed = ((f"row {number}", item) for number, item in rows())
    with pytest.raises(InputError) as caught:
        list(read_examples(placed, on_bad_rows))
    assert caught.value.problems[0] == "q.json: it breaks off"
    assert len(caught.value.problems) == count


def test_a_line_that_is_no_json_object_is_a_bad_row_like_any_other(tmp_path):
    path = tmp_path / "questions.jsonl"
    path.write_bytes(b"\n".join([as_lines([row(question="")]), b'{"id": 1,', as_lines([ROWS[0]]), b"[1]", b"\xff"]))
    with pytest.raises(InputError) as caught:
        read(path)
    first, *others = caught.value.problems
    assert first.startswith("4 problems in the data")
    for number, (problem, words) in zip(
        (1, 2, 4, 5),
        zip(others, ("question is empty", "not one JSON object", "[1] is not", "0xff"), strict=True),
        strict=True,
    ):
        assert problem.startswith(f"{path} line {number}")
        assert words in problem
    assert read(path, "skip")[0] == [ROWS[0]]


@pytest.mark.parametrize("count", [1, 500])
@pytest.mark.parametrize("layout", ["a list", "SQuAD's"])
@pytest.mark.parametrize("on_bad_rows", ["error", "skip"])
def test_one_json_text_over_several_lines_is_not_read_as_json_lines(tmp_path, count, layout, on_bad_rows):
    rows = [row(id=str(number)) for number in range(count)]
    text = json.dumps(rows if layout == "a list" else nested(rows), indent=2)
    path = write(tmp_path, "q.jsonl", text.encode())
    with pytest.raises(InputError) as caught:
        read(path, on_bad_rows)
    wanted = f"{path}: looks like one JSON text over several lines, not one in each line; name it .json"
    assert caught.value.problems == [wanted]


@pytest.mark.parametrize("line", ["{", "[1]", '{"id": "x"', "a note", '"x"'])
@pytest.mark.parametrize("count", [1, 2, 150])
def test_broken_lines_at_the_beginning_are_bad_rows(tmp_path, line, count):
    path = write(tmp_path, "q.jsonl", f"{line}\n".encode() * count + as_lines(ROWS))
    examples, skipped = read(path, "skip")
    assert (examples, len(skipped)) == (ROWS, count)


def test_rows_that_are_alike_and_have_no_id_are_told_so(tmp_path):
    item = {key: value for key, value in ROWS[0].items() if key != "id"}
    path = tmp_path / "questions.json"
    path.write_bytes(as_json([item, item | {"question": "When?"}, item]))
    with pytest.raises(InputError) as caught:
        read(path)
    assert caught.value.problems[1:] == [
        f"{path} row 3: has the same question, context and answers as {path} row 1; leave one of the two out"
    ]
    assert len(read(path, "skip")[0]) == 2


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
        list(read_examples(rows, "skip", keep=lambda *_: False))


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
